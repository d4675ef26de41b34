"""Checkpoints: S1 keeps z and what is public, each participant keeps its own u_i. Nobody keeps a mask or a key."""

from pathlib import Path
from typing import Any

from fedmpi.errors import FilesError, UsageError
from fedmpi.files import PRIVATE_FOLDER, own_folder
from fedmpi.ppadmm.admm import Vector
from fedmpi.ppadmm.protocol import Keeper, State
from fedmpi.runs.checkpoint import check_same, digest_of, read_checkpoint, write_checkpoint
from fedmpi.runs.checkpointing import Keeper as RunsKeeper
from fedmpi.runs.folder import warn_of_files, writing


class RunKeeper(RunsKeeper[State], Keeper):
    """S1's checkpoints of one run; every participant writes its own part at the same iteration.

    Parameters
    ----------
    ch, folder, packing, every
        As for `fedmpi.runs.checkpointing.Keeper`.
    kept : bool
        Whether all ranks know the folder: otherwise nothing is kept.
    """

    def __init__(self, *arguments: Any, kept: bool):
        super().__init__(*arguments)
        self._kept = kept

    def due(self, iteration: int) -> bool:
        """Whether a checkpoint is to be written before this iteration, or with -1 at a premature end."""
        if iteration == -1:
            return self._kept
        return iteration > 0 and self._every > 0 and iteration % self._every == 0

    def save(self, state: State) -> None:
        """Write z, and what all participants were told."""
        self._try(state)

    def lack(self, iteration: int, why: str) -> None:
        """Say that there is none: the ones before stay."""
        warn_of_files(FilesError(f"the checkpoint of iteration {iteration} lacks a part: {why}"))

    def advance(self, state: State) -> bool:
        """After an iteration: stop if a signal asks for that; whether the training is to end."""
        self._ch.on_pause()
        return self._packing.stopping

    def save_last(self) -> None:
        """Nothing: at a premature end the protocol calls `save`, once all participants have written their part."""

    @property
    def nothing_saved(self) -> str:
        """Why there is nothing to go on from, for people."""
        return "no checkpoint was written" + ("" if self._kept else ", for want of --out on the command line")


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
        with writing(self._folder):
            self._folder.parent.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
            own_folder(self._folder.parent, PRIVATE_FOLDER)
            own_folder(self._folder, PRIVATE_FOLDER)
            self._folder.chmod(PRIVATE_FOLDER)
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
