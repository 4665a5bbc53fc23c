"""Toy graphs for structured pruning: one rule each, mixtures of rules, what has to stay whole, and random nets."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

import nets
from nets import FLOAT, Net


@dataclass(frozen=True)
class Toy:
    """A graph, how many groups of it can go at the least, and a word of the reason for each that cannot.

    `removable`: how many of the groups may go as a whole, at the least. `runs`: whether onnxruntime knows all of it.
    """

    build: Callable[[], onnx.ModelProto]
    groups: int
    frozen: tuple[str, ...] = ()
    removable: int = 0
    runs: bool = True


class Zoo(Net):
    """A Net that writes each operator as its opset has it."""

    def __init__(self, seed=0, opset=17):
        super().__init__(seed)
        self.opset = opset

    def ints(self, *values):
        return self.constant(np.int64(values))

    def floats(self, *values):
        return self.constant(np.float32(values))

    def vector(self, size, low=-1.0, high=1.0):
        return self.constant(self.rng.uniform(low, high, size).astype(np.float32))

    def settings(self, since, **attributes):
        """Give constants and attributes: from opset `since` on, settings are inputs."""
        if self.opset < since:
            return [], attributes
        return [self.constant(np.asarray(value)) for value in attributes.values()], {}

    def clip(self, x, low, high):
        inputs, attributes = self.settings(11, min=np.float32(low), max=np.float32(high))
        return self.add("Clip", x, *inputs, **{name: float(value) for name, value in attributes.items()})

    def mean(self, x, axes, keepdims=1, kind="ReduceMean"):
        inputs, attributes = self.settings(18 if kind != "ReduceSum" else 13, axes=np.int64(axes))
        attributes = {name: list(map(int, value)) for name, value in attributes.items()}
        return self.add(kind, x, *inputs, keepdims=keepdims, **attributes)

    def squeeze(self, x, *axes, kind="Squeeze"):
        inputs, attributes = self.settings(13, axes=np.int64(axes))
        return self.add(kind, x, *inputs, **{name: list(map(int, value)) for name, value in attributes.items()})

    def unsqueeze(self, x, *axes):
        return self.squeeze(x, *axes, kind="Unsqueeze")

    def split(self, x, *sizes, axis=1):
        inputs, attributes = self.settings(13, split=np.int64(sizes))
        attributes = {name: list(map(int, value)) for name, value in attributes.items()}
        names = [f"part{len(self.nodes)}_{number}" for number in range(len(sizes))]
        self.add("Split", x, *inputs, outputs=names, axis=axis, **attributes)
        return names

    def halves(self, x, count=2, axis=1):
        """Split into equal parts without saying their size."""
        names = [f"half{len(self.nodes)}_{number}" for number in range(count)]
        more = {"num_outputs": count} if self.opset >= 18 else {}
        self.add("Split", x, outputs=names, axis=axis, **more)
        return names

    def slice(self, x, start, end, axis=1, step=1):
        if self.opset < 10:
            return self.add("Slice", x, starts=[start], ends=[end], axes=[axis])
        return self.add("Slice", x, self.ints(start), self.ints(end), self.ints(axis), self.ints(step))

    def pad(self, x, *pads, mode="constant", value=0.0):
        if self.opset < 11:
            return self.add("Pad", x, pads=list(pads), mode=mode, value=value)
        return self.add("Pad", x, self.ints(*pads), self.constant(np.float32(value)), mode=mode)

    def enlarge(self, x, factor=2.0, mode="nearest"):
        scales = self.floats(1, 1, factor, factor)
        if self.opset < 11:
            return self.add("Upsample" if self.opset < 10 else "Resize", x, scales, mode=mode)
        regions = "" if self.opset >= 13 else self.floats()
        return self.add("Resize", x, regions, scales, mode=mode)

    def norm(self, x, channels):
        return nets.norm(self, x, channels)

    def layer_norm(self, x, channels):
        return self.add("LayerNormalization", x, self.vector(channels, 0.5, 1.5), self.vector(channels), axis=-1)

    def linear(self, x, rows, columns):
        return self.add("Add", self.add("MatMul", x, self.weight(rows, columns)), self.vector(columns))

    def gemm(self, x, rows, columns, **more):
        return self.add("Gemm", x, self.weight(columns, rows), self.vector(columns), transB=1, **more)

    def reshape(self, x, *shape):
        return self.add("Reshape", x, self.ints(*shape))

    def transpose(self, x, *perm):
        return self.add("Transpose", x, perm=list(perm))

    def pooled(self, x):
        return self.add("Flatten", self.add("GlobalAveragePool", x))

    def gelu(self, x):
        erf = self.add("Erf", self.add("Div", x, self.constant(np.float32(2**0.5))))
        y = self.add("Mul", x, self.add("Add", erf, self.constant(np.float32(1))))
        return self.add("Mul", y, self.constant(np.float32(0.5)))

    def gate(self, x, channels, inner=3):
        """Squeeze and excite."""
        y = self.conv(self.conv(self.add("GlobalAveragePool", x), channels, inner, k=1), inner, channels, 1, relu=False)
        return self.add("Mul", x, self.add("Sigmoid", y))

    def shuffle(self, x, channels, parts, side, batch=1):
        x = self.reshape(x, batch, parts, channels // parts, side, side)
        return self.reshape(self.transpose(x, 0, 2, 1, 3, 4), batch, channels, side, side)

    def ends(self, name, *values):
        """Call these values by the name of outputs."""
        for number, value in enumerate(values):
            shown = name if len(values) == 1 else f"{name}{number}"
            for node in self.nodes:
                node.output[:] = [shown if one == value else one for one in node.output]
                node.input[:] = [shown if one == value else one for one in node.input]


def picture(body, seed=0, opset=17, batch=1, channels=3, side=8, out=4, head="conv"):
    """Make a model of one picture; `body(net, x)` gives a value and its channels, which `head` reads."""
    net = Zoo(seed, opset)
    x, width = body(net, "input")
    if head == "conv":
        y = net.conv(x, width, out, k=1, relu=False)
    elif head == "gemm":
        y = net.gemm(net.pooled(x), width, out)
    else:
        y = x
    net.ends("out", y)
    return finish(net, {"input": [batch, channels, side, side]}, ["out"])


def finish(net, inputs, outputs, ir=8):
    """Give the model, the shapes of its outputs inferred where they are not given."""
    given = outputs if isinstance(outputs, dict) else dict.fromkeys(outputs)
    shown = [onnx.ValueInfoProto(name=name) for name in given]
    fed = [helper.make_tensor_value_info(name, *typed(what)) for name, what in inputs.items()]
    graph = helper.make_graph(net.nodes, "net", fed, shown, net.weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", net.opset)], ir_version=ir)
    known = onnx.shape_inference.infer_shapes(made, data_prop=True).graph
    shapes = {value.name: value for value in known.output}
    for value in made.graph.output:
        value.CopyFrom(shapes[value.name])
        if not value.type.tensor_type.elem_type:
            value.CopyFrom(helper.make_tensor_value_info(value.name, FLOAT, given[value.name]))
    onnx.checker.check_model(made)
    return made


def typed(what):
    return what if isinstance(what, tuple) else (FLOAT, what)


# ---- bodies, one rule each: a value and its channels, from a picture of 3 channels and 8x8


def chain(net, x):
    return net.conv(net.conv(x, 3, 6), 6, 8), 8


def chain_norm(net, x):
    x = net.add("Relu", net.norm(net.conv(x, 3, 6, bias=False, relu=False), 6))
    return net.norm(net.conv(x, 6, 8, relu=False), 8), 8


def residual(net, x):
    x = net.conv(x, 3, 6)
    y = net.conv(net.conv(x, 6, 8), 8, 6, relu=False)
    return net.add("Relu", net.add("Add", x, y)), 6


def projected(net, x):
    """A residual block with a convolution on its short way."""
    x = net.conv(x, 3, 6)
    y = net.norm(net.conv(net.conv(x, 6, 6, stride=2), 6, 8, relu=False), 8)
    return net.add("Relu", net.add("Add", net.norm(net.conv(x, 6, 8, k=1, stride=2, relu=False), 8), y)), 8


def padded_shortcut(net, x):
    """The short way as the first residual nets have it: every other pixel, and channels of zeros."""
    x = net.conv(x, 3, 4)
    y = net.conv(net.conv(x, 4, 4, stride=2), 4, 8, relu=False)
    short = net.slice(net.slice(x, 0, 100, axis=2, step=2), 0, 100, axis=3, step=2)
    short = net.pad(short, 0, 2, 0, 0, 0, 2, 0, 0)
    return net.add("Relu", net.add("Add", short, y)), 8


def depthwise(net, x):
    x = net.conv(x, 3, 6)
    return net.conv(net.norm(net.conv(x, 6, 6, group=6), 6), 6, 8, k=1), 8


def multiplied(net, x):
    """A depthwise convolution that makes two channels of each."""
    return net.conv(net.conv(x, 3, 4), 4, 8, group=4), 8


def multiplied_tripled(net, x):
    return net.conv(net.conv(net.conv(x, 3, 4), 4, 12, group=4), 12, 12, group=12, bias=False), 12


def grouped(net, x):
    return net.conv(net.conv(x, 3, 8), 8, 12, group=2), 12


def grouped_chain(net, x):
    x = net.conv(net.conv(x, 3, 8), 8, 8, group=4)
    return net.conv(x, 8, 16, group=4), 16


def grouped_apart(net, x):
    """Two grouped convolutions whose groups do not coincide."""
    return net.conv(net.conv(net.conv(x, 3, 12), 12, 12, group=2), 12, 12, group=3), 12


def resnext(net, x):
    x = net.conv(x, 3, 6)
    y = net.conv(net.conv(net.conv(x, 6, 8, k=1), 8, 8, group=4), 8, 6, k=1, relu=False)
    return net.add("Add", x, y), 6


def joined(net, x):
    return net.add("Concat", net.conv(x, 3, 4), net.conv(x, 3, 6, k=1), axis=1), 10


def joined_twice(net, x):
    x = net.conv(x, 3, 4)
    return net.add("Concat", x, net.conv(x, 4, 5), x, axis=1), 13


def joined_with_input(net, x):
    return net.add("Concat", net.conv(x, 3, 4), x, axis=1), 7


def joined_with_constant(net, x):
    """A map of coordinates beside the channels."""
    return net.add("Concat", net.conv(x, 3, 4), net.constant(net.rng.random((1, 2, 8, 8), np.float32)), axis=1), 6


def joined_and_normed(net, x):
    x = net.add("Concat", net.conv(x, 3, 4), net.conv(x, 3, 6), axis=-3)
    return net.add("Relu", net.norm(x, 10)), 10


def inception(net, x):
    x = net.conv(x, 3, 6)
    pool = net.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
    parts = [net.conv(x, 6, 3, k=1), net.conv(net.conv(x, 6, 4, k=1), 4, 5), net.conv(pool, 6, 3, k=1), pool]
    return net.add("Concat", *parts, axis=1), 17


def split_unequal(net, x):
    left, right = net.split(net.conv(x, 3, 9), 3, 6)
    return net.add("Concat", net.conv(left, 3, 4), net.conv(right, 6, 4), axis=1), 8


def split_equal(net, x):
    left, right = net.halves(net.conv(x, 3, 8))
    return net.add("Add", net.conv(left, 4, 6), net.conv(right, 4, 6, k=1)), 6


def gated_halves(net, x):
    """A gated linear unit: half of the channels times the sigmoid of the others."""
    left, right = net.halves(net.conv(x, 3, 10, relu=False))
    return net.add("Mul", left, net.add("Sigmoid", right)), 5


def maxout(net, x):
    return net.add("Max", *net.split(net.conv(x, 3, 12, relu=False), 4, 4, 4)), 4


def sliced(net, x):
    """Two cuts that overlap, and channels that none reads."""
    x = net.conv(x, 3, 10)
    return net.add("Concat", net.conv(net.slice(x, 0, 6), 6, 4), net.conv(net.slice(x, 4, 9), 5, 4), axis=1), 8


def sliced_backwards(net, x):
    x = net.conv(x, 3, 8)
    y = net.add("Add", net.slice(x, 0, 8, step=2), net.slice(x, -1, -100, step=-2))
    return net.conv(y, 4, 6), 6


def sliced_space(net, x):
    """Slices to depth on a value in between."""
    x = net.conv(x, 3, 4)
    rows = [net.slice(x, start, 2**40, axis=2, step=2) for start in (0, 1)]
    return net.add("Concat", *(net.slice(y, s, 2**40, axis=3, step=2) for y in rows for s in (0, 1)), axis=1), 16


def gathered(net, x):
    """Channels in another order, one of them twice."""
    x = net.add("Gather", net.conv(x, 3, 6), net.ints(5, 3, 1, 0, 2, 3), axis=1)
    return net.conv(x, 6, 6), 6


def gated(net, x):
    return net.gate(net.conv(x, 3, 6), 6), 6


def gated_by_products(net, x):
    """Squeeze and excite of Gemms, reshaped to a map."""
    x = net.conv(x, 3, 6)
    y = net.add("Relu", net.gemm(net.add("Flatten", net.add("GlobalAveragePool", x)), 6, 4))
    y = net.add("HardSigmoid", net.gemm(y, 4, 6))
    return net.add("Mul", net.reshape(y, 1, 6, 1, 1), x), 6


def gated_by_unsqueeze(net, x):
    x = net.conv(x, 3, 6)
    y = net.add("Sigmoid", net.gemm(net.mean(x, [2, 3], keepdims=0), 6, 6))
    return net.add("Mul", x, net.unsqueeze(y, 2, 3)), 6


def gated_neighbours(net, x):
    """Efficient channel attention: a convolution along the channels mixes neighbours."""
    x = net.conv(x, 3, 6)
    y = net.transpose(net.squeeze(net.add("GlobalAveragePool", x), 3), 0, 2, 1)
    y = net.add("Conv", y, net.weight(1, 1, 3), pads=[1, 1])
    y = net.unsqueeze(net.transpose(y, 0, 2, 1), 3)
    return net.add("Mul", x, net.add("Sigmoid", y)), 6


def gated_space(net, x):
    """Spatial attention: the mean and the greatest of all channels."""
    x = net.conv(x, 3, 6)
    y = net.add("Concat", net.mean(x, [1]), net.mean(x, [1], kind="ReduceMax"), axis=1)
    return net.add("Mul", net.conv(x, 6, 6), net.add("Sigmoid", net.conv(y, 2, 1, relu=False))), 6


def channels_last(net, x):
    """What a bias, a slope and a product look like after a Transpose."""
    x = net.transpose(net.conv(x, 3, 6, bias=False, relu=False), 0, 2, 3, 1)
    x = net.add("PRelu", net.add("Add", x, net.vector(6)), net.vector((1, 1, 6)))
    x = net.linear(x, 6, 8)
    return net.transpose(net.add("Relu", x), 0, 3, 1, 2), 8


def shuffled(net, x):
    x = net.conv(net.shuffle(net.conv(x, 3, 8), 8, 2, 8), 8, 8, group=8)
    return net.conv(x, 8, 6), 6


def shuffled_groups(net, x):
    x = net.shuffle(net.conv(net.conv(x, 3, 8), 8, 8, k=1, group=2), 8, 2, 8)
    return net.conv(x, 8, 8, k=1, group=2), 8


def slopes(net, x):
    x = net.add("PRelu", net.conv(x, 3, 6, relu=False), net.vector((6, 1, 1), 0, 1))
    x = net.add("PRelu", net.conv(x, 6, 8, relu=False), net.vector((1, 1, 1), 0, 1))
    return net.add("LeakyRelu", net.conv(x, 8, 6, relu=False), alpha=0.2), 6


def padded(net, x):
    """Every way to pad a map: zeros, a value, the mirror, the edge."""
    x = net.add("Conv", net.pad(net.conv(x, 3, 5), 0, 0, 1, 1, 0, 0, 1, 1), net.weight(6, 5, 3, 3))
    x = net.add("Conv", net.pad(x, 0, 0, 1, 0, 0, 0, 1, 2, value=0.7), net.weight(5, 6, 3, 3))
    x = net.pad(net.pad(x, 0, 0, 1, 1, 0, 0, 1, 1, mode="reflect"), 0, 0, 0, 1, 0, 0, 0, 1, mode="edge")
    return net.conv(x, 5, 6), 6


def enlarged(net, x):
    x = net.conv(net.enlarge(net.conv(x, 3, 6)), 6, 5)
    return net.conv(net.enlarge(x, mode="linear"), 5, 6), 6


def enlarged_to_size(net, x):
    x = net.add("Resize", net.conv(x, 3, 6), "", "", net.ints(1, 6, 12, 12), mode="nearest")
    return net.conv(x, 6, 5), 5


def pools(net, x):
    x = net.add("MaxPool", net.conv(x, 3, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x = net.add("AveragePool", net.conv(x, 6, 5), kernel_shape=[2, 2], strides=[1, 1])
    x = net.add("LpPool", net.conv(x, 5, 6), kernel_shape=[2, 2])
    return net.add("Add", net.conv(x, 6, 6), net.conv(net.add("GlobalMaxPool", x), 6, 6, k=1)), 6


def transposed(net, x):
    x = net.add("ConvTranspose", net.conv(x, 3, 6), net.weight(6, 8, 2, 2), net.vector(8), strides=[2, 2])
    x = net.norm(net.add("ConvTranspose", x, net.weight(8, 5, 3, 3), pads=[1] * 4), 5)
    return net.add("Relu", x), 5


def transposed_grouped(net, x):
    x = net.add("ConvTranspose", net.conv(x, 3, 6), net.weight(6, 1, 2, 2), strides=[2, 2], group=6)
    return net.add("ConvTranspose", x, net.weight(6, 4, 3, 3), net.vector(8), group=2, pads=[1] * 4), 8


def preactivated(net, x):
    x = net.conv(x, 3, 6, relu=False)
    for _ in range(2):
        y = net.conv(net.add("Relu", net.norm(x, 6)), 6, 5, relu=False)
        y = net.conv(net.add("Relu", net.norm(y, 5)), 5, 6, relu=False)
        x = net.add("Add", x, y)
    return net.add("Relu", net.norm(x, 6)), 6


def instance_normed(net, x):
    x = net.conv(x, 3, 6, relu=False)
    return net.add("InstanceNormalization", x, net.vector(6, 0.5, 1.5), net.vector(6)), 6


def group_normed(net, x):
    """A norm of groups as exporters write it: instances of reshaped groups, then a scale a channel."""
    x = net.reshape(net.conv(x, 3, 8, relu=False), 0, 2, -1)
    x = net.add("InstanceNormalization", x, net.floats(1, 1), net.floats(0, 0))
    x = net.add("Mul", net.reshape(x, 1, 8, 8, 8), net.vector((8, 1, 1)))
    return net.add("Relu", net.add("Add", x, net.vector((8, 1, 1)))), 8


def centred(net, x):
    """Less the mean of its map, by its deviation: what a norm of instances is when written out."""
    x = net.conv(x, 3, 6, relu=False)
    x = net.add("Sub", x, net.mean(x, [2, 3]))
    square = net.mean(net.add("Mul", x, x), [-1, -2])
    return net.add("Div", x, net.add("Sqrt", net.add("Add", square, net.constant(np.float32(1e-3))))), 6


def elementwise(net, x):
    """Constants of all shapes that broadcast, and functions of one value."""
    x = net.add("Mul", net.conv(x, 3, 6, relu=False), net.vector((1, 6, 1, 1)))
    x = net.add("Sub", net.add("Add", net.vector((6, 1, 1)), x), net.constant(np.float32(0.3)))
    x = net.add("Add", x, net.constant(net.rng.random((1, 6, 8, 8), np.float32)))
    x = net.add("Softplus", net.add("Tanh", net.add("Neg", net.add("Elu", x))))
    x = net.add("Div", net.add("Exp", x), net.add("Add", net.add("Abs", x), net.vector((1, 1), 1, 2)))
    return net.add("Pow", net.add("Identity", net.clip(x, 0.01, 6)), net.constant(np.float32(1.5))), 6


def constants_alone(net, x):
    """Constants that meet before they meet a value."""
    scale = net.add("Exp", net.vector((1, 6, 1, 1)))
    shift = net.add("Unsqueeze", net.vector(6), net.ints(1, 2))
    return net.add("Add", net.add("Mul", net.conv(x, 3, 6), scale), shift), 6


def chosen(net, x):
    """Where, Min and Max over two values of the same channels."""
    x = net.conv(x, 3, 6, relu=False)
    y = net.conv(x, 6, 6, relu=False)
    z = net.add("Where", net.add("Greater", x, net.constant(np.float32(0))), y, net.vector((6, 1, 1)))
    return net.add("Min", net.add("Max", z, x), net.constant(np.float32(2))), 6


def with_itself(net, x):
    x = net.conv(x, 3, 6, relu=False)
    return net.conv(net.add("Concat", net.add("Mul", x, x), net.add("Add", x, x), axis=1), 12, 6), 6


def expanded(net, x):
    """Pooled, then spread over the map again (as in a pyramid of pools)."""
    x = net.conv(x, 3, 6)
    y = net.add("Expand", net.conv(net.add("GlobalAveragePool", x), 6, 4, k=1), net.ints(1, 1, 8, 8))
    z = net.add("Tile", net.conv(net.add("GlobalMaxPool", x), 6, 4, k=1), net.ints(1, 1, 8, 8))
    return net.add("Concat", x, y, z, axis=1), 14


def moved(net, x):
    """Squeeze, Unsqueeze, Cast, Dropout, Identity: nothing happens to the channels."""
    x = net.squeeze(net.unsqueeze(net.conv(x, 3, 6), 2), 2)
    x = net.add("Cast", net.add("Cast", x, to=TensorProto.DOUBLE), to=FLOAT)
    return net.add("Identity", net.add("Dropout", x)), 6


def two_users(net, x):
    x = net.conv(x, 3, 6)
    return net.add("Concat", net.conv(x, 6, 4), net.conv(x, 6, 5, k=1), net.add("Sigmoid", x), axis=1), 15


def same_weights(net, x):
    """A convolution that is used twice."""
    weight, bias = net.weight(6, 6, 3, 3), net.vector(6)
    x = net.conv(x, 3, 6)
    for _ in range(2):
        x = net.add("Relu", net.add("Conv", x, weight, bias, pads=[1] * 4))
    return x, 6


def same_weights_apart(net, x):
    """A head that two maps share: its input channels are the same ones in both."""
    weight, bias = net.weight(5, 6, 3, 3), net.vector(5)
    parts = [net.conv(x, 3, 6), net.conv(x, 3, 6, k=1)]
    return net.add("Add", *(net.add("Conv", y, weight, bias, pads=[1] * 4) for y in parts)), 5


def same_norm(net, x):
    """Two branches that share scale, shift and slope, as exporters that merge equal constants make it."""
    numbers = [net.vector(6, 0.5, 1.5) for _ in range(4)]
    slope = net.vector((6, 1, 1), 0, 1)
    parts = [net.add("BatchNormalization", net.conv(x, 3, 6, relu=False), *numbers) for _ in range(2)]
    return net.add("Concat", *(net.add("PRelu", y, slope) for y in parts), axis=1), 12


def rearranged(net, x):
    """Depth to space and back: four channels become one."""
    x = net.add("DepthToSpace", net.conv(x, 3, 8), blocksize=2)
    return net.add("SpaceToDepth", net.conv(x, 2, 3), blocksize=2), 12


def ghost(net, x):
    """Half of the channels made by cheap depthwise ones, then cut to an odd number."""
    y = net.conv(x, 3, 4)
    return net.slice(net.add("Concat", y, net.conv(y, 4, 4, group=4), axis=1), 0, 7), 7


def cross_stage(net, x):
    """C2f of YOLO: halves, a chain of blocks on one, everything joined."""
    left, right = net.halves(net.conv(x, 3, 8))
    parts = [left, right]
    for _ in range(2):
        right = net.add("Add", right, net.conv(net.conv(right, 4, 4), 4, 4))
        parts.append(right)
    return net.conv(net.add("Concat", *parts, axis=1), 16, 6, k=1), 6


def reparametrised(net, x):
    """RepVGG as trained: 3x3, 1x1 and the identity, normed and added."""
    x = net.conv(x, 3, 6)
    y = net.norm(net.conv(x, 6, 6, relu=False), 6)
    z = net.norm(net.conv(x, 6, 6, k=1, relu=False), 6)
    return net.add("Relu", net.add("Sum", y, z, net.norm(x, 6))), 6


def mobile(net, x):
    """Inverted residuals with gates."""
    x = net.conv(x, 3, 6)
    for _ in range(2):
        y = net.conv(net.conv(x, 6, 12, k=1), 12, 12, group=12)
        x = net.add("Add", x, net.conv(net.gate(y, 12, 4), 12, 6, k=1, relu=False))
    return x, 6


def unet(net, x):
    a = net.conv(x, 3, 4)
    b = net.conv(net.add("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]), 4, 6)
    c = net.conv(net.add("MaxPool", b, kernel_shape=[2, 2], strides=[2, 2]), 6, 8)
    c = net.add("ConvTranspose", c, net.weight(8, 6, 2, 2), net.vector(6), strides=[2, 2])
    b = net.conv(net.add("Concat", c, b, axis=1), 12, 5)
    return net.conv(net.add("Concat", net.enlarge(b), a, axis=1), 9, 5), 5


def pyramid(net, x):
    a = net.conv(x, 3, 6)
    b = net.conv(a, 6, 8, stride=2)
    c = net.conv(b, 8, 10, stride=2)
    c, b, a = net.conv(c, 10, 5, k=1), net.conv(b, 8, 5, k=1), net.conv(a, 6, 5, k=1)
    b = net.add("Add", b, net.enlarge(c))
    return net.conv(net.add("Add", a, net.enlarge(b)), 5, 6), 6


def dense(net, x):
    x, width = net.conv(x, 3, 4), 4
    for _ in range(3):
        y = net.conv(net.add("Relu", net.norm(x, width)), width, 3, relu=False)
        x, width = net.add("Concat", x, y, axis=1), width + 3
    return x, width


def tokens(net, x):
    """Pixels as tokens: a flat map, transposed, products, and back."""
    y = net.transpose(net.reshape(net.conv(x, 3, 6), 1, 6, 64), 0, 2, 1)
    y = net.linear(net.add("Relu", net.linear(y, 6, 10)), 10, 6)
    return net.reshape(net.transpose(y, 0, 2, 1), 1, 6, 8, 8), 6


def softmax_of_maps(net, x):
    """A softmax over the places of each channel leaves the channels apart."""
    y = net.add("Softmax", net.reshape(net.conv(x, 3, 6), 0, 0, -1), axis=-1)
    return net.reshape(y, 0, 0, 8, 8), 6


# ---- what has to stay whole


def softmax_of_channels(net, x):
    return net.add("Softmax", net.conv(x, 3, 6, relu=False), axis=1), 6


def layer_normed(net, x):
    y = net.transpose(net.conv(x, 3, 6, relu=False), 0, 2, 3, 1)
    return net.transpose(net.layer_norm(y, 6), 0, 3, 1, 2), 6


def mean_of_channels(net, x):
    x = net.conv(x, 3, 6)
    return net.add("Sub", x, net.mean(x, [1])), 6


def local_response(net, x):
    return net.add("LRN", net.conv(x, 3, 6), size=3), 6


def summed_up(net, x):
    """An operator that no rule knows."""
    return net.add("CumSum", net.conv(x, 3, 6), net.constant(np.int64(1))), 6


def largest_channel(net, x):
    x = net.conv(x, 3, 6)
    best = net.add("Cast", net.add("ArgMax", x, axis=1), to=FLOAT)
    return net.add("Mul", net.conv(x, 6, 6), best), 6


def padded_channels_mirrored(net, x):
    return net.pad(net.conv(x, 3, 6), 0, 1, 0, 0, 0, 1, 0, 0, mode="reflect"), 8


def scattered(net, x):
    indices = net.constant(np.int64([[[0, 0, 0, 0], [0, 1, 0, 0]]]))
    return net.add("ScatterND", net.conv(x, 3, 6), indices, net.floats([0.5, 0.25])), 6


def recurrent(net, x):
    y = net.transpose(net.reshape(net.conv(x, 3, 6), 1, 6, 64), 2, 0, 1)
    net.add("LSTM", y, net.weight(1, 24, 6), net.weight(1, 24, 6), hidden_size=6, outputs=["all", "last"])
    return net.reshape(net.transpose(net.squeeze("all", 1), 1, 2, 0), 1, 6, 8, 8), 6


def made_weights(net, x):
    """A convolution whose weights another layer makes."""
    weight = net.reshape(net.gemm(net.pooled(net.conv(x, 3, 5)), 5, 162), 6, 3, 3, 3)
    return net.add("Conv", x, weight, pads=[1] * 4), 6


def normed_weights(net, x):
    """Weights that the graph scales before they are used."""
    weight = net.add("Mul", net.weight(6, 3, 3, 3), net.vector((6, 1, 1, 1), 0.5, 1.5))
    return net.add("Relu", net.add("Conv", x, weight, net.vector(6), pads=[1] * 4)), 6


def mixed_places(net, x):
    """A flat map read as other channels than it was made of: 6 of 8x8 become 12 of 32."""
    return net.reshape(net.conv(x, 3, 6), 1, 12, 8, 4), 12


# ---- whole nets: other inputs, other ends


def flattened(how, opset=17, batch=1):
    """A map flattened in one of the ways that exporters write it, then read by a Gemm."""
    net = Zoo(3, opset)
    x = net.conv(net.conv("input", 3, 5, stride=2), 5, 6, stride=2)
    if how == "flatten":
        x = net.add("Flatten", x)
    elif how == "zero":
        x = net.reshape(x, 0, -1)
    elif how == "fixed":
        x = net.reshape(x, batch, 24)
    elif how == "minus":
        x = net.reshape(x, -1, 24)
    elif how == "steps":
        x = net.reshape(net.reshape(x, 0, 6, 4), 0, 24)
    elif how == "last":
        x = net.add("Flatten", net.transpose(x, 0, 2, 3, 1))
    elif how == "computed":
        rows = net.add("Gather", net.add("Shape", x), net.constant(np.int64(0)), axis=0)
        x = net.add("Reshape", x, net.add("Concat", net.unsqueeze(rows, 0), net.ints(-1), axis=0))
    elif how == "counted":  # the number of channels itself is computed
        sides = net.add("Shape", x)
        product = net.mean(net.slice(sides, 1, 4, axis=0), [0], kind="ReduceProd")
        x = net.add("Reshape", x, net.add("Concat", net.slice(sides, 0, 1, axis=0), product, axis=0))
    x = net.add("Relu", net.gemm(x, 24, 7))
    net.ends("out", net.gemm(x, 7, 3))
    return finish(net, {"input": [batch, 3, 8, 8]}, ["out"])


def perceptrons(kind):
    """Gemms in every form: transposed, scaled, with biases that broadcast or are missing."""
    net = Zoo(4)
    if kind == "plain":
        x = net.add("Relu", net.add("Gemm", "input", net.weight(12, 8), net.vector((1, 8))))
        x = net.add("Relu", net.add("Gemm", x, net.weight(8, 7), net.constant(np.float32(0.3)), alpha=0.5, beta=2.0))
        y = net.add("Gemm", x, net.weight(7, 3))
    elif kind == "transposed":
        x = net.add("Gemm", "input", net.weight(8, 12), net.vector(8), transB=1)
        x = net.add(
            "Gemm", net.transpose(net.add("Tanh", x), 1, 0), net.weight(7, 8), net.vector(7), transA=1, transB=1
        )
        y = net.linear(x, 7, 3)
    else:
        x = net.add("Relu", net.linear("input", 12, 8))
        x = net.add("Add", x, net.linear(net.add("Relu", net.linear(x, 8, 10)), 10, 8))
        y = net.linear(net.norm(x, 8), 8, 3)
    net.ends("out", y)
    return finish(net, {"input": ["N", 12]}, ["out"])


def vision_transformer(fused, cls=True, normed=True, opset=17, computed=False):
    """Patches, a class token, places, attention in heads, an MLP; q, k, v of one product or three."""
    net = Zoo(5, opset)
    x = net.add("Conv", "input", net.weight(8, 3, 4, 4), net.vector(8), strides=[4, 4], kernel_shape=[4, 4])
    x, count = net.transpose(net.reshape(x, 1, 8, 4), 0, 2, 1), 4
    if cls:
        x, count = net.add("Concat", net.constant(net.rng.random((1, 1, 8), np.float32)), x, axis=1), 5
    x = net.add("Add", x, net.constant(net.rng.random((1, count, 8), np.float32)))
    x = net.add("Add", x, attend(net, net.layer_norm(x, 8) if normed else x, 8, 2, 6, count, fused, computed))
    y = net.layer_norm(x, 8) if normed else x
    x = net.add("Add", x, net.linear(net.gelu(net.linear(y, 8, 12)), 12, 8))
    x = net.add("Gather", x, net.constant(np.int64(0)), axis=1) if cls else net.mean(x, [1], keepdims=0)
    net.ends("out", net.gemm(x, 8, 3))
    return finish(net, {"input": [1, 3, 8, 8]}, ["out"])


def attend(net, x, width, heads, inner, count, fused, computed=False):
    """Attention of `heads` heads, each as wide as `inner`."""
    whole = heads * inner
    if fused == "split":
        q, k, v = net.halves(net.linear(x, width, 3 * whole), 3, axis=-1)
    elif fused == "gather":
        y = net.reshape(net.linear(x, width, 3 * whole), 1, count, 3, heads, inner)
        y = net.transpose(y, 2, 0, 3, 1, 4)
        q, k, v = (net.add("Gather", y, net.constant(np.int64(one)), axis=0) for one in range(3))
    else:
        q, k, v = (net.linear(x, width, whole) for _ in range(3))

    def apart(y, *perm):
        if fused == "gather":
            return net.transpose(y, *(0, 1, 3, 2)) if perm == (0, 2, 3, 1) else y
        if computed:
            rows = net.slice(net.add("Shape", y), 0, 2, axis=0)
            y = net.add("Reshape", y, net.add("Concat", rows, net.ints(heads), net.ints(inner), axis=0))
        else:
            y = net.reshape(y, 0, count, heads, inner)
        return net.transpose(y, *perm)

    q, k, v = apart(q, 0, 2, 1, 3), apart(k, 0, 2, 3, 1), apart(v, 0, 2, 1, 3)
    scores = net.add("Mul", net.add("MatMul", q, k), net.constant(np.float32(inner**-0.5)))
    y = net.transpose(net.add("MatMul", net.add("Softmax", scores, axis=-1), v), 0, 2, 1, 3)
    return net.linear(net.reshape(y, 0, count, whole), whole, width)


def single_head():
    """Attention without heads: what is summed over in scores, and what the scores weigh."""
    net = Zoo(6)
    x = net.linear("input", 6, 8)
    q, k, v = (net.linear(x, 8, 5) for _ in range(3))
    scores = net.add("Softmax", net.add("MatMul", q, net.transpose(k, 0, 2, 1)), axis=-1)
    x = net.add("Add", x, net.linear(net.add("MatMul", scores, v), 5, 8))
    net.ends("out", net.linear(x, 8, 3))
    return finish(net, {"input": ["N", 7, 6]}, ["out"])


def weights_left():
    """Products whose weights stand left, their channels along the last axis but one."""
    net = Zoo(7)
    x = net.add("Relu", net.add("Add", net.add("MatMul", net.weight(8, 6), "input"), net.vector((8, 1))))
    x = net.add("Relu", net.add("MatMul", net.weight(1, 7, 8), x))
    net.ends("out", net.add("MatMul", net.weight(3, 7), x))
    return finish(net, {"input": ["N", 6, 5]}, ["out"])


def one_axis():
    """Convolutions over one axis, a Squeeze before the product."""
    net = Zoo(8)
    x = net.add("Relu", net.add("Conv", "input", net.weight(6, 2, 5), net.vector(6), pads=[2, 2]))
    x = net.add("Conv", x, net.weight(6, 1, 3), group=6, pads=[1, 1])
    x = net.add("Relu", net.add("Conv", x, net.weight(8, 6, 3), strides=[2]))
    x = net.squeeze(net.add("GlobalMaxPool", x), 2)
    net.ends("out", net.gemm(x, 8, 3))
    return finish(net, {"input": ["N", 2, 16]}, ["out"])


def three_axes():
    """Convolutions over three axes."""
    net = Zoo(9)
    x = net.add("Relu", net.add("Conv", "input", net.weight(4, 2, 3, 3, 3), net.vector(4), pads=[1] * 6))
    x = net.add("MaxPool", x, kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    x = net.norm(net.add("Conv", x, net.weight(5, 4, 1, 1, 1)), 5)
    x = net.add("ConvTranspose", x, net.weight(5, 4, 2, 2, 2), strides=[2, 2, 2])
    net.ends("out", net.add("Conv", x, net.weight(2, 4, 1, 1, 1)))
    return finish(net, {"input": [1, 2, 6, 6, 6]}, ["out"])


def two_inputs():
    """A picture and numbers, which scale and shift the picture's channels (FiLM)."""
    net = Zoo(10)
    x = net.conv("picture", 3, 6)
    y = net.add("Relu", net.gemm("numbers", 4, 5))
    scale, shift = net.halves(net.gemm(y, 5, 12))
    x = net.add("Mul", x, net.reshape(scale, -1, 6, 1, 1))
    x = net.add("Relu", net.add("Add", x, net.unsqueeze(shift, 2, 3)))
    net.ends("out", net.add("Add", net.gemm(net.pooled(x), 6, 3), net.gemm(y, 5, 3)))
    return finish(net, {"picture": ["N", 3, 8, 8], "numbers": ["N", 4]}, ["out"])


