"""``with workers():`` under mpirun, in programs as users write them: the estimator trains on the other ranks.

Every job waits up to 600 s for a rank by default, so one that ends within the fixture's limit was ended on purpose.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score

from fedmpi.codedml import CodedLogisticRegression

LIMIT_SECONDS = 40

SETTINGS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "two classes": ((4, 9), {"iterations": 6, "random_state": 1}),
    "three classes": ((0, 1, 2), {"iterations": 4, "center": True, "random_state": 2}),
    "paper": ((4, 9), {"paper": True, "iterations": 6, "random_state": 1}),
    "degree 1": ((0, 1, 2), {"degree": 1, "primes": 2, "random_state": 1}),
    "degree 2": (
        (0, 1),
        {
            "paper": True,
            "iterations": 3,
            "degree": 2,
            "fit_range": (-3.0, 8.0),  # not symmetric: the coefficient of z² is not 0
            "data_bits": 1,
            "weight_bits": 3,
            "coefficient_bits": 8,
            "prime": 2147483647,
        },
    ),
}
"""What is trained, one after the other in one job."""

HEAD = """
import atexit, sys
from pathlib import Path
from fedmpi.codedml import workers

FOLDER = Path(sys.argv[1])

with workers():
    import numpy as np
    from sklearn.datasets import load_digits
    from fedmpi.codedml import CodedLogisticRegression

    def digits(*classes):
        X, y = load_digits(return_X_y=True)
        chosen = np.isin(y, classes)
        return X[chosen], y[chosen]

"""

Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("measured")


@pytest.fixture
def job(mpirun: Run, tmp_path: Path) -> Run:
    """``job(n, block, after="", before="")`` runs a program with this block inside ``with workers():``."""

    def run(n: int, block: str, after: str = "", before: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        program = tmp_path / "program.py"
        program.write_text(dedent(before) + HEAD + indent(dedent(block), "    ") + "\n" + dedent(after))
        return mpirun(n, program, tmp_path, timeout=LIMIT_SECONDS, **options)

    return run


def digits(*classes: int) -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    chosen = np.isin(y, classes)
    return X[chosen], y[chosen]


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    marker = "fedmpi: error: "
    lines = (done.stdout + done.stderr).splitlines()
    return [line.removeprefix(marker) for line in lines if line.startswith(marker)]


def test_ranks_give_the_weights_of_threads_to_the_bit(job: Run, tmp_path: Path) -> None:
    """Several trainings of different shapes in one block, each equal to the one on as many threads."""
    block = f"""
    for name, (classes, settings) in {SETTINGS!r}.items():
        model = CodedLogisticRegression(n_workers=1, **settings).fit(*digits(*classes))  # 1 thread would be refused
        np.savez(FOLDER / f"{{name}}.npz", coef=model.coef_, intercept=model.intercept_, bits=model.headroom_bits_)
    """
    done = job(8, block)
    assert done.returncode == 0, done.stderr
    for name, (classes, settings) in SETTINGS.items():
        threads = CodedLogisticRegression(n_workers=7, **settings).fit(*digits(*classes))
        with np.load(tmp_path / f"{name}.npz") as ranks:
            np.testing.assert_array_equal(ranks["coef"], threads.coef_, err_msg=name, strict=True)
            np.testing.assert_array_equal(ranks["intercept"], threads.intercept_, err_msg=name, strict=True)
            assert ranks["bits"] == threads.headroom_bits_
        assert np.abs(threads.coef_).max() > 0


def test_cross_validation_runs_on_the_ranks_as_on_threads(job: Run) -> None:
    block = """
    from sklearn.model_selection import cross_val_score
    print(cross_val_score(CodedLogisticRegression(iterations=4), *digits(4, 9), cv=3).tolist())
    """
    done = job(5, block)
    assert done.returncode == 0, done.stderr
    scores = cross_val_score(CodedLogisticRegression(n_workers=4, iterations=4), *digits(4, 9), cv=3)
    assert done.stdout.strip() == str(scores.tolist())


def test_what_stands_below_the_block_runs_on_rank_0_only(job: Run) -> None:
    done = job(
        5,
        block="""
        print("block")
        model = CodedLogisticRegression(iterations=2).fit(*digits(4, 9))
        """,
        after="""
        again = CodedLogisticRegression(n_workers=4, iterations=2).fit(*digits(4, 9))  # on threads
        print("after", (again.coef_ == model.coef_).all())
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["block", "after True"]


