"""The programs of the page of codedml do what it says."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "codedml.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def printed_and_promised(program: str, output: str) -> tuple[float, float]:
    promised = re.search(r"# (0\.\d+)(?:,|$)", program, re.MULTILINE)
    assert promised is not None
    return float(output.strip().splitlines()[-1]), float(promised[1])


def test_the_estimator_on_threads(tmp_path: Path) -> None:
    (program,) = (p for p in PROGRAMS if "workers():" not in p)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    printed, promised = printed_and_promised(program, done.stdout)
    assert round(printed, 3) == promised


def test_the_estimator_on_ranks(tmp_path: Path, mpirun: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    (program,) = (p for p in PROGRAMS if "workers():" in p)
    path = tmp_path / "train.py"
    path.write_text(program)
    done = mpirun(11, path)
    assert done.returncode == 0, done.stderr
    printed, promised = printed_and_promised(program, done.stdout)
    assert round(printed, 3) == promised
