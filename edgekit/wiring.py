"""How nodes and tensors of a graph hang together, and small edits to that, in place."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from edgekit.lazy import onnx

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


def all_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Give a graph and every graph nested in it (If, Loop, Scan)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for nested in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from all_graphs(nested)


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Give every tensor of the file: initializers and constants, in nested graphs too."""
    for graph in all_graphs(model.graph):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def captured(node: NodeProto) -> set[str]:
    """Give the names that the graphs nested in a node take from outside."""
    names: set[str] = set()
    for attribute in node.attribute:
        for nested in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            own = {value.name for value in nested.input} | {tensor.name for tensor in nested.initializer}
            own |= {name for inner in nested.node for name in inner.output}
            used = {name for inner in nested.node for name in (*inner.input, *captured(inner))}
            names |= (used | {value.name for value in nested.output}) - own - {""}
    return names


def reads(node: NodeProto) -> set[str]:
    """Give the names that a node needs: its inputs, and what the graphs nested in it capture."""
    return (set(node.input) | captured(node)) - {""}


def has_subgraphs(model: ModelProto) -> bool:
    """Tell whether some node holds a graph of its own."""
    return any(attribute.HasField("g") or attribute.graphs for node in model.graph.node for attribute in node.attribute)


def producers(model: ModelProto) -> dict[str, NodeProto]:
    """Give the node behind each tensor name."""
    return {name: node for node in model.graph.node for name in node.output if name}


def consumers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """Give the nodes that read each tensor name, those whose nested graphs capture it included."""
    found: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in reads(node):
            found.setdefault(name, []).append(node)
    return found


def initializers(model: ModelProto) -> dict[str, TensorProto]:
    """Give the constant tensors by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def outputs(model: ModelProto) -> set[str]:
    """Give the names of the model's outputs."""
    return {value.name for value in model.graph.output}


def tensor_names(model: ModelProto) -> set[str]:
    """Give every tensor name in use, in nested graphs too."""
    names: set[str] = set()
    for graph in all_graphs(model.graph):
        names |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
        names |= {name for node in graph.node for name in (*node.input, *node.output)}
    return names


def fresh_name(stem: str, taken: set[str]) -> str:
    """Give `stem`, or `stem_1`, `stem_2` ... whichever is not taken yet, and take it."""
    name = next(name for name in itertools.chain([stem], _numbered(stem)) if name not in taken)
    taken.add(name)
    return name


def _numbered(stem: str) -> Iterator[str]:
    return (f"{stem}_{number}" for number in itertools.count(1))


def depths(model: ModelProto, names: Collection[str]) -> dict[str, int]:
    """Give, for each node of these names, how many of them lie before it on the longest way from an input."""
    reached: dict[str, int] = {}
    found: dict[str, int] = {}
    for node in model.graph.node:
        depth = max((reached.get(name, 0) for name in reads(node)), default=0)
        if node.name in names:
            found[node.name] = depth
            depth += 1
        reached.update({name: depth for name in node.output if name})
    return found


def unique_names(model: ModelProto) -> None:
    """Give every node a name of its own; those that are the first with theirs keep it."""
    seen = {node.name for node in model.graph.node}
    taken: set[str] = {""}
    for index, node in enumerate(model.graph.node):
        if node.name in taken:
            stem = f"{node.name or node.op_type}_{index}"
            node.name = next(name for name in itertools.chain([stem], _numbered(stem)) if name not in seen)
            seen.add(node.name)
        taken.add(node.name)


def sort(model: ModelProto) -> None:
    """Put the nodes in an order in which each comes after what it reads; an order that is right already is kept."""
    nodes = list(model.graph.node)
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = [{maker[name] for name in reads(node) if name in maker} for node in nodes]
    if all(max(need, default=-1) < index for index, need in enumerate(needs)):
        return
    order = _sorted(needs)
    if len(order) < len(nodes):
        raise EdgekitError("the model's graph has a loop", "export it again from the framework it was trained in")
    copies = [onnx.NodeProto.FromString(nodes[index].SerializeToString()) for index in order]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _sorted(needs: list[set[int]]) -> list[int]:
    waiting = [len(need) for need in needs]
    readers: list[list[int]] = [[] for _ in needs]
    for index, need in enumerate(needs):
        for source in need:
            readers[source].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    return order


def remove_nodes(model: ModelProto, gone: Iterable[NodeProto]) -> None:
    """Take some of the model's own nodes out of its list, in one pass."""
    dead = {id(node) for node in gone}
    kept = [node for node in model.graph.node if id(node) not in dead]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def remove_dead(model: ModelProto) -> None:
    """Remove nodes that no output depends on, and initializers and shape notes that nothing refers to."""
    needed = outputs(model)
    alive = []
    for node in reversed(model.graph.node):
        if any(name in needed for name in node.output):
            needed |= reads(node)
            alive.append(node)
    if len(alive) < len(model.graph.node):
        keep = {id(node) for node in alive}
        remove_nodes(model, [node for node in model.graph.node if id(node) not in keep])
    made = needed | {name for node in model.graph.node for name in node.output}
    for entries, used in ((model.graph.initializer, needed), (model.graph.value_info, made)):
        for index in reversed([index for index, entry in enumerate(entries) if entry.name not in used]):
            del entries[index]


def rename_reads(model: ModelProto, old: str, new: str) -> None:
    """Make every node of the outer graph that reads `old` read `new`."""
    for node in model.graph.node:
        rename_in(node, old, new)


def rename_in(node: NodeProto, old: str, new: str) -> None:
    """Make one node that reads `old` read `new`."""
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new


def rename_made(node: NodeProto, old: str, new: str) -> None:
    """Make one node that makes `old` make `new`."""
    node.output[list(node.output).index(old)] = new
