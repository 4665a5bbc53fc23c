"""Low rank: layers in two thinner ones, where that is faster on this CPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit import graph
from edgekit.compress.lowrank import options, splits
from edgekit.compress.lowrank.options import Maker, Step
from edgekit.compress.method import STEPS, Method
from edgekit.compress.prune.reconstruct import EPOCHS, reconstruct
from edgekit.compress.quantize.form import INT8
from edgekit.compress.search import MAX_DROP, Trial, pareto
from edgekit.errors import EdgekitError
from edgekit.spec import option

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.compress.lowrank.splits import Layer
    from edgekit.compress.method import Drift, Speed, Workbench

    Decision = Mapping[str, Any]

# A correction is kept when the outputs of the held-back pictures get nearer by more than this.
GAIN_DB = 0.2
# A hundred pictures cannot tell a point of the score. What classifiers lose of it is about this part of the noise in
# their outputs (0.2 to 0.5 on the nets tried), and their answers change several times as often.
LOST, MOVED = 0.5, 6
# A share of the latency is reached when it is missed by no more than the first; it is aimed at so often, each time so
# much further at most.
NEAR_SHARE, MOST_AIMS, MOST_MORE = 0.02, 4, 1.6
# Part of the effort with which layers are fitted together where it is only to be known how near the outputs can get.
DRAFT = 1 / 8
AUTO = "auto"
REPAIRS = (AUTO, "refit")
_NONE = "no layer is faster split in two"
_OVER = "no layer can be split within the budget"
_HINT = "put --low-rank before the steps that store or compute in fewer bits"


@STEPS.add
class low_rank(Method):
    """Split layers in two thinner ones until a share of the latency is saved, where that is faster.

    Products and 1x1 convolutions become two with few channels between them, convolutions of k x k one of k x 1 and one
    of 1 x k, or one of k x k and one of 1x1, fitted to the calibration inputs. Which layers, how, and with how many
    channels (multiples of 8) is what saves most time on this CPU for what it changes in the outputs. Layers that would
    not be faster are left, and so is the whole model when it is not measured to be faster. With a budget (--max-drop,
    --max-ms, --max-mb) it goes as far as the outputs on held-back pictures allow, and `share` is the most. With `work`
    every layer that is faster so saves that share of its own multiply-adds instead, whatever that saves. In the end all
    layers are fitted to the original's outputs together. Raises EdgekitError for a quantised model, and when there is
    no layer to split.
    """

    share: float = option(0.2, help="share of the latency to save", ge=0.01, le=0.95)
    work: float = option(0.0, help="if not 0: share of each layer's multiply-adds to save instead", ge=0, le=0.95)
    samples: int = option(512, help="pictures to calibrate on", ge=1, le=4096)
    repair: str = option(AUTO, help="refit: layer by layer alone; auto: then all layers together", choices=REPAIRS)

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give the model with layers split; in a replay, those that the recipe names."""
        if graph.is_quantized(model):
            raise EdgekitError("low-rank: the model is quantised already", _HINT)
        layers = splits.layers(model, graph.select(model, bench.only, bench.exclude))
        if not layers:
            raise EdgekitError("low-rank: the model has no float32 weights of Conv, Gemm or MatMul to split", _HINT)
        maker = self._maker(model, layers, bench)
        chosen = bench.settled("low rank")
        if chosen is None:
            if bench.form == INT8:
                bench.note("low-rank: timed in 8 bits, as the model will run after the steps that follow")
            chosen = self._chosen(maker)
        else:
            bench.decide("replayed")
        bench.settle("low rank", chosen)
        made = self._fitted(maker, chosen)
        if made.ByteSize() > model.ByteSize():
            bench.note("the file grew: names and attributes of the new nodes take more bytes than their weights save")
        return made

    def _fitted(self, maker: Maker, chosen: Decision) -> ModelProto:
        """Give the model of a decision, its layers fitted together when that brings the outputs nearer."""
        bench, made = maker.bench, maker.make(chosen)
        wanted = bool(chosen["layers"]) and bench.settled("fitted") is not False
        fitted = self._together(maker, made) if wanted else made
        if fitted is not made:
            reached = [bench.drift(maker.model, each).sqnr_db for each in (made, fitted)]
            bench.note(f"all layers fitted together: {reached[0]:.1f} -> {reached[1]:.1f} dB")
        bench.settle("fitted", fitted is not made)
        return graph.copy(fitted)

    def _together(self, maker: Maker, made: ModelProto, effort: float = 1.0) -> ModelProto:
        """Fit all layers together, if that is wanted and brings the outputs nearer."""
        if self.repair != AUTO:
            return made
        return reconstruct(maker.model, made, maker.bench, self.samples, effort * maker.bench.effort * EPOCHS)

    def _maker(self, model: ModelProto, layers: Sequence[Layer], bench: Workbench) -> Maker:
        """Give what is known of the model; another share needs nothing that is not known from the one before."""
        digest = hashlib.blake2b(model.SerializeToString(deterministic=True), digest_size=12).hexdigest()
        key = f"low rank {digest} {bench.form} {bench.only} {bench.exclude} {self.samples}"
        maker = bench.once(key, lambda: Maker(model, layers, self.samples, bench))
        maker.bench = bench
        return maker

    def _chosen(self, maker: Maker) -> Decision:
        if self.work:
            ways = options.uniform(maker, self.work)
            return _closed(maker, _corrected(maker, options.decision(ways))) if ways else _left(maker, _NONE)
        steps = maker.steps
        if not steps:
            return _left(maker, _NONE)
        budget = maker.bench.budget
        if any(value is not None for value in (budget.max_drop, budget.max_ms, budget.max_mb)):
            some = steps[: options.reaching(steps, self.share)]
            if self.repair == AUTO:
                return _drafted(maker, some, lambda made: self._together(maker, made, DRAFT))
            return _searched(maker, some)
        return _asked(maker, steps, self.share)


