"""Features: what a model knows of each picture just before it answers, a row of numbers each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from edgekit import files, graph, session
from edgekit.data.folder import Source, read
from edgekit.data.headers import Unreadable
from edgekit.data.images import decode
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure import infer
from edgekit.measure.calibration import LARGEST
from edgekit.spec import nearest
from edgekit.words import counted

if TYPE_CHECKING:
    from pathlib import Path

    from numpy import ndarray
    from onnx import ModelProto

    from edgekit.data.dataset import Dataset, Entry
    from edgekit.measure.infer import Decision

SCHEMA = "edgekit.features/1"
BATCH = 16
# What may stand between the last layer and the output, and changes no more than scale or shape.
_PASSING = {
    "Softmax", "LogSoftmax", "Sigmoid", "Add", "Flatten", "Reshape", "Squeeze", "Identity", "Cast", "QuantizeLinear",
    "DequantizeLinear", "LpNormalization", "Clip", "Mul", "Div",
}  # fmt: skip
_POOLS = {"GlobalAveragePool", "GlobalMaxPool", "AveragePool", "ReduceMean"}


@dataclass(frozen=True, eq=False)
class Features:
    """The features of the pictures that could be read.

    values: N x D float32. layer: the tensor they are from. keys, labels, splits: of the N pictures; "" where there is
    none. unreadable: key and reason of those left out. decision: how pictures were fed.
    """

    values: ndarray
    layer: str
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    decision: Decision

    def save(self, path: Path) -> None:
        """Write an .npz file without pickles: features, keys, labels, split; whole or not at all."""
        texts = {"keys": self.keys, "labels": self.labels, "split": self.splits}
        arrays = {name: np.array(values, np.str_) for name, values in texts.items()}
        about = np.array(f"{files.MADE_BY}, layer {self.layer}".encode())
        with files.atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, features=self.values, **arrays, about=about)

    def to_dict(self) -> dict[str, Any]:
        """Give the plain values that a document has."""
        return {
            "layer": self.layer,
            "pictures": len(self.keys),
            "numbers": int(self.values.shape[1]),
            "preprocess": self.decision.preprocess.to_dict(),
            "unreadable": [{"key": key, "reason": reason} for key, reason in self.unreadable],
        }


def extract(
    model: ModelProto,
    path: Path,
    dataset: Dataset,
    given: Mapping[str, Any],
    *,
    layer: str | None = None,
    threads: int = 1,
    max_pixels: int = 100_000_000,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Features:
    """Run every picture of a data set through `model` and keep what its tensor `layer` holds (None: `penultimate`).

    given: how pictures are fed, as `preprocess.parse` takes it; the rest is inferred. Maps (4 axes) are averaged over
    the last two, sequences (3 axes) over the middle one. Memory holds the features, 4 N D bytes, and one batch. Raises
    EdgekitError when the model does not take pictures, has no such tensor, or no picture can be read.
    """
    chosen = penultimate(model) if layer is None else _tensor(model, layer)
    decision = infer.decide(model, given=given, model_path=path, pictures=_labelled(dataset), threads=threads)
    runner = _Runner(model, chosen, decision, threads)
    values: ndarray | None = None
    kept: list[Entry] = []
    unreadable: list[tuple[str, str]] = []
    inputs = _inputs(dataset, decision, max_pixels, unreadable, progress)
    while some := list(islice(inputs, max(BATCH, runner.batch))):
        rows = runner.run([array for _, array in some])
        if values is None:
            values = np.empty((len(dataset.entries), rows.shape[1]), np.float32)
        values[len(kept) : len(kept) + len(some)] = rows
        kept += [entry for entry, _ in some]
    if values is None:
        key, reason = unreadable[0]
        raise EdgekitError(f"{dataset.root}: none of its pictures can be read ({key}: {reason})", "give others")
    return Features(
        values[: len(kept)],
        chosen,
        tuple(entry.key for entry in kept),
        tuple(entry.label or "" for entry in kept),
        tuple(entry.split or "" for entry in kept),
        tuple(unreadable),
        decision,
    )


def _labelled(dataset: Dataset) -> tuple[Source, ...]:
    """Give the pictures to find the preprocessing with, their classes without the splits above them."""
    return tuple(
        replace(entry.source, key=f"{entry.label}/{entry.source.path.name}") if entry.label else entry.source
        for entry in dataset.entries
    )


def _inputs(
    dataset: Dataset,
    decision: Decision,
    max_pixels: int,
    unreadable: list[tuple[str, str]],
    progress: Callable[[int, int], None],
) -> Iterator[tuple[Entry, ndarray]]:
    for number, entry in enumerate(dataset.entries, 1):
        try:
            pixels = decode(read(entry.source, LARGEST), max_pixels).pixels
        except (Unreadable, OSError) as error:
            reason = error.message if isinstance(error, Unreadable) else f"cannot be read: {error.strerror}"
            unreadable.append((entry.key, reason))
        else:
            yield entry, decision.preprocess.apply(pixels)
        progress(number, len(dataset.entries))


class _Runner:
    """A session that is fed with batches: of the model's own size, else of BATCH when that changes nothing."""

    def __init__(self, model: ModelProto, layer: str, decision: Decision, threads: int) -> None:
        self._session = session.open_session(graph.with_outputs(model, [layer]), threads=threads)
        self._layer, self._decision = layer, decision
        first = graph.inputs(model)[0].shape[0]
        self._has_batch = decision.preprocess.layout.startswith("N")
        self._is_fixed = not self._has_batch or (isinstance(first, int) and first > 0)
        self.batch = decision.batch if self._is_fixed else 1
        self._is_tried = self._is_fixed

    def run(self, arrays: Sequence[ndarray]) -> ndarray:
        """Give the features of some pictures, a row each."""
        rows = np.concatenate([self._rows(arrays[i : i + self.batch]) for i in range(0, len(arrays), self.batch)])
        if not self._is_tried and len(arrays) > 1:
            self._is_tried = True
            with suppress(EdgekitError):  # a shape in the graph may only fit one picture
                whole = self._rows(arrays)
                if np.allclose(whole, rows, rtol=1e-3, atol=1e-4):
                    self.batch = BATCH
        return rows

    def _rows(self, arrays: Sequence[ndarray]) -> ndarray:
        filled = [*arrays, *[arrays[-1]] * (self.batch - len(arrays) if self._is_fixed else 0)]
        fed = np.concatenate(filled) if self._has_batch else filled[0]
        (found,) = session.run(self._session, {self._decision.input_name: fed}, [self._layer])
        values = np.asarray(found, np.float32)
        values = values if self._has_batch else values[None]
        if values.ndim > 2:
            values = values.mean(axis=1 if values.ndim == 3 else tuple(range(2, values.ndim)))
        values = values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1)
        if len(values) != len(filled):
            what = f"{self._layer} has {len(values)} rows for {counted(len(filled), 'picture')}"
            raise EdgekitError(f"{what}, so it is no layer of features", "name another with --layer")
        return values[: len(arrays)]


