"""The traps of 8-bit quantisation, one small graph each: `static` must come out whole, near and fused.

Nearness is that of the variation over held-back inputs (what all outputs have in common tells nothing of an input), as
the signal to noise ratio of each output by itself. Fusion is what onnxruntime runs once it has rewritten the graph.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest

import nets
from conftest import picture, save, tree_digest
from edgekit import graph
from edgekit.compress.method import STEPS
from edgekit.compress.simplify import same_outputs, simplify
from edgekit.errors import EdgekitError
from edgekit.measure.nodes import census
from edgekit.session import open_session, run

CALIBRATE, HELD_BACK = 32, 12


@dataclass
class Trap:
    """A graph, and what must become of it.

    floor: dB of every output. runs: how many nodes there are of these 8-bit operators. conversions: of values to and
    from 8 bits, at most; more tell of a broken chain. floats: the nodes that compute in float for want of a kernel.
    """

    build: object
    floor: float
    runs: dict
    conversions: int = 1
    floats: dict = field(default_factory=dict)
    ragged: bool = False


def given(model, count, seed, ragged=False):
    """Give inputs with offsets and contrasts of their own, as pictures have; open sides vary where they may."""
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        sides = {"N": (4 if number < count - 1 else 3) if ragged else 1, "H": 8 + 4 * (number % 3), "W": 16}
        feed = {}
        for entry in graph.inputs(model):
            shape = [side if isinstance(side, int) else sides[side] for side in entry.shape]
            # One offset a channel (whichever axis has them), one contrast an input.
            small = [side if side <= 4 or len(shape) < 3 else 1 for side in shape]
            values = rng.uniform(0.3, 1) * rng.standard_normal(shape) + rng.standard_normal(small)
            whole = np.issubdtype(entry.dtype, np.integer)
            feed[entry.name] = rng.integers(0, 50, shape, entry.dtype) if whole else values.astype(entry.dtype)
        yield feed


class Fed(nets.Bench):
    """A Workbench that calibrates on such inputs."""

    ragged = False

    def feeds(self, samples):
        return given(self.model, min(samples, CALIBRATE), 0, self.ragged)


def simple(model):
    probe = list(given(model, 2, 7))
    return simplify(model, lambda a, b: same_outputs(a, b, probe))[0]


def nearness(before, after):
    """Give the dB of each output over held-back inputs: its variation against the difference."""
    old, new = (open_session(model) for model in (before, after))
    answers = [[run(session, feed) for session in (old, new)] for feed in given(before, HELD_BACK, 1)]
    found = []
    for position in range(len(answers[0][0])):
        pairs = [[one[position].astype(np.float64) for one in answer] for answer in answers]
        assert all(np.isfinite(y).all() for x, y in pairs if np.isfinite(x).all())
        same_shape = len({x.shape for x, _ in pairs}) == 1
        mean = np.mean([x for x, _ in pairs], axis=0) if same_shape else np.mean([x.mean() for x, _ in pairs])
        signal = sum(float(((x - mean) ** 2).sum()) for x, _ in pairs)
        noise = sum(float(((x - y) ** 2).sum()) for x, y in pairs)
        found.append(10 * np.log10(signal / max(noise, 1e-300)))
    return found


# A classifier's end: pooled and multiplied in 8 bits, its scores in float at once.
END = {"QLinearGlobalAveragePool": 1, "QGemm": 1}
RESIDUAL = {"QLinearConv": 5, "QLinearAdd": 1, **END}
SEPARABLE = {"QLinearConv": 7, "QLinearAdd": 2, **END}
TRAPS = {
    # Values with several readers: signed activations would lose every fusion here.
    "residual add": Trap(nets.residual, 30, RESIDUAL),
    "silu": Trap(nets.sigmoid_chain, 30, {"QLinearConv": 3, "QLinearSigmoid": 3, "QLinearMul": 3, **END}),
    # It becomes a HardSwish, which takes less between two conversions than a QLinearMul after them.
    "x times hardsigmoid": Trap(
        lambda: nets.sigmoid_chain("hardsigmoid"), 30, {"QLinearConv": 3, "HardSigmoid": 3, **END}, 7
    ),
    "hardswish": Trap(lambda: nets.sigmoid_chain("hardswish"), 30, {"QLinearConv": 3, **END}, 7),
    "squeeze and excite": Trap(
        nets.squeeze_excite, 28, {"QLinearConv": 4, "QLinearMul": 1, "QLinearGlobalAveragePool": 2, "QGemm": 1}, 3
    ),
    "silu and squeeze, opset 11": Trap(
        nets.swish, 23, {"QLinearConv": 5, "QLinearSigmoid": 2, "QLinearMul": 2, "QLinearConcat": 1}, 2
    ),
    "relu with two readers": Trap(nets.two_readers, 25, {"QLinearConv": 4, "QLinearAdd": 2}, 2),
    "split and shuffle": Trap(nets.shuffled, 27, {"QLinearConv": 5, "QLinearConcat": 1}, 2),
    "dense blocks": Trap(nets.dense, 25, {"QLinearConv": 9, "QLinearConcat": 3}, 2),
    "norms before convolutions": Trap(nets.preactivation, 24, {"QLinearConv": 6, **END}),
    "values read twice": Trap(
        nets.read_twice, 20, {"QLinearConv": 4, "QLinearAdd": 2, "QLinearMul": 1, "QLinearConcat": 1}, 2
    ),
    # Activations.
    "depthwise relu6": Trap(nets.inverted_residual, 21, SEPARABLE),
    "depthwise relu6, opset 11": Trap(lambda: nets.inverted_residual(11), 21, SEPARABLE),
    "depthwise relu6, opset 9": Trap(lambda: nets.inverted_residual(9), 21, SEPARABLE),
    "leaky relu": Trap(nets.leaky, 14, {"QLinearConv": 3, "QLinearLeakyRelu": 3, **END}),
    "prelu": Trap(lambda: nets.leaky("PRelu"), 22, {"QLinearConv": 3, "QGemm": 1}, 7),
    # Ranges.
    "boxes and scores": Trap(nets.boxes_and_scores, 25, {"QLinearConv": 4}, 3),
    "weights all zero": Trap(nets.dead_layer, 13, {"QLinearConv": 4, "QLinearAdd": 1}, 2),
    "channels next to zero": Trap(nets.faint_channels, 18, {"QLinearConv": 3}, 2),
    "NaN and all-zero activations": Trap(nets.broken_values, 32, {"QLinearConv": 3}, 8),
    "activations of a million": Trap(nets.huge_values, 30, {"QLinearConv": 3, **END}),
    # Operators without an 8-bit kernel between those that have one.
    "conv transpose": Trap(nets.decoder, 19, {"QLinearConv": 3}, 7, {"ConvTranspose": 1}),
    "conv transpose in groups": Trap(nets.upsampler, 26, {"QLinearConv": 2}, 4, {"ConvTranspose": 2}),
    "attention": Trap(nets.attention, 33, {"MatMulIntegerToFloat": 3}, 2, {"FusedMatMul": 1, "MatMul": 2}),
    "transformer block": Trap(
        nets.transformer, 19, {"MatMulIntegerToFloat": 6, "QGemm": 1}, 5, {"FusedMatMul": 1, "MatMul": 1}
    ),
    "gru": Trap(nets.gated_recurrent, 22, {"QLinearConv": 1, "QGemm": 1}, 3, {"GRU": 1}),
    "lstm": Trap(nets.recurrent, 34, {"QGemm": 1}, 1, {"LSTM": 1}),
    "weights on the left": Trap(nets.left_weights, 23, {"QLinearConv": 1, "QGemm": 1}, 3, {"MatMul": 1}),
    "slices, depth to space": Trap(nets.rearranged, 24, {"QLinearConv": 4}, 6),
    # Opsets and how weights are kept.
    "residual add, opset 9": Trap(lambda: nets.residual(9), 30, RESIDUAL),
    "upsample, opset 9": Trap(lambda: nets.enlarged(9), 24, {"QLinearConv": 2}, 2),
    "resize, opset 10": Trap(lambda: nets.enlarged(10), 24, {"QLinearConv": 2}, 2),
    "resize, opset 11": Trap(lambda: nets.enlarged(11), 24, {"QLinearConv": 2}, 2),
    "weights in Constant nodes": Trap(lambda: nets.weights_in_nodes(nets.residual()), 30, RESIDUAL),
    "weights listed as inputs": Trap(lambda: nets.residual(weights_as_inputs=True), 30, RESIDUAL),
    "tied weights": Trap(nets.tied, 11, {"QLinearConv": 3, "QGemm": 2}, 3),
    "no bias": Trap(nets.no_bias, 20, {"QLinearConv": 3}, 2),
    "gemm with beta": Trap(nets.perceptron, 27, {"QGemm": 2}),
    "gemm with beta, plain weights": Trap(lambda: nets.perceptron(0), 27, {"QGemm": 2}),
    "convolutions over one axis": Trap(nets.sound, 22, {"QLinearConv": 3, **END}),
    "tied weights, one transposed": Trap(nets.tied_transposed, 30, {"QGemm": 2}),
    # Operators written as others.
    "dense layers": Trap(nets.dense_layers, 20, {"QLinearConv": 2, "QLinearGlobalAveragePool": 1, "QGemm": 3}),
    "functions of its own": Trap(nets.own_functions, 26, {"QLinearConv": 3}, 2),
    "norm as product and sum": Trap(
        lambda: nets.written_out("norm"), 24, {"QLinearConv": 4, "QLinearMul": 0, "QLinearAdd": 0}, 2
    ),
    "relu6 as min and max": Trap(lambda: nets.written_out("relu6"), 25, {"QLinearConv": 4, "Min": 0, "Max": 0}, 2),
    "norm after relu": Trap(
        lambda: nets.written_out("relu and norm"), 11, {"QLinearConv": 7, "BatchNormalization": 0}, 2
    ),
    "channels last in between": Trap(lambda: nets.written_out("channels last"), 24, {"QLinearConv": 4}, 2),
    "pads and means": Trap(nets.padded, 24, {"QLinearConv": 2, "Pad": 0, **END}),
    # Names.
    "nodes without names": Trap(lambda: nets.nameless(nets.residual()), 30, RESIDUAL),
    "spaces and slashes in names": Trap(lambda: nets.renamed(nets.residual()), 30, RESIDUAL),
    "odd names, two inputs": Trap(nets.awkward, 29, {"QLinearConv": 3, "QLinearAdd": 1}, 3),
    # Inputs and outputs.
    "two inputs": Trap(nets.two_inputs, 26, {"QLinearConv": 2, "QLinearConcat": 1, "QGemm": 2}, 2),
    "nhwc with transposes": Trap(nets.channels_last, 19, {"QLinearConv": 3}, 2),
    "one-element outputs": Trap(nets.single_score, 33, {"QLinearConv": 2, **END}),
    "half precision input": Trap(nets.halves, 15, {"QLinearConv": 2}, 2),
    "any size": Trap(nets.any_size, 20, {"QLinearConv": 3}, 2),
    "ragged last batch": Trap(nets.residual, 27, RESIDUAL, ragged=True),
    "fixed batch of four": Trap(nets.fixed_batch, 26, {"QLinearConv": 2, "QGemm": 1}),
    "a shape that is computed": Trap(nets.computed_shape, 26, {"QLinearConv": 2, "QGemm": 1}),
    "numbers of words": Trap(nets.words, 22, {"QLinearMatMul": 1, "MatMulIntegerToFloat": 1}),
    "a loop": Trap(nets.looping, 26, {"QLinearConv": 2}, 4),
    "if branches": Trap(nets.branching, 24, {"QLinearConv": 2}, 7),
}


@pytest.mark.parametrize("name", TRAPS)
def test_static(name):
    trap = TRAPS[name]
    model = trap.build()
    before = simple(model)
    bench = Fed(before)
    bench.ragged = trap.ragged
    made = STEPS.parse("static").apply(before, bench)
    onnx.checker.check_model(made)
    assert [i.name for i in graph.inputs(made)] == [i.name for i in graph.inputs(model)]
    assert graph.output_names(made) == graph.output_names(model)
    assert min(nearness(model, made)) > trap.floor
    found = census(made)
    assert {kind: found.types.get(kind, 0) for kind in trap.runs} == trap.runs, found.types
    assert {kind: len(names) for kind, names in found.float_names.items()} == trap.floats, found.types
    conversions = sum(found.types.get(kind, 0) for kind in ("QuantizeLinear", "DequantizeLinear"))
    assert conversions <= trap.conversions, found.types


def test_a_tied_weight_keeps_the_integers_of_one_axis():
    """Where pairs of products saturate, the plan has integers for the name, along the axis of one reader alone."""
    model = nets.tied_transposed()
    before = simple(model)
    made = STEPS.parse("static").apply(before, Fed(before, int8="avx2"))
    assert min(nearness(model, made)) > 30
    stored = [tensor for tensor in made.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert sum(list(tensor.dims) == [16, 16] for tensor in stored) == 2


def test_scores_keep_their_steps_beside_boxes():
    """One range over both would leave two steps to the scores; the boxes' own noise hides that in the whole."""
    model = nets.boxes_and_scores()
    before = simple(model)
    made = STEPS.parse("static").apply(before, Fed(before))
    old, new = (open_session(m) for m in (model, made))
    pairs = [[run(session, feed)[0][..., 4:] for session in (old, new)] for feed in given(model, HELD_BACK, 1)]
    assert max(np.abs(x - y).max() for x, y in pairs) < 0.05


