"""What the perturbation needs to know of a model: which layers share the scaling of which units.

A positive scaling of each unit, or channel, passes through a network of linear layers, convolutions, ReLU, pooling
and concatenation [Feng et al. 2020, sections 3.1.1 and 3.1.2], through constant factors, and through a sum of branches
whose channels share their scalings. The graph of a model is walked, as it is in training and in evaluation; every
channel of every tensor in it is given the place of its scaling in one vector r.
"""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from fedmpi.errors import UsageError
from fedmpi.learn.randomness import seeded

_one_at_a_time = threading.Lock()
"""torch.fx changes how modules are called while it traces one, those of other threads too."""

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
_SUMS = frozenset(["add", "iadd", "add_", "sub", "isub", "sub_", "subtract"])
_PRODUCTS = frozenset(
    ["mul", "imul", "mul_", "multiply", "truediv", "itruediv", "div", "div_", "divide", "neg", "negative"]
)
_ACTIVATIONS = frozenset(
    ["sigmoid", "tanh", "gelu", "silu", "elu", "selu", "softplus", "softmax", "log_softmax", "exp"]
)


def structure_of(model: nn.Module, input_shape: tuple[int, ...]) -> Structure:
    """What both walks over the graph of a model find: see `walks_of`."""
    return walks_of(model, input_shape)[True].structure


def walks_of(model: nn.Module, input_shape: tuple[int, ...]) -> dict[bool, "Walk"]:
    """Walk the graph of a model in training mode, True, and in evaluation mode, False.

    Parameters
    ----------
    model : torch.nn.Module
        Any that torch.fx can trace, the user's own included.
    input_shape : tuple of int
        Of one input.

    Raises
    ------
    UsageError
        Naming a layer that does not commute with a positive scaling of each channel, and the reason; or one that is
        connected otherwise in evaluation than in training.
    """
    walks = {training: Walk(model, input_shape, training=training) for training in (True, False)}
    training, evaluation = walks[True].structure, walks[False].structure
    in_use = {layer.name: layer for layer in evaluation.layers}
    for layer in training.layers:
        same = in_use[layer.name]
        alike = np.array_equal(layer.incoming, same.incoming) and np.array_equal(layer.outgoing, same.outgoing)
        if not alike or training.last.name != evaluation.last.name:
            raise UsageError(
                f"the layers of --model must be connected alike in training and in evaluation, got {layer.name}"
            )
    return walks


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