def _asked(maker: Maker, steps: Sequence[Step], share: float) -> Decision:
    """Go down as few steps as save the share of the latency; times of nodes say only about how many those are."""
    bench, aim = maker.bench, share
    count = options.reaching(steps, aim)
    too_few, enough = 0, len(steps) + 1
    for _ in range(0 if bench.foreign else MOST_AIMS):
        saved = 1 - 1 / bench.speed(maker.model, maker.make(_after(steps, count))).speedup
        too_few, enough = (too_few, count) if saved >= share - NEAR_SHARE else (count, enough)
        if enough - too_few <= 1 or abs(saved - share) <= NEAR_SHARE or not bench.has_time():
            break
        aim *= min(MOST_MORE, max(1 / MOST_MORE, share / max(saved, 1e-9)))
        count = min(max(options.reaching(steps, aim), too_few + 1), enough - 1)
    best = enough if enough <= len(steps) else count
    return _closed(maker, _corrected(maker, _after(steps, best)), share)


def _after(steps: Sequence[Step], count: int) -> Decision:
    return options.decision(options.taken(steps[:count]))


def _drafted(maker: Maker, steps: Sequence[Step], fit: Callable[[ModelProto], ModelProto]) -> Decision:
    """Go down as far as the budget for the outputs allows once all layers are fitted together a little."""
    trials: dict[int, Trial] = {}

    def accepted(count: int) -> bool:
        trials[count] = _trial(maker, _after(steps, count), fit)
        return _accepts(maker.bench, trials[count].drift)

    best = trials.get(options.furthest(len(steps), accepted))
    if best is None:
        return _left(maker, _OVER)
    return _closed(maker, best, None, list(trials.values()))


