"""Which parts of a graph do not bear 8 bits: each is quantised alone, and its noise in the outputs measured.

The noises of independent roundings add up, so the sum over the parts that stay foretells the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from edgekit.compress.quantize import scope
from edgekit.lazy import np
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from onnx import ModelProto, NodeProto

    Feed = Mapping[str, np.ndarray]

# Parts of a graph, and inputs that they are judged on: enough to tell the bad ones, few enough to wait for.
PARTS = 24
FEEDS = 3


@dataclass(frozen=True)
class Part:
    """A run of neighbouring nodes, by name, and the noise it makes: relative to the outputs' power, worst output."""

    names: frozenset[str]
    noise: float


def measured_parts(
    model: ModelProto, nodes: Sequence[NodeProto], quantized: Callable[[set[str]], ModelProto], feeds: Iterable[Feed]
) -> list[Part]:
    """Cut `nodes` into parts and measure each; `quantized(names)` gives the model with only those in 8 bits."""
    few = list(islice(feeds, FEEDS))
    plain = _answers(model, few)
    return [Part(names, _noise(plain, _answers(quantized(set(names)), few))) for names in _cut(nodes)]


def by_node(parts: Sequence[Part]) -> dict[str, float]:
    """Give each node its share of the noise of its part."""
    return {name: part.noise / len(part.names) for part in parts for name in part.names}


def too_noisy(parts: Sequence[Part], sqnr_db: float) -> set[str]:
    """Give the nodes of the noisiest parts, so many that what stays makes less noise than `sqnr_db` allows."""
    allowed = 10 ** (-sqnr_db / 10)
    kept = 0.0
    gone: set[str] = set()
    for part in sorted(parts, key=lambda part: part.noise):
        kept += part.noise
        if not kept <= allowed:
            gone |= part.names
    return gone


def _cut(nodes: Sequence[NodeProto]) -> list[frozenset[str]]:
    """Cut before weighted nodes, so that each part holds about as many of them."""
    places = [place for place, node in enumerate(nodes) if node.op_type in scope.WEIGHTED]
    step = -(-len(places) // PARTS)
    cuts = [0, *places[step::step], len(nodes)]
    return [frozenset(node.name for node in nodes[start:stop]) for start, stop in pairwise(cuts)]


def _answers(model: ModelProto, feeds: list[Feed]) -> list[list[np.ndarray]]:
    session = open_session(model)
    return [run(session, feed) for feed in feeds]


def _noise(plain: list[list[np.ndarray]], changed: list[list[np.ndarray]]) -> float:
    shares = []
    for old, new in zip(zip(*plain, strict=True), zip(*changed, strict=True), strict=True):
        if old[0].dtype.kind != "f":
            continue
        signal = sum(float(np.square(array, dtype=np.float64).sum()) for array in old)
        noise = sum(float(np.square(np.subtract(a, b, dtype=np.float64)).sum()) for a, b in zip(old, new, strict=True))
        shares.append(noise / max(signal, 1e-30) if np.isfinite(noise) else np.inf)
    return max(shares, default=0.0)
