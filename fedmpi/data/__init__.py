"""Data sets: find, fetch, load, split.

`load` gives a `Dataset` by its name, whether it is read from files (`files`, `known`), comes with scikit-learn, or is
made up (`synthetic`, `regression`). `fetch` downloads what may be downloaded, and checks it. `partition` deals the rows
out to clients.
"""

from fedmpi.data.dataset import Dataset
from fedmpi.data.download import fetch
from fedmpi.data.filerows import FileRows
from fedmpi.data.known import Entry, catalogue
from fedmpi.data.loading import load
from fedmpi.data.preparation import Preparation
from fedmpi.data.table import Table

__all__ = ["Dataset", "Entry", "FileRows", "Preparation", "Table", "catalogue", "fetch", "load"]
