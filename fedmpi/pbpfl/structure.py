"""What the perturbation needs to know of a model: which layers share the scaling of which units.

A positive scaling of each unit, or channel, passes through a network of linear layers, convolutions, ReLU, pooling
and concatenation [Feng et al. 2020, sections 3.1.1 and 3.1.2]. The graph of a model is walked once; every channel of
every tensor in it is given the place of its scaling in one vector r.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from fedmpi.errors import UsageError

UNSCALED = 0
"""The place of the scaling 1: of the inputs of a model, and of its outputs."""

Units = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer or convolution, and where its parameters stand among all parameters of the model."""

    name: str
    outgoing: Units
    """The scaling of each output, shape (n_l,)."""
    incoming: Units
    """The scaling of each input of a group, P(l) included, shape (groups, n_in / groups)."""
    weight: slice
    shape: tuple[int, ...]
    """Of the weight: (n_l, n_in / groups, *kernel)."""
    bias: slice | None


@dataclass(frozen=True, eq=False)
class Structure:
    """The layers of a model in the order in which they are computed; the last one makes the outputs."""

    layers: tuple[Layer, ...]
    units: int
    """Length of the vector of scalings r, `UNSCALED` included."""
    parameters: int
    """h."""

    @property
    def last(self) -> Layer:
        """Layer L."""
        return self.layers[-1]

    @property
    def outputs(self) -> int:
        """n_L."""
        return self.last.shape[0]


Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_SAME_CHANNELS = frozenset(
    [
        *["Identity", "ReLU", "LeakyReLU", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d"],
        *["relu", "relu_", "leaky_relu", "dropout", "contiguous"],
        *(f"{kind}Pool{d}d" for kind in ("Max", "Avg", "AdaptiveAvg", "AdaptiveMax") for d in (1, 2, 3)),
        *(f"{kind}_pool{d}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for d in (1, 2, 3)),
    ]
)
_SUMS = frozenset(["add", "iadd", "add_", "sub", "isub", "mul", "imul"])
_ACTIVATIONS = frozenset(
    ["sigmoid", "tanh", "gelu", "silu", "elu", "selu", "softplus", "softmax", "log_softmax", "exp"]
)


def structure_of(model: nn.Module, input_shape: tuple[int, ...]) -> Structure:
    """Walk the graph of a model.

    Parameters
    ----------
    model : torch.nn.Module
        Any that torch.fx can trace, the user's own included.
    input_shape : tuple of int
        Of one input.

    Raises
    ------
    UsageError
        Naming a layer that does not commute with a positive scaling of each channel, and the reason.
    """
    return _Walk(model, input_shape).structure()


class _Shapes(fx.Interpreter):
    """Runs a graph, and keeps the shape of every tensor."""

    def __init__(self, traced: fx.GraphModule):
        super().__init__(traced)
        self.of: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.of[n] = tuple(result.shape)
        return result


class _Walk:
    """One walk over the graph of a model."""

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...]):
        self._modules = dict(model.named_modules())
        self._places, self.parameters = _parameter_places(model)
        training = model.training
        try:
            self._traced = fx.symbolic_trace(model.eval())
            with torch.no_grad():
                dtype = next(model.parameters()).dtype
                shapes = _Shapes(self._traced)
                shapes.run(torch.zeros(2, *input_shape, dtype=dtype))
                self._shapes = shapes.of
        except Exception as error:  # whatever a user's forward raises
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"--model must be one that torch.fx can trace, got {type(model).__name__}: {reason}"
            ) from None
        finally:
            model.train(training)
        self._layers: dict[str, Layer] = {}
        self._units: dict[fx.Node, Units] = {}
        self._count = 1
        self._makers: dict[fx.Node, str] = {}

    def structure(self) -> Structure:
        for node in self._traced.graph.nodes:
            if node.op == "placeholder":
                self._units[node] = np.full(self._shapes[node][1], UNSCALED)
            elif node.op == "output":
                return self._finished(node.args[0])
            elif node in self._shapes:
                self._units[node] = self._walk(node)
        raise AssertionError("a graph has an output")

    def _walk(self, node: fx.Node) -> Units:
        name, what = self._name(node)
        module = self._modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Weighted) and type(module).__name__ == name:
            return self._layer(node, module)
        if name in _SAME_CHANNELS:
            return self._units[self._input(node)]
        if name in ("Flatten", "flatten", "view", "reshape"):
            return self._flattened(node, what)
        if name in ("cat", "concat", "concatenate"):
            return self._concatenated(node, what)
        if (
            name == "mean"
            and len(self._shapes[node]) >= 2
            and self._shapes[node][:2] == self._shapes[self._input(node)][:2]
        ):
            return self._units[self._input(node)]
        raise _refused(what, _reason(name))

    def _layer(self, node: fx.Node, module: Weighted) -> Units:
        name, source = str(node.target), self._input(node)
        weight = self._places.get(f"{name}.weight")
        bias = self._places.get(f"{name}.bias") if module.bias is not None else None
        if name in self._layers or weight is None or (module.bias is not None and bias is None):
            raise _refused(self._name(node)[1], "it is used twice, with inputs that are scaled differently")
        if isinstance(module, nn.Linear) and len(self._shapes[source]) != 2:
            raise _refused(self._name(node)[1], f"its inputs must be vectors, got shape {self._shapes[source][1:]}")
        groups = 1 if isinstance(module, nn.Linear) else module.groups
        incoming = self._units[source].reshape(groups, -1)
        outputs = module.weight.shape[0]
        outgoing = np.arange(self._count, self._count + outputs)
        self._count += outputs
        self._layers[name] = Layer(name, outgoing, incoming, weight, tuple(module.weight.shape), bias)
        self._makers[node] = name
        return outgoing

    def _flattened(self, node: fx.Node, what: str) -> Units:
        before, after = self._shapes[self._input(node)], self._shapes[node]
        if len(after) != 2 or after[0] != before[0]:
            raise _refused(what, f"it must make a vector of each input, got {before[1:]} to {after[1:]}")
        units = self._units[self._input(node)]
        return np.repeat(units, after[1] // len(units))

    def _concatenated(self, node: fx.Node, what: str) -> Units:
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        if dim not in (1, 1 - len(self._shapes[node])):
            raise _refused(what, f"it must concatenate channels, dimension 1, got {dim}")
        tensors: Any = node.args[0] if node.args else node.kwargs["tensors"]
        return np.concatenate([self._units[part] for part in tensors])

    def _finished(self, output: Any) -> Structure:
        name = self._makers.get(output) if isinstance(output, fx.Node) else None
        if name is None or not isinstance(self._modules[name], nn.Linear):
            raise UsageError(f"the last layer of --model must be Linear, got {output}")
        if len(output.users) > 1:
            raise _refused(name, "its outputs are used by another layer too")
        if unused := self._places.keys() - {f"{layer}.{part}" for layer in self._layers for part in ("weight", "bias")}:
            raise UsageError(f"every parameter of --model must be one of a layer's that is used, got {min(unused)}")
        layers = list(self._layers.values())
        at = layers.index(self._layers[name])
        last = layers.pop(at)
        outgoing = np.full(len(last.outgoing), UNSCALED)
        layers.append(Layer(name, outgoing, last.incoming, last.weight, last.shape, last.bias))
        return Structure(tuple(layers), self._count, self.parameters)

    def _input(self, node: fx.Node) -> fx.Node:
        source = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
        if not isinstance(source, fx.Node) or source not in self._units:
            raise _refused(self._name(node)[1], "its input is no tensor of channels")
        return source

    def _name(self, node: fx.Node) -> tuple[str, str]:
        """The layer's type or the function's name, and how to call it in a message."""
        if node.op == "call_module":
            kind = type(self._modules[str(node.target)]).__name__
            return kind, f"{kind} ({node.target})"
        target: str | Callable[..., Any] = node.target
        name = target if isinstance(target, str) else target.__name__
        return name, name


def _reason(name: str) -> str:
    if "norm" in name.lower():
        return "it normalizes, which takes the scaling away"
    if name in _SUMS:
        return "its operands are scaled differently: concatenate"
    if name == "PReLU":
        return "its slopes would not be hidden"
    if name in _ACTIVATIONS or hasattr(nn.modules.activation, name):
        return "f(r·x) is not r·f(x)"
    return "it is not known to do so"


def _parameter_places(model: nn.Module) -> tuple[dict[str, slice], int]:
    places, start = {}, 0
    for name, parameter in model.named_parameters():
        places[name] = slice(start, start + parameter.numel())
        start += parameter.numel()
    return places, start


def _refused(what: str, reason: str) -> UsageError:
    return UsageError(
        f"the layers of --model must commute with a positive scaling of each channel, got {what}: {reason}"
    )
