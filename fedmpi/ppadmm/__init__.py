"""PPADMM: private linear regression with two servers that do not collude."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedmpi.ppadmm.estimator import PrivateLasso

__all__ = ["PrivateLasso"]


def __getattr__(name: str) -> Any:
    # Imported when first used: the estimator loads scikit-learn, which no rank of a job must pay for.
    if name == "PrivateLasso":
        from fedmpi.ppadmm.estimator import PrivateLasso

        return PrivateLasso
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
