"""Train with any system from a program: in threads of this process, or on the ranks of an MPI job."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.api.options import command_line, import_path
from fedmpi.api.run import Run
from fedmpi.data.memory import GROUPS, held
from fedmpi.errors import UsageError
from fedmpi.rules import parameters_of_python
from fedmpi.runs.hooks import Callback, Hooks
from fedmpi.system import System, named
from fedmpi.systems import find

_STARTED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Where mpirun and srun say how many ranks they have started."""
HOSTS = 3
"""Ranks of the last role, where nothing says how many there are."""


def train(
    system: str,
    X: Any = None,
    y: Any = None,
    *,
    groups: Any = None,
    X_test: Any = None,
    y_test: Any = None,
    model: str | Callable[..., Any] | None = None,
    ranks: int | None = None,
    callbacks: Sequence[Callback] = (),
    out: Path | str | None = None,
    progress: bool = True,
    **options: Any,
) -> Run:
    """Train with a system, as ``fedmpi run SYSTEM`` does: the same seed gives the same bits.

    In a job (``mpirun -n 5 python train.py``) the ranks of the job train: all of them must come to this call, with the
    same parameters and rows. Rank 0 gets the `Run`, and the others leave the program, so that what stands below runs
    once. Anywhere else the ranks are threads of this process.

    Parameters
    ----------
    system : str
        codedml, ppadmm, niss, pbpfl, spn, or one that is installed.
    X : array, shape (m, d), DataFrame of pandas, sparse matrix, or images as in an .npz file, optional
        Without it, ``dataset=`` names a data set or a file.
    y : array, shape (m,), or the name of a column of X
        Labels, or targets of a regression.
    groups : array, shape (m,), or the name of a column of X, optional
        Which client or participant each row belongs to. Default: rows are dealt out.
    X_test, y_test : likewise, optional
        Default: ``test_fraction`` of the rows are drawn.
    model : str, class or function, optional
        Of the systems with clients: a name, or what is called with (shape of a row, number of classes) and gives a
        torch module. It must stand at the top of a module or notebook.
    ranks : int, optional
        Default: those of the job; in threads a rank for each other role, and 3 of the last (codedml: 10).
    callbacks : sequence of callables
        Called with (step, metrics) after each step that is recorded; one that returns True ends the training with
        the step that is under way, and what one raises ends it with this error.
    out : Path or str, optional
        Folder of the run. Default: a temporary one that lives as long as the `Run`; in a job runs/.
    progress : bool
        Print how it goes, and how it ends.
    **options
        The system's parameters and those of a run, as ``fedmpi run SYSTEM -- --help`` calls them, with underscores.

    Raises
    ------
    UsageError
        If something was given that a command line would refuse, too.

    Examples
    --------
    >>> run = fedmpi.train("niss", X, y, model="mlp", clients=5, rounds=20)  # doctest: +SKIP
    >>> run.model.predict(X), run.metrics, run.report()  # doctest: +SKIP
    """
    known = find(system)
    started = max(int(os.environ.get(name, "")) if os.environ.get(name, "").isdecimal() else 0 for name in _STARTED)
    with parameters_of_python({}, ranks=started > 1), contextlib.ExitStack() as stack:
        options = {**options, "model": import_path(model), "out": None if out is None else Path(out)}
        options = {name: value for name, value in options.items() if value is not None}
        if X is not None:
            if "dataset" in options:
                raise UsageError(f"dataset must not be given with X, got {options['dataset']}")
            ranks, owners = _owners(known, X, groups, ranks, options)
            options |= owners
            options["dataset"] = stack.enter_context(held(X, y, X_test, y_test, groups))
        elif not all(one is None for one in (y, groups, X_test, y_test)):
            raise UsageError("X must be given with y, groups, X_test and y_test, got none")
        hooks = Hooks(tuple(callbacks), silent=not progress)
        if started > 1:
            return _on_ranks(known, started, ranks, options, hooks)
        return _on_threads(known, ranks, options, hooks)


def _owners(
    system: System, X: Any, groups: Any, ranks: int | None, options: dict[str, Any]
) -> tuple[int | None, dict[str, Any]]:
    """How groups are dealt out: by --split-by, to a client (or rank) each where nothing else is said."""
    if groups is None:
        return ranks, {}
    parameters = named(system.training).parameters
    if not hasattr(parameters, "split_by"):
        raise UsageError(f"groups must not be given: {system.name} does not deal out rows")
    if "split_by" in options:
        raise UsageError(f"split_by must not be given with groups, got {options['split_by']}")
    if isinstance(groups, str) and groups not in getattr(X, "columns", ()):
        raise UsageError(f"groups must be values, or a column of a DataFrame, got {groups}")
    count = len(np.unique(X[groups] if isinstance(groups, str) else groups))
    if hasattr(parameters, "clients"):
        return ranks, {"split_by": GROUPS, "clients": options.get("clients", count)}
    return len(system.roles) - 1 + count if ranks is None else ranks, {"split_by": GROUPS}


def _on_threads(system: System, ranks: int | None, options: dict[str, Any], hooks: Hooks) -> Run:
    if options.get("encrypt") or options.get("cluster_key"):
        raise UsageError("encrypt and cluster_key must be used on the ranks of a job, got them for threads")
    temporary = None
    if not {"out", "resume"} & options.keys():
        temporary = tempfile.TemporaryDirectory(prefix="fedmpi-")
        options = {**options, "out": Path(temporary.name) / "run"}
    least = len(system.roles) - 1
    ranks = least + (10 if system.name == "codedml" else HOSTS) if ranks is None else ranks
    if ranks <= least:
        raise UsageError(f"ranks must be at least {least + 1}: {', '.join(system.roles)}, got {ranks}")
    words, hooks.threads = command_line(system, options), True
    try:
        with _threads_of_torch():
            system.on_threads(ranks, words, float(options.get("timeout", 600.0)), hooks)
    except KeyboardInterrupt:
        if temporary is None:
            raise
        raise KeyboardInterrupt("stopped by Ctrl-C; with out= it could go on") from None
    assert hooks.folder is not None
    run = Run(hooks.folder, options.get("model"))
    run._temporary = temporary
    return run


_trained = False


def _on_ranks(system: System, started: int, ranks: int | None, options: dict[str, Any], hooks: Hooks) -> Run:
    """On rank 0 of a job; the others leave."""
    global _trained
    if _trained:
        raise UsageError("a job must train once, got a second fedmpi.train: the other ranks have left")
    _trained = True
    from fedmpi.machines.encryption import encryption
    from fedmpi.net.mpi import job

    words = command_line(system, options, values=False)
    with job(role_of=system.role_of, wrap=encryption(words), traceback=True, goes_on=True) as channel:
        if ranks not in (None, channel.size):
            raise UsageError(f"ranks must be those of the job, {started}, got {ranks}")
        system.play(channel, words, hooks)
    if channel.rank:
        sys.exit(0)
    assert hooks.folder is not None
    return Run(hooks.folder, options.get("model"))


@contextlib.contextmanager
def _threads_of_torch() -> Iterator[None]:
    """Ranks compute with one thread of torch each; the program gets back its own number."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    try:
        yield
    finally:
        if torch and before:
            torch.set_num_threads(before)
