"""`fedmpi reproduce all`: the pages of all systems become one, and what is done is not done again."""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from report.test_report_files import Elements

from fedmpi.cli import main
from fedmpi.errors import UsageError
from fedmpi.pages import figures, tables
from fedmpi.reproduce import all as papers
from fedmpi.runs import batch as jobs
from fedmpi.runs.result import SCHEMA


def page_of(system: str, out: Path) -> Path:
    """A page such as the experiments write."""
    figures.curves(out / "figure4.png", "t", "accuracy", {"ours": ([0, 1], [0.5, 0.9])})
    rows = [{"N": 10, "ours": 0.9, "paper": 0.91}]
    tables.write_csv(out / "figure4.csv", rows)
    text = f"# {system}\n\n## Figure 4\n\n![accuracy](figure4.png)\n\n[CSV](figure4.csv)\n\n{tables.markdown(rows)}\n"
    (out / "report.md").write_text(
        text + "\n<script>alert(1)</script> ![](../../outside.png) [x](javascript:alert(1))\n"
    )
    return out / "report.md"


def test_pages_are_joined_with_their_pictures_and_tables(tmp_path: Path) -> None:
    reports = {system: page_of(system, tmp_path / system) for system in ("codedml", "niss")}
    joined = papers.join(reports, {"spn": UsageError("no <data>")}, tmp_path, "quick")
    page = Elements(joined.read_text())
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert [str(src)[:22] for src in pictures] == ["data:image/png;base64,", "data:,"] * 2
    assert not any(tag == "script" for tag, _ in page.tags)
    links = [str(attributes["href"]) for tag, attributes in page.tags if tag == "a"]
    assert links == ["#codedml", "#niss", "codedml/figure4.csv", "niss/figure4.csv"]
    assert all((tmp_path / link).is_file() for link in links[2:])
    assert [tag for tag, _ in page.tags if tag in ("h1", "h2", "h3")] == ["h1", "h2", "h3", "h2", "h3"]
    assert sum(tag == "td" for tag, _ in page.tags) == 6
    assert "not here. no <data>" in page.text


@pytest.mark.parametrize("system", papers.PAPERS)
def test_every_papers_folder_has_the_same_files_and_names(system: str) -> None:
    paper = import_module(f"fedmpi.reproduce.{system}")
    files = {path.stem for path in Path(str(paper.__file__)).parent.glob("*.py")}
    assert files >= {"settings", "experiments", "pages", "paper"}
    assert (paper.QUICK.name, paper.FULL.name) == ("quick", "full")
    assert callable(paper.runs)
    assert callable(paper.reproduce)


@pytest.fixture
def experiments(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Experiments of one run each, a process that writes its result; spn has no data."""
    started: list[str] = []

    def module(name: str) -> SimpleNamespace:
        system = name.rpartition(".")[2]

        def runs(scale: str, out: Path, data_dir: Path | None) -> list[jobs.Run]:
            if system == "spn" and data_dir is None:
                raise UsageError("data set cifar10 must be there")
            return [jobs.Run(out / "runs" / f"{scale}-{i}", 3, ("--x",), system) for i in range(2)]

        def reproduce(scale: str, out: Path, data_dir: Path | None) -> Path:
            results = jobs.train_all(runs(scale, out, data_dir))
            assert len(results) == 2
            return page_of(system, out)

        return SimpleNamespace(QUICK="quick", FULL="full", runs=runs, reproduce=reproduce)

    def command(ranks: int, program: list[str]) -> tuple[list[str], list[str]]:
        started.append(program[2])
        out = Path(program[program.index("--out") + 1]) / "result.json"
        return [sys.executable, "-c", f"open({str(out)!r}, 'w').write('{json.dumps({'schema': SCHEMA})}')"], []

    monkeypatch.setattr(papers, "import_module", module)
    monkeypatch.setattr(jobs, "mpirun_command", command)
    return started


def test_one_command_runs_all_and_goes_on(
    experiments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "all", "--out", str(tmp_path)]
    assert main(command) == 2, "one of them had no data"
    said = capsys.readouterr()
    assert said.out.endswith(f"written to {tmp_path / 'reproduced.html'}\n")
    assert "spn: data set cifar10 must be there" in said.err
    bars = [line for line in said.err.splitlines() if line.startswith("[")]
    parts = [int(line.split("]")[1].split("%")[0]) for line in bars]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0, 100)
    counts = [line.split("%  ")[1].split(" runs, ") for line in bars]
    assert list(dict.fromkeys(count for count, _ in counts)) == [f"{done}/8" for done in range(9)]
    assert [" s left" in rest for _, rest in counts] == [done not in ("0/8", "8/8") for done, _ in counts]
    assert len(experiments) == 8
    assert main([*command, "--data-dir", str(tmp_path)]) == 0
    assert experiments[8:] == ["fedmpi.spn"] * 2, "the others were not run again"
    bars = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert [line.split("%  ")[1].split(" runs, ")[0] for line in bars[-4:]] == ["8/10", "9/10", "10/10", "10/10"]
    assert " s left" in bars[-3]
    assert not any(" s left" in line for line in bars[:-3]), "what was done before says nothing of the speed"
    text = Elements((tmp_path / "reproduced.html").read_text()).text
    assert all(paper in text for paper in papers.PAPERS.values())
    assert "not here" not in text


def test_a_system_whose_packages_are_missing_is_left_out(
    experiments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = papers.import_module

    def without_torch(name: str) -> ModuleType:
        if name == "fedmpi.reproduce.niss":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return found(name)

    monkeypatch.setattr(papers, "import_module", without_torch)
    assert main(["reproduce", "all", "--out", str(tmp_path), "--data-dir", str(tmp_path)]) == 2
    assert 'niss: torch must be installed: pip install "fedmpi[torch]"' in capsys.readouterr().err
    assert experiments == [f"fedmpi.{system}" for system in papers.PAPERS if system != "niss" for _ in range(2)]


@pytest.mark.parametrize("statement", ["import fedmpi.nothing", "from json import nothing"])
def test_other_imports_that_fail_are_no_missing_packages(
    statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(papers, "import_module", lambda name: exec(statement))
    with pytest.raises(ImportError, match="nothing"):
        papers.reproduce_all("quick", tmp_path)
