"""Which slices of a model's values and constants go together.

The state of a value is a list of factors: arrays of labels, of as many axes as the value, one entry long along the axes
they say nothing of. A slice of the value goes when its label in some factor goes. After Conv there is one factor along
axis 1; after a Reshape of channels into (heads, width) one over both of these axes; in a mixer one for the tokens and
one for the channels. What no factor covers stays.

`np.array` operations on the factors mirror what the operators do to the values, so that Concat, Split, Transpose or
Reshape need no offsets. (The dependency groups of DepGraph, arXiv 2301.12900, found by union-find.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.prune.labels import Labels, along, first_along, long_axes
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from onnx import ModelProto, NodeProto

    from edgekit.compress.prune.sides import Dims

    State = list[np.ndarray]
    Rule = Callable[["Tracer", NodeProto], "State | list[State] | None"]

_FLOATS = (1, 10, 11, 16)  # float, float16, double, bfloat16


@dataclass(frozen=True)
class Reading:
    """A node that sums over labelled slices with constant weights."""

    node: str
    place: int  # of the value among the node's inputs
    value: str
    axis: int
    labels: np.ndarray
    weight: str
    weight_axis: int


class Tracer:
    """Walks the nodes of a prepared model in order and unites the labels of what goes together."""

    def __init__(self, model: ModelProto, sides: dict[str, Dims], rules: Mapping[str, Rule]) -> None:
        self.rules, self.dims = rules, sides
        self.labels = Labels()
        self.opset = graph.opset(model)
        self.tensors = graph.initializers(model)
        self.shown = graph.outputs(model)
        self.read = graph.consumers(model)
        self.states: dict[str, State] = {}
        # Names of values that are a constant with its axes in another order: the constant, and its axis at each place.
        self.bases: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.readings: list[Reading] = []
        self.makers: list[tuple[str, np.ndarray]] = []
        # Of values all of whose factors are frozen: why.
        self.stuck: dict[str, str] = {}
        self.later: list[tuple[np.ndarray, State, str]] = []
        self.node: NodeProto = onnx.NodeProto()

    def visit(self, node: NodeProto) -> None:
        """Give the node's results their factors; what it reads is frozen when it is not understood."""
        self.node = node
        rule = self.rules.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        names = sorted(graph.reads(node))
        if not any(self.state(name) for name in names):
            reason = next((self.stuck[name] for name in names if name in self.stuck), "")
            self.stuck |= {name: reason for name in node.output if reason}
            return
        made = None if rule is None or graph.captured(node) else rule(self, node)
        if made is None:
            for name in names:
                self.freeze(self.state(name), f"{node.op_type} is not understood here")
            return
        many = made if made and isinstance(made[0], list) else [made]
        for name, state in zip(node.output, many, strict=False):
            if name:
                self._keep(name, state)  # type: ignore[arg-type]
        if node.op_type not in ("Transpose", "Identity", "Cast"):
            return
        if node.input[0] in self.tensors or node.input[0] in self.bases:
            base, axes = self.base(node.input[0])
            order = graph.attribute(node, "perm", range(len(axes))[::-1]) if node.op_type == "Transpose" else None
            self.bases[node.output[0]] = base, axes if order is None else tuple(axes[k] for k in order)  # type: ignore

    def _keep(self, name: str, state: State) -> None:
        # What is frozen and over several axes would only stand in the way of what is not.
        alive = [f for f in state if len(long_axes(f)) == 1 or not self.labels.kept(f).all()]
        if alive:
            self.states[name] = alive
            return
        lost = state or [f for read in self.node.input if not self.is_constant(read) for f in self.state(read)]
        if lost and all(self.labels.kept(factor).all() for factor in lost):
            self.stuck[name] = self.labels.reason(int(lost[0].max()))

    def base(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Give the constant that a value is, and which of its axes stands at each place; ("", ()) of no constant."""
        if name in self.tensors:
            return name, tuple(range(len(self.tensors[name].dims)))
        return self.bases.get(name, ("", ()))

    def is_constant(self, name: str) -> bool:
        """Tell whether a value is a constant, with its axes in whatever order."""
        return name in self.tensors or name in self.bases

    def state(self, name: str) -> State:
        """Give the factors of a value; a float constant has one along each axis."""
        if name in self.states or name not in self.tensors:
            return self.states.get(name, [])
        tensor = self.tensors[name]
        made = []
        for axis, size in enumerate(tensor.dims if tensor.data_type in _FLOATS else ()):
            if size > 1:
                shape = [1] * len(tensor.dims)
                shape[axis] = size
                made.append(self.labels.fresh(size).reshape(shape))
        self.states[name] = made
        if name in self.shown:
            self.freeze(made, "the model's output")
        return made

    def size(self, name: str, axis: int) -> int | None:
        """Give the length of an axis of a value, if it is fixed."""
        known = self.dims.get(name)
        length = known[axis] if known is not None and -len(known) <= axis < len(known) else None
        return length if isinstance(length, int) else None

    def rank(self, name: str) -> int | None:
        """Give how many axes a value has, if that is known."""
        return len(self.dims[name]) if name in self.dims else None

    def constant(self, place: int) -> np.ndarray | None:
        """Give the values of an input of the current node; None when it is computed or absent."""
        name = self.node.input[place] if len(self.node.input) > place else ""
        return graph.array(self.tensors[name]) if name in self.tensors else None

    def setting(self, name: str, place: int) -> list[int] | None:
        """Give whole numbers that are an attribute in old versions of an operator and a constant input in new ones."""
        held = graph.attribute(self.node, name)
        values = self.constant(place) if held is None else np.asarray(held)
        return None if values is None else [int(value) for value in values.reshape(-1)]

    def freeze(self, state: Iterable[np.ndarray], reason: str) -> None:
        """Let everything these factors label stay."""
        for factor in state:
            self.labels.freeze(factor, reason)

    def over(self, state: State, axes: Iterable[int], reason: str) -> State:
        """Give the factors that are left when what lies along `axes` is mixed: it goes together or not at all."""
        left = []
        for factor in state:
            mixed = [axis for axis in axes if factor.shape[axis] > 1]
            if not mixed:
                left.append(factor)
                continue
            first = first_along(factor, mixed)
            if first.size == 1:
                self.labels.freeze(factor, reason)
                continue
            self.labels.unite(factor, np.broadcast_to(first, factor.shape), reason)
            left.append(first)
        return left

    def split(self, state: State, axis: int, reason: str) -> tuple[np.ndarray | None, State]:
        """Give the labels along one axis, if a factor covers it alone, and the factors of the other axes."""
        alone = [factor for factor in state if long_axes(factor) == [axis]]
        if alone:
            rest = [factor for factor in state if factor is not alone[0]]
            return alone[0].reshape(-1), self.over(rest, [axis], reason)
        return None, self.over(state, [axis], reason)

    def merge(self, operands: Sequence[tuple[str, State, Dims]], rank: int) -> State:
        """Give the factors of what operands make when they meet entry by entry, each spread as numpy does.

        `operands`: the name, the factors and the sides of each.
        """
        reason = f"{self.node.op_type} with what has no channels"
        parts = [(self.is_constant(n), [along(f, rank) for f in s], (1,) * (rank - len(d)) + d) for n, s, d in operands]
        moving = [state for constant, state, _ in parts if not constant] or [state for _, state, _ in parts]
        clusters = _clusters([set(long_axes(factor)) for state in moving for factor in state])
        reached = set().union(*clusters) if clusters else set()
        for constant, state, _ in parts:
            if constant:
                self.freeze([f for f in state if not reached.issuperset(long_axes(f))], reason)
        made = []
        for cluster in clusters:
            inside = [[f for f in state if cluster & set(long_axes(f))] for _, state, _ in parts]
            whole = next((f for s in moving for f in s if set(long_axes(f)) == cluster), None)
            if whole is None:
                whole, cluster = self._shared(cluster, parts, inside)
            for (name, _, _), (constant, _, sides), own in zip(operands, parts, inside, strict=True):
                if whole is None:
                    break
                whole = self._meet(whole, own, sides, cluster, constant, self.stuck.get(name, reason))
            if whole is not None:
                made.append(whole)
        return made

    def _shared(
        self, cluster: set[int], parts: Sequence[tuple[bool, State, Dims]], inside: list[State]
    ) -> tuple[np.ndarray | None, set[int]]:
        """Narrow factors that overlap to the axes they have in common, in place; give one of them, and these axes."""
        reason = f"{self.node.op_type} mixes axes"
        pairs = list(zip(parts, inside, strict=True))
        common = cluster.intersection(
            *(long_axes(f) for (constant, _, _), state in pairs if not constant for f in state)
        )
        if not common:
            self.freeze([factor for state in inside for factor in state], reason)
            return None, cluster
        for (constant, _, _), state in pairs:
            if not constant:
                state[:] = self.over(state, cluster - common, reason)
        return next((f for (constant, _, _), state in pairs if not constant for f in state), None), common

    def _meet(
        self, whole: np.ndarray, own: State, sides: Dims, cluster: set[int], constant: bool, reason: str
    ) -> np.ndarray | None:
        full = [axis for axis in sorted(cluster) if sides[axis] != 1 and whole.shape[axis] > 1]
        if not full:
            return whole
        if not own:
            left = self.over([whole], full, reason)
            return left[0] if left else None
        if constant and len(cluster) > 1:
            self.later.append((whole, own, reason))
        elif len(own) > 1:
            self.freeze([whole, *own], f"{self.node.op_type} mixes axes")
        else:
            shape = np.broadcast_shapes(whole.shape, own[0].shape)
            self.labels.unite(np.broadcast_to(whole, shape), np.broadcast_to(own[0], shape), reason)
        return whole

    def reads_channels(self, place: int, axis: int, weight: int, weight_axis: int) -> State:
        """Note that the node sums over an axis of one input with weights along an axis of another.

        Give the factors of the input's other axes.
        """
        value, held = self.node.input[place], self.node.input[weight]
        labels, rest = self.split(self.state(value), axis, f"{self.node.op_type} without constant weights")
        columns, _ = self.split(self.state(held), weight_axis, "weights over several axes")
        name, _ = self.base(held)
        if labels is None or columns is None or not name or self.is_constant(value):
            reason = f"{self.node.op_type} without constant weights" if not name else "what it meets has no channels"
            for found in (labels, columns):
                if found is not None:
                    self.labels.freeze(found, reason)
            return rest
        self.labels.unite(labels, columns, "a shared weight")
        self.note_reading(place, weight, labels, axis, weight_axis)
        return rest

    def note_reading(self, place: int, weight: int, labels: np.ndarray, axis: int, weight_axis: int) -> None:
        """Note that the node sums over these labels with a constant weight, found at `weight` among its inputs."""
        name, axes = self.base(self.node.input[weight])
        value = self.node.input[place]
        self.readings.append(Reading(self.node.name, place, value, axis, labels, name, axes[weight_axis]))

    def close(self) -> dict[str, dict[int, np.ndarray]]:
        """Freeze what the model gives out and give, for each value and constant, the labels along its axes.

        int64, 0 where a slice stays.
        """
        for name in sorted(self.shown):
            self.freeze(self.state(name), "the model's output")
        for state in list(self.states.values()):
            for factor in state:
                if len(long_axes(factor)) > 1:
                    self._straighten(factor)
        for whole, own, reason in self.later:
            self._meet_later(whole, own, reason)
        for state in self.states.values():
            for factor in state:
                roots = self.labels.free(factor)
                if roots.flat[0] and (roots == roots.flat[0]).all():
                    self.labels.freeze(factor, "a value of one channel only")
        found = {name: {} for name in self.states}  # type: dict[str, dict[int, np.ndarray]]
        for name, state in self.states.items():
            for factor in state:
                roots = self.labels.free(factor)
                axis = next((axis for axis in long_axes(roots) if _varies_only(roots, axis)), None)
                if axis is not None and roots.any():
                    found[name][axis] = first_along(roots, set(range(roots.ndim)) - {axis}).reshape(-1)
        return found

    def _straighten(self, factor: np.ndarray) -> None:
        """Unite labels so that whole slices along one axis go: the axis that leaves the most of them."""
        roots = self.labels.free(factor)
        if any(_varies_only(roots, axis) for axis in long_axes(factor)):
            return
        state = self.labels.parents.copy(), self.labels.causes.copy(), len(self.labels.reasons)
        most, best = -1, 0
        for axis in long_axes(factor):
            self._flatten(factor, axis)
            count = np.setdiff1d(self.labels.free(factor), [0]).size
            most, best = max((most, best), (count, -axis))
            self.labels.parents, self.labels.causes = state[0].copy(), state[1].copy()
            del self.labels.reasons[state[2] :]
        self._flatten(factor, -best)

    def _flatten(self, factor: np.ndarray, axis: int) -> None:
        first = first_along(factor, set(range(factor.ndim)) - {axis})
        self.labels.unite(factor, np.broadcast_to(first, factor.shape), "its channels are laid out in a grid")

    def _meet_later(self, whole: np.ndarray, own: State, reason: str) -> None:
        roots = self.labels.free(whole)
        axis = next((axis for axis in long_axes(whole) if _varies_only(roots, axis)), None)
        for factor in own:
            if axis is not None and long_axes(factor) == [axis]:
                line = first_along(whole, set(range(whole.ndim)) - {axis})
                self.labels.unite(np.broadcast_to(line, factor.shape), factor, reason)
            else:
                self.labels.freeze(factor, reason)


def _varies_only(roots: np.ndarray, axis: int) -> bool:
    line = first_along(roots, set(range(roots.ndim)) - {axis})
    return bool((roots == line).all())


def _clusters(sets: list[set[int]]) -> list[set[int]]:
    """Give sets of axes joined where they share one, in the order of their first axes."""
    found: list[set[int]] = []
    for axes in sets:
        joined = axes.union(*(other for other in found if other & axes))
        found = [other for other in found if not other & axes] + [joined]
    return sorted(found, key=min)