def towers():
    """Two pictures through the same weights, joined by their difference."""
    net = Zoo(11)
    first, second = (net.weight(6, 3, 3, 3), net.vector(6)), (net.weight(5, 6, 3, 3), net.vector(5))
    parts = []
    for x in ("left", "right"):
        for weight, bias in (first, second):
            x = net.add("Relu", net.add("Conv", x, weight, bias, pads=[1] * 4))
        parts.append(x)
    net.ends("out", net.gemm(net.pooled(net.add("Abs", net.add("Sub", *parts))), 5, 3))
    return finish(net, {"left": ["N", 3, 8, 8], "right": ["N", 3, 8, 8]}, ["out"])


def two_outputs():
    """A trunk, a map and scores; and a value in between that is given out too."""
    net = Zoo(12)
    x = net.conv("input", 3, 6)
    shown = net.conv(x, 6, 5)
    y = net.conv(shown, 5, 8)
    net.ends("out", net.gemm(net.pooled(y), 8, 3), net.conv(y, 8, 2, relu=False), shown)
    return finish(net, {"input": ["N", 3, 8, 8]}, ["out0", "out1", "out2"])


def detector():
    """Heads at two scales, each reshaped, transposed and joined along the places."""
    net = Zoo(13)
    x = net.conv("input", 3, 6)
    y = net.conv(x, 6, 8, stride=2)
    parts = []
    for value, width, places in ((x, 6, 64), (y, 8, 16)):
        z = net.conv(value, width, 5)
        box, score = net.conv(z, 5, 4, k=1, relu=False), net.add("Sigmoid", net.conv(z, 5, 3, k=1, relu=False))
        parts.append(net.reshape(net.add("Concat", box, score, axis=1), 1, 7, places))
    net.ends("out", net.transpose(net.add("Concat", *parts, axis=2), 0, 2, 1))
    return finish(net, {"input": [1, 3, 8, 8]}, ["out"])


