"""What a finished 8-bit model answers on another kind of CPU, computed on this one.

x86 CPUs without VNNI clip some sums (see `quantize.saturation`). The model is cut behind the layers whose weights allow
that, and where activations clip a sum, what onnxruntime computed exactly is replaced. Other CPUs differ in speed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit import graph
from edgekit.compress.quantize import saturation
from edgekit.lazy import np, onnx
from edgekit.report.report import Elsewhere
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

    from edgekit.compress.quantize.saturation import Layer
    from edgekit.session import Feed

ISA = "avx2"


@dataclass(frozen=True)
class Result:
    """What becomes of a layer's integer sums: they are scaled to floats, or to 8 bits, or given as they are.

    `name`: of the value that is made. `bias`, `scale`: int64 and float32, one a channel; without a scale the sums are
    given as they are. `kind`, `zero`: of 8-bit results.
    """

    name: str
    bias: np.ndarray | None = None
    scale: np.ndarray | None = None
    kind: np.dtype[Any] | None = None
    zero: int = 0

    def of(self, sums: np.ndarray, channel: np.ndarray) -> np.ndarray:
        """Give the values for int64 sums of some channels, rounded as onnxruntime's kernels do."""
        whole = sums if self.bias is None else sums + self.bias[channel]
        if self.scale is None:
            return whole.astype(np.int32)
        scaled: np.ndarray = whole.astype(np.float32) * self.scale[channel]
        if self.kind is None:
            return scaled
        ends = np.iinfo(self.kind)
        return (np.clip(np.rint(scaled), ends.min - self.zero, ends.max - self.zero) + self.zero).astype(self.kind)


@dataclass(frozen=True)
class Piece:
    """A part of the model between two clipped layers: what it gives, and the layer that comes then, if any."""

    session: Any
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    layer: Layer | None
    result: Result | None


class Emulated:
    """A model as an x86 CPU without VNNI runs it; it can be run wherever an onnxruntime session can.

    `model`: finished, in Q/DQ form or dynamic. Sums are exact, and so are results where all is in 8 bits; operators in
    float are this CPU's own. int8 activations are near, not exact: onnxruntime runs some of their layers in float on
    x86. Takes 20 to 50 times as long as the model itself.
    """

    def __init__(self, model: ModelProto, threads: int = 1) -> None:
        self._outputs = list(graph.output_names(model))
        self._pieces = _cut(model, [layer for layer in saturation.layers(model) if layer.at_risk], threads)

    def run(self, outputs: Sequence[str] | None, feed: Feed) -> list[np.ndarray]:
        """Run one feed; give the outputs in the model's order (or that of `outputs`)."""
        values = dict(feed)
        for piece in self._pieces:
            if piece.session is not None:
                given = run(piece.session, {name: values[name] for name in piece.reads}, piece.gives)
                values.update(zip(piece.gives, given, strict=True))
            if piece.layer is not None and piece.result is not None:
                _clip(piece.layer, piece.result, values)
        return [values[name] for name in outputs or self._outputs]


Compare = Callable[[Any, Any], tuple[str, float, float, int]]


def elsewhere(model: ModelProto, compare: Compare, threads: int = 1) -> Elsewhere | None:
    """Score a finished model on this CPU (with VNNI, or ARM) and as on an x86 CPU without VNNI.

    `compare(here, there)` runs both over the same pictures and gives what it measured ("agreement" of the top answers,
    "cosine" of the outputs, "top-1" ...), both scores (0..1) and the number of pictures. A model that cannot clip is
    not run; None for one without 8-bit arithmetic.
    """
    layers = saturation.layers(model)
    if not layers:
        return None
    if not any(layer.at_risk for layer in layers):
        return Elsewhere(ISA, "agreement", 1.0, 1.0, 0, sentence("agreement", 1.0, 1.0, risky=False))
    metric, here, there, n = compare(open_session(model, threads=threads), Emulated(model, threads))
    return Elsewhere(ISA, metric, here, there, n, sentence(metric, here, there, risky=True, n=n))


def sentence(metric: str, here: float, there: float, *, risky: bool, n: int = 0) -> str:
    """Say in a sentence what another CPU makes of the file, on `n` inputs."""
    if not risky:
        return "every kind of CPU computes the same sums: no pair of weights can leave 16 bits"
    where = f"on an x86 CPU without VNNI (AVX2), emulated{f' on {n} inputs' if n else ''},"
    if here == there:
        return f"{where} it scores the same; --isa portable makes sure of it on any input"
    if metric == "agreement":
        return f"{where} it answers {100 * (here - there):.1f} % of the pictures differently: --isa portable avoids it"
    if metric == "cosine" and round(there, 3) == 1:
        return f"{where} its outputs are as here, at cosine 1.000; --isa portable makes sure of it on any input"
    if metric == "cosine":
        return f"{where} its outputs are at cosine {there:.3f} of what they are here: --isa portable avoids it"
    if there > here:
        return f"{where} it scores {100 * (there - here):.1f} points {metric} higher, by chance: its sums are clipped"
    return f"{where} it scores {100 * (here - there):.1f} points {metric} lower: --isa portable avoids it"


