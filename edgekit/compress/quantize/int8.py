"""8-bit arithmetic: static (calibrated) and dynamic quantisation, and the choice of what pays on this CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress import fold, simplify
from edgekit.compress.method import STEPS, Method
from edgekit.compress.quantize import choice, ranges, scope, sensitivity, weights
from edgekit.compress.quantize.plan import Plan
from edgekit.compress.quantize.qdq import quantize_dynamic, quantize_static
from edgekit.errors import EdgekitError
from edgekit.spec import option

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgekit.compress.method import Workbench


@STEPS.add
class int8(Method):
    """Quantise to 8 bits whatever gets faster by it; store in 8 bits what does not.

    Convolutions get calibrated 8-bit arithmetic, nets of matrix products whichever of calibrated and dynamic is faster.
    A result is accepted when it is measured to be faster and its outputs are near the float ones (the same top answer
    on 95 % of the held-back pictures; for other models 20 dB). Milder choices are tried too, and in the end the weights
    are stored in 8 bits and run in float. Raises EdgekitError for a model that is quantised already.
    """

    ranges: str = option("mse", help="how the range of each value is chosen", choices=ranges.METHODS)
    samples: int = option(256, help="pictures to calibrate on", ge=1, le=4096)

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give the fastest of the candidates that is near enough, else the model stored in 8 bits."""
        plain = _float_model(model)
        chosen = graph.select(plain, bench.only, bench.exclude)
        nodes = scope.scope(plain, chosen)
        if not nodes:
            bench.decide("stored in 8 bits: no 8-bit kernel for its weights")
            return weights.int8_weights().apply(model, bench)
        contest = choice.Contest(plain, bench)
        self._compete(plain, nodes, chosen, contest, bench)
        best = contest.close()
        if best is None:
            return weights.int8_weights().apply(model, bench)
        return _explained(best, model, bench)

    def _compete(
        self, plain: ModelProto, nodes: list[NodeProto], chosen: set[str], contest: choice.Contest, bench: Workbench
    ) -> None:
        plan = Plan.make(plain, nodes, self.samples, self.ranges, bench)
        errors = weights.mean_errors(plain, chosen, bench)

        def enter(name: str, candidate: ModelProto) -> None:
            # What stays in float is stored in 8 bits; measured together, because it is shipped together.
            weights.store_int8(candidate, chosen, bench, errors)
            contest.enter(name, candidate)

        def quantized(names: set[str]) -> ModelProto:
            return quantize_static(plain, scope.scope(plain, names), plan)

        def parts() -> list[sensitivity.Part]:
            return sensitivity.measured_parts(plain, nodes, quantized, bench.feeds(sensitivity.FEEDS))

        if choice.mostly_products(plain, nodes):
            enter("dynamic int8", quantize_dynamic(plain, bench, chosen))
        for name, left_out in choice.tries(nodes, contest, parts):
            enter(name, quantized(chosen - left_out))


@STEPS.add
class static(Method):
    """Quantise to 8-bit arithmetic with calibrated ranges, whether it gets faster or not.

    Weights: int8, one scale a channel. Activations: uint8 on x86, int8 on ARM; Q/DQ format. Normalisations, softmax and
    what stands alone stay in float. Raises EdgekitError when nothing can be quantised, or the model already is.
    """

    ranges: str = option("mse", help="how the range of each value is chosen", choices=ranges.METHODS)
    samples: int = option(256, help="pictures to calibrate on", ge=1, le=4096)

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give the model in 8-bit arithmetic."""
        plain = _float_model(model)
        nodes = scope.scope(plain, graph.select(plain, bench.only, bench.exclude))
        if not nodes:
            raise EdgekitError(
                "static: no Conv, Gemm or MatMul of the model has constant float32 weights",
                "use --int8-weights to store its weights in 8 bits",
            )
        made = quantize_static(plain, nodes, Plan.make(plain, nodes, self.samples, self.ranges, bench))
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
