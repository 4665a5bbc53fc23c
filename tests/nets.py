"""Small networks with one difficulty each, and a Workbench without a clock."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.session import open_session, run

FLOAT = TensorProto.FLOAT


class Net:
    """Builds a graph node by node; weights come from a seeded generator."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights = [], []

    def weight(self, *shape, name=None, dtype=np.float32):
        fan = max(1, int(np.prod(shape[1:])))
        return self.constant(self.rng.standard_normal(shape).astype(dtype) / np.sqrt(fan).astype(dtype), name)

    def constant(self, values, name=None):
        name = name or f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, kind, *inputs, outputs=None, name=None, **attributes):
        number = len(self.nodes)
        outputs = outputs or [f"t{number}"]
        name = f"{kind.lower()}{number}" if name is None else name
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name, **attributes))
        return outputs[0]

    def conv(self, x, cin, cout, k=3, stride=1, group=1, bias=True, relu=True):
        inputs = [x, self.weight(cout, cin // group, k, k)]
        if bias:
            inputs.append(self.constant(0.1 * self.rng.standard_normal(cout).astype(np.float32)))
        y = self.add("Conv", *inputs, kernel_shape=[k, k], strides=[stride] * 2, pads=[k // 2] * 4, group=group)
        return self.add("Relu", y) if relu else y

    def model(self, inputs, outputs, opset=17, ir=8, weights_as_inputs=False, domains=()):
        """inputs, outputs: name -> shape (float32), or name -> (type, shape)."""

        def info(name, what):
            kind, shape = what if isinstance(what, tuple) else (FLOAT, what)
            return helper.make_tensor_value_info(name, kind, shape)

        fed = [info(*item) for item in inputs.items()]
        if weights_as_inputs:
            fed += [helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in self.weights]
        shown = [info(*item) for item in outputs.items()]
        graph = helper.make_graph(self.nodes, "net", fed, shown, self.weights)
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
        onnx.checker.check_model(made)
        return made


def residual(opset=17, **options):
    """A classifier with a residual block and a depthwise layer, batch left open."""
    net = Net()
    x = net.conv("input", 3, 16)
    y = net.conv(net.conv(x, 16, 16), 16, 16, relu=False)
    x = net.add("Relu", net.add("Add", x, y))
    x = net.conv(net.conv(x, 16, 16, stride=2, group=16), 16, 32, k=1)
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    net.add("Gemm", x, net.weight(10, 32), net.weight(10), outputs=["logits"], transB=1)
    return net.model({"input": ["N", 3, 16, 16]}, {"logits": ["N", 10]}, opset, **options)


def swish(opset=11):
    """SiLU, squeeze and excite, one activation with many readers, opset 11, nothing classified."""
    net = Net(1)
    x = net.conv("input", 3, 16, relu=False)
    x = net.add("Mul", x, net.add("Sigmoid", x))
    gate = net.conv(net.add("GlobalAveragePool", x), 16, 8, k=1)
    gate = net.add("Sigmoid", net.conv(gate, 8, 16, k=1, relu=False))
    x = net.add("Mul", x, gate)
    y = net.conv(x, 16, 16, relu=False)
    z = net.add("Concat", y, x, axis=1)
    net.add("Add", net.conv(z, 32, 4, k=1, relu=False), net.constant(np.float32(1)), outputs=["map"])
    return net.model({"input": [1, 3, 16, 16]}, {"map": [1, 4, 16, 16]}, opset)


def perceptron(trans_b=1):
    """Gemm alone, with or without transposed weights, alpha and beta."""
    net = Net(2)
    shape = (32, 48) if trans_b else (48, 32)
    x = net.add("Gemm", "input", net.weight(*shape), net.weight(32), transB=trans_b, alpha=0.5, beta=2.0)
    x = net.add("Gemm", net.add("Relu", x), net.weight(32, 10))
    net.add("Add", x, net.weight(10), outputs=["logits"])
    return net.model({"input": ["N", 48]}, {"logits": ["N", 10]})


def attention():
    """MatMul with 2-D and 3-D weights, softmax, layer norm, activation times activation."""
    net = Net(3)
    q, k = (net.add("MatMul", "input", net.weight(32, 32)) for _ in range(2))
    scores = net.add("Softmax", net.add("MatMul", q, net.add("Transpose", k, perm=[0, 2, 1])), axis=-1)
    x = net.add("Add", "input", net.add("MatMul", scores, net.add("MatMul", "input", net.weight(1, 32, 32))))
    x = net.add("LayerNormalization", x, net.constant(np.ones(32, np.float32)), net.weight(32), axis=-1)
    net.add("MatMul", x, net.weight(32, 10), outputs=["logits"])
    return net.model({"input": ["N", 8, 32]}, {"logits": ["N", 8, 10]})


def upsampler():
    """ConvTranspose with and without groups, a grouped convolution, Resize with an empty input, batch norms."""
    net = Net(4)
    x = norm(net, net.conv("input", 4, 16, group=2, bias=False, relu=False), 16)
    x = net.add("Resize", x, "", net.constant(np.float32([1, 1, 2, 2])), mode="nearest")
    x = net.add("ConvTranspose", x, net.weight(16, 4, 3, 3), group=2, pads=[1, 1, 1, 1])
    x = norm(net, x, 8)
    x = net.add("Clip", x, "", net.constant(np.float32(6)))
    x = norm(net, net.conv(x, 8, 8, relu=False), 8)
    net.add("ConvTranspose", x, net.weight(8, 2, 2, 2), net.weight(2), strides=[2, 2], outputs=["map"])
    return net.model({"input": [1, 4, 8, 8]}, {"map": [1, 2, 32, 32]})


def norm(net, x, channels):
    positive = [net.constant(np.abs(net.rng.standard_normal(channels)).astype(np.float32) + 0.5) for _ in range(2)]
    return net.add("BatchNormalization", x, positive[0], net.weight(channels), net.weight(channels), positive[1])


def recurrent():
    """An LSTM: weights that have no static 8-bit kernel."""
    net = Net(5)
    y = net.add("LSTM", "input", net.weight(1, 64, 8), net.weight(1, 64, 16), hidden_size=16, outputs=["all", "last"])
    assert y
    x = net.add("Squeeze", "last", net.constant(np.int64([0])))
    net.add("Gemm", x, net.weight(16, 10), net.weight(10), outputs=["logits"])
    return net.model({"input": [5, "N", 8]}, {"logits": ["N", 10]})


def branching():
    """An If whose branches capture outer names."""
    net = Net(6)
    x = net.conv("input", 3, 16, relu=False)
    kept = net.add("Relu", x)
    branches = [
        helper.make_graph([helper.make_node(kind, [name], [kind])], kind, [], [info(kind, ["N", 16, 8, 8])])
        for kind, name in (("Neg", x), ("Abs", kept))
    ]
    flag = net.add("Greater", net.add("ReduceMax", "input", keepdims=0), net.constant(np.float32(0)))
    y = net.add("If", flag, then_branch=branches[0], else_branch=branches[1])
    net.conv(net.add("Add", y, kept), 16, 16)
    net.nodes[-1].output[0] = "map"
    return net.model({"input": [1, 3, 8, 8]}, {"map": [1, 16, 8, 8]})


def info(name, shape):
    return helper.make_tensor_value_info(name, FLOAT, shape)


def awkward():
    """Weights in Constant nodes, Identity, Dropout, nameless nodes, odd names, two inputs."""
    net = Net(7)
    weight = net.weights[int(net.weight(16, 3, 3, 3)[1:])]
    net.weights.clear()
    net.add("Constant", outputs=["a/b,c:0"], name="", value=weight)
    x = net.add("Conv", "in/1,x", "a/b,c:0", kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="same")
    x = net.add("Dropout", net.add("Identity", x, name=""), outputs=["t/0"], name="drop,/1")
    y = net.add("Conv", "in:2", net.weight(16, 3, 1, 1, name="w,1/2"), kernel_shape=[1, 1], name="[0]")
    x = net.add("Add", net.add("Relu", x, name=""), y, name="")
    net.add("Conv", x, net.weight(8, 16, 1, 1), outputs=["out,1"], kernel_shape=[1, 1], name="")
    return net.model({"in/1,x": [1, 3, 8, 8], "in:2": [1, 3, 8, 8]}, {"out,1": [1, 8, 8, 8]})


def halves():
    """A float16 input, cast at once."""
    net = Net(8)
    x = net.conv(net.add("Cast", "input", to=FLOAT), 3, 16)
    net.conv(x, 16, 16)
    net.nodes[-1].output[0] = "map"
    return net.model({"input": (TensorProto.FLOAT16, [1, 3, 8, 8])}, {"map": [1, 16, 8, 8]})


def half_weights():
    """Everything in float16."""
    net = Net(11)
    x = net.add("Conv", "input", net.weight(16, 3, 3, 3, dtype=np.float16))
    net.add("Conv", net.add("Relu", x), net.weight(8, 16, 1, 1, dtype=np.float16), outputs=["map"])
    half = TensorProto.FLOAT16
    return net.model({"input": (half, [1, 3, 8, 8])}, {"map": (half, [1, 8, 6, 6])})


def broken_values():
    """One activation that is always zero, one with NaN and infinity that does not reach the output."""
    net = Net(9)
    x = net.conv("input", 3, 16)
    dead = net.add("Relu", net.add("Neg", x))
    odd = net.add("Log", net.add("Neg", net.add("Abs", x)))
    y = net.conv(dead, 16, 16)
    z = net.conv(odd, 16, 16)
    clean = net.add("Where", net.add("IsNaN", z), net.constant(np.float32(0)), net.constant(np.float32(0)))
    net.add("Add", net.add("Add", y, x), clean, outputs=["map"])
    return net.model({"input": [1, 3, 8, 8]}, {"map": [1, 16, 8, 8]})


def weightless():
    """Nothing to quantise or to store."""
    net = Net(10)
    net.add("Softmax", net.add("Flatten", net.add("MaxPool", "input", kernel_shape=[2, 2])), outputs=["out"])
    return net.model({"input": [1, 3, 8, 8]}, {"out": [1, 147]})


NETS = {
    "residual": residual,
    "residual-opset13": lambda: residual(13),
    "swish-opset11": swish,
    "gemm-transposed": perceptron,
    "gemm-plain": lambda: perceptron(0),
    "attention": attention,
    "upsampler": upsampler,
    "recurrent": recurrent,
    "branching": branching,
    "awkward": awkward,
    "halves": halves,
    "half-weights": half_weights,
    "broken-values": broken_values,
    "weightless": weightless,
    "weights-as-inputs": lambda: residual(weights_as_inputs=True),
}


def feeds(model, count=6, seed=0):
    """Give random inputs that fit the model; open dimensions are 1."""
    from edgekit import graph

    for number in range(count):
        rng = np.random.default_rng((seed, number))
        yield {
            entry.name: rng.standard_normal([d if isinstance(d, int) else 1 for d in entry.shape]).astype(entry.dtype)
            for entry in graph.inputs(model)
        }


@dataclass
class Answer:
    """Drift and Speed in one."""

    sqnr_db: float = 99.0
    agreement: float | None = None
    speedup: float = 2.0
    verdict: str = "faster"


@dataclass
class Bench:
    """A Workbench without a clock: real drift, invented speeds."""

    model: onnx.ModelProto
    seed: int = 0
    int8: str = "vnni"
    only: tuple = ()
    exclude: tuple = ()
    speeds: list = field(default_factory=lambda: [2.0, 1.5])
    count: int = 6
    notes: list = field(default_factory=list)
    decisions: list = field(default_factory=list)

    def feeds(self, samples):
        return feeds(self.model, min(samples, self.count))

    def drift(self, before, after):
        return Answer(sqnr_db=sqnr_db(before, after))

    def speed(self, before, after):
        speedup = self.speeds.pop(0) if self.speeds else 1.0
        verdict = "faster" if speedup > 1.02 else "slower" if speedup < 0.98 else "no difference shown"
        return Answer(speedup=speedup, verdict=verdict)

    def note(self, text):
        self.notes.append(text)

    def decide(self, text):
        self.decisions.append(text)


def sqnr_db(before, after, count=4, seed=1):
    """Signal to noise of all float outputs together."""
    sessions = [open_session(model) for model in (before, after)]
    signal = noise = 0.0
    for feed in feeds(before, count, seed):
        for old, new in zip(*(run(session, feed) for session in sessions), strict=True):
            assert np.isfinite(new).all() or not np.isfinite(old).all()
            signal += float((old.astype(np.float64) ** 2).sum())
            noise += float(((old.astype(np.float64) - new) ** 2).sum())
    return 10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30))