# ---- which tensor


def penultimate(model: ModelProto) -> str:
    """Name the tensor that the last layer of a classifier reads: a Gemm or MatMul by weights, or what a pooling gives.

    Without such a layer before the first output it is that output, when it has a row a picture; else raises
    EdgekitError, for a detector's boxes are no features.
    """
    makers, constants = graph.producers(model), _constants(model)
    output = graph.output_names(model)[0]
    name = output
    while (node := makers.get(name)) is not None:
        if node.op_type in _POOLS:
            return name
        fed = [read for read in node.input if read and read not in constants]
        if node.op_type in ("Gemm", "MatMul") and len(fed) == 1:
            return fed[0]
        if node.op_type not in _PASSING or not fed or (len(fed) > 1 and node.op_type != "Reshape"):
            break
        name = fed[0]
    shape = next(value.type.tensor_type.shape.dim for value in model.graph.output if value.name == output)
    if len(shape) == 2:
        return output
    raise EdgekitError(
        "the model has no layer before a classifier's last one, so what its features are is open",
        "name a tensor with --layer, such as the output of the last convolution of its backbone",
    )


def _constants(model: ModelProto) -> set[str]:
    """Name the tensors that do not depend on the inputs: initializers, and what is computed from them alone."""
    found = set(graph.initializers(model))
    for node in model.graph.node:
        if all(read in found for read in graph.reads(node) if read):
            found.update(node.output)
    return found


def _tensor(model: ModelProto, layer: str) -> str:
    """Find a tensor by its name, or by that of its node; raise EdgekitError with the nearest right one."""
    makers = graph.producers(model)
    if layer in makers:
        return layer
    nodes = {node.name: node.output[0] for node in model.graph.node if node.name}
    if layer in nodes:
        return nodes[layer]
    near = nearest(layer, [*makers, *nodes])
    hint = f"did you mean {near}?" if near else "name an output of a layer"
    raise EdgekitError(f"--layer {layer}: no such tensor or layer", hint)
