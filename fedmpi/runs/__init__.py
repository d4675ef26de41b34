"""One run, one folder: its options, what it measured, and what it ended with. Only rank 0 imports this."""

from fedmpi.runs.folder import RunFolder
from fedmpi.runs.options import RunOptions, parse, to_toml
from fedmpi.runs.progress import Progress

__all__ = ["Progress", "RunFolder", "RunOptions", "parse", "to_toml"]
