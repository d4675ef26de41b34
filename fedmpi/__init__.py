"""Privacy-preserving machine learning over MPI: five published systems, and the attacks against them.

`docs/architecture.md` shows where everything is. What programs of one's own import is named here; a rank of a job loads
none of it by itself.
"""

from typing import TYPE_CHECKING, Any

from fedmpi.version import __version__

if TYPE_CHECKING:
    from fedmpi.runs.model import load_model

__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    # Imported when first used: a worker rank must not pay for it.
    if name == "load_model":
        from fedmpi.runs.model import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
