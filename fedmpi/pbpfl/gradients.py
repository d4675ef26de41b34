"""What a client computes: the gradient of the noisy loss, and the terms that let the server correct it."""

from typing import Any

import torch
from torch import nn

from fedmpi.errors import ProtocolError
from fedmpi.learn import FlatModel


def squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """½‖y - ȳ‖² [Feng et al. 2020, eq. (3)], averaged over a batch."""
    return 0.5 * (outputs - targets).square().sum(1).mean()


class Differentiator:
    """Gradients of one model on batches of rows, at parameters that are set from outside.

    Parameters
    ----------
    model : torch.nn.Module
        Used, and its parameters changed.
    last : str
        Name of its last layer, which is linear.
    device : str

    Notes
    -----
    One thread at a time may use it.
    """

    def __init__(self, model: nn.Module, last: str, device: str = "cpu"):
        self.flat = FlatModel(model, device)
        self.model = self.flat.model.train()
        self._parameters = dict(self.model.named_parameters())
        try:
            layer = self.model.get_submodule(last)
        except AttributeError:
            raise ProtocolError(f"the last layer must be one of the model's, got {last}") from None
        self._weight, self._bias = f"{last}.weight", f"{last}.bias"
        layer.register_forward_pre_hook(self._keep)
        self._kept = torch.empty(0)

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._kept = inputs[0]

    def forward(self, X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """ŷ, shape (n, n_L), and ŷ^(L-1), the inputs of the last layer, shape (n, n_{L-1})."""
        outputs = self.model(X)
        hidden, self._kept = self._kept, torch.empty(0)  # it holds the graph of the batch
        return outputs, hidden

    def alpha(self, hidden: torch.Tensor) -> torch.Tensor:
        """α = Σ_j ŷ_j^(L-1), and 1 for the unit of the bias where the last layer has one, shape (n,)."""
        return hidden.sum(1) + (self._bias in self._parameters)

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        """∂loss/∂W, shape (h,)."""
        grads = torch.autograd.grad(loss, list(self._parameters.values()))
        return torch.cat([grad.reshape(-1) for grad in grads])

    @torch.no_grad()
    def terms(
        self, outputs: torch.Tensor, hidden: torch.Tensor, targets: torch.Tensor, r_a: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """∂L̂/∂Ŵ, σ and β of Lemma 2, averaged over a batch, shape (3, h), and the shift of γ they are for.

        The averages over samples of α_n ∂ŷ_n, (ŷ_n - ȳ_n) ∂α_n and α_n ∂α_n are one backward pass each: the factors
        are what is propagated back from ŷ and from α. So three passes share one forward pass.

        Parameters
        ----------
        outputs, hidden : Tensor
            From `forward`.
        targets : Tensor, shape (n, n_L)
            ȳ.
        r_a : Tensor, shape (n_L,)

        Notes
        -----
        Noise that is much larger than the outputs leaves float32 no digits for them. The terms are those of another
        representation of the same model: γ r_a is moved by a multiple of r_a, γ̂, that a regression of ŷ - ȳ on α r_a
        gives, so that little is left of the noise. `perturbation.unshift` moves it back.
        """
        n, alpha = len(outputs), self.alpha(hidden)
        noise = alpha[:, None] * r_a
        shift = self._regression(outputs - targets, noise)
        weight = self._parameters[self._weight] - shift * r_a[:, None]
        residual, a = (outputs - shift * noise - targets) / n, alpha / n
        zero = torch.zeros_like(residual)
        factors = [(residual, torch.zeros_like(a)), (a[:, None] * r_a, residual @ r_a), (zero, a)]
        below = self._below(hidden, [of_y @ weight + of_alpha[:, None] for of_y, of_alpha in factors])
        terms = [self._joined(of_y, hidden, under) for (of_y, _), under in zip(factors, below, strict=True)]
        return torch.stack(terms), shift

    def _regression(self, residual: torch.Tensor, noise: torch.Tensor) -> float:
        size = float(noise.double().square().sum())
        shift = float((residual.double() * noise.double()).sum()) / size if size else 0.0
        return float(torch.tensor(shift, dtype=residual.dtype))

    def _below(self, hidden: torch.Tensor, factors: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """The gradients of all layers but the last, for each of what is propagated back from its inputs."""
        if not hidden.requires_grad:  # there are none
            return [{} for _ in factors]
        names = [name for name in self._parameters if name not in (self._weight, self._bias)]
        sources = [self._parameters[name] for name in names]
        found = []
        for i, factor in enumerate(factors):
            grads = torch.autograd.grad(hidden, sources, factor, retain_graph=i < len(factors) - 1)
            found.append(dict(zip(names, grads, strict=True)))
        return found

    def _joined(self, factor: torch.Tensor, hidden: torch.Tensor, below: dict[str, torch.Tensor]) -> torch.Tensor:
        """Add the gradients of the last layer; all in the order of the parameters, shape (h,)."""
        all_of = below | {self._weight: factor.T @ hidden, self._bias: factor.sum(0)}
        return torch.cat([all_of[name].reshape(-1) for name in self._parameters])
