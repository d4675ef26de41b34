"""Which commands there are, and what each does."""

from importlib import import_module
from typing import Any

COMMANDS = {
    "run": "Run a system on N ranks of this machine or of a cluster.",
    "compare": "Run several systems on the same rows: one table and one picture.",
    "report": "Write one HTML page about runs, side by side, with curves and numbers.",
    "watch": "Follow a run from its folder until it is done.",
    "predict": "Let the model of a run predict the rows of a file.",
    "export": "Write the model of a run as an ONNX file.",
    "audit": "Attack what each role of a run received, and say what came of it.",
    "attack": "Reconstruct training data from the gradients that a client shares.",
    "data": "List the data sets, or fetch one.",
    "doctor": "Say what works on this machine, what is missing, and how to get it.",
    "hostfile": "Print a hostfile.",
    "keygen": "Make a cluster key, under which links are encrypted.",
    "bench": "Measure speed, as ratios within one run.",
    "project": "Say how long each protocol takes on N machines.",
    "reproduce": "Run a paper's experiments on this machine.",
    "new": "Write a small package with a system of your own, and a test of it.",
}
"""Command → what it does. It is the class of that name, with a capital, in the file of that name."""


def command(name: str) -> type[Any]:
    """The class of a command."""
    kind: type[Any] = getattr(import_module(f"fedmpi.cli.{name}"), name.capitalize())
    return kind
