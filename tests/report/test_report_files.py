"""`fedmpi report`: what it writes, from real runs and from folders that nobody should trust."""

import base64
import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from report import folders

from fedmpi.cli import main
from fedmpi.errors import UsageError
from fedmpi.net import Channel, Message, run_local
from fedmpi.net.costs import report
from fedmpi.net.frames import END, read_told
from fedmpi.report import write_report
from fedmpi.report.sequence import in_order, sections
from fedmpi.runs.frames import frame_lines
from fedmpi.runs.reading import read_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind."""
    base = tmp_path_factory.mktemp("runs")
    return {kind.__name__: kind(base / kind.__name__) for kind in (folders.coded, folders.bgw)}


class Elements(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def foreign(self) -> list[str]:
        """What could run, or load something."""
        loaded = [str(a.get("src")) for tag, a in self.tags if tag == "img"]
        found = [source for source in loaded if not source.startswith("data:image/png;base64,")]
        found += [tag for tag, _ in self.tags if tag in ("script", "iframe", "object", "embed", "base", "form", "a")]
        for _, attributes in self.tags:
            found += [name for name in attributes if name.startswith("on")]
            found += [str(attributes["href"]) for _ in [0] if attributes.get("href", "data:,") != "data:,"]
        return found


# -- files ----------------------------------------------------------------------------------------------------------


def test_one_command_writes_page_pictures_and_numbers(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(runs["coded"])]) == 0
    out = runs["coded"] / "report"
    assert capsys.readouterr().out == f"written to {out / 'report.html'}\n"
    assert {path.name for path in out.iterdir()} == {
        "report.html",
        "curves.csv",
        "costs.csv",
        "loss.png",
        "accuracy.png",
    }
    for picture in ("loss.png", "accuracy.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_the_csv_holds_the_curves_to_the_last_digit(runs: dict[str, Path], tmp_path: Path) -> None:
    write_report([runs["coded"], runs["bgw"]], tmp_path)
    with (tmp_path / "curves.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == "bgw" and row["metric"] == "train_loss"]
    lines = [json.loads(line) for line in (runs["bgw"] / "metrics.jsonl").read_text().splitlines()]
    assert [(int(row["iteration"]), float(row["value"])) for row in rows] == [
        (v["iteration"], v["train_loss"]) for v in lines
    ]
    with (tmp_path / "costs.csv").open(newline="") as file:
        costs = {(row["run"], row["kind"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}
    result = json.loads((runs["coded"] / "result.json").read_text())
    assert costs["coded", "bytes sent", "worker_mean"] == result["bytes"]["sent"]["worker_mean"]


def test_several_runs_stand_side_by_side(runs: dict[str, Path], tmp_path: Path) -> None:
    page = Elements(write_report([runs["coded"], runs["bgw"], runs["coded"]], tmp_path).read_text())
    for name in ("coded", "bgw", "coded (2)"):
        assert name in page.text
    assert page.foreign == []


def test_a_run_that_was_stopped_is_shown_as_far_as_it_came(runs: dict[str, Path], tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    for name in ("config.toml", "metrics.jsonl"):
        (stopped / name).write_bytes((runs["coded"] / name).read_bytes())
    page = Elements(write_report([stopped]).read_text())
    assert "no result.json: it was stopped" in page.text
    assert any(dict(attributes).get("class", "").startswith("curve") for _, attributes in page.tags)


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="a run must be a folder with"):
        write_report([tmp_path])
    assert main(["report", str(tmp_path / "none")]) == 2
    assert main(["report"]) == 2
    assert capsys.readouterr().err.count("fedmpi: error:") == 2


# -- folders from somebody else -------------------------------------------------------------------------------------


def test_nothing_in_a_folder_becomes_a_part_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folders.evil(tmp_path / "<b>run & 'one'")
    page = Elements(write_report([run]).read_text())
    assert page.foreign == []
    assert "<script>alert(1)</script>" in page.text, "it is shown as text"
    assert not any(tag == "b" for tag, _ in page.tags)
    for module in (
        "pages.html",
        "report.page",
        "report.charts",
        "report.sequence",
    ):  # the mutation: nothing is escaped
        monkeypatch.setattr(f"fedmpi.{module}.escape", lambda text: text)
    assert "script" in Elements(write_report([run]).read_text()).foreign


def test_what_can_not_be_read_is_left_out(tmp_path: Path) -> None:
    page = Elements(write_report([folders.damaged(tmp_path / "damaged")]).read_text())
    assert "At a glance" in page.text


def test_a_name_is_no_formula_of_a_spreadsheet(tmp_path: Path) -> None:
    run = folders.evil(tmp_path / "=1+1")
    write_report([run])
    with (run / "report" / "curves.csv").open(newline="") as file:
        assert {row["run"] for row in csv.DictReader(file)} == {"'=1+1"}


def attacked(path: Path, images: np.ndarray) -> Path:
    """The folder of an attack."""
    path.mkdir()
    (path / "result.json").write_text('{"system": "attacks", "ranks": 2}')
    np.savez_compressed(path / "images.npz", original=images, found=images * np.nan)
    return path


def test_the_images_of_an_attack_are_shown(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((2, 3, 5, 7))
    page = Elements(write_report([attacked(tmp_path / "a", pixels)]).read_text())
    sources = [str(attributes["src"]) for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 4
    shown = matplotlib.image.imread(io.BytesIO(base64.b64decode(sources[1].removeprefix("data:image/png;base64,"))))
    np.testing.assert_allclose(shown, pixels[1].transpose(1, 2, 0), atol=0.5 / 255)
    assert "fedmpi attack -n 2" in page.text


@pytest.mark.parametrize("shape", [(1, 3, 600, 4), (1, 2, 4, 4), (4, 4), (3000, 3, 64, 64), (1, 3, 0, 4)])
def test_images_that_can_not_be_shown_are_left_out(shape: tuple[int, ...], tmp_path: Path) -> None:
    page = Elements(write_report([attacked(tmp_path / "a", np.zeros(shape))]).read_text())
    assert not any(tag == "img" for tag, _ in page.tags)


def test_an_archive_that_holds_code_is_not_run(tmp_path: Path) -> None:
    run = attacked(tmp_path / "a", np.zeros((1, 1, 2, 2)))
    np.savez(run / "images.npz", original=np.array([object()], object))
    assert not any(tag == "img" for tag, _ in Elements(write_report([run]).read_text()).tags)
    (run / "images.npz").write_bytes(b"PK\x03\x04 no archive")
    write_report([run])


# -- one round ------------------------------------------------------------------------------------------------------


def test_the_diagram_is_in_the_order_of_the_protocol(runs: dict[str, Path]) -> None:
    coded, bgw = read_runs([runs["coded"], runs["bgw"]])
    drawn = {title: [(a.kind[0], a.count) for a in arrows] for title, arrows in sections(coded).items()}
    (seeded, T), (pieces, others) = drawn["setup"][-2:]
    assert (seeded, pieces, T + others) == ("DataSeed", "CodedData", 10)
    assert drawn["setup"][-3] == ("Setup", 10)
    # R = 9 of the ten are enough: one may be late.
    (asked, to), (answered, by) = drawn["exchange 1"]
    assert (asked, answered) == ("CodedVectors", "CodedProduct")
    assert 9 <= by <= to <= 10
    assert ("Stop", 10) in drawn["end"]
    assert [a.kind for a in sections(bgw)["iteration 1"]] == [
        ("SharedWeights", "master", "worker"),
        ("SubShare", "worker", "worker"),
        ("SharedGradient", "worker", "master"),
    ]


def test_the_round_is_one_that_rank_0_took_part_in(tmp_path: Path) -> None:
    late = [{"by": 1, "step": 7, "type": "Upload", "from": "host", "to": "server"}]
    both = [{"by": by, "step": 1, "type": "Upload", "from": "host", "to": "server", "bytes": 9} for by in (0, 1)]
    (tmp_path / "config.toml").write_text("rounds = 9\n")
    (tmp_path / "frames.jsonl").write_text("".join(json.dumps(line) + "\n" for line in late + both))
    assert list(sections(read_runs([tmp_path])[0])) == ["round 1"]


def test_counts_and_bytes_are_those_of_the_channel(runs: dict[str, Path]) -> None:
    (run,) = read_runs([runs["coded"]])
    (data,) = [arrow for arrow in sections(run)["setup"] if arrow.kind[0] == "CodedData"]
    result = run.result
    assert data.mean_bytes == result["message_bytes"]["sent"]["CodedData"] / result["messages"]["sent"]["CodedData"]


def test_orders_that_contradict_one_another_end_in_some_order() -> None:
    a, b, c = [(name, "x", "y") for name in "abc"]
    assert in_order([[a, c], [a, b], [b, c]]) == [a, b, c]
    assert sorted(in_order([[a, b], [b, c], [c, a]])) == [a, b, c]


class Word(Message, tag=1):
    """Anybody → anybody, each round."""

    round: int
    text: str


def talk(ch: Channel) -> list[dict[str, object]]:
    """Rank 1 says a lot to rank 2, and rank 3 little; rank 0 hears of both at the end."""
    counts = {2: 7, 3: 1}
    if ch.rank == 1:
        for t in range(5):
            for rank, count in counts.items():
                for k in range(count):
                    ch.send(rank, Word(t, "x" * (k + 10 * rank)))
    elif ch.rank:
        for _ in range(5 * counts[ch.rank]):
            ch.recv(1, Word)
    if ch.rank:
        ch.send(0, report(ch))
        return []
    from fedmpi.net.costs import Report

    return list(frame_lines(ch, ch.gather(range(1, ch.size), Report)))


def roles(rank: int) -> str:
    """Two roles."""
    return "server" if rank == 0 else "host"


def test_rank_0_is_not_told_who_shares_with_whom() -> None:
    lines, *_ = run_local([talk] * 4, role_of=roles)
    kind = {"type": "Word", "from": "host", "to": "host"}
    assert [line for line in lines if line["by"] == 1] == [{"by": 1, "step": t, **kind} for t in (0, 1)]
    told = [{key: value for key, value in line.items() if key != "by"} for line in lines if line["by"] in (2, 3)]
    assert told[:2] == told[2:], "nothing tells a rank that got seven from one that got one"


def test_what_a_rank_tells_is_read_with_care() -> None:
    good = ">\thost\tWord\t1"
    bad = ["", "x", "=\thost\tWord\t1", ">\tpope\tWord\t1", ">\thost\t<b>\t1", ">\thost\tWord\t1e9", ">\thost\tWord\t²"]
    bad += [f">\thost\t{'W' * 65}\t1", ">\thost\tWord\t" + "9" * 5000, ">\thost\tWord\t--1"]
    assert list(read_told("\n".join([*bad, good]), ["server", "host"])) == [(True, "host", "Word", 1)]
    assert len(list(read_told("\n".join([good] * 10_000), ["host"]))) == 256
    assert END == -2
