"""One run, one folder: its options, what it measured, and what it ended with. Only rank 0 imports this."""

from fedmpi.runs.ends import begin_run, end_run
from fedmpi.runs.folder import RunFolder
from fedmpi.runs.options import RunOptions, parse, to_toml
from fedmpi.runs.progress import Progress

__all__ = ["Progress", "RunFolder", "RunOptions", "begin_run", "end_run", "parse", "to_toml"]