class Walk:
    """One walk over the graph of a model, in training mode or in evaluation mode.

    Attributes
    ----------
    traced : torch.fx.GraphModule
    units : dict
        Node of the graph → the scaling of each channel of its tensor; of constants there is none.
    structure : Structure

    Raises
    ------
    UsageError
        See `walks_of`.
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...], *, training: bool):
        self._modules = dict(model.named_modules())
        self._parameters = dict(model.named_parameters())
        self._places, self.parameters = _parameter_places(model)
        before = model.training
        try:
            with _one_at_a_time, torch.no_grad(), seeded(0):
                self.traced = fx.symbolic_trace(model.train(training))
                dtype = next(model.parameters()).dtype
                shapes = _Shapes(self.traced)
                shapes.run(torch.zeros(2, *input_shape, dtype=dtype))
                self._shapes = shapes.of
        except Exception as error:  # whatever a user's forward raises
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"--model must be one that torch.fx can trace, got {type(model).__name__}: {reason}"
            ) from None
        finally:
            model.train(before)
        self._layers: dict[str, Layer] = {}
        self._constants: set[str] = set()
        self._same_as = [UNSCALED]
        self._makers: dict[fx.Node, str] = {}
        self.units: dict[fx.Node, Units] = {}
        self.structure = self._walked()

    def _walked(self) -> Structure:
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.units[node] = np.full(self._shapes[node][1], UNSCALED)
            elif node.op == "output":
                return self._finished(node.args[0])
            elif node.op == "get_attr":
                self._constant(node)
            elif node in self._shapes and any(source in self.units for source in node.all_input_nodes):
                self.units[node] = self._walk(node)
        raise AssertionError("a graph has an output")

    def _constant(self, node: fx.Node) -> None:
        name = str(node.target)
        if name in self._parameters:
            if self._parameters[name].requires_grad:
                raise _refused(name, "it is trained, but no layer's weight or bias, and would not be hidden")
            self._constants.add(name)

    def _walk(self, node: fx.Node) -> Units:
        name, what = self._name(node)
        module = self._modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Weighted):
            return self._layer(node, module)
        if name in _SAME_CHANNELS:
            return self._each_channel(node, name, what)
        if name in ("Flatten", "flatten", "view", "reshape"):
            return self._flattened(node, what)
        if name in ("cat", "concat", "concatenate"):
            return self._concatenated(node, what)
        if name in ("mean", "sum"):
            return self._over_positions(node, what)
        if name in _SUMS:
            return self._summed(node, what)
        if name in _PRODUCTS:
            return self._multiplied(node, what)
        raise _refused(what, _reason(name))

    def _each_channel(self, node: fx.Node, name: str, what: str) -> Units:
        source = self._input(node)
        if pooling := re.search(r"pool(\d)d", name.lower()):
            self._wants_positions(source, what, int(pooling[1]))
        return self.units[source]

    def _wants_positions(self, source: fx.Node, what: str, dimensions: int) -> None:
        if len(self._shapes[source]) != 2 + dimensions:
            wanted = f"its inputs must be channels of {dimensions} dimension" + "s" * (dimensions > 1)
            raise _refused(what, f"{wanted}, got shape {self._shapes[source][1:]}")

    def _over_positions(self, node: fx.Node, what: str) -> Units:
        source = self._input(node)
        given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis"))
        size = len(self._shapes[source])
        over: Any = (given,) if isinstance(given, int) else given or range(size)
        if any(d % size < 2 for d in over):
            raise _refused(what, f"it must be over positions, dimensions 2 and up, got {', '.join(map(str, over))}")
        return self.units[source]

    def _summed(self, node: fx.Node, what: str) -> Units:
        terms: list[Any] = [node.args[0], node.args[1] if len(node.args) > 1 else node.kwargs.get("other")]
        units = [self.units[term] for term in terms if isinstance(term, fx.Node) and term in self.units]
        if 0 in terms:  # with which Python's `sum` begins
            return units[0]
        if len(units) < 2:
            raise _refused(what, "a constant is added, which is not scaled")
        if len(units[0]) != len(units[1]) or len({len(self._shapes[term]) for term in terms}) > 1:
            raise _refused(what, "its operands must have the same channels")
        if any(self._root(unit) == UNSCALED for unit in np.concatenate(units)):
            raise _refused(what, "the inputs of the model are added, which are not scaled: concatenate")
        for one, other in zip(*units, strict=True):
            self._same_as[max(self._root(one), self._root(other))] = min(self._root(one), self._root(other))
        return units[0]

    def _multiplied(self, node: fx.Node, what: str) -> Units:
        operands = [*node.args, *node.kwargs.values()]
        scaled = [operand for operand in operands if isinstance(operand, fx.Node) and operand in self.units]
        if len(scaled) > 1:
            raise _refused(what, "both of its operands are scaled")
        if "div" in what and scaled[0] is not operands[0]:
            raise _refused(what, "it divides by what is scaled")
        if self._shapes[node] != self._shapes[scaled[0]]:
            raise _refused(what, "its factor must leave the shape as it is")
        return self.units[scaled[0]]

    def _root(self, unit: int) -> int:
        while self._same_as[unit] != unit:
            unit = self._same_as[unit]
        return unit

    def _layer(self, node: fx.Node, module: Weighted) -> Units:
        name, source, what = str(node.target), self._input(node), self._name(node)[1]
        weight = self._places.get(f"{name}.weight")
        bias = self._places.get(f"{name}.bias") if module.bias is not None else None
        own = {key for key in self._parameters if key.startswith(f"{name}.")}
        if made := min(own - {f"{name}.weight", f"{name}.bias"}, default=None):
            raise _refused(what, f"its weight is made of another parameter, {made}")
        if name in self._layers or weight is None or (module.bias is not None and bias is None):
            raise _refused(what, "it is used twice, with inputs that are scaled differently")
        if isinstance(module, nn.Linear) and len(self._shapes[source]) != 2:
            raise _refused(what, f"its inputs must be vectors, got shape {self._shapes[source][1:]}")
        if not isinstance(module, nn.Linear):
            self._wants_positions(source, what, module.weight.ndim - 2)
        groups = 1 if isinstance(module, nn.Linear) else module.groups
        incoming = self.units[source].reshape(groups, -1)
        outputs = module.weight.shape[0]
        outgoing = np.arange(len(self._same_as), len(self._same_as) + outputs)
        self._same_as += outgoing.tolist()
        self._layers[name] = Layer(name, outgoing, incoming, weight, tuple(module.weight.shape), bias)
        self._makers[node] = name
        return outgoing

    def _flattened(self, node: fx.Node, what: str) -> Units:
        before, after = self._shapes[self._input(node)], self._shapes[node]
        if len(after) != 2 or after[0] != before[0]:
            raise _refused(what, f"it must make a vector of each input, got {before[1:]} to {after[1:]}")
        units = self.units[self._input(node)]
        return np.repeat(units, after[1] // len(units))

    def _concatenated(self, node: fx.Node, what: str) -> Units:
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        if dim not in (1, 1 - len(self._shapes[node])):
            raise _refused(what, f"it must concatenate channels, dimension 1, got {dim}")
        tensors: Any = node.args[0] if node.args else node.kwargs["tensors"]
        return np.concatenate([self.units[part] for part in tensors])

    def _finished(self, output: Any) -> Structure:
        name = self._makers.get(output) if isinstance(output, fx.Node) else None
        if name is None or not isinstance(self._modules[name], nn.Linear):
            raise UsageError(f"the last layer of --model must be Linear, got {output}")
        if len(output.users) > 1:
            raise _refused(name, "its outputs are used by another layer too")
        used = {f"{layer}.{part}" for layer in self._layers for part in ("weight", "bias")} | self._constants
        if unused := self._places.keys() - used:
            raise UsageError(f"every parameter of --model must be one of a layer's that is used, got {min(unused)}")
        roots = np.array([self._root(unit) for unit in range(len(self._same_as))])
        places = np.searchsorted(np.unique(roots), roots)  # without gaps
        self.units = {node: places[units] for node, units in self.units.items()}
        layers = [
            Layer(each.name, places[each.outgoing], places[each.incoming], each.weight, each.shape, each.bias)
            for each in self._layers.values()
        ]
        last = layers.pop(list(self._layers).index(name))
        outgoing = np.full(len(last.outgoing), UNSCALED)
        layers.append(Layer(name, outgoing, last.incoming, last.weight, last.shape, last.bias))
        return Structure(tuple(layers), int(places.max()) + 1, self.parameters)

    def _input(self, node: fx.Node) -> fx.Node:
        source = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
        if not isinstance(source, fx.Node) or source not in self.units:
            raise _refused(self._name(node)[1], "its input is no tensor of channels")
        return source

    def what(self, node: fx.Node) -> str:
        """How to call a layer or function in a message."""
        return self._name(node)[1]

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
