"""CodedPrivateML as users start it: mpirun, the same weights as on threads, and errors that are said once."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocol.codedml_threads import command_on_threads

from fedmpi.crypto.keys import create_key_file

Run = Callable[..., subprocess.CompletedProcess[str]]
HERE = Path(__file__).parent
SLOW = ("galois", "numba", "torch", "scipy", "sklearn", "tyro", "rich")
"""What a worker must not load: start-up is paid by every rank."""

OPTIONS = ["--iterations", 12, "--seed", 4, "--classes", 3, 8, 5, "--dataset", "digits"]


def model(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "model.npz", allow_pickle=False) as archive:
        return dict(archive)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says of the training; not what it says of this run's time and luck.

    Who is late with the data is sent some of it later: the bytes at a time are luck too.
    """
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: v for key, v in line.items() if key not in ("seconds", "answers", "late", "sent_bytes")} for line in lines
    ]


@pytest.mark.parametrize("path", [[], ["--paper"], ["-r", 1, "--primes", 2]])
def test_mpirun_equals_threads_to_the_bit(mpirun: Run, tmp_path: Path, path: list[Any]) -> None:
    done = mpirun(7, "-m", "fedmpi.codedml", *OPTIONS, *path, "--out", tmp_path / "mpi")
    assert done.returncode == 0, done.stderr
    assert "written to" in done.stdout
    command_on_threads(6, *OPTIONS, *path, "--out", tmp_path / "threads", "--quiet")
    one, two = model(tmp_path / "mpi"), model(tmp_path / "threads")
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
    assert np.abs(one["coefficients"]).max() > 0.01
    assert metrics(tmp_path / "mpi") == metrics(tmp_path / "threads")
    summaries = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("mpi", "threads")]
    plain = [summary["metrics"].pop("plain") for summary in summaries]  # float64 BLAS: as exact as its threads
    assert plain[0].keys() == plain[1].keys()
    for key in ("metrics", "params", "dataset", "ranks", "roles", "seed", "schema", "method"):
        assert summaries[0][key] == summaries[1][key], key
    sent = [summary["bytes"]["sent"]["master"] for summary in summaries]
    assert abs(sent[0] - sent[1]) <= max(sent) / 6, "what one of six workers may have missed"
    assert summaries[0]["environment"]["mpi"] != "threads"
    assert summaries[1]["environment"]["mpi"] == "threads"
    assert set(summaries[0]["seconds"]) >= {"startup", "encode", "communicate", "compute", "decode", "total"}
    assert summaries[0]["peak_memory_bytes"]["worker_max"] > 1 << 20


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    """The comparison above would be worth nothing if all trainings ended in the same weights."""
    for seed in (4, 5):
        command_on_threads(6, *OPTIONS, "--seed", seed, "--out", tmp_path / str(seed), "--quiet")
    assert not np.array_equal(model(tmp_path / "4")["coefficients"], model(tmp_path / "5")["coefficients"])


@pytest.mark.parametrize("paper", [False, True])
def test_every_rank_writes_what_it_received(mpirun: Run, tmp_path: Path, paper: bool) -> None:
    """--record-views: keys <sequence>-<source>-<Message>-<field>, and all that a worker sees are field elements."""
    out = tmp_path / "run"
    options = ["--paper"] if paper else ["--tolerance", 0]
    ranks = 5 if paper else 4  # so that all workers are needed, and none may skip a request
    done = mpirun(ranks, "-m", "fedmpi.codedml", "--iterations", 2, *options, "--record-views", "--out", out)
    assert done.returncode == 0, done.stderr
    asked = ["CodedWeights-W_tilde"] if paper else ["CodedVectors-V_tilde", "CodedVectors-transposed"]
    assert sorted(path.name for path in (out / "views").iterdir()) == [f"rank-{r}.npz" for r in range(ranks)]
    with np.load(out / "views" / "rank-3.npz", allow_pickle=False) as views:
        names = [key.split("-", 2)[1:] for key in views.files]
        assert {source for source, _ in names} == {"0"}
        for name in asked:
            assert [name for _, name in names].count(name) == (2 if paper else 4)
        coded = next(views[key] for key in views.files if key.endswith("CodedData-X_tilde"))
        assert coded.dtype == np.uint32
    with np.load(out / "views" / "rank-0.npz", allow_pickle=False) as views:
        answers = [key for key in views.files if key.endswith(("CodedGradient-gradient", "CodedProduct-product"))]
        assert {key.split("-")[1] for key in answers} == {str(rank) for rank in range(1, ranks)}


