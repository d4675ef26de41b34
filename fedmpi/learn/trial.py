"""A model of the user's own, tried once on made-up rows before anything is sent."""

import torch
from torch import nn

from fedmpi.errors import UsageError
from fedmpi.learn.randomness import seeded

ROWS = 3


def try_own(model: nn.Module, name: str, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Predict, and train on a batch and on a single row, as a batch may be at its least; the model itself.

    Parameters
    ----------
    name : str
        What --model was given: nothing but ``package.module:Class`` is tried.

    Raises
    ------
    UsageError
        If the model can't do it, does not give `outputs` numbers for each row, or predicts at random.
    """
    if ":" not in name:
        return model
    dtype = next(model.parameters()).dtype
    with seeded(0):
        X = torch.rand((ROWS, *input_shape), dtype=dtype)
        try:
            with torch.no_grad():
                same = torch.equal(*(_outputs(model.eval(), X, outputs) for _ in range(2)))
            for rows in (X, X[:1]):
                loss = _outputs(model.train(), rows, outputs).square().sum()
                torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        except Exception as error:  # whatever the user's code raises
            reason = " ".join(str(error).split()) or type(error).__name__
            what = f"{dtype} rows of shape {input_shape} and {outputs} outputs".removeprefix("torch.")
            raise UsageError(f"--model must be able to train on {what}, got {name}: {reason}") from None
    if not same:
        raise UsageError(f"--model must predict the same twice in evaluation mode, got {name}, which draws at random")
    return model


def _outputs(model: nn.Module, X: torch.Tensor, outputs: int) -> torch.Tensor:
    found = model(X)
    if not isinstance(found, torch.Tensor):
        raise TypeError(f"its outputs are no tensor, but {type(found).__name__}")
    if found.shape != (len(X), outputs):
        raise ValueError(f"it gives outputs of shape {tuple(found.shape)} for {len(X)} rows")
    if found.dtype != X.dtype:
        raise TypeError(f"its outputs are {found.dtype}")
    return found