def _clip(layer: Layer, result: Result, values: dict[str, np.ndarray]) -> None:
    """Put the values of a layer that clipping changes in the place of the exact ones."""
    zero = saturation.zero_of(layer, values)
    made = np.moveaxis(values[result.name], 1, -1) if layer.kernel else values[result.name]
    flat = made.reshape(-1, layer.channels)
    outputs = layer.weight.shape[1]
    for group, (window, pairs) in enumerate(zip(layer.windows(values[layer.value], zero), layer.pairs, strict=True)):
        for block in saturation.blocks(np.arange(len(flat)), layer):
            columns = layer.columns(window, block)
            place, channel, added = pairs.clipped(columns)
            changed, which = np.unique(place * outputs + channel, return_inverse=True)
            place, channel = np.divmod(changed, outputs)
            sums = np.bincount(which, added, len(changed)).astype(np.int64)
            sums += _exact(columns, layer.weight[group], zero, place, channel)
            channel += group * outputs
            flat[block[place], channel] = result.of(sums, channel)
    made = flat.reshape(made.shape)
    values[result.name] = np.ascontiguousarray(np.moveaxis(made, -1, 1)) if layer.kernel else made


def _exact(columns: np.ndarray, weight: np.ndarray, zero: int, place: np.ndarray, channel: np.ndarray) -> np.ndarray:
    """Give some sums as they are without clipping, int64."""
    found = np.empty(len(place), np.int64)
    size = max(1, saturation.BLOCK // columns.shape[1])
    for start in range(0, len(place), size):
        part = slice(start, start + size)
        values = columns[place[part]].astype(np.int32) - zero
        found[part] = np.einsum("ij,ij->i", values, weight[channel[part]].astype(np.int32))
    return found


def _cut(model: ModelProto, layers: list[Layer], threads: int) -> list[Piece]:
    """Divide a model behind each of these layers; a piece computes what nobody knows yet."""
    makers, tensors = graph.producers(model), graph.initializers(model)
    results = [_result(layer, makers, tensors) for layer in layers]
    wanted = [[*saturation.needs(layer), made.name] for layer, made in zip(layers, results, strict=True)]
    wanted.append(list(graph.output_names(model)))
    place = {node.output[0]: number for number, node in enumerate(model.graph.node)}
    done: set[str] = set()
    parts = []
    for number, names in enumerate(wanted):
        nodes = _before(names, makers, done, {result.name for result in results[:number]})
        parts.append(sorted(nodes, key=lambda node: place[node.output[0]]))
        # Conversions are repeated where they are needed, because what follows them is fused with them.
        done |= {node.output[0] for node in nodes if node.op_type != "DequantizeLinear"}
    reads = [_reads(nodes, tensors) for nodes in parts]
    kinds = _kinds(model, sorted({name for names in reads for name in names}))
    later: set[str] = set()
    pieces: list[Piece] = []
    for number in reversed(range(len(parts))):
        later |= set(wanted[number])
        gives = [name for node in parts[number] for name in node.output if name in later]
        part = _part(model, parts[number], [kinds[name] for name in reads[number]], gives)
        session = open_session(part, threads=threads) if gives else None
        follows = (layers[number], results[number]) if number < len(layers) else (None, None)
        pieces.append(Piece(session, tuple(reads[number]), tuple(gives), *follows))
        later |= set(reads[number])
    return pieces[::-1]


def _before(names: Sequence[str], makers: Mapping[str, NodeProto], done: set[str], known: set[str]) -> list[NodeProto]:
    """Give the nodes that are still to run before these values are known; `done` are the first outputs of others."""
    taken: dict[str, NodeProto] = {}
    left = [name for name in names if name not in known]
    while left:
        node = makers.get(left.pop())
        if node is not None and node.output[0] not in done and node.output[0] not in taken:
            taken[node.output[0]] = node
            left += [name for name in graph.reads(node) if name not in known]
    return list(taken.values())


def _reads(nodes: list[NodeProto], tensors: Mapping[str, TensorProto]) -> list[str]:
    """Give what these nodes read from outside."""
    own = {name for node in nodes for name in node.output}
    return sorted({name for node in nodes for name in graph.reads(node) if name not in own and name not in tensors})


def _kinds(model: ModelProto, names: list[str]) -> dict[str, ValueInfoProto]:
    """Describe values of the model: their types, and their shapes as far as onnxruntime knows them."""
    found = {value.name: value for value in model.graph.input}
    inside = [name for name in names if name not in found]
    session = open_session(graph.with_outputs(model, inside), optimized=False)
    for output in session.get_outputs():
        kind = onnx.TensorProto.DataType.Value(output.type.removeprefix("tensor(").rstrip(")").upper())
        found.setdefault(output.name, onnx.helper.make_tensor_value_info(output.name, kind, output.shape or None))
    return found


def _part(model: ModelProto, nodes: list[NodeProto], inputs: list[ValueInfoProto], outputs: list[str]) -> ModelProto:
    used = {name for node in nodes for name in graph.reads(node)}
    made = onnx.ModelProto(ir_version=max(4, model.ir_version))  # from 4 on, constants are not inputs
    made.opset_import.extend(model.opset_import)
    made.functions.extend(model.functions)
    made.graph.name = model.graph.name
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in used)
    made.graph.input.extend(inputs)
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return made


def _result(layer: Layer, makers: Mapping[str, NodeProto], tensors: Mapping[str, TensorProto]) -> Result:
    """Find out what becomes of a layer's sums."""
    node = layer.node
    if node.op_type == "MatMulInteger":
        return Result(node.output[0])

    def parameter(maker: NodeProto, place: int) -> np.ndarray:
        return graph.array(tensors[maker.input[place]])

    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = parameter(makers[node.input[2]], 0).astype(np.int64)
    scale = parameter(makers[node.input[0]], 1) * parameter(makers[node.input[1]], 1)
    if layer.after is None:
        return Result(node.output[0], bias, np.broadcast_to(scale, layer.channels))
    scale = np.broadcast_to(scale / parameter(layer.after, 1), layer.channels)
    zero = parameter(layer.after, 2)
    return Result(layer.after.output[0], bias, scale, zero.dtype, int(zero.item()))
