"""How runs end on Open MPI and on MPICH: some cells of `matrix.py`, which makes the whole table of docs/mpi.md."""

import functools
import subprocess
from collections.abc import Callable

import pytest
from machines.matrix import CELLS
from machines.trial import ROOT, Mpi, installed

DRAW = {
    "openmpi": ["rank 0 killed", "`fedmpi run` killed"],
    "mpich": ["a needed worker killed", "SIGTERM", "Ctrl-C, early"],
}
ON_TWO_HOSTS = ["Ctrl-C, rank 0 on the other host"]

Get = Callable[[str], Mpi]


@pytest.fixture(scope="module")
def mpi(tmp_path_factory: pytest.TempPathFactory) -> Get:
    """``mpi(name)``: an MPI, installed once."""
    folder = tmp_path_factory.mktemp("mpis")

    @functools.cache
    def get(name: str) -> Mpi:
        try:
            return installed(name, folder / name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"{name} can't be installed here: {error}")

    return get


def wrong(mpi: Mpi, names: list[str]) -> dict[str, str]:
    """Of some cells those that are not as they must be, and what is wrong."""
    cells = [cell for cell in CELLS if cell.name in names]
    assert len(cells) == len(names)
    with cells[0].where() as place:
        judged = {cell.name: cell.judge(mpi, place) for cell in cells}
    return {name: text for name, (right, text) in judged.items() if not right}


@pytest.mark.parametrize("name", DRAW)
def test_every_run_ends_as_docs_promise(mpi: Get, name: str) -> None:
    assert wrong(mpi(name), DRAW[name]) == {}


@pytest.mark.usefixtures("program")
def test_mpich_heeds_places_on_two_hosts(mpi: Get) -> None:
    assert wrong(mpi("mpich"), ON_TWO_HOSTS) == {}


def test_docs_have_every_cell() -> None:
    page = (ROOT / "docs" / "mpi.md").read_text()
    assert [cell.name for cell in CELLS if f"\n| {cell.name} | " not in page] == []
