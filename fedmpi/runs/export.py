"""A run's model as an ONNX file, for programs that know neither fedmpi nor torch."""

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedmpi.errors import UsageError
from fedmpi.learn.inputs import Rescaled
from fedmpi.runs.folder import write_atomically
from fedmpi.runs.model import LinearModel, Model, TorchModel

INPUT, PREDICTION = "X", "prediction"


class _Whole(nn.Module):
    """Rows as they are in the file, shape (n, columns), to predictions and what they are made of.

    Parameters
    ----------
    body : torch.nn.Module
        From such rows to outputs, shape (n, outputs).
    link : str
        See `fedmpi.runs.model.LINKS`.
    """

    def __init__(self, body: nn.Module, link: str):
        super().__init__()
        self.body, self.link = body, link

    def forward(self, X: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z = self.body(X).double()
        if self.link == "identity":
            return (z[:, 0],)
        codes = (z[:, 0] > 0).long() if self.link == "sigmoid" else z.argmax(dim=1)
        if self.link in ("scores", "softmax"):
            return codes, torch.softmax(z, dim=1) if self.link == "softmax" else z
        p = torch.sigmoid(z)
        if self.link == "sigmoid":
            return codes, torch.cat([1 - p, p], dim=1)
        return codes, p / p.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


class _Linear(nn.Module):
    """The arrays of a `LinearModel`, in float64."""

    def __init__(self, model: LinearModel):
        super().__init__()
        coefficients, intercepts = model.coefficients
        cut = {name: model.arrays[name] for name in ("lower", "upper") if name in model.arrays}
        for name, values in {"W": coefficients.T, "b": intercepts, **cut}.items():
            self.register_buffer(name, torch.tensor(np.ascontiguousarray(values), dtype=torch.float64))
        self.is_cut = bool(cut)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        if self.is_cut:
            X = torch.minimum(torch.maximum(X, self.get_buffer("lower")), self.get_buffer("upper"))
        return X @ self.get_buffer("W") + self.get_buffer("b")


def write_onnx(model: Model, path: Path) -> str:
    """Write a model whose input ``X`` is rows in the units of the data set, float64, shape (n, columns).

    Its outputs are ``prediction``, the places of the classes or values, shape (n,), and of classifiers
    ``probabilities`` or ``scores``, shape (n, classes). The names of columns and classes stand in the file's metadata,
    as JSON. Where the data set has columns of text, the input is the features that `Model.prepared` gives.

    Returns
    -------
    What goes in and what comes out, for people.

    Raises
    ------
    UsageError
        If a package is missing, or torch can't write the model.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f'{package} must be installed for ONNX: pip install "fedmpi[onnx]"')
    import onnx

    made, card = model.preparation, model.card
    first = Rescaled((card["features"],), 1.0, made, torch.float64)
    if isinstance(model, TorchModel):
        body = model.module
    else:
        assert isinstance(model, LinearModel)
        body = nn.Sequential(first, _Linear(model))
    names = list(card["columns"]) if made is None or first.rescales else list(made.names)
    width = len(names) if made is not None else card["features"]
    outputs = [PREDICTION] if card["link"] == "identity" else [PREDICTION, "probabilities"]
    if card["link"] == "scores":
        outputs[1] = "scores"
    whole = _Whole(body, card["link"]).eval()
    with _silent():
        try:
            program = torch.onnx.export(
                whole,
                (torch.zeros((2, width), dtype=torch.float64),),
                input_names=[INPUT],
                output_names=outputs,
                dynamic_shapes=({0: torch.export.Dim("rows")},),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # whatever a model of one's own makes torch raise
            reason = next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)
            raise UsageError(f"the model must be one that torch can write as ONNX, got {reason}") from None
    assert program is not None
    proto = program.model_proto
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        named = card.get("architecture")
        raise UsageError(f"the model must take any number of rows, got {named}, whose code asks how many there are")
    onnx.helper.set_model_props(proto, {"columns": json.dumps(names), "classes": json.dumps(list(card["classes"]))})
    write_atomically(path, proto.SerializeToString())
    what = (
        "columns of the data set" if made is None or first.rescales else "features that load_model(RUN).prepared gives"
    )
    return f"{INPUT}: float64, shape (rows, {width}), the {what}; out: {' and '.join(outputs)}"


@contextmanager
def _silent() -> Iterator[None]:
    """Keep torch's progress and advice from the terminal."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
