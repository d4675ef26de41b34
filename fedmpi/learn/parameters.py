"""All parameters of a model that are trained, as one vector."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.errors import UsageError
from fedmpi.learn.devices import named


class FlatModel:
    """A model whose parameters are views of one vector, and whose gradients are views of another.

    Frozen parameters, which require no gradient, stay out of both: nothing is sent of them, and no noise reaches them.

    Parameters
    ----------
    model : torch.nn.Module
        Its parameters are moved into the vector; it remains usable as it was.
    device : str
        Where the model is to be: cpu, cuda, …

    Attributes
    ----------
    model : torch.nn.Module
    values, gradient : torch.Tensor
        Shape (h,), in the order of ``model.parameters()`` without those that are frozen. Change them in place only.

    Raises
    ------
    UsageError
        If the parameters are not all of one floating-point type, or the device is not there.
    """

    def __init__(self, model: nn.Module, device: str = "cpu"):
        with named(device):
            self.model = model.to(device)
        parameters = list(model.parameters())
        types = sorted({str(p.dtype) for p in parameters})
        if len(types) != 1 or not parameters[0].is_floating_point():
            raise UsageError(f"the parameters of a model must be of one floating-point type, got {', '.join(types)}")
        trained = [p for p in parameters if p.requires_grad]
        self.values = torch.cat([p.detach().reshape(-1) for p in trained])
        self.gradient = torch.zeros_like(self.values)
        start = 0
        for p in trained:
            part = slice(start, start + p.numel())
            p.data = self.values[part].view(p.shape)
            p.grad = self.gradient[part].view(p.shape)
            start = part.stop

    def __len__(self) -> int:
        """h, the number of parameters that are trained."""
        return self.values.numel()

    def load(self, w: NDArray[np.float64]) -> None:
        """Set all parameters that are trained, shape (h,), rounded to the model's type."""
        self.values.copy_(torch.from_numpy(w) if w.flags.writeable else torch.tensor(w))

    def read(self) -> NDArray[np.float64]:
        """A copy of all parameters that are trained, shape (h,); float64 holds float32 exactly."""
        w: NDArray[np.float64] = self.values.to("cpu", torch.float64, copy=True).numpy()
        return w

    def arrays(self) -> dict[str, NDArray[np.floating]]:
        """Copies of all parameters by name, the frozen ones too, as they are saved."""
        return {name: p.detach().cpu().numpy().copy() for name, p in self.model.named_parameters()}
