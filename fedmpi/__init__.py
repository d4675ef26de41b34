"""Privacy-preserving machine learning over MPI: five published systems, and the attacks against them.

`docs/architecture.md` shows where everything is. What programs of one's own import is named here; a rank of a job loads
none of it by itself.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fedmpi.version import __version__

if TYPE_CHECKING:
    from fedmpi.api import FederatedClassifier, Run, train
    from fedmpi.runs.model import load_model
    from fedmpi.study import compare

__all__ = ["FederatedClassifier", "Run", "__version__", "compare", "load_model", "train"]

_ROOMS = {
    "FederatedClassifier": "fedmpi.api.classifier",
    "Run": "fedmpi.api.run",
    "compare": "fedmpi.study",
    "load_model": "fedmpi.runs.model",
    "train": "fedmpi.api.training",
}


def __getattr__(name: str) -> Any:
    # Imported when first used: a worker rank must not pay for it.
    if name in _ROOMS:
        return getattr(importlib.import_module(_ROOMS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
