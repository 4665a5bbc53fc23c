"""The profile of nodes, multiply-accumulates, bytes by layer, and invented inputs."""

import itertools

import numpy as np
import pytest

from edgekit import graph
from edgekit.errors import EdgekitError
from edgekit.measure import anatomy, invented, nodes, profile, work
from nets import FLOAT, NETS, Net, feeds, residual, transformer


def only(model, kind):
    return next(node for node in model.graph.node if node.op_type == kind)


@pytest.mark.parametrize("name", list(NETS))
def test_every_node_that_runs_is_timed_once_in_the_same_order(name):
    model = NETS[name]()
    given = list(feeds(model, 2))
    first, again = (profile.profile(model, given, seconds=0.05) for _ in range(2))
    running = nodes.as_run(model)
    assert {time.name for time in first} <= {node.name for node in running.graph.node}
    assert [(time.name, time.type) for time in first] == [(time.name, time.type) for time in again]
    assert len({time.name for time in first}) == len(first)
    assert sum(time.share for time in first) == pytest.approx(1)
    assert all(time.ms >= 0 for time in first)
    assert {time.name: time.type for time in first} == {
        node.name: node.op_type for node in running.graph.node if node.name in {time.name for time in first}
    }


def test_the_slow_node_is_found():
    net = Net()
    x = net.add("Relu", net.add("MatMul", "input", net.weight(256, 256)))
    net.add("MatMul", x, net.weight(256, 4), outputs=["y"], name="small")
    model = net.model({"input": [512, 256]}, {"y": [512, 4]})
    times = profile.profile(model, list(feeds(model, 1)), seconds=0.3)
    assert max(times, key=lambda time: time.ms).name == "matmul0"
    assert next(time for time in times if time.name == "matmul0").inputs[0] == ("float", (512, 256))


def test_without_inputs_nothing_is_timed():
    with pytest.raises(EdgekitError, match="no inputs"):
        profile.profile(residual(), [])


def counted(model):
    shapes = work.value_shapes(model, next(feeds(model, 1)))
    return [work.macs(node, shapes) for node in model.graph.node], shapes


