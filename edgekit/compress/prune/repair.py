"""Repair before channels go: what is left of a layer's inputs makes up for what goes, exactly as far as it can.

`fold` keeps every shape, so that it can be judged before anything is taken out. What the smaller net still lacks is for
`reconstruct.reconstruct` (all weights at once, by descent), or where that has no way back, `refit.refit` (layer by
layer, by least squares); both take the original and the net without its channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.prune.columns import layers, write
from edgekit.compress.prune.score import RIDGE, damped
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto

    from edgekit.compress.prune.groups import Group, Reader
    from edgekit.compress.prune.moments import Moments

FOLDS = ("none", "bias", "fold")


def fold(
    model: ModelProto,
    group: Group,
    gone: Sequence[int],
    moments: Mapping[str, Moments],
    ridge: float = RIDGE,
    how: str = "fold",
) -> ModelProto:
    """Give the model with zero input weights for the channels in `gone`, the others making up for them.

    What a reader loses, W_R x_R, is predicted from what it keeps: W_S becomes W_S + W_R A with
    A = C_RS (C_SS + ridge mean(diag))^-1, the bias b + W_R (mean_R - A mean_S); C is the covariance of `moments`, those
    of this group in the original (CORP, arXiv 2602.05243). Columns that are zero already predict nothing: they may be
    those of another group. Shapes stay, so taking `gone` out afterwards changes nothing. `how`: `bias` keeps W_S and
    moves the bias alone, `none` does neither.
    """
    made = graph.copy(model)
    dead = np.zeros(group.size, bool)
    dead[np.asarray(gone, np.int64)] = True
    known = layers(made)
    for reader in group.readers:
        entry = moments.get(reader.node)
        if entry is None or how == "none" or reader.node not in known:
            _cut(made, reader, dead)
            continue
        layer = known[reader.node]
        matrix = layer.matrix(made)
        columns, moved = _folded(entry.columns(matrix), entry, dead, ridge, how)
        offset = layer.offset(made)
        moved = moved.reshape(offset.size, -1).sum(1).reshape(offset.shape)
        write(made, layer, entry.matrix(columns, matrix), offset + moved)
    return made


def _folded(
    weight: np.ndarray, entry: Moments, dead: np.ndarray, ridge: float, how: str
) -> tuple[np.ndarray, np.ndarray]:
    """Give W (outputs, K) without the dead channels, and what is added to the bias of each output."""
    gone = (entry.channels >= 0) & dead[entry.channels]
    removed = weight[:, gone]
    kept = np.where(gone, 0.0, weight)
    moved = removed @ entry.mean[gone]
    used = ~gone & weight.any(0)
    if how == "fold" and entry.covariance is not None and used.any():
        inside = damped(entry.covariance[np.ix_(used, used)], ridge)
        lift = np.linalg.solve(inside, entry.covariance[np.ix_(used, gone)] @ removed.T).T
        kept[:, used] += lift
        moved -= lift @ entry.mean[used]
    return kept, moved


def _cut(model: ModelProto, reader: Reader, dead: np.ndarray) -> None:
    """Set a reader's weights for dead channels to zero, in place."""
    tensor = graph.initializers(model)[reader.weight.constant]
    values = graph.array(tensor).copy()
    inside = (reader.weight.channels >= 0) & dead[reader.weight.channels]
    np.moveaxis(values, reader.weight.axis, 0)[inside] = 0
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