def distributed_boxes():
    """A softmax over the bins of each side of a box, weighed by a fixed convolution (DFL)."""
    net = Zoo(14)
    x = net.conv(net.conv("input", 3, 6), 6, 16, k=1, relu=False)
    y = net.transpose(net.reshape(x, 1, 4, 4, 64), 0, 2, 1, 3)
    y = net.add("Conv", net.add("Softmax", y, axis=1), net.constant(np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1)))
    net.ends("out", net.reshape(y, 1, 4, 64))
    return finish(net, {"input": [1, 3, 8, 8]}, ["out"])


def table():
    """Words: rows of a table, summed with places, then products."""
    net = Zoo(15)
    x = net.add("Add", net.add("Gather", net.weight(20, 6), "ids", axis=0), net.weight(7, 6))
    x = net.add("Relu", net.linear(x, 6, 8))
    net.ends("out", net.linear(net.mean(x, [1], keepdims=0), 8, 3))
    return finish(net, {"ids": (TensorProto.INT64, ["N", 7])}, ["out"])


def mixer():
    """Products along the places and along the channels in turn (MLP-Mixer), without norms."""
    net = Zoo(16)
    x = net.linear("input", 4, 6)
    y = net.linear(net.gelu(net.linear(net.transpose(x, 0, 2, 1), 7, 9)), 9, 7)
    x = net.add("Add", x, net.transpose(y, 0, 2, 1))
    x = net.add("Add", x, net.linear(net.gelu(net.linear(x, 6, 10)), 10, 6))
    net.ends("out", net.linear(net.mean(x, [1], keepdims=0), 6, 3))
    return finish(net, {"input": ["N", 7, 4]}, ["out"])


