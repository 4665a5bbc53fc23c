"""Where the time goes: onnxruntime's own profile, node by node, of the graph that it really runs."""

from __future__ import annotations

import itertools
import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import graph
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure import nodes
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnx import ModelProto

    from edgekit.session import Feed

    Tensors = tuple[tuple[str, tuple[int, ...]], ...]

_WARM_RUNS = 3
_LEAST_RUNS = 3
_EVENTS = 8_000  # about 1 kB each in the file that onnxruntime writes, and several in memory
_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class NodeTime:
    """One node as it ran: `ms` of one inference (mean of the faster half of its runs), `share` of all nodes' time.

    What writing the profile itself takes, some 3 us a node, is taken off (see `time_nodes`).

    inputs, outputs: what it read and made in the first run, absent ones left out: onnxruntime's word for the type
    (`float`, `uint8`), and the shape.
    """

    name: str
    type: str
    ms: float
    share: float
    inputs: Tensors = ()
    outputs: Tensors = ()


def profile(
    model: ModelProto, feeds: Sequence[Feed], *, threads: int = 1, seconds: float = 2.0
) -> tuple[NodeTime, ...]:
    """Time every node of `model` as onnxruntime rewrites it for this CPU, what is read before what reads it.

    The names are those of `nodes.as_run(model)`. `seconds` bounds the runs; three are always made. Raises EdgekitError
    without feeds, and when the model does not load or run.
    """
    return time_nodes(nodes.as_run(model), feeds, threads=threads, seconds=seconds)


def time_nodes(
    model: ModelProto, feeds: Sequence[Feed], *, threads: int = 1, seconds: float = 2.0
) -> tuple[NodeTime, ...]:
    """Time every node of a graph that is run as it stands; its nodes' names must differ (`graph.unique_names`).

    The runs alternate with runs of a session without a profile; what the profiled ones take longer, shared out over
    the nodes, is taken off each, but never more than the shortest node takes. The time of a node with graphs in it (If,
    Loop) holds that of the nodes inside. Raises EdgekitError as `profile`.
    """
    if not feeds:
        raise EdgekitError("there are no inputs to time the model with", "give pictures, or inputs with --feeds")
    wanted = {node.name for node in model.graph.node}
    written, plain = _events(model, feeds, threads, seconds)
    events = [event for event in written if event["name"] in wanted]
    found: dict[str, list[Any]] = {}
    for event in events:
        found.setdefault(event["name"], []).append(event)
    warm = {name: each[_WARM_RUNS:] or each for name, each in found.items()}
    times = {name: _typical([event["dur"] / 1e3 for event in each]) for name, each in warm.items()}
    if times:
        overhead = min(max(0.0, sum(times.values()) - plain) / len(times), *times.values(), math.inf)
        times = {name: ms - overhead for name, ms in times.items()}
    total = sum(times.values())
    return tuple(
        NodeTime(
            name,
            found[name][0]["args"]["op_name"],
            times[name],
            times[name] / total if total else 0.0,
            _tensors(found[name][0]["args"].get("input_type_shape", ())),
            _tensors(found[name][0]["args"].get("output_type_shape", ())),
        )
        for name in _in_order(model)
        if name in found
    )


def _in_order(model: ModelProto) -> list[str]:
    """Give the nodes' names, what is read before what reads it: by the longest way from the inputs, then by name.

    The order in which onnxruntime runs branches beside one another changes from run to run.
    """
    depth: dict[str, int] = {}
    keys = []
    for node in model.graph.node:
        own = 1 + max((depth.get(name, 0) for name in graph.reads(node)), default=0)
        depth |= dict.fromkeys(node.output, own)
        keys.append((own, node.name))
    return [name for _, name in sorted(keys)]


def _events(
    model: ModelProto, feeds: Sequence[Feed], threads: int, seconds: float
) -> tuple[list[dict[str, Any]], float]:
    """Give the events of the nodes, names without suffix, in the order in which they ran; and ms of a plain run."""
    plain: list[float] = []
    clock = time.thread_time if threads == 1 else time.perf_counter  # other work on the machine is not the model's
    most = max(_WARM_RUNS + _LEAST_RUNS, _EVENTS // max(1, len(model.graph.node)))
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        session = open_session(model, threads=threads, optimized=False, profile_to=Path(folder, "profile"))
        bare = open_session(model, threads=threads, optimized=False)
        end = time.monotonic() + seconds
        for number, feed in enumerate(itertools.islice(itertools.cycle(feeds), most)):
            if number >= _WARM_RUNS + _LEAST_RUNS and time.monotonic() > end:
                break
            run(session, feed)
            start = clock()
            run(bare, feed)
            plain.append(1e3 * (clock() - start))
        written = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8", errors="replace"))
    kernels = [event for event in written if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX)]
    return [{**event, "name": event["name"].removesuffix(_SUFFIX)} for event in kernels], _typical(plain[_WARM_RUNS:])


def _tensors(said: Iterable[dict[str, list[int]]]) -> Tensors:
    return tuple((kind, tuple(shape)) for entry in said for kind, shape in entry.items())


def _typical(values: Sequence[float]) -> float:
    """Give the mean of the lower half: other work makes runs longer, never shorter, and the clock ticks in whole us."""
    ordered = np.sort(np.asarray(values, np.float64))
    return float(ordered[: (len(ordered) + 1) // 2].mean())
