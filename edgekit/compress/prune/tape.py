"""Tape: what a gradient is written on, as nodes of an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto, NodeProto

    Shapes = Mapping[str, tuple[int, ...]]


class NoRuleError(Exception):
    """A form of an operator that has no rule; `node` is the node's name."""

    def __init__(self, node: NodeProto) -> None:
        super().__init__(node.name)
        self.node = node.name


@dataclass
class Tape:
    """Nodes added to a graph, and the gradient of each value so far; `active` are those that one is wanted of."""

    model: ModelProto
    shapes: Shapes
    active: set[str]
    gradients: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def constant(self, values: np.ndarray | float) -> str:
        """Add a constant, float32 for a number; give its name."""
        self.count += 1
        name = f"gradient_c{self.count}"
        array = np.asarray(values, np.float32 if isinstance(values, (int, float)) else None)
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node; give the name of what it makes."""
        self.count += 1
        name = f"gradient_{self.count}"
        self.model.graph.node.append(onnx.helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def give(self, value: str, gradient: str) -> None:
        """Add a gradient to that of a value."""
        known = self.gradients.get(value)
        self.gradients[value] = gradient if known is None else self.add("Add", known, gradient)

    def of(self, node: NodeProto) -> str:
        """Give the gradient of what a node makes first."""
        return self.gradients[node.output[0]]

    def times(self, value: str, factor: float) -> str:
        """Multiply by a number."""
        return value if factor == 1 else self.add("Mul", value, self.constant(factor))

    def summed(self, value: str, over: Sequence[int], *, keep: bool = False) -> str:
        """Sum over axes."""
        return self.add("ReduceSum", value, self.constant(np.array(over, np.int64)), keepdims=int(keep))

    def reshaped(self, value: str, shape: Sequence[int]) -> str:
        """Give another shape."""
        return self.add("Reshape", value, self.constant(np.array(shape, np.int64)))

    def like(self, gradient: str, made: Sequence[int], value: str) -> str:
        """Sum a gradient in the shape `made` to that of a value that was broadcast to it."""
        small = self.shapes[value]
        if tuple(made) == small:
            return gradient
        padded = (1,) * (len(made) - len(small)) + small
        over = [axis for axis, (one, two) in enumerate(zip(made, padded, strict=True)) if one != two]
        return self.reshaped(self.summed(gradient, over, keep=True) if over else gradient, small)

    def known(self, node: NodeProto, place: int) -> np.ndarray | None:
        """Give the constant that a node reads there, None for nothing; raise NoRuleError for what is computed."""
        name = node.input[place] if len(node.input) > place else ""
        tensor = graph.initializers(self.model).get(name)
        if name and tensor is None:
            raise NoRuleError(node)
        return graph.array(tensor) if tensor is not None else None
