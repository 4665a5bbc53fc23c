"""8-bit arithmetic: static (calibrated) and dynamic quantisation, and the choice of what pays on this CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit import graph
from edgekit.compress import fold, simplify
from edgekit.compress.method import STEPS, Method
from edgekit.compress.quantize import candidates, ranges, repair, scope
from edgekit.compress.quantize.candidates import Maker
from edgekit.compress.quantize.qdq import quantize_dynamic, quantize_static
from edgekit.compress.quantize.repair import Wanted
from edgekit.compress.search import Search
from edgekit.errors import EdgekitError
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from edgekit.compress.method import Workbench
    from edgekit.compress.search import Trial


@STEPS.add
class int8(Method):
    """Quantise to 8 bits whatever gets faster by it; store in 8 bits what does not.

    Convolutions get calibrated 8-bit arithmetic, nets of matrix products whichever of calibrated and dynamic is faster.
    Several choices of what runs in 8 bits are measured, and the fastest within the budgets is taken: at most a point
    of the score lost on the held-back pictures, without labels as much of the agreement with the original, or outputs
    at 20 dB. What does not pay is stored in 8 bits and run in float. Raises EdgekitError for a model that is quantised
    already.
    """

    ranges: str = option("mse", help="how the range of each value is chosen", choices=ranges.METHODS)
    samples: int = option(256, help="pictures to calibrate on", ge=1, le=4096)
    repair: str = option("auto", help="tried, and kept if it helps: auto, none, or equalize+smooth+round+correct")

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give the best of the candidates; in a replay, the one that the recipe names."""
        plain = _float_model(model)
        chosen = graph.select(plain, bench.only, bench.exclude)
        maker = Maker(plain, chosen, _wanted(self), bench)
        decision = bench.settled("choice")
        if decision is None:
            decision = self._search(maker, bench)
        else:
            bench.decide("replayed")
            bench.settle("repairs", bench.settled("repairs"))  # also those that nothing is made of any more
        bench.settle("choice", decision)
        made = maker.make(decision)
        return _explained(made, model, bench) if decision["kind"] != "stored" else made

    def _search(self, maker: Maker, bench: Workbench) -> Mapping[str, Any]:
        if not maker.nodes:
            bench.decide(f"{candidates.STORED}: no 8-bit kernel for its weights")
            return {"kind": "stored"}
        search = Search(maker.model, bench)
        candidates.explore(maker, search)
        taken = search.close()
        bench.decide(_why(taken, search))
        if bench.foreign:
            bench.note("chosen by the outputs alone: this machine cannot time what is for another kind of CPU")
        return maker.finished(taken)


@STEPS.add
class static(Method):
    """Quantise to 8-bit arithmetic with calibrated ranges, whether it gets faster or not.

    Weights: int8, one scale a channel. Activations: uint8 on x86, int8 on ARM; Q/DQ format. Normalisations, softmax and
    what stands alone stay in float. Raises EdgekitError when nothing can be quantised, or the model already is.
    """

    ranges: str = option("mse", help="how the range of each value is chosen", choices=ranges.METHODS)
    samples: int = option(256, help="pictures to calibrate on", ge=1, le=4096)
    repair: str = option("auto", help="tried, and kept if it helps: auto, none, or equalize+smooth+round+correct")

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give the model in 8-bit arithmetic."""
        plain = _float_model(model)
        nodes = scope.scope(plain, graph.select(plain, bench.only, bench.exclude))
        if not nodes:
            raise EdgekitError(
                "static: no Conv, Gemm or MatMul of the model has constant float32 weights",
                "use --int8-weights to store its weights in 8 bits",
            )
        plan = repair.plan(plain, [node.name for node in nodes], _wanted(self), bench)
        made = quantize_static(plan.model, scope.scope(plan.model, {node.name for node in nodes}), plan)
        return _explained(made, model, bench)


@STEPS.add
class dynamic(Method):
    """Quantise matrix products to 8 bits, with ranges taken at every inference: no pictures needed.

    MatMul and Gemm alone: convolutions would run 4 to 25 times slower than in float. Raises EdgekitError when the model
    has none with constant weights, or is quantised already.
    """

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give the model with its matrix products in 8-bit arithmetic."""
        plain = _float_model(model)
        made = quantize_dynamic(plain, bench, graph.select(plain, bench.only, bench.exclude))
        return _explained(made, model, bench)


def _wanted(step: int8 | static) -> Wanted:
    return Wanted(step.samples, step.ranges, repair.parse(step.repair))


def _why(taken: Trial, search: Search) -> str:
    """Say in a few words what was taken, and why no 8-bit arithmetic if there is none."""
    if taken.decision["kind"] != "stored":
        return taken.name
    near = [trial for trial in search.trials if trial is not taken and search.near(trial)]
    over = any(
        trial.speed is not None and trial.speed.verdict == "faster" and not search.within(trial) for trial in near
    )
    reason = "is too far off" if not near else "is faster, but over the budget" if over else "is not faster here"
    return f"{candidates.STORED}: int8 arithmetic {reason}"


def _float_model(model: ModelProto) -> ModelProto:
    if graph.is_quantized(model):
        raise EdgekitError(
            "the model is quantised already", "start from its float32 original; one 8-bit step is enough"
        )
    plain = fold.storage(model)
    if graph.opset(plain) < simplify.LOWEST_OPSET:
        raise EdgekitError(
            f"the model's operators are of version {graph.opset(plain)}, 8-bit weights need {simplify.LOWEST_OPSET}",
            "export it again with a newer opset, or use --int8-weights",
        )
    return plain


def _explained(made: ModelProto, before: ModelProto, bench: Workbench) -> ModelProto:
    if made.ByteSize() > before.ByteSize():
        bench.note("the file grew: scales and conversions take more bytes than 8-bit weights save in so small a model")
    return made
