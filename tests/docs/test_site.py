"""The site of the documentation is built without a warning, and has every page."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from docs.pages import PAGES, ROOT

pytest.importorskip("material", reason="mkdocs-material is not here: pip install '.[docs]'")


def built(out: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    silent = os.environ | {"NO_MKDOCS_2_WARNING": "1", "WITHOUT_REFERENCE": "tests/docs/test_docs.py makes it"}
    return subprocess.run(command, cwd=root, env=silent, capture_output=True, text=True)


def test_every_page_is_there_and_nothing_is_wrong(tmp_path: Path) -> None:
    done = built(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    for page in PAGES:
        name = page.relative_to(ROOT).with_suffix("").as_posix().removeprefix("docs/")
        name = {"README": "about", "index": ""}.get(name, name.removesuffix("/README"))
        assert (tmp_path / name / "index.html").is_file(), name
    assert "../reference/index.html" in (tmp_path / "api" / "index.html").read_text()
    assert 'src="../report.png"' in (tmp_path / "about" / "index.html").read_text()


def test_a_link_that_leads_nowhere_would_be_noticed(tmp_path: Path) -> None:
    for name in ("mkdocs.yml", "docs", "scripts", "fedmpi"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").unlink()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[nowhere](#nowhere)\n")
    assert built(tmp_path / "out", tmp_path).returncode != 0
