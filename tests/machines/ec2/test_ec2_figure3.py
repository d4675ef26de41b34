"""scripts/ec2/run_codedml_figure3: its plan, its order, and that nothing is left whatever happens."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from fleet import commands, figure3
from machines.ec2.conftest import Aws

from fedmpi.reproduce.codedml import FULL, figure3_runs


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    folders = {"--data": "data", "--keys": "keys", "--to": "here"}
    return ["--address", "198.51.100.7", *(x for flag, name in folders.items() for x in (flag, str(tmp_path / name)))]


def test_dry_run_tells_time_and_price(aws: Aws, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert figure3.main([*arguments, "--dry-run"]) == 0
    assert aws.changes() == []
    out = capsys.readouterr().out
    assert f"{len(figure3_runs(FULL))} runs, about " in out
    assert "51 x c6i.xlarge, on demand" in out
    assert "8.67 USD per hour for all" in out


@pytest.mark.parametrize("failing", [None, "push", "run", "fetch", "create"])
def test_the_cluster_is_taken_down_in_any_case(
    aws: Aws, arguments: list[str], monkeypatch: pytest.MonkeyPatch, failing: str | None, tmp_path: Path
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def stand_in(name: str) -> commands.Command:
        def command(argv: Sequence[str]) -> int:
            asked.append((name, list(argv)))
            return 4 if name == failing else 0

        return command

    for name in ("create", "push", "run", "fetch", "destroy"):
        monkeypatch.setattr(commands, name, stand_in(name))
    assert figure3.main(arguments) == (0 if failing in (None, "fetch") else 4)
    names = [name for name, _ in asked]
    runs = figure3_runs(FULL)
    count = {None: len(runs), "fetch": len(runs), "run": 1}.get(failing, 0)
    if failing == "create":
        assert names == ["create"]  # which cleans up by itself
        return
    assert names == ["create", "push", *["run"] * count, "fetch", "destroy"]
    for (name, (workers, options)), (_, argv) in zip(list(runs.items())[:count], asked[2:], strict=False):
        at = argv.index("--")
        assert argv[argv.index("-n") + 1] == str(workers + 1)
        assert argv[at + 1 :] == ["codedml", *options, "--quiet", "--out", f"runs/{name}"]


def test_without_the_data_nothing_is_asked(aws: Aws, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert figure3.main(["--data", str(tmp_path)]) == 2
    assert "--data must hold cifar10/" in capsys.readouterr().err
    assert aws.requests == []
