"""``mpirun -n 9 python codedml_mpi.py SCENARIO``: the command line of CodedPrivateML with workers that go wrong."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.codedml import SYSTEM
from fedmpi.codedml.protocol import CodedGradient, CodedProduct
from fedmpi.codedml.service import serve
from fedmpi.machines.encryption import encryption
from fedmpi.net import Channel
from fedmpi.net.mpi import job

Answer = CodedGradient | CodedProduct


def changed(ch: Channel, change: Any) -> None:
    """A worker whose answers are changed on their way."""
    send = ch.send

    def answer(dest: int, message: Any) -> None:
        send(dest, change(message) if isinstance(message, Answer) else message)

    ch.send = answer  # type: ignore[method-assign]
    serve(ch)


def raises(message: Answer) -> Answer:
    if message.iteration >= 2:  # a worker that falls behind skips some
        raise RuntimeError("out of order")
    return message


def too_large(message: Answer) -> Answer:
    values = message.gradient if isinstance(message, CodedGradient) else message.product
    return type(message)(message.training, message.iteration, np.full_like(values, 67108859))


def loaded(ch: Channel, folder: Path) -> None:
    """A worker that writes down which modules it had loaded when it was sent home."""
    serve(ch)
    (folder / f"modules-{ch.rank}.json").write_text(json.dumps(sorted(sys.modules)))


def main() -> None:
    scenario, folder = sys.argv[1], Path(sys.argv[2])
    sys.argv[1:] = sys.argv[3:]
    with job(wrap=encryption(sys.argv[1:])) as ch:
        if scenario == "modules" and ch.rank != 0:
            loaded(ch, folder)
        elif ch.rank == 3 and scenario == "raises":
            changed(ch, raises)
        elif ch.rank == 3 and scenario == "too-large":
            changed(ch, too_large)
        else:
            SYSTEM.play(ch)


if __name__ == "__main__":
    main()
