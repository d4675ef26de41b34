"""Every system from Python: `train` makes a `Run`, `FederatedClassifier` is an estimator of scikit-learn.

`fedmpi` itself gives all of these names, and imports this room when one of them is used.
"""

from fedmpi.api.classifier import FederatedClassifier
from fedmpi.api.run import Run
from fedmpi.api.training import train

__all__ = ["FederatedClassifier", "Run", "train"]
