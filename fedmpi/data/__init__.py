"""Data sets: find, fetch, load, split."""

from fedmpi.data.dataset import Dataset
from fedmpi.data.download import fetch
from fedmpi.data.known import Entry, catalogue
from fedmpi.data.loading import load

__all__ = ["Dataset", "Entry", "catalogue", "fetch", "load"]
