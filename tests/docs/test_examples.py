"""The notebooks in examples run from beginning to end, and what they assert holds."""

import json
from pathlib import Path

import pytest
from docs.pages import ROOT

import fedmpi

nbclient = pytest.importorskip("nbclient", reason="nbclient is not here: pip install '.[test]'")

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    import nbformat

    if "fedmpi.train" in path.read_text() and "train" not in fedmpi.__all__:
        pytest.skip("fedmpi.train is not here")
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()


def test_there_are_four_small_ones_and_the_page_has_them() -> None:
    page = (ROOT / "examples" / "README.md").read_text()
    assert len(NOTEBOOKS) == 4
    for path in NOTEBOOKS:
        assert f"({path.name})" in page
        assert path.stat().st_size < 100_000
        cells = json.loads(path.read_text())["cells"]
        assert any("assert" in "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