def test_what_stands_below_the_block_runs_after_the_death_of_a_worker_too(job: Run) -> None:
    """To the program's own end, with what it registered first and its own exit code."""
    before = """
    import atexit, os, sys
    from pathlib import Path

    rank = os.environ["OMPI_COMM_WORLD_RANK"]
    Path(sys.argv[1], f"pid-{rank}").write_text(str(os.getpid()))
    if rank == "0":
        atexit.register(print, "the end")
    """
    block = """
    import os, signal
    from fedmpi.codedml.cluster import current

    fit = lambda: CodedLogisticRegression(parallelization=1, privacy=1, iterations=2).fit(*digits(4, 9))
    model = fit()
    os.kill(int((FOLDER / "pid-3").read_text()), signal.SIGKILL)
    while not current().departed:
        again = fit()
    """
    done = job(6, block, after="print((again.coef_ == model.coef_).all())\nsys.exit(7)", before=before, survive=True)
    assert done.stdout.splitlines() == ["True", "the end"], done.stderr
    assert done.returncode == 7, done.stderr


def test_threads_in_the_block_are_served_one_after_the_other(job: Run) -> None:
    block = """
    from concurrent.futures import ThreadPoolExecutor

    fit = lambda l2: CodedLogisticRegression(l2=l2, iterations=3).fit(*digits(4, 9)).coef_
    alone = [fit(l2) for l2 in (1.0, 2.0, 3.0)] * 2
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(fit, (1.0, 2.0, 3.0) * 2))
    print(all((a == b).all() for a, b in zip(alone, together)))
    """
    done = job(5, block, after="print('after')")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "after"]


def test_workers_serve_without_loading_anything_slow(job: Run, tmp_path: Path) -> None:
    slow = ("sklearn", "scipy", "galois", "numba", "torch", "tyro", "rich")
    before = f"""
    import atexit, os, sys

    @atexit.register
    def tell():
        loaded = [name for name in {slow!r} if name in sys.modules]
        with open(os.path.join(sys.argv[1], f"loaded-{{os.getpid()}}"), "w") as file:
            file.write(" ".join(loaded) or "nothing slow")
    """
    done = job(5, "CodedLogisticRegression(iterations=2).fit(*digits(4, 9))", before=before)
    assert done.returncode == 0, done.stderr
    loaded = sorted(path.read_text() for path in tmp_path.glob("loaded-*"))
    assert loaded[:4] == ["nothing slow"] * 4
    assert "sklearn" in loaded[4]  # rank 0: the test would notice


@pytest.mark.parametrize("when", ["before any training", "after a training"])
def test_an_error_of_the_program_ends_the_job_with_its_traceback(job: Run, when: str) -> None:
    training = "CodedLogisticRegression(iterations=2).fit(*digits(4, 9))" if when == "after a training" else ""
    done = job(5, f"{training}\nraise KeyError('boom')", after="print('after')")
    assert done.returncode == 4, done.stderr
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "raise KeyError('boom')" in done.stderr
    assert len(errors(done)) == 1
    assert errors(done)[0].startswith("KeyError: 'boom'")
    assert done.stdout == ""