def stored_eight_bits():
    """Weights kept in 8 bits and cast, as the storage step writes them."""
    net = Zoo(17)
    x = "input"
    for cin, cout in ((3, 6), (6, 8), (8, 3)):
        stored = net.constant(net.rng.integers(-127, 128, (cout, cin, 3, 3)).astype(np.int8))
        weight = net.add("Mul", net.add("Cast", stored, to=FLOAT), net.vector((cout, 1, 1, 1), 0.005, 0.01))
        x = net.add("Relu", net.add("Conv", x, weight, net.vector(cout), pads=[1] * 4))
    net.ends("out", x)
    return finish(net, {"input": [1, 3, 8, 8]}, ["out"])


def strange():
    """An operator of a domain that nobody knows; it cannot be run."""
    net = Net(18)
    x = net.conv(net.conv("input", 3, 5), 5, 6)
    net.conv(net.add("Strange", x, domain="my.own"), 6, 4, relu=False)
    net.nodes[-1].output[0] = "out"
    return net.model({"input": [1, 3, 8, 8]}, {"out": [1, 4, 8, 8]}, domains=("my.own",))


def old(opset):
    """What changed its form over the opsets, in one net."""
    net = Zoo(19, opset)
    x = net.clip(net.norm(net.conv("input", 3, 6, bias=False, relu=False), 6), 0, 6)
    left, right = net.split(net.pad(x, 0, 0, 1, 1, 0, 0, 1, 1), 2, 4)
    y = net.add("Concat", net.conv(left, 2, 4), net.slice(right, 1, 4), axis=1)
    y = net.add("Dropout", net.enlarge(net.conv(y, 7, 6, stride=2)))
    y = net.squeeze(net.mean(y, [2, 3]), 2, 3)
    y = net.add("Relu", net.add("Gemm", y, net.weight(6, 5), net.vector(5)))
    net.ends("out", net.add("Softmax", net.gemm(y, 5, 3), axis=1))
    return finish(net, {"input": [1, 3, 8, 8]}, ["out"])


