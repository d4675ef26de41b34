"""`export`: the model of a run for other programs."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fedmpi.cli.types import Text
from fedmpi.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the model of a run as an ONNX file, which takes rows in the units of the data set.

    Example: fedmpi export runs/codedml-coded-20261121-105631 model.onnx
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run that ended."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The file to write: its name ends with .onnx."""
    model: Text = None
    """package.module:Class of a model of one's own, whose code is imported only if it is named here."""

    def __call__(self, options: list[str]) -> int:
        """Write the file, and say what goes in and what comes out."""
        if self.file.suffix != ".onnx" or not self.file.absolute().parent.is_dir():
            raise UsageError(f"FILE must end with .onnx and be in a folder that exists, got {self.file}")
        from fedmpi.runs.model import load_model
        from fedmpi.system import require

        require("fedmpi export", "torch")
        from fedmpi.runs.export import write_onnx

        print(write_onnx(load_model(self.run, self.model), self.file))
        print(f"written to {self.file}")
        return 0