def _searched(maker: Maker, steps: Sequence[Step]) -> Decision:
    """Go down as far as the budget for the outputs allows: first without the correction, then with it."""
    trials: dict[int, Trial] = {}

    def accepted(count: int) -> bool:
        trials[count] = _trial(maker, options.decision(options.taken(steps[:count]), refitted=count > plain))
        return _accepts(maker.bench, trials[count].drift)

    plain = len(steps)
    plain = options.furthest(len(steps), accepted)
    best = trials.get(plain)
    further = options.furthest(len(steps), accepted, plain)
    tried = list(trials.values())
    if further > plain:
        return _closed(maker, trials[further], None, tried)
    if best is None:
        return _left(maker, _OVER)
    return _closed(maker, _corrected(maker, best.decision), None, tried)


def _accepts(bench: Workbench, drift: Drift) -> bool:
    """Tell whether outputs are near enough, and not so by the luck of a few pictures."""
    if drift.agreement is None or not bench.budget.accepts(drift):
        return bench.budget.accepts(drift)
    limit = (MAX_DROP if bench.budget.max_drop is None else bench.budget.max_drop) + 1e-9
    noise = 10 ** (-drift.sqnr_db / 10)
    return LOST * noise <= limit and 1 - drift.agreement <= MOVED * limit


def _corrected(maker: Maker, chosen: Decision) -> Trial:
    """Give the trial of a decision, with the correction when the outputs are nearer with it."""
    plain, corrected = (_trial(maker, each) for each in (chosen, {**chosen, "refit": True}))
    reached = [trial.drift.sqnr_db for trial in (plain, corrected)]
    kept = reached[1] > reached[0] + GAIN_DB
    word = "kept" if kept else "left out"
    maker.bench.note(f"sequential correction: {reached[0]:.1f} -> {reached[1]:.1f} dB, {word}")
    return corrected if kept else plain


def _trial(maker: Maker, chosen: Decision, fit: Callable[[ModelProto], ModelProto] | None = None) -> Trial:
    made = maker.make(chosen)
    made = made if fit is None else fit(made)
    return Trial(_named(maker, chosen), chosen, maker.bench.drift(maker.model, made), made.ByteSize())


def _named(maker: Maker, chosen: Decision) -> str:
    ways = {name: (str(way), int(rank)) for name, (way, rank) in chosen["layers"].items()}
    corrected = ", corrected" if chosen["refit"] else ""
    saved = options.saved(maker.layers, ways)
    return f"low rank in {len(ways)} of {len(maker.layers)} layers ({saved:.0%} of their work saved{corrected})"


def _closed(maker: Maker, best: Trial, share: float | None = None, tried: Sequence[Trial] = ()) -> Decision:
    """Time the best trial, take it when it is faster, and leave the table of all for the report."""
    bench = maker.bench
    speed = None if bench.foreign else bench.speed(maker.model, maker.make(best.decision))
    timed = replace(best, speed=speed)
    faster = speed is None or speed.verdict == "faster"
    shown = [*(trial for trial in tried if trial.name != best.name), timed]
    front, near = pareto(shown), bench.budget.accepts
    bench.searched([(trial, near(trial.drift), trial in front, trial is timed and faster) for trial in shown])
    if not faster:
        return _left(maker, f"the whole is not faster split ({_interval(speed)})")
    bench.decide(timed.name)
    bench.note(f"{timed.name}: outputs at {timed.drift.sqnr_db:.1f} dB{_lost(timed)} on the held-back pictures")
    if speed is None:
        bench.note("chosen by multiply-adds alone: this machine cannot time what is for another kind of CPU")
    elif share is not None and (saved := 1 - 1 / speed.speedup) < share - NEAR_SHARE:
        bench.note(f"low rank saves {saved:.0%} of the latency, not {share:.0%}")
    return timed.decision


def _interval(speed: Speed | None) -> str:
    return "" if speed is None else f"x{speed.speedup:.2f}, {speed.low:.2f}..{speed.high:.2f}"


def _lost(trial: Trial) -> str:
    return "" if trial.drift.drop is None else f", {100 * trial.drift.drop:.1f} points of {trial.drift.metric} lost"


def _left(maker: Maker, reason: str) -> Decision:
    maker.bench.decide(f"no low rank: {reason}")
    return options.decision({})