def test_half_precision_weights_are_refused_with_a_way_out():
    model = nets.half_weights()
    with pytest.raises(EdgekitError, match="float32 weights") as caught:
        STEPS.parse("static").apply(simple(model), Fed(model))
    assert "--int8-weights" in caught.value.hint


@pytest.mark.parametrize("step", ["static", "int8", "dynamic"])
def test_what_is_quantised_already_is_refused(step):
    before = simple(nets.residual())
    made = STEPS.parse("static").apply(before, Fed(before))
    with pytest.raises(EdgekitError, match="quantised already"):
        STEPS.parse(step).apply(made, Fed(made))


# ---- files and folders

QUICK = ("--static", "--seconds", "0.5", "--no-config", "-q")


@pytest.fixture
def folder(tmp_path):
    """A model whose weights lie in a file beside it, in a folder where nothing may be written."""
    root = tmp_path / "models"
    root.mkdir()
    onnx.save(nets.residual(), root / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    yield root
    root.chmod(0o755)


def test_a_read_only_folder_with_external_weights(edgekit, folder, tmp_path):
    folder.chmod(0o555)
    before, touched = tree_digest(folder), folder.stat().st_mtime_ns
    done = edgekit("compress", folder / "m.onnx", *QUICK, "--out", tmp_path / "o.onnx")
    assert done.code == 0, done.err
    # A file that was made and removed again would show in the folder's time: root may write where others may not.
    assert (tree_digest(folder), folder.stat().st_mtime_ns) == (before, touched)
    made = graph.load(tmp_path / "o.onnx")
    assert census(made).float == 0 and nets.sqnr_db(nets.residual(), made) > 30


def test_two_runs_at_once_in_one_folder(folder):
    command = [sys.executable, "-m", "edgekit", "compress", "m.onnx", *QUICK, "--out"]
    runs = [
        subprocess.Popen([*command, f"{n}.onnx"], cwd=folder, stderr=subprocess.PIPE, env=os.environ) for n in (1, 2)
    ]
    for process in runs:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error.decode()
    assert sorted(path.name for path in folder.iterdir()) == ["1.onnx", "2.onnx", "m.data", "m.onnx"]
    assert (folder / "1.onnx").read_bytes() == (folder / "2.onnx").read_bytes()


def test_pictures_that_do_not_fill_a_fixed_batch(edgekit, tmp_path):
    onnx.save(nets.fixed_batch(), tmp_path / "m.onnx")
    for number in range(11):
        save(tmp_path / "imgs" / f"{number}.png", picture(number, 8, 8))
    done = edgekit("compress", "m.onnx", *QUICK, "--calib", "imgs", "--preset", "signed", "--out", "o.onnx")
    assert done.code == 0, done.err
    assert census(graph.load(tmp_path / "o.onnx")).float == 0


def test_the_command_refuses_what_is_quantised_already(edgekit, tmp_path):
    before = simple(nets.residual())
    onnx.save(STEPS.parse("static").apply(before, Fed(before)), tmp_path / "q.onnx")
    done = edgekit("compress", "q.onnx", *QUICK)
    assert (done.code, "quantised already" in done.err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.onnx"]
