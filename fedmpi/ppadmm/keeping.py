"""Checkpoints: S1 keeps z and what is public, each participant keeps its own u_i. Nobody keeps a mask or a key."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmpi.errors import Interrupted, ProtocolError, TooFewWorkers, UsageError
from fedmpi.net import Channel
from fedmpi.ppadmm.admm import Scaling, Vector
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.protocol import Keeper, State
from fedmpi.ppadmm.secure_sum import participants
from fedmpi.runs import RunFolder, RunOptions
from fedmpi.runs.checkpoint import check_same, digest_of, read_checkpoint, write_checkpoint

_ANY_PARAMS = {"mask", "precompute", "rekey_every", "min_participants", "on_dropout", "deadline"}
"""What may change from one part of a run to the next, since it changes no bit of the model."""

_SAME_OPTIONS = ("dataset", "max_rows", "test_fraction", "label_column", "seed")


class RunKeeper(Keeper):
    """S1's checkpoints of one run.

    Parameters
    ----------
    ch : Channel
    folder : RunFolder
    params : Params
    options : RunOptions
    kept : bool
        Whether all ranks know the folder: otherwise nothing is kept.
    """

    def __init__(self, ch: Channel, folder: RunFolder, params: Params, options: RunOptions, kept: bool):
        self._ch, self._folder, self._every, self._kept = ch, folder, options.checkpoint_every, kept
        self._configuration = configuration(params, options, len(participants(ch)))
        self._saved: int | None = None

    def due(self, iteration: int) -> bool:
        """Whether a checkpoint is to be written before this iteration, or with -1 at a premature end."""
        if iteration == -1:
            return self._kept
        return iteration > 0 and self._every > 0 and iteration % self._every == 0

    def save(self, state: State) -> None:
        """Write z, and what all participants were told."""
        scaling = state.scaling
        arrays = {"z": state.z, "means": scaling.means, "scales": scaling.scales}
        scalars = {
            "iteration": state.iteration,
            "members": state.members,
            "target_mean": scaling.target_mean,
            "rho": state.rho,
            "dual_residual": state.dual_residual,
            "configuration": self._configuration,
        }
        write_checkpoint(self._folder.begin(), state.iteration, arrays, scalars)
        self._saved = state.iteration

    def advance(self, state: State) -> None:
        """After an iteration: stop if a signal asks for that."""
        self._ch.on_pause()

    def load(self) -> tuple[State, list[str]]:
        """The state to go on from, and why newer checkpoints were passed over.

        Raises
        ------
        UsageError
            If there is no whole checkpoint, or the run was begun with another configuration.
        """
        arrays, state, refused = read_checkpoint(self._folder.path)
        check_same(state["configuration"], self._configuration)
        scaling = Scaling(arrays["means"], state["target_mean"], arrays["scales"])
        self._saved = state["iteration"]
        self._folder.forget_metrics(state["iteration"])
        members = tuple(state["members"])
        return (
            State(state["iteration"], arrays["z"], members, scaling, state["rho"], state["dual_residual"]),
            refused,
        )

    @contextmanager
    def saying(self) -> Iterator[None]:
        """Let the error that stops the block say what the run can go on from."""
        try:
            yield
        except (Interrupted, TooFewWorkers, ProtocolError) as error:
            if self._saved is None:
                rest = "no checkpoint was written" + ("" if self._kept else ", for want of --out on the command line")
            else:
                rest = f"go on after iteration {self._saved} with --resume {self._folder.path}"
            error.args = (f"{error}; {rest}",)
            raise


class OwnShelf:
    """A participant's checkpoints, in a folder that only its owner may read: u_i says much about the rows.

    Parameters
    ----------
    run : Path
        The folder of the run, on this participant's machine.
    rank : int
    A, b : array
        Its data, of which a digest is kept.
    earlier : bool
        Make do with an earlier checkpoint, as a participant that returns after it was left out.
    """

    def __init__(self, run: Path, rank: int, A: Vector, b: Vector, earlier: bool):
        self._folder, self._earlier = run / "participants" / f"rank-{rank}", earlier
        self._data = digest_of(A, b)

    def put(self, iteration: int, arrays: dict[str, Vector]) -> None:
        """Write them."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        write_checkpoint(self._folder, iteration, arrays, {"iteration": iteration, "data": self._data})

    def get(self, iteration: int) -> dict[str, Vector]:
        """What was written for an iteration.

        Raises
        ------
        UsageError
            If there is nothing, or it belongs to other data.
        """
        arrays, state, _ = read_checkpoint(self._folder, up_to=iteration)
        if state["iteration"] != iteration and not self._earlier:
            raise UsageError(f"{self._folder} must hold iteration {iteration}, got {state['iteration']}")
        check_same({"data": state["data"]}, {"data": self._data})
        return arrays


def configuration(params: Params, options: RunOptions, parties: int) -> dict[str, Any]:
    """What must stay the same for the same model, as JSON values."""
    values = {key: value for key, value in dataclasses.asdict(params).items() if key not in _ANY_PARAMS}
    values |= {key: getattr(options, key) for key in _SAME_OPTIONS} | {"participants": parties}
    same: dict[str, Any] = json.loads(json.dumps(values))
    return same