def new(opset):
    """Operators that came late: Gelu, Mish, HardSwish, GroupNormalization, LayerNormalization, equal splits."""
    net = Zoo(20, opset)
    x = net.add("HardSwish", net.conv("input", 3, 8, relu=False))
    left, right = net.halves(x)
    x = net.add("Concat", net.add("Mish", net.conv(left, 4, 4, relu=False)), right, axis=1)
    x = net.conv(x, 8, 6, relu=False)
    if opset >= 20:
        x = net.add("Gelu", x)
    y = net.conv(x, 6, 8, relu=False)
    if opset >= 21:  # deprecated before, where its scale was one a group
        y = net.add("GroupNormalization", y, net.vector(8, 0.5, 1.5), net.vector(8), num_groups=4)
    net.ends("out", net.gemm(net.pooled(net.conv(y, 8, 5)), 5, 3))
    return finish(net, {"input": [1, 3, 8, 8]}, {"out": [1, 3]}, ir=10)


def of(made, groups, *frozen, removable=0, opset=17):
    """A Toy of a body whose end a convolution of 4 channels reads: those are the model's output."""
    return Toy(lambda: picture(made, opset=opset), groups, ("output", *frozen), removable)


def ending(build, groups, *frozen, removable=0, runs=True):
    return Toy(build, groups, ("output", *frozen), removable, runs)


