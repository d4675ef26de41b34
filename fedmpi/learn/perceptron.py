"""Steps of gradient descent for fully connected ReLU networks, worked out by hand.

For small batches the gradient of a layer, δᵀa, has few rows' worth of information in many numbers: autograd writes it
to memory, the optimizer reads it again. Here the product is added to the weights as it is computed, and its norm
comes from two small Gram matrices: ‖δᵀa‖² = Σ_ij (a_i·a_j)(δ_i·δ_j).
"""

import torch
from torch import nn


class Perceptron:
    """A network of linear layers with ReLU between them, trained on mean cross-entropy.

    Parameters
    ----------
    layers : list of torch.nn.Linear
        Each with a bias.
    """

    def __init__(self, layers: list[nn.Linear]):
        self._layers = [(layer.weight.data, layer.bias.data) for layer in layers]

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
        a, last = [X.reshape(len(X), -1)], len(self._layers) - 1
        for position, (W, b) in enumerate(self._layers):
            z = torch.addmm(b, a[-1], W.t())
            a.append(z.relu_() if position < last else z)
        delta = torch.softmax(a.pop(), 1)
        delta[torch.arange(len(y), device=y.device), y] -= 1
        deltas = [delta]
        for (W, _), activation in zip(reversed(self._layers[1:]), reversed(a), strict=False):
            deltas.append(torch.mm(deltas[-1], W).mul_(activation > 0))
        deltas.reverse()
        rate = learning_rate / len(X)
        if clip != float("inf"):
            squares = sum(
                torch.mm(x, x.t()).add_(1).mul_(torch.mm(d, d.t())).sum() for x, d in zip(a, deltas, strict=True)
            )
            norm = float(squares) ** 0.5 / len(X)
            rate *= min(1.0, clip / norm) if norm else 1.0
        for (W, b), activation, delta in zip(self._layers, a, deltas, strict=True):
            W.addmm_(delta.t(), activation, alpha=-rate)
            b.sub_(delta.sum(0), alpha=rate)
