"""These files run inside mpirun only: ``mpirun -n 3 python -m pytest --with-mpi tests/messages/mpi``.

tests/messages/test_mpirun.py does that. Without --with-mpi nothing here is collected, so nothing is reported as
skipped.
"""

import os
from pathlib import Path

import pytest

from fedmpi.net.job_folder import RANKS


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if config.getoption("--with-mpi") else True


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Each rank writes its own --junitxml: report.xml becomes report-<rank>.xml."""
    rank = next((os.environ[name] for name in RANKS if name in os.environ), None)
    if config.option.xmlpath and rank:
        path = Path(config.option.xmlpath)
        config.option.xmlpath = str(path.with_stem(f"{path.stem}-{rank}"))