RULES = {
    "chain": of(chain, 2),
    "chain with norms": of(chain_norm, 2),
    "residual": of(residual, 2, removable=1),
    "projected": of(projected, 3, removable=1),
    "padded shortcut": of(padded_shortcut, 2),
    "depthwise": of(depthwise, 2),
    "multiplied": of(multiplied, 1),
    "multiplied, tripled": of(multiplied_tripled, 1),
    "grouped": of(grouped, 1),
    "grouped chain": of(grouped_chain, 1),
    "grouped apart": of(grouped_apart, 0),
    "resnext": of(resnext, 2, removable=1),
    "joined": of(joined, 2),
    "joined twice": of(joined_twice, 2),
    "joined with the input": of(joined_with_input, 1),
    "joined with a constant": of(joined_with_constant, 1),
    "joined and normed": of(joined_and_normed, 2),
    "inception": of(inception, 5),
    "split unequal": of(split_unequal, 3),
    "split equal": of(split_equal, 2),
    "split equal, opset 12": of(split_equal, 2, opset=12),
    "split equal, opset 20": of(split_equal, 2, opset=20),
    "gated halves": of(gated_halves, 1),
    "maxout": of(maxout, 1),
    "sliced": of(sliced, 3),
    "sliced backwards": of(sliced_backwards, 2),
    "sliced space": of(sliced_space, 1),
    "gathered": of(gathered, 2),
    "squeeze and excite": of(gated, 2),
    "squeeze and excite of products": of(gated_by_products, 2),
    "squeeze and excite, unsqueezed": of(gated_by_unsqueeze, 1),
    "channels last": of(channels_last, 2),
    "shuffled": of(shuffled, 2),
    "shuffled groups": of(shuffled_groups, 0),
    "slopes": of(slopes, 3),
    "padded": of(padded, 4),
    "enlarged": of(enlarged, 3),
    "enlarged to a size": of(enlarged_to_size, 2),
    "pools": of(pools, 4),
    "transposed convolutions": of(transposed, 3),
    "transposed convolutions in groups": of(transposed_grouped, 1),
    "preactivated": of(preactivated, 3, removable=2),
    "norm of instances": of(instance_normed, 1),
    "norm of groups": of(group_normed, 0),
    "centred": of(centred, 1),
    "elementwise": of(elementwise, 1),
    "constants alone": of(constants_alone, 1),
    "chosen": of(chosen, 1),
    "with itself": of(with_itself, 2),
    "expanded": of(expanded, 3),
    "moved": of(moved, 1),
    "two users": of(two_users, 3),
    "same weights": of(same_weights, 1),
    "same weights apart": of(same_weights_apart, 2),
    "same norm": of(same_norm, 1),
    "depth to space": of(rearranged, 2),
    "ghost": of(ghost, 1),
    "cross stage": of(cross_stage, 4, removable=2),
    "reparametrised": of(reparametrised, 1),
    "mobile": of(mobile, 5, removable=2),
    "unet": of(unet, 6),
    "pyramid": of(pyramid, 5),
    "densely connected": of(dense, 4),
    "tokens": of(tokens, 3),
    "softmax of maps": of(softmax_of_maps, 1),
    # What has to stay whole.
    "softmax of channels": of(softmax_of_channels, 0, "Softmax"),
    "layer norm": of(layer_normed, 0, "LayerNorm"),
    "mean of channels": of(mean_of_channels, 0, "ReduceMean"),
    "local response": of(local_response, 0, "LRN"),
    "an operator without a rule": of(summed_up, 0, "CumSum"),
    "largest channel": of(largest_channel, 1, "ArgMax"),
    "channels mirrored": of(padded_channels_mirrored, 0, "Pad"),
    "scattered": of(scattered, 0, "ScatterND"),
    "recurrent layer": of(recurrent, 0, "LSTM"),
    "weights that are made": of(made_weights, 1, ""),
    "weights that are scaled": of(normed_weights, 0),
    "places as channels": of(mixed_places, 1),
    "neighbours gate": of(gated_neighbours, 0, ""),
    "a map gates": of(gated_space, 1, "Reduce"),
    # Whole nets.
    **{
        f"flattened, {how}": ending(lambda how=how: flattened(how), 3)
        for how in ("flatten", "zero", "fixed", "minus", "steps", "last", "computed", "counted")
    },
    "flattened, batch open": ending(lambda: flattened("zero", batch="N"), 3),
    "flattened, computed, batch open": ending(lambda: flattened("computed", batch="N"), 3),
    "perceptrons": ending(lambda: perceptrons("plain"), 2),
    "perceptrons, transposed": ending(lambda: perceptrons("transposed"), 2),
    "perceptrons, residual": ending(lambda: perceptrons("residual"), 2, removable=1),
    "vision transformer": ending(lambda: vision_transformer("none"), 2, "LayerNorm", removable=2),
    "vision transformer, split": ending(lambda: vision_transformer("split"), 2, "LayerNorm", removable=2),
    "vision transformer, gathered": ending(lambda: vision_transformer("gather"), 2, "LayerNorm", removable=2),
    "vision transformer, shapes computed": ending(
        lambda: vision_transformer("none", computed=True), 2, "LayerNorm", removable=2
    ),
    "vision transformer without norms": ending(lambda: vision_transformer("none", normed=False), 3, removable=2),
    "vision transformer without a class token": ending(
        lambda: vision_transformer("split", cls=False, normed=False), 3, removable=2
    ),
    "single head": ending(single_head, 2, removable=1),
    "weights left": ending(weights_left, 2),
    "one axis": ending(one_axis, 2),
    "three axes": ending(three_axes, 3),
    "two inputs": ending(two_inputs, 2),
    "towers": ending(towers, 2),
    "two outputs": ending(two_outputs, 2),
    "detector": ending(detector, 4),
    "distributed boxes": Toy(distributed_boxes, 1, ("",)),
    "table": ending(table, 2),
    "mixer": ending(mixer, 3, removable=2),
    "stored in 8 bits": ending(stored_eight_bits, 0),
    "strange": ending(strange, 1, "Strange", runs=False),
    **{f"opset {opset}": Toy(lambda opset=opset: old(opset), 4, ("Softmax",)) for opset in (9, 10, 11, 12, 13, 17)},
    **{f"opset {opset}": ending(lambda opset=opset: new(opset), 5) for opset in (18, 20)},
    "opset 21": Toy(lambda: new(21), 3, ("GroupNorm",)),
}

