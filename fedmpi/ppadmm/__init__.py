"""PPADMM: private linear regression with two servers that do not collude.

Participants keep their rows, and the first server sees only sums of what they send, because the second one knows the
masks and nothing else. The mathematics of the ADMM is in `admm` and `local`; who says what to whom is in `protocol` for
the first server and the participants, in `auxiliary` for the second server, and in `secure_sum` for the sums that both
make. The distributed gradient descent that the paper compares itself with is in `dssgd`.
"""

from typing import TYPE_CHECKING, Any

from fedmpi.system import System

if TYPE_CHECKING:
    from fedmpi.ppadmm.estimator import PrivateLasso

SYSTEM = System(
    "ppadmm",
    "Lasso, elastic net or ridge regression on the rows of many participants. Rank 0 is the primary server, rank 1 the "
    "auxiliary server, the others are participants.",
    roles=("primary_server", "auxiliary_server", "participant"),
    training="fedmpi.ppadmm.command:LassoTraining",
    serve="fedmpi.ppadmm.service:follow",
    parameters="fedmpi.ppadmm.params:Params",
    check="fedmpi.ppadmm.checks:check",
    takes_own_rows=True,
    no_class_weight="has no classes",
    places=("s1", "s2"),
    apart=(("servers S1 and S2", (0, 1)),),
    learns={
        "ppadmm": "Server S1 sees sums over at least {min_participants} participants, and server S2 no update. The two "
        "together see every update.",
        "admm": "Nothing is hidden: S1 sees every participant's update.",
        "dssgd": "The server sees a few coordinates of each gradient, with noise of ε = {epsilon} in each iteration.",
    },
)

__all__ = ["SYSTEM", "PrivateLasso"]


def __getattr__(name: str) -> Any:
    # Imported when first used: the estimator loads scikit-learn, which no rank of a job must pay for.
    if name == "PrivateLasso":
        from fedmpi.ppadmm.estimator import PrivateLasso

        return PrivateLasso
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
