"""CodedPrivateML: logistic and linear regression on Lagrange-coded data [So et al. 2021].

A master has the data, and N workers multiply coded pieces of it that tell no T of them anything: `protocol` has what
both say to each other, and `baseline` the same work done with BGW or BH08. What the master does with the products is in
`descent` and `solvers`, how features become integers in `transform`, `precision` and `problem`. The command line enters
by `command` and Python by `estimator`; both call `training`.
"""

from typing import TYPE_CHECKING, Any

from fedmpi.system import System

if TYPE_CHECKING:
    from fedmpi.codedml.cluster import workers
    from fedmpi.codedml.estimator import CodedLinearRegression, CodedLogisticRegression

SYSTEM = System(
    "codedml",
    "Logistic or linear regression on Lagrange-coded data. Rank 0 is the master, the others are workers.",
    roles=("master", "worker"),
    training="fedmpi.codedml.command:CodedTraining",
    serve="fedmpi.codedml.service:follow",
    parameters="fedmpi.codedml.params:Params",
    check="fedmpi.codedml.checks:check",
    learns={
        "coded": "What any {T} of the {N} workers hold together is uniformly random. The master owns the data.",
        "bgw": "What any {T} of a group's workers hold together is uniformly random. The master owns the data.",
        "bh08": "What any {T} of a group's workers hold together is uniformly random. The master owns the data.",
        "plain": "Nothing is hidden: the master, who owns the data, trains in the clear.",
    },
    unsafe={
        "insecure_repeatable_masks": "Not private: masks are made from --seed (--insecure-repeatable-masks), and any "
        "worker that knows it can read the data.",
    },
)

__all__ = ["SYSTEM", "CodedLinearRegression", "CodedLogisticRegression", "workers"]


def __getattr__(name: str) -> Any:
    # Imported when first used: the estimator loads scikit-learn, which a worker rank must not pay for.
    if name in ("CodedLinearRegression", "CodedLogisticRegression"):
        from fedmpi.codedml import estimator

        return getattr(estimator, name)
    if name == "workers":
        from fedmpi.codedml.cluster import workers

        return workers
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