def test_an_exit_of_the_program_is_the_exit_code_of_the_job(job: Run) -> None:
    done = job(5, "CodedLogisticRegression(iterations=2).fit(*digits(4, 9))\nsys.exit(5)", after="print('after')")
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert (errors(done), done.stdout) == ([], "")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("X, y = digits(4)\nCodedLogisticRegression().fit(X, y)", "two classes or more, got 1 class: 4"),
        (
            "CodedLogisticRegression(paper=True, learning_rate='1e9').fit(*digits(4, 9))",
            "decoded values must be below p/2 = 16777196, got",
        ),
    ],
)
def test_a_usage_error_ends_the_job_with_2_and_one_line(job: Run, block: str, message: str) -> None:
    done = job(5, block, after="print('after')")
    assert done.returncode == 2, done.stderr
    assert len(errors(done)) == 1, done.stderr
    assert message in errors(done)[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("n", [1, 3])
def test_too_few_ranks_are_refused_with_the_arithmetic(job: Run, n: int) -> None:
    done = job(n, "CodedLogisticRegression(n_workers=10).fit(*digits(4, 9))")
    assert done.returncode == 2, done.stderr
    assert errors(done) == [
        f"the number of workers N must be at least 2·(K+T-1)+1 = 3 for K = T = 1, got N={n - 1} (start 4 ranks or more)"
    ]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("iterations", [1, 30])
def test_a_training_that_failed_does_not_disturb_the_next(job: Run, tmp_path: Path, iterations: int) -> None:
    """A program may catch the error, as a grid search does, and train again: on the new data, not on the old."""
    block = f"""
    rng = np.random.default_rng(0)
    X_old, X, y = rng.normal(size=(80, 4)), rng.normal(size=(80, 4)), np.arange(80) % 2
    try:
        CodedLogisticRegression(paper=True, learning_rate="1e9").fit(X_old, y)
    except ValueError as error:
        print(type(error).__name__, flush=True)
    model = CodedLogisticRegression(iterations={iterations}).fit(X, y)
    np.savez(FOLDER / "weights.npz", X=X, y=y, coef=model.coef_)
    """
    done = job(5, block)
    assert done.stdout.split() == ["HeadroomError"], done.stderr
    with np.load(tmp_path / "weights.npz") as ranks:
        threads = CodedLogisticRegression(n_workers=4, iterations=iterations).fit(ranks["X"], ranks["y"])
        np.testing.assert_array_equal(ranks["coef"], threads.coef_)
    assert done.returncode == 0, done.stderr


def test_a_second_fit_on_the_same_rows_sends_no_data(job: Run, tmp_path: Path) -> None:
    """And one on other rows does; every model is the one that threads train."""
    block = """
    from fedmpi.codedml.cluster import current

    X, y = digits(4, 9)
    models, sent = {}, [0]
    fits = {"first": (X, y, 1.0), "other ridge": (X, y, 9.0), "other classes": (X, y == 9, 1.0),
            "other rows": (X[:-1], y[:-1], 1.0), "as at first": (X, y, 1.0)}
    for name, (rows, labels, l2) in fits.items():
        models[name] = CodedLogisticRegression(l2=l2, iterations=4).fit(rows, labels).coef_
        sent.append(current().meter.messages_sent["CodedData"])
    print(*np.diff(sent) > 0)
    np.savez(FOLDER / "models.npz", **models)
    """
    done = job(5, block)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "False", "False", "True", "True"]
    X, y = load_digits(return_X_y=True)
    chosen = np.isin(y, (4, 9))
    X, y = X[chosen], y[chosen]
    with np.load(tmp_path / "models.npz") as models:
        for name, rows, l2 in (("first", len(X), 1.0), ("other ridge", len(X), 9.0), ("other rows", len(X) - 1, 1.0)):
            threads = CodedLogisticRegression(n_workers=4, l2=l2, iterations=4).fit(X[:rows], y[:rows])
            np.testing.assert_array_equal(models[name], threads.coef_)
        np.testing.assert_array_equal(models["as at first"], models["first"])


@pytest.mark.parametrize("block", ["nested", "second"])
def test_a_block_without_workers_is_refused_and_does_not_hang(job: Run, block: str) -> None:
    """Inside another block, or below it, where the other ranks have left."""
    again = "with workers():\n    print('again')"
    done = job(3, again if block == "nested" else "pass", after=again if block == "second" else "")
    assert done.returncode not in (0, 4), done.stderr
    assert "UsageError" in done.stderr or len(errors(done)) == 1
    assert done.stdout == ""