def naive_conv(x, w, y, group):
    """Walk over every output and every weight that it sees."""
    count = 0
    for _ in itertools.product(*map(range, y)):
        for _ in itertools.product(range(x[1] // group), *map(range, w[2:])):
            count += 1
    return count


@pytest.mark.parametrize(("group", "stride"), [(1, 1), (2, 1), (4, 2)])
def test_macs_of_a_convolution_are_those_of_a_walk_over_it(group, stride):
    net = Net()
    net.conv("input", 4, 8, stride=stride, group=group, relu=False)
    net.nodes[-1].output[0] = "y"
    model = net.model({"input": [1, 4, 6, 5]}, {"y": [1, 8, None, None]})
    found, shapes = counted(model)
    assert found == [naive_conv(shapes["input"], shapes["w0"], shapes["y"], group)]


@pytest.mark.parametrize("group", [1, 2])
def test_macs_of_a_transposed_convolution(group):
    net = Net()
    net.add("ConvTranspose", "input", net.weight(4, 3, 2, 2), outputs=["y"], group=group, strides=[2, 2])
    model = net.model({"input": [1, 4, 3, 5]}, {"y": [1, 3 * group, 6, 10]})
    # Every value of the input meets every weight of its channel.
    assert counted(model)[0] == [sum(1 for _ in itertools.product(range(4 * 3 * 5), range(3 * 2 * 2)))]


@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_macs_of_gemm(trans_a, trans_b):
    net = Net()
    net.add(
        "Gemm", "input", net.weight(*((5, 7) if trans_b else (7, 5))), outputs=["y"], transA=trans_a, transB=trans_b
    )
    model = net.model({"input": [7, 3] if trans_a else [3, 7]}, {"y": [3, 5]})
    assert counted(model)[0] == [3 * 5 * 7]


@pytest.mark.parametrize(
    ("a", "b", "y", "expected"),
    [
        ([2, 3, 4, 5], [2, 3, 5, 6], [2, 3, 4, 6], 2 * 3 * 4 * 5 * 6),
        ([2, 1, 4, 5], [3, 5, 6], [2, 3, 4, 6], 2 * 3 * 4 * 5 * 6),
        ([5], [5, 6], [6], 30),
        ([4, 5], [5], [4], 20),
    ],
)
def test_macs_of_matmul_count_the_batch_and_broadcasting(a, b, y, expected):
    net = Net()
    net.add("MatMul", "a", "b", outputs=["y"])
    assert counted(net.model({"a": a, "b": b}, {"y": y}))[0] == [expected]


def test_macs_of_recurrent_layers():
    model = NETS["recurrent"]()
    steps, inputs, hidden = 5, 8, 16
    assert counted(model)[0][0] == steps * 4 * hidden * (inputs + hidden)
    net = Net()
    net.add("GRU", "input", net.weight(2, 48, 8), net.weight(2, 48, 16), hidden_size=16, direction="bidirectional")
    net.nodes[-1].output[0] = "y"
    model = net.model({"input": [5, 3, 8]}, {"y": [5, 2, 3, 16]})
    assert counted(model)[0] == [5 * 3 * 2 * 3 * hidden * (inputs + hidden)]


def test_what_multiplies_no_matrices_counts_nothing_and_unknown_shapes_are_unknown():
    model = NETS["weightless"]()
    assert counted(model)[0] == [0, 0, 0]
    assert work.macs(only(residual(), "Conv"), {}) is None


def test_bytes_go_to_the_layer_that_reads_them_also_through_constant_nodes():
    net = Net()
    stored = net.constant(np.zeros((8, 3, 3, 3), np.int8))
    weight = net.add("Mul", net.add("Cast", stored, to=FLOAT), net.constant(np.float32([0.5])))
    net.add("Conv", "input", weight, outputs=["y"])
    model = net.model({"input": [1, 3, 8, 8]}, {"y": [1, 8, 6, 6]})
    assert work.layer_bytes(model) == [0, 0, 8 * 27 + 4]
    assert work.parameters(model) == 8 * 27 + 1
    assert sum(work.layer_bytes(NETS["awkward"]())) == 4 * 608  # the weight in a Constant node too


def test_parameters_are_numbers_not_shapes():
    model = NETS["upsampler"]()
    weights = [tensor for tensor in model.graph.initializer if tensor.dims]
    assert work.parameters(model) == sum(int(np.prod(tensor.dims)) for tensor in weights)


@pytest.mark.parametrize("name", list(NETS))
def test_fused_nodes_go_back_to_nodes_of_the_file(name):
    model = NETS[name]()
    graph.unique_names(model)
    running = nodes.as_run(model)
    owners = anatomy.owner_names(model, running)
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert set(owners.values()) <= set(kinds)
    work_nodes = [
        node for node in running.graph.node if node.op_type in ("Conv", "FusedConv", "MatMul", "Gemm", "LSTM")
    ]
    for node in work_nodes:
        assert kinds[owners[node.name]] == node.op_type.removeprefix("Fused")


def test_products_fused_with_their_biases_go_back_to_the_products():
    model = transformer()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph.unique_names(model)
    running = nodes.as_run(model)
    owners = anatomy.owner_names(model, running)
    kinds = {node.name: node.op_type for node in model.graph.node}
    fused = [owners[node.name] for node in running.graph.node if node.op_type == "Gemm"]
    assert len(set(fused)) == 7 and sorted(kinds[name] for name in fused) == ["Gemm", *["MatMul"] * 6]


@pytest.mark.parametrize("name", [*NETS])
def test_invented_inputs_run_and_are_the_same_twice(name):
    model = NETS[name]()
    stream, said = invented.invent(model)
    once, twice = list(stream), list(stream)
    assert len(once) == invented.COUNT
    for a, b in zip(once, twice, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a)
    assert said.startswith("random numbers (")


def test_invented_inputs_take_the_size_that_runs_and_the_one_given():
    net = Net()
    x = net.add("Reshape", "input", net.constant(np.int64([1, 3 * 32 * 32])))
    net.add("Relu", x, outputs=["y"])
    model = net.model({"input": ["N", 3, "H", "W"]}, {"y": [1, 3072]})
    stream, said = invented.invent(model)
    assert next(iter(stream))["input"].shape == (1, 3, 32, 32)
    assert "by trial" in said
    with pytest.raises(EdgekitError) as error:
        invented.invent(model, size="20")
    assert "--feeds" in error.value.hint
    stream, _ = invented.invent(NETS["residual"](), size="16")
    assert next(iter(stream))["input"].shape == (1, 3, 16, 16)


def test_invented_inputs_fit_their_types():
    from onnx import TensorProto

    net = Net()
    x = net.add("Gather", net.weight(2, 4), "ids", axis=0)
    net.add("Where", "mask", x, net.constant(np.float32(0)), outputs=["y"])
    model = net.model(
        {"ids": (TensorProto.INT64, ["batch", "length"]), "mask": (TensorProto.BOOL, [1, 1, 1])},
        {"y": ["batch", "length", 4]},
    )
    feed = next(iter(invented.invent(model)[0]))
    assert feed["ids"].dtype == np.int64
    assert set(np.unique(feed["ids"])) <= {0, 1}
    assert feed["mask"].dtype == bool


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet8_cifar10", 12.5), ("mobilenetv1_025_vww96", 7.5), ("resnet20_cifar10", 40.6)]
)
def test_macs_of_real_nets_are_those_that_are_published(assets, name, millions):
    model = graph.load(assets / "models" / f"{name}.onnx")
    found, _ = counted(model)
    assert sum(found) / 1e6 == pytest.approx(millions, rel=0.005)
