"""A run's model as it is left and as it is used again: plain arrays, and a card that says what they are.

`model.json`, the card, has all that a prediction needs besides the arrays: what kind of model it is, its
architecture, the shape of its inputs, the names of the classes, and how raw features are brought to the model's
scale. The arrays are in `model.safetensors` for torch models and in `model.npz` for linear ones. Both are data: code
of one's own architecture is imported only where the caller names it.
"""

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedmpi.data import Preparation, Table
from fedmpi.data.dataset import MAX_BYTES
from fedmpi.data.rows import rows_of_frame
from fedmpi.errors import UsageError
from fedmpi.runs.folder import RunFolder
from fedmpi.version import __version__

if TYPE_CHECKING:
    from torch import nn

CARD, ARRAYS, TENSORS = "model.json", "model.npz", "model.safetensors"
FORMAT = 1
LINKS = ("identity", "sigmoid", "sigmoids", "softmax", "scores")
"""What outputs become: a value; the probability of the second class; those of all classes, one against the rest or
together; scores, which are no probabilities."""
LARGEST_CARD = 1 << 26
"""Bytes of a card that are read, at most."""


def write_model(folder: RunFolder, card: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays, and then the card.

    Parameters
    ----------
    card : mapping
        ``kind`` (linear or torch), ``link`` (one of `LINKS`), ``classes`` (empty for a regression), ``features``,
        ``preparation`` (of the columns, or null), ``rows`` (float32 or float64: what raw rows are rounded to); of torch
        models also ``architecture``, ``input_shape``, ``outputs``, ``dtype``, and ``divisor``, by which all features
        are divided.
    """
    if card["kind"] == "torch":
        from safetensors.numpy import save

        folder.write_bytes(TENSORS, save({name: np.asarray(array, order="C") for name, array in arrays.items()}))
    else:
        folder.write_arrays(ARRAYS, **arrays)
    folder.write_json(CARD, {"format": FORMAT, "fedmpi": __version__, **card, "arrays": [*arrays]})


def read_arrays(run: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a run's model by name, in the order of the model.

    Raises
    ------
    UsageError
        If the run has none, or they are damaged.
    """
    try:
        if (run / TENSORS).exists():
            from safetensors.numpy import load

            arrays = load(_whole(run / TENSORS, MAX_BYTES))
            return {name: arrays[name] for name in json.loads(_whole(run / CARD, LARGEST_CARD))["arrays"]}
        data = io.BytesIO(_whole(run / ARRAYS, MAX_BYTES))
        with zipfile.ZipFile(data) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise ValueError("too large")
        with np.load(data, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception:  # safetensors raises an exception of its own for what is no such file
        raise UsageError(f"RUN must be a run that ended with a model, got {run}: it is missing or damaged") from None


def _whole(path: Path, most: int) -> bytes:
    """A file that may come from somebody else: a real one, of at most so many bytes."""
    if not path.is_file():
        raise ValueError(f"{path.name} {'must be a file' if path.exists() else 'is not there'}")
    if path.stat().st_size > most:
        raise ValueError(f"{path.name} must be a file of at most {most} bytes")
    return path.read_bytes()


def load_model(run: str | Path, architecture: str | None = None) -> "Model":
    """The model that a run has left, ready for rows as they are in a file.

    Parameters
    ----------
    run : str or Path
        Folder of the run.
    architecture : str, optional
        ``package.module:Class`` of a model of one's own: its code is imported only if it is named here.

    Raises
    ------
    UsageError
        If there is no whole model, or its code is not named.
    """
    folder = Path(run)
    try:
        card = json.loads(_whole(folder / CARD, LARGEST_CARD))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"RUN must be the folder of a run that ended, with {CARD}, got {folder}: {error}") from None
    known = {"linear": LinearModel, "torch": TorchModel}
    if not isinstance(card, dict) or card.get("format") != FORMAT or str(card.get("kind")) not in known:
        raise UsageError(f"{folder / CARD} must be of format {FORMAT}, for a linear or a torch model, got another")
    make = known[card["kind"]]
    if wrong := [key for key, fits in make.needs.items() if key not in card or not fits(card[key])]:
        raise UsageError(f"{folder / CARD} must say what the model is, got nothing that can be for {', '.join(wrong)}")
    named = str(card.get("architecture", ""))
    if ":" in named and architecture != named:
        raise UsageError(
            f"--model (in Python: architecture) must be {named}, your own code that this run trained, "
            f"got {architecture or 'none'}"
        )
    model = make(card, read_arrays(folder))
    model.check()
    made, features = model.preparation, card["features"]
    if made is not None and len(made.names) != features:
        raise UsageError(f"the card's preparation must give {features} features, got {len(made.names)}")
    return model


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model, with the methods that scikit-learn's have; rows are in the units of the data set.

    Attributes
    ----------
    card : mapping
        What model.json says.
    arrays : mapping
        Its parameters by name.
    """

    card: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    needs: ClassVar[dict[str, Callable[[Any], bool]]] = {
        "link": lambda value: value in LINKS,
        "classes": _texts,
        "features": _count,
        "columns": _texts,
        "categorical": _texts,
        "preparation": lambda value: value is None or isinstance(value, dict),
    }
    """What a card must have, and what it may be."""

    def check(self) -> None:
        """Raise UsageError where the arrays are not those that the card speaks of."""
        raise NotImplementedError

    @property
    def classes_(self) -> NDArray[np.str_]:
        """Names of the classes; empty for a regression."""
        return np.array(self.card["classes"], dtype=np.str_)

    @cached_property
    def preparation(self) -> Preparation | None:
        """What is done to the columns of a table first; None where rows are images, or numbers as they are."""
        values = self.card.get("preparation")
        return None if values is None else Preparation.from_json(json.dumps(values))

    def outputs(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the model gives for prepared rows, shape (n, features) → (n, outputs)."""
        raise NotImplementedError

    def prepared(self, X: ArrayLike | Table) -> NDArray[np.float64]:
        """The features of raw rows, shape (n, features).

        Parameters
        ----------
        X : array, shape (n, columns), or Table, or DataFrame of pandas
            The columns of the data set in its order, without that of the labels; those of a Table or a DataFrame are
            found by name.

        Raises
        ------
        UsageError
            If the rows have not the columns that the model was trained on.
        """
        made = self.preparation
        names = tuple(self.card["columns"]) if made is None else tuple(column.name for column in made.columns)
        if names and all(isinstance(name, str) for name in getattr(X, "columns", [0])):
            X = rows_of_frame(X, names, [] if made is None else [c.name for c in made.columns if c.values])
        table = X if isinstance(X, Table) else Table(np.asarray(X, np.float64), names)
        width = len(names) if made is not None else self.card["features"]
        if table.X.ndim < 2 or math.prod(table.X.shape[1:]) != width:
            raise UsageError(f"X must have shape (rows, {width}), got {table.X.shape}")
        table = replace(table, X=table.X.reshape(len(table.X), width))
        if self.card.get("rows") == "float32":  # as those of the training are
            table = replace(table, X=table.X.astype(np.float32).astype(np.float64))
        if made is None and table.values:
            raise UsageError(f"column {names[min(table.values)]} must hold numbers, got text")
        if made is None and not np.isfinite(table.X).all():
            raise UsageError("rows must have no missing or infinite values, got one: the model knows none")
        features: NDArray[np.float64] = table.X if made is None else made.apply(table)
        return features

    def decision_function(self, X: ArrayLike | Table) -> NDArray[np.float64]:
        """Outputs before the sigmoid or softmax, shape (n, outputs); rows as for `prepared`."""
        return self.outputs(self.prepared(X))

    def predict_proba(self, X: ArrayLike | Table) -> NDArray[np.float64]:
        """Probabilities of the classes, shape (n, classes).

        Raises
        ------
        UsageError
            If the model gives none: a regression, or one that was trained on squared errors.
        """
        return self.probabilities(self.decision_function(X))

    def probabilities(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Those that outputs stand for, shape (n, outputs) → (n, classes); errors as of `predict_proba`."""
        from scipy.special import expit, softmax

        link = self.card["link"]
        if link not in ("sigmoid", "sigmoids", "softmax"):
            raise UsageError(f"predict_proba must be asked of a model that gives probabilities, got outputs as {link}")
        if link == "softmax":
            p: NDArray[np.float64] = softmax(z, axis=1)
            return p
        p = expit(z)
        if link == "sigmoid":
            return np.hstack([1 - p, p])
        totals = p.sum(axis=1, keepdims=True)
        shares: NDArray[np.float64] = np.divide(p, totals, out=np.full_like(p, 1 / p.shape[1]), where=totals > 0)
        return shares

    def predict(self, X: ArrayLike | Table) -> NDArray[Any]:
        """Names of classes, or values, shape (n,)."""
        return self.decided(self.decision_function(X))

    def decided(self, z: NDArray[np.float64]) -> NDArray[Any]:
        """What outputs are taken for: names of classes, or values; shape (n, outputs) → (n,)."""
        if self.card["link"] == "identity":
            values: NDArray[np.float64] = z[:, 0]
            return values
        codes = (z[:, 0] > 0).astype(int) if self.card["link"] == "sigmoid" else z.argmax(axis=1)
        names: NDArray[np.str_] = self.classes_[codes]
        return names


class LinearModel(Model):
    """Of codedml and ppadmm: coefficients in the units of the features."""

    def check(self) -> None:
        """Raise UsageError where the arrays are not those that the card speaks of."""
        features, classes = self.card["features"], len(self.card["classes"])
        wanted = {1} if self.card["link"] in ("identity", "sigmoid") else {classes}
        shapes = {name: np.atleast_1d(array).shape for name, array in self.arrays.items()}
        outputs = np.atleast_2d(self.arrays.get("coefficients", np.zeros((0, 0))))
        intercepts = shapes.get("intercepts", shapes.get("intercept"))
        cut = [shapes[name] for name in ("lower", "upper") if name in shapes]
        if (
            {len(outputs)} != wanted
            or outputs.shape[1] != features
            or intercepts != (len(outputs),)
            or any(shape != (features,) for shape in cut)
            or len(cut) == 1
            or (self.card["link"] == "sigmoid" and classes != 2)
        ):
            raise UsageError(f"the arrays of the model must be those that its card speaks of, got {shapes}")

    def outputs(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Xw + b, of features that are cut off where training cut them off; shape (n, outputs)."""
        if "lower" in self.arrays:
            X = np.clip(X, self.arrays["lower"], self.arrays["upper"])
        coefficients, intercepts = self.coefficients
        z: NDArray[np.float64] = X @ coefficients.T + intercepts
        return z

    @property
    def coefficients(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Those of the features, shape (outputs, features), and the intercepts, shape (outputs,)."""
        intercepts = np.atleast_1d(self.arrays["intercepts" if "intercepts" in self.arrays else "intercept"])
        return np.atleast_2d(self.arrays["coefficients"]), intercepts


class TorchModel(Model):
    """Of niss, pbpfl and spn."""

    needs: ClassVar[dict[str, Callable[[Any], bool]]] = Model.needs | {
        "architecture": lambda value: isinstance(value, str),
        "input_shape": lambda value: isinstance(value, list) and 1 <= len(value) <= 3 and all(map(_count, value)),
        "outputs": _count,
        "dtype": lambda value: value in ("float32", "float64"),
        "divisor": lambda value: isinstance(value, int | float) and 0 < value < math.inf,
    }

    def check(self) -> None:
        """Raise UsageError where the arrays are not those that the card speaks of."""
        import torch

        with torch.device("meta"):  # which takes no memory, whatever the card says
            model = self._built()
        wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        got = {name: array.shape for name, array in self.arrays.items()}
        if wanted != got:
            raise UsageError(f"the arrays of the model must be those of {self.card['architecture']}, got others")
        classes, outputs = len(self.card["classes"]), self.card["outputs"]
        if outputs != (classes or 1) or math.prod(self.card["input_shape"]) != self.card["features"]:
            raise UsageError(f"the card's classes and features must fit the model, got {classes} for {outputs} outputs")

    def _built(self) -> "nn.Module":
        import torch

        from fedmpi.learn import build_model

        card = self.card
        shape, dtype = tuple(card["input_shape"]), getattr(torch, card["dtype"])
        return build_model(card["architecture"], shape, card["outputs"], 0, dtype)

    @cached_property
    def network(self) -> "nn.Module":
        """The model itself, in evaluation mode: inputs of its shape and type in, outputs out."""
        import torch

        model = self._built()
        with torch.no_grad():
            for name, parameter in model.named_parameters():  # of a parameter in two places one name
                parameter.copy_(torch.from_numpy(self.arrays[name].copy()))
        return model.eval()

    @property
    def module(self) -> "nn.Module":
        """A plain torch module whose first layer brings raw rows, shape (n, columns), to the model's scale.

        Where the data set has columns of text, it takes the features that `prepared` gives in their place.
        """
        import torch

        from fedmpi.learn.inputs import Rescaled

        card = self.card
        first = Rescaled(
            tuple(card["input_shape"]), float(card["divisor"]), self.preparation, getattr(torch, card["dtype"])
        )
        return torch.nn.Sequential(first, self.network).eval()

    def outputs(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the network, shape (n, outputs)."""
        import torch

        rows = (X / float(self.card["divisor"])).reshape(len(X), *self.card["input_shape"])
        inputs = torch.from_numpy(rows).to(getattr(torch, self.card["dtype"]))
        with torch.no_grad():
            parts = [self.network(inputs[i : i + 1000]) for i in range(0, len(inputs), 1000)]
        z: NDArray[np.float64] = torch.cat(parts).double().numpy()
        return z


def score(model: Model, predicted: NDArray[Any], labels: NDArray[Any]) -> str:
    """How good predictions are, for people; only how many, where the labels are none of the model's.

    Parameters
    ----------
    predicted : array, shape (n,)
    labels : array, shape (n,)
        Names of classes, or the whole numbers that they are called by; values of a regression.
    """
    rows = f"{len(predicted)} rows"
    if not len(model.classes_):
        if labels.dtype.kind not in "iuf":
            return rows
        return f"{rows}, RMSE {float(np.sqrt(np.mean((predicted - labels) ** 2))):.6g}"
    whole = labels.dtype.kind == "f" and bool((labels == np.floor(labels)).all())
    texts = (labels.astype(np.int64) if whole else labels).astype(str)
    if not set(texts.tolist()) & set(model.classes_.tolist()):
        return rows
    right = int((predicted == texts).sum())
    return f"{rows}, {right} right: accuracy {right / max(len(predicted), 1):.4f}"