# What the other tests are about, each with how many groups can go at the least.
NETS = {
    **{name: (build, 0) for name, build in nets.NETS.items()},
    "sigmoid chain": (nets.sigmoid_chain, 3),
    "hardswish chain": (lambda: nets.sigmoid_chain("hardswish"), 3),
    "hardsigmoid chain": (lambda: nets.sigmoid_chain("hardsigmoid"), 3),
    "gates": (nets.squeeze_excite, 3),
    "inverted residual": (nets.inverted_residual, 3),
    "inverted residual, opset 9": (lambda: nets.inverted_residual(9), 3),
    "two readers": (nets.two_readers, 2),
    "made for NHWC": (nets.channels_last, 3),
    "picture and vector": (nets.two_inputs, 3),
    "boxes and scores": (nets.boxes_and_scores, 2),
    "dead layer": (nets.dead_layer, 2),
    "single score": (nets.single_score, 2),
    "huge values": (nets.huge_values, 3),
    "leaky": (nets.leaky, 3),
    "leaky, PRelu": (lambda: nets.leaky("PRelu"), 3),
    "decoder": (nets.decoder, 3),
    "transformer": (nets.transformer, 2),
    "gated recurrent": (nets.gated_recurrent, 0),
    "tied": (nets.tied, 0),
    "tied, transposed": (nets.tied_transposed, 0),
    "no bias": (nets.no_bias, 2),
    "any size": (nets.any_size, 2),
    "fixed batch": (nets.fixed_batch, 2),
    "split and shuffle": (nets.shuffled, 2),
    "norms first": (nets.preactivation, 1),
    "sound": (nets.sound, 3),
    **{f"enlarged, opset {opset}": (lambda opset=opset: nets.enlarged(opset), 1) for opset in (9, 10, 13)},
    "DenseNet": (nets.dense, 5),
    "focus and depth to space": (nets.rearranged, 3),
    "left weights": (nets.left_weights, 0),
    "computed shape": (nets.computed_shape, 2),
    "read twice": (nets.read_twice, 2),
    "faint channels": (nets.faint_channels, 2),
    "words": (nets.words, 1),
    "looping": (nets.looping, 0),
    "dense layers": (nets.dense_layers, 4),
    "own functions": (nets.own_functions, 0),
    **{
        f"written out, {step}": (lambda step=step: nets.written_out(step), 3)
        for step in ("norm", "relu6", "relu and norm", "channels last")
    },
    "pads": (nets.padded, 2),
    "weights in nodes": (lambda: nets.weights_in_nodes(nets.residual()), 0),
    "nameless": (lambda: nets.nameless(nets.residual()), 3),
    "renamed": (lambda: nets.renamed(nets.squeeze_excite()), 3),
}


# ---- random nets


@dataclass
class Value:
    """A map of the random net: its name, channels, side."""

    name: str
    channels: int
    side: int


