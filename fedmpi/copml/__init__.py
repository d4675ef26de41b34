"""COPML: logistic regression on the rows of many owners, with no trusted party [So et al. 2020].

Every rank owns rows. The owners share them, encode the shares so that each multiplies a coded part that tells no T of
them anything, and take each step on shares of the weights; the last weights are opened, and nothing before them. Who
says what to whom is in `protocol`, the bits and the field in `scale`, the rounding of a shared number in `truncation`,
and the same by products of Shamir shares, without coding, in `bgw`.
"""

from fedmpi.system import System

OWNERS_LEARN = (
    "Any {T} of the {N} owners learn the last model and those that --checkpoint-every opens, the sum that sets the "
    "step, and those of columns that are centred; of each number that is opened to round it, at most 2^-{kappa}."
)

SYSTEM = System(
    "copml",
    "Logistic regression on the rows of many owners, with no trusted party. Every rank is an owner; rank 0 leads.",
    roles=("leader", "owner"),
    training="fedmpi.copml.command:OwnersTraining",
    serve="fedmpi.copml.service:follow",
    parameters="fedmpi.copml.params:Params",
    check="fedmpi.copml.checks:check",
    takes_own_rows=True,
    no_class_weight="has no weights of rows",
    learns={
        "copml": OWNERS_LEARN,
        "bgw": OWNERS_LEARN,
        "plain": "Nothing is hidden: the leader has all rows, and trains in the clear.",
    },
    plain="plain",
)

__all__ = ["SYSTEM"]
