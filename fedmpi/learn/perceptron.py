"""Steps of gradient descent for fully connected ReLU networks, worked out by hand.

For small batches the gradient of a layer, δᵀa, has few rows' worth of information in many numbers: autograd writes it
to memory, the optimizer reads it again. Here the product is added to the weights as it is computed, and its norm
comes from two small Gram matrices: ‖δᵀa‖² = Σ_ij (a_i·a_j)(δ_i·δ_j).

In float32 a C kernel makes all steps of a client at once, where the processor has AVX-512; else torch computes the
products. The two round differently, as torch itself does on different processors.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.core.native import compiled, pointer
from fedmpi.learn.inputs import Inputs

MANY_ROWS = 48
"""In a batch: from here on torch's products are faster than the kernel's."""

_RUNS = compiled is not None and bool(compiled.lib.fedmpi_perceptron_runs())


class Perceptron:
    """A network of linear layers with ReLU between them, trained on mean cross-entropy.

    Parameters
    ----------
    layers : list of torch.nn.Linear
        Each with a bias.
    """

    def __init__(self, layers: list[nn.Linear]):
        # Views cost a microsecond each, and a step of a small network only a hundred.
        self._layers = [(layer.weight.data, layer.weight.data.t(), layer.bias.data) for layer in layers]
        self._sizes = np.array([layers[0].in_features, *(layer.out_features for layer in layers)], np.uintp)
        self._known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @classmethod
    def of(cls, model: nn.Module) -> "Perceptron | None":
        """The perceptron that a model is, or None if it is anything else."""
        if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
            return None
        layers = [layer for layer in model if type(layer) is not nn.Flatten]
        if any(type(layer) is not nn.ReLU for layer in layers[1::2]) or len(layers) % 2 == 0:
            return None
        linear = [layer for layer in layers[::2] if type(layer) is nn.Linear and layer.bias is not None]
        trained = all(p.requires_grad for p in model.parameters())
        hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in [model, *model])
        return cls(linear) if len(linear) == len(layers[::2]) and trained and not hooked else None

    def train(
        self,
        values: torch.Tensor,
        inputs: Inputs,
        orders: NDArray[np.int64],
        batch_size: int,
        learning_rate: float,
        clip: float = float("inf"),
    ) -> bool:
        """Take all the steps of some epochs and return True; or do nothing, where the C kernel is not for it.

        Parameters
        ----------
        values : torch.Tensor
            All parameters of the network, shape (h,); changed in place.
        inputs : Inputs
            All rows of a client.
        orders : array
            The rows in the order of the batches, shape (epochs, rows).
        """
        X, y, sizes = inputs.X, inputs.y, self._sizes
        h = int(((sizes[:-1] + 1) * sizes[1:]).sum())  # another number where a layer stands twice
        plain = all(t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous() for t in (values, X))
        fitting = batch_size < MANY_ROWS and values.numel() == h and X.numel() == len(y) * int(sizes[0]) > 0
        # torch says what is wrong with a label that is no class.
        if not (_RUNS and plain and fitting and 0 <= int(y.min()) <= int(y.max()) < int(sizes[-1])):
            return False
        arrays = (sizes, values.detach().numpy(), X.numpy(), y.contiguous().numpy(), np.ascontiguousarray(orders))
        types = ("size_t", "float", "float", "int64_t", "int64_t")
        pointers = [pointer(array, kind) for array, kind in zip(arrays, types, strict=True)]
        epochs, rows = orders.shape
        return bool(
            compiled.lib.fedmpi_perceptron(len(sizes) - 1, *pointers, rows, epochs, batch_size, learning_rate, clip)
        )

    @torch.no_grad()
    def step(self, X: torch.Tensor, y: torch.Tensor, learning_rate: float, clip: float = float("inf")) -> None:
        """Take one step w ← w - η g, with g the gradient of the batch, scaled down to the norm `clip` if it is longer.

        Parameters
        ----------
        X : torch.Tensor
            Shape (B, …).
        y : torch.Tensor
            Labels, shape (B,).
        """
        rows = X.shape[0]
        a = [X.reshape(rows, -1)]
        for _, Wt, b in self._layers[:-1]:
            a.append(torch.addmm(b, a[-1], Wt).relu_())
        _, Wt, b = self._layers[-1]
        minus, ones = self._constants(X)
        delta = torch.softmax(torch.addmm(b, a[-1], Wt), 1).scatter_add_(1, y[:, None], minus)
        deltas = [delta]
        for (W, _, _), activation in zip(self._layers[:0:-1], a[:0:-1], strict=True):
            deltas.append(torch.ops.aten.threshold_backward(torch.mm(deltas[-1], W), activation, 0))
        deltas.reverse()
        rate = learning_rate / rows
        if clip != float("inf"):
            squares = 0.0
            for x, d in zip(a, deltas, strict=True):
                # The ones are the input of the bias.
                squares += float(torch.addmm(ones, x, x.t()).view(-1).dot(torch.mm(d, d.t()).view(-1)))
            norm = max(squares, 0.0) ** 0.5 / rows
            rate *= min(1.0, clip / norm) if norm else 1.0
        for (W, _, b), activation, delta in zip(self._layers, a, deltas, strict=True):
            across = delta.t()
            W.addmm_(across, activation, alpha=-rate)
            b.addmv_(across, ones, alpha=-rate)

    def _constants(self, X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Minus ones, shape (B, 1), and ones, shape (B,)."""
        rows = X.shape[0]
        if rows not in self._known:
            self._known[rows] = -X.new_ones(rows, 1), X.new_ones(rows)
        return self._known[rows]