class Drawn:
    """A random DAG; `choose(n)` gives a number of 0..n-1, whoever draws it."""

    def __init__(self, choose, opset, batch):
        self.choose, self.batch = choose, batch
        self.net = Zoo(choose(1000), opset)
        width = self.width()
        self.maps = [Value(self.net.conv("input", 3, width), width, 8)]
        self.fed = {"input": [batch, 3, 8, 8]}
        if choose(4) == 0:
            self.fed["second"] = [batch, 3, 8, 8]
            self.maps.append(Value(self.net.conv("second", 3, width, k=1), width, 8))

    def width(self):
        return 4 + 2 * self.choose(3)

    def pick(self):
        """Rather one of the latest."""
        return self.maps[max(0, len(self.maps) - 1 - self.choose(4))]

    def like(self, wanted):
        """Give another map of the same channels and side: one there is, or one made of another."""
        same = [v for v in self.maps if (v.channels, v.side) == (wanted.channels, wanted.side) and v is not wanted]
        if same and self.choose(3):
            return same[self.choose(len(same))]
        return Value(self.net.conv(wanted.name, wanted.channels, wanted.channels), wanted.channels, wanted.side)

    def push(self, name, channels, side):
        self.maps.append(Value(name, channels, side))

    def step(self):
        rules = [name for name in dir(self) if name.startswith("make_")]
        value = self.pick()
        getattr(self, rules[self.choose(len(rules))])(value, value.name, value.channels, value.side)

    def make_conv(self, v, x, c, side):
        width, stride = self.width(), 1 + (side > 4 and self.choose(3) == 0)
        k = (1, 3)[self.choose(2)]
        y = self.net.conv(x, c, width, k=k, stride=stride, bias=bool(self.choose(2)), relu=bool(self.choose(2)))
        self.push(y, width, side // stride)

    make_another_conv = make_conv

    def make_norm(self, v, x, c, side):
        self.push(self.net.norm(x, c), c, side)

    def make_activation(self, v, x, c, side):
        kinds = ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Softplus", "Identity", "Neg"]
        self.push(self.net.add(kinds[self.choose(len(kinds))], x), c, side)

    def make_slope(self, v, x, c, side):
        self.push(self.net.add("PRelu", x, self.net.vector((c, 1, 1), 0, 1)), c, side)

    def make_constant(self, v, x, c, side):
        shape = [(c, 1, 1), (1, c, 1, 1), (1,), (1, 1, 1)][self.choose(4)]
        self.push(self.net.add(("Mul", "Add", "Sub")[self.choose(3)], x, self.net.vector(shape)), c, side)

    def make_sum(self, v, x, c, side):
        self.push(self.net.add(("Add", "Sub", "Mul")[self.choose(3)], x, self.like(v).name), c, side)

    def make_residual(self, v, x, c, side):
        inner = self.width()
        y = self.net.conv(self.net.conv(x, c, inner), inner, c, relu=False)
        self.push(self.net.add("Relu", self.net.add("Add", y, x)), c, side)

    def make_concat(self, v, x, c, side):
        others = [one for one in self.maps if one.side == side]
        parts = [v, others[self.choose(len(others))], self.like(v)][: 2 + self.choose(2)]
        self.push(
            self.net.add("Concat", *(one.name for one in parts), axis=1), sum(one.channels for one in parts), side
        )

    def make_split(self, v, x, c, side):
        if c == 1:
            return
        if c % 2 == 0 and self.choose(2):
            sizes = [c // 2] * 2
            names = self.net.halves(x)
        else:
            first = 1 + self.choose(c - 1)
            sizes = [first, c - first]
            names = self.net.split(x, *sizes)
        for name, size in zip(names, sizes, strict=True):
            self.push(name, size, side)

    def make_slice(self, v, x, c, side):
        start = self.choose(c)
        self.push(
            self.net.slice(x, start, start + 1 + (c - start) // 2), min(c, start + 1 + (c - start) // 2) - start, side
        )

    def make_gate(self, v, x, c, side):
        self.push(self.net.gate(x, c), c, side)

    def make_depthwise(self, v, x, c, side):
        times = 1 + (self.choose(4) == 0 and c < 8)
        self.push(self.net.conv(x, c, c * times, group=c), c * times, side)

    def make_grouped(self, v, x, c, side):
        groups = 2 if c % 2 == 0 else 1
        self.push(self.net.conv(x, c, 8, group=groups), 8, side)

    def make_shuffle(self, v, x, c, side):
        if c % 2 == 0 and c > 2 and self.batch == 1:
            self.push(self.net.shuffle(x, c, 2, side), c, side)

    def make_pad(self, v, x, c, side):
        y = self.net.pad(x, 0, 0, 1, 1, 0, 0, 1, 1, value=(0.0, 0.5)[self.choose(2)])
        width = self.width()
        y = self.net.add("Conv", y, self.net.weight(width, c, 3, 3), kernel_shape=[3, 3])
        self.push(y, width, side)

    def make_smaller(self, v, x, c, side):
        if side > 4:
            kind = ("MaxPool", "AveragePool")[self.choose(2)]
            self.push(self.net.add(kind, x, kernel_shape=[2, 2], strides=[2, 2]), c, side // 2)

    def make_larger(self, v, x, c, side):
        if side < 8 and self.choose(2):
            self.push(self.net.enlarge(x), c, side * 2)
        elif side < 8:
            width = self.width()
            y = self.net.add(
                "ConvTranspose", x, self.net.weight(c, width, 2, 2), self.net.vector(width), strides=[2, 2]
            )
            self.push(y, width, side * 2)

    def make_last(self, v, x, c, side):
        """Something with the channels last."""
        y = self.net.transpose(x, 0, 2, 3, 1)
        if self.choose(2):
            width = self.width()
            y = self.net.linear(self.net.add("Relu", self.net.linear(y, c, width)), width, c)
        else:
            y = self.net.add("Add", y, self.net.vector(c))
        self.push(self.net.transpose(y, 0, 3, 1, 2), c, side)

    def make_flat(self, v, x, c, side):
        y = self.net.reshape(x, 0, c, -1)
        self.push(self.net.reshape(self.net.add("Relu", y), 0, c, side, side), c, side)

    def make_tied(self, v, x, c, side):
        other = self.like(v)
        width = self.width()
        weight = self.net.weight(width, c, 1, 1)
        for name in (x, other.name):
            self.push(self.net.add("Conv", name, weight), width, side)

    def make_attention(self, v, x, c, side):
        """Places as tokens that look at each other."""
        y = self.net.transpose(self.net.reshape(x, 0, c, side * side), 0, 2, 1)
        y = attend(self.net, y, c, 2, 3, side * side, ("none", "split")[self.choose(2)])
        y = self.net.reshape(self.net.transpose(y, 0, 2, 1), 0, c, side, side)
        self.push(self.net.add("Add", x, y), c, side)

    def make_order(self, v, x, c, side):
        kept = [self.choose(c) for _ in range(c)]
        self.push(self.net.add("Gather", x, self.net.ints(*kept), axis=1), c, side)

    def make_rearranged(self, v, x, c, side):
        if side < 8 and c % 4 == 0:
            self.push(self.net.add("DepthToSpace", x, blocksize=2), c // 4, side * 2)
        elif side > 4:
            self.push(self.net.add("SpaceToDepth", x, blocksize=2), c * 4, side // 2)

    def make_largest(self, v, x, c, side):
        self.push(self.net.add(("Max", "Min")[self.choose(2)], x, self.like(v).name), c, side)

    def make_instances(self, v, x, c, side):
        self.push(self.net.add("InstanceNormalization", x, self.net.vector(c, 0.5, 1.5), self.net.vector(c)), c, side)

    def make_spread(self, v, x, c, side):
        """Pooled, then added to every place."""
        self.push(self.net.add("Add", self.net.conv(self.net.add("GlobalMaxPool", x), c, c, k=1), x), c, side)

    def make_centred(self, v, x, c, side):
        self.push(self.net.add("Sub", x, self.net.mean(x, [2, 3])), c, side)

    def finish(self):
        """Give every map that nothing reads to an end, then the model."""
        read = {name for node in self.net.nodes for name in node.input}
        loose = [v for v in self.maps if v.name not in read]
        ends, scores = [], []
        for v in loose:
            how = self.choose(3)
            if how == 0:
                ends.append(self.net.conv(v.name, v.channels, 2, k=1, relu=False))
            elif how == 1:
                scores.append(self.net.gemm(self.net.pooled(v.name), v.channels, 3))
            else:
                count = v.channels * v.side**2
                scores.append(self.net.gemm(self.net.add("Flatten", v.name), count, 3))
        while len(scores) > 1:
            scores.append(self.net.add("Add", scores.pop(), scores.pop()))
        outputs = [*scores, *ends]
        self.net.ends("out", *outputs)
        names = ["out"] if len(outputs) == 1 else [f"out{number}" for number in range(len(outputs))]
        return finish(self.net, self.fed, names)


OPSETS = (9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)


def draw_net(choose, steps=8):
    """Draw a net: `choose(n)` gives a number of 0..n-1."""
    drawn = Drawn(choose, OPSETS[choose(len(OPSETS))], ("N", 1)[choose(2)])
    for _ in range(2 + choose(steps)):
        drawn.step()
    return drawn.finish()


def random_net(seed, steps=8):
    """Give the net of a seed."""
    rng = np.random.default_rng(seed)
    return draw_net(lambda n: int(rng.integers(n)), steps)


# ---- nets so small that everything can be tried


def tiny(kind):
    """Nets of three channels a layer and few constants, one rule each."""
    net = Zoo(30)
    weight = net.weight(3, 2, 1, 1)
    x, width = net.add("Tanh", net.add("Conv", "input", weight)), 3  # no channel may be dead: it could go for another
    if kind == "chain":
        x = net.add("Sigmoid", net.add("Conv", x, net.weight(4, 3, 1, 1), net.vector(4)))
        width = 4
    elif kind == "residual":
        x, width = net.add("Add", x, net.add("Conv", x, net.weight(3, 3, 1, 1))), 3
    elif kind == "norm":
        x = net.add("InstanceNormalization", x, net.vector(3, 0.5, 1.5), net.vector(3))
    elif kind == "depthwise":
        x, width = net.add("Conv", x, net.weight(3, 1, 3, 3), group=3, pads=[1] * 4), 3
    elif kind == "product":
        x, width = net.add("Mul", x, net.add("Sigmoid", net.add("Conv", "input", net.weight(3, 2, 1, 1)))), 3
    elif kind == "joined":
        x, width = net.add("Concat", x, net.add("Conv", "input", net.weight(3, 2, 1, 1)), axis=1), 6
    elif kind == "joined twice":
        x, width = net.add("Concat", x, x, axis=1), 6
    elif kind == "slope":
        x, width = net.add("PRelu", net.add("Neg", x), net.vector((3, 1, 1), 0, 1)), 3
    elif kind == "softmax":
        x, width = net.add("Softmax", x, axis=1), 3
    elif kind == "mean":
        x, width = net.add("Sub", x, net.mean(x, [1])), 3
    elif kind == "centred":
        x, width = net.add("Sub", x, net.mean(x, [2, 3])), 3
    elif kind == "tied":
        x, width = net.add("Conv", net.add("Conv", "input", weight), net.weight(4, 3, 1, 1)), 4
        y = net.add("Conv", net.add("Conv", "second", weight), net.weight(4, 3, 1, 1))
        x = net.add("Mul", x, y)
    elif kind == "used twice":
        square = net.weight(3, 3, 1, 1)
        x, width = net.add("Conv", net.add("Tanh", net.add("Conv", x, square)), square), 3
    elif kind == "transposed":
        x, width = net.add("ConvTranspose", x, net.weight(3, 4, 1, 1)), 4
    elif kind == "last":
        y = net.transpose(x, 0, 2, 3, 1)
        y = net.add("Add", net.add("MatMul", y, net.weight(3, 4)), net.vector(4))
        x, width = net.transpose(y, 0, 3, 1, 2), 4
    if kind == "pooled":
        y = net.add("Gemm", net.pooled(x), net.weight(4, 3), transB=1)
        y = net.add("Gemm", net.add("Tanh", y), net.weight(4, 3))
    else:
        y = net.add("Conv", x, net.weight(3, width, 1, 1))
    net.ends("out", y)
    fed = {"input": [1, 2, 5, 5]} | ({"second": [1, 2, 5, 5]} if kind == "tied" else {})
    return finish(net, fed, ["out"])


TINY = (
    "plain",
    "chain",
    "residual",
    "norm",
    "depthwise",
    "product",
    "joined",
    "joined twice",
    "slope",
    "softmax",
    "mean",
    "centred",
    "tied",
    "used twice",
    "transposed",
    "last",
    "pooled",
)