def test_a_dry_run_records_no_views(mpirun: Run, tmp_path: Path) -> None:
    done = mpirun(4, "-m", "fedmpi.codedml", "--dry-run", "--record-views", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run").exists()


# -- what a worker loads ------------------------------------------------------------------------------------------


def slow_modules(names: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in names} & set(SLOW)


CIPHERS = {"fedmpi.net.sealed", "fedmpi.crypto.keys", "fedmpi.crypto.seal"}
"""What a worker loads with --cluster-key, and never without."""


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_worker_loads_nothing_slow(mpirun: Run, tmp_path: Path, encrypted: bool) -> None:
    create_key_file(tmp_path / "key")
    options = ["--iterations", 2, "--out", tmp_path / "run", "--quiet"]
    options += ["--cluster-key", tmp_path / "key"] if encrypted else []
    done = mpirun(4, HERE / "codedml_mpi.py", "modules", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    for rank in range(1, 4):
        names = json.loads((tmp_path / f"modules-{rank}.json").read_text())
        assert {"numpy", "mpi4py", "fedmpi"} <= {name.partition(".")[0] for name in names}
        assert slow_modules(names) == set()
        assert not [name for name in names if name.startswith(("fedmpi.data", "fedmpi.codedml.command"))]
        assert {name for name in names if name.startswith("fedmpi.runs")} == {"fedmpi.runs", "fedmpi.runs.own_options"}
        assert CIPHERS & set(names) == (CIPHERS if encrypted else set())
        assert encrypted or not [name for name in names if name.endswith(("x25519", "hkdf"))]


@pytest.mark.parametrize(
    "imports",
    [
        "fedmpi.codedml.protocol, fedmpi.net.mpi",
        "fedmpi.codedml, fedmpi.codedml.protocol, fedmpi.net.mpi",
        "fedmpi.codedml.__main__",
    ],
)
def test_what_a_worker_imports_loads_nothing_slow(imports: str) -> None:
    program = f"import {imports}, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert slow_modules(json.loads(done.stdout.splitlines()[-1])) == set()


def test_the_check_of_modules_sees_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import fedmpi.codedml.command, sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "tyro" in slow_modules(json.loads(done.stdout.splitlines()[-1]))


# -- errors -------------------------------------------------------------------------------------------------------


def text_of(output: str) -> str:
    """What a box of the parser says, on one line. mpirun's ranks think that they write to a terminal, in colours."""
    plain = re.sub("\x1b\\[[0-9;]*m", "", output)
    return " ".join(re.sub("[╭╮╰╯─│]|--+ *$", " ", plain, flags=re.MULTILINE).split())


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    # mpirun puts a NUL before what a rank writes while its job is being ended
    return [line.lstrip("\0") for line in (done.stdout + done.stderr).splitlines() if "fedmpi: error:" in line]


# One before anything is sent, one while all train; test_codedml_command.py has every rule, on threads.
REFUSED: dict[str, tuple[int, list[Any], list[str]]] = {
    "below the threshold": (5, ["-K", 3, "-T", 2], ["2·(K+T-1)+1 = 2·(3+2-1)+1 = 9", "got N=4"]),
    "overflow while training": (
        5,
        ["--paper", "--prime", 10007],
        ["decoded values must be below p/2 = 5004", "--primes 2"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_rule_ends_every_rank_with_2_and_one_line(name: str, mpirun: Run, tmp_path: Path) -> None:
    n, options, texts = REFUSED[name]
    done = mpirun(n, "-m", "fedmpi.codedml", *options, "--out", tmp_path / "run", "--quiet", timeout=60)
    assert done.returncode == 2, done.stderr
    said = errors(done)
    assert len(said) == 1, done.stderr
    assert said[0].startswith("fedmpi: error: ")
    assert [text for text in texts if text not in said[0]] == []
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_what_the_parser_refuses_is_said_once(mpirun: Run, tmp_path: Path) -> None:
    done = mpirun(3, "-m", "fedmpi.codedml", "--iteration-count", "5", "--out", tmp_path / "run", timeout=60)
    assert done.returncode == 2, done.stderr
    said = text_of(done.stderr)
    assert "--iteration-count" in said
    assert said.count("fedmpi: error:") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


RAISES = r"worker \(rank 3\) failed: RuntimeError: out of order \(.*codedml_mpi\.py:\d+\)"


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ("raises", RAISES),
        ("too-large", r"worker \(rank 3\) sent field elements that must be below 33554393, got 67108859"),
    ],
)
def test_a_worker_that_goes_wrong_where_it_is_needed_ends_everybody_with_one_line_that_names_it(
    scenario: str, message: str, mpirun: Run, tmp_path: Path
) -> None:
    done = mpirun(
        8, HERE / "codedml_mpi.py", scenario, tmp_path, "--paper", "-K", 2, "-T", 1, "--iterations", 30, "--quiet",
        "--out", tmp_path / "run", timeout=60,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    said = errors(done)
    assert len(said) == 1, done.stderr
    assert re.search(f"must come from 7 of 7 ranks, got 6: {message}; (go on after|no) iteration", said[0])
    assert not (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "model.npz").exists()


@pytest.mark.parametrize("path", [[], ["--paper"]])
def test_a_worker_that_goes_wrong_where_others_are_enough_is_named_in_the_result(
    mpirun: Run, tmp_path: Path, path: list[Any]
) -> None:
    done = mpirun(
        10, HERE / "codedml_mpi.py", "raises", tmp_path, "-K", 2, "-T", 1, "--iterations", 30, "--quiet", *path,
        "--out", tmp_path / "run", timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert errors(done) == []
    (failure,) = json.loads((tmp_path / "run" / "result.json").read_text())["failures"]
    assert failure["rank"] == 3
    assert "RuntimeError: out of order" in failure["reason"]


def test_help_is_printed_once(mpirun: Run) -> None:
    done = mpirun(3, "-m", "fedmpi.codedml", "--help", timeout=60)
    assert done.returncode == 0, done.stderr
    assert text_of(done.stdout).count("usage: fedmpi run codedml") == 1
