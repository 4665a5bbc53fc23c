"""Small networks with one difficulty each, and a Workbench without a clock."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.compress.search import Budget
from edgekit.compress.simplify import same_outputs, simplify
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


def simple(model):
    """Simplify as the command does it."""
    return simplify(model, lambda a, b: same_outputs(a, b, feeds(model, 2)))[0]


@dataclass
class Answer:
    """Drift and Speed in one."""

    sqnr_db: float = 99.0
    agreement: float | None = None
    drop: float | None = None
    metric: str = ""
    n: int = 4
    speedup: float = 2.0
    low: float = 1.9  # of either
    high: float = 2.1
    verdict: str = "faster"
    after_ms: float = 1.0


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
    budget: Budget = field(default_factory=Budget)
    foreign: bool = False
    replay: dict = field(default_factory=dict)
    settlements: dict = field(default_factory=dict)
    trials: list = field(default_factory=list)

    def feeds(self, samples):
        return feeds(self.model, min(samples, self.count))

    max_bytes: int = 512_000_000
    form: str = "as it is"
    effort: float = 1.0

    def remember(self, key, make):
        return make()

    def once(self, key, make):
        return make()

    def has_time(self):
        return True

    def remaining(self):
        return 60.0

    def say(self, text):
        pass

    def node_times(self, model):
        """Half as long in 8 bits."""
        eight = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        return {node.name: 50.0 if eight else 100.0 for node in model.graph.node}

    def settled(self, name):
        return self.replay.get(name)

    def settle(self, name, value):
        self.settlements[name] = value

    def searched(self, trials):
        self.trials += trials

    def drift(self, before, after, most=None):
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


# ---- one trap of 8-bit arithmetic each


def classifier(net, x, channels, out="logits"):
    """End a net with pooling and a Gemm of 10 scores."""
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    net.add("Gemm", x, net.weight(10, channels), net.weight(10), outputs=[out], transB=1)


def sigmoid_chain(gate="silu"):
    """Three convolutions, each with an activation of two readers: x * f(x)."""
    net = Net(20)
    x, channels = "input", 3
    for _ in range(3):
        x = net.conv(x, channels, 16, relu=False)
        if gate == "hardswish":
            x = net.add("HardSwish", x)
        elif gate == "hardsigmoid":
            x = net.add("Mul", x, net.add("HardSigmoid", x, alpha=1 / 6, beta=0.5))
        else:
            x = net.add("Mul", x, net.add("Sigmoid", x))
        channels = 16
    classifier(net, x, 16)
    return net.model({"input": [1, 3, 16, 16]}, {"logits": [1, 10]})


def squeeze_excite():
    """A gate of one value a channel, with ReLU and HardSigmoid, as MobileNetV3 has it."""
    net = Net(21)
    x = net.conv("input", 3, 16)
    gate = net.conv(net.add("GlobalAveragePool", x), 16, 8, k=1)
    gate = net.add("HardSigmoid", net.conv(gate, 8, 16, k=1, relu=False), alpha=1 / 6, beta=0.5)
    x = net.conv(net.add("Mul", x, gate), 16, 16)
    classifier(net, x, 16)
    return net.model({"input": [1, 3, 16, 16]}, {"logits": [1, 10]})


def inverted_residual(opset=17):
    """Expand, depthwise, project and add, with ReLU6; its bounds are attributes before opset 11."""
    net = Net(22)

    def relu6(x):
        if opset < 11:
            return net.add("Clip", x, min=0.0, max=6.0)
        return net.add("Clip", x, net.constant(np.float32(0)), net.constant(np.float32(6)))

    x = relu6(net.conv("input", 3, 16, stride=2, relu=False))
    for _ in range(2):
        y = relu6(net.conv(x, 16, 48, k=1, relu=False))
        y = relu6(net.conv(y, 48, 48, group=48, relu=False))
        x = net.add("Add", x, net.conv(y, 48, 16, k=1, relu=False))
    classifier(net, x, 16)
    return net.model({"input": [1, 3, 16, 16]}, {"logits": [1, 10]}, opset)


def two_readers():
    """A Relu that another convolution, an Add and an output read."""
    net = Net(23)
    x = net.conv("input", 3, 16)
    y = net.conv(x, 16, 16)
    z = net.add("Add", y, net.conv(x, 16, 16, relu=False))
    net.conv(net.add("Add", z, y), 16, 8, relu=False)
    net.nodes[-1].output[0] = "map"
    return net.model({"input": [1, 3, 8, 8]}, {"map": [1, 8, 8, 8]})


def channels_last(batch=1):
    """A net that was made for NHWC: Transposes around the convolutions, MatMul and Softmax at its end."""
    net = Net(24)
    x = net.conv(net.add("Transpose", "input", perm=[0, 3, 1, 2]), 3, 16)
    x = net.conv(x, 16, 16, stride=2)
    x = net.add("Transpose", x, perm=[0, 2, 3, 1])
    x = net.conv(net.add("Transpose", x, perm=[0, 3, 1, 2]), 16, 16)
    x = net.add("Reshape", net.add("Transpose", x, perm=[0, 2, 3, 1]), net.constant(np.int64([batch, 16 * 16])))
    net.add("Softmax", net.add("MatMul", x, net.weight(256, 10)), axis=-1, outputs=["scores"])
    return net.model({"input": [batch, 8, 8, 3]}, {"scores": [batch, 10]})


def two_inputs():
    """A picture and a vector, joined late."""
    net = Net(25)
    x = net.conv(net.conv("picture", 3, 16), 16, 16, stride=2)
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    y = net.add("Relu", net.add("Gemm", "vector", net.weight(5, 16), net.weight(16)))
    x = net.add("Concat", x, y, axis=1)
    net.add("Gemm", x, net.weight(32, 10), net.weight(10), outputs=["logits"])
    return net.model({"picture": ["N", 3, 8, 8], "vector": ["N", 5]}, {"logits": ["N", 10]})


def boxes_and_scores():
    """A detector's end: boxes in hundreds of pixels and scores of 0..1 in one tensor."""
    net = Net(26)
    x = net.conv(net.conv("input", 3, 16), 16, 16)
    boxes = net.add("Mul", net.conv(x, 16, 4, k=1, relu=False), net.constant(np.float32(300)))
    scores = net.add("Sigmoid", net.conv(x, 16, 6, k=1, relu=False))
    x = net.add("Reshape", net.add("Concat", boxes, scores, axis=1), net.constant(np.int64([1, 10, 64])))
    net.add("Transpose", x, perm=[0, 2, 1], outputs=["found"])
    return net.model({"input": [1, 3, 8, 8]}, {"found": [1, 64, 10]})


def dead_layer():
    """A convolution whose weights are all zero, and one of which a single channel is."""
    net = Net(28)
    x = net.conv("input", 3, 16)
    dead = net.add("Conv", x, net.constant(np.zeros((16, 16, 3, 3), np.float32)), pads=[1, 1, 1, 1])
    weight = net.rng.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12
    weight[3] = 0
    x = net.add("Add", dead, net.add("Conv", x, net.constant(weight), pads=[1, 1, 1, 1]))
    net.add("Conv", net.add("Relu", x), net.weight(4, 16, 1, 1), outputs=["map"])
    return net.model({"input": [1, 3, 8, 8]}, {"map": [1, 4, 8, 8]})


def single_score():
    """One output of one element, and one without axes."""
    net = Net(29)
    x = net.add("Flatten", net.add("GlobalAveragePool", net.conv(net.conv("input", 3, 16), 16, 16)))
    x = net.add("Gemm", x, net.weight(1, 16), net.weight(1), transB=1, outputs=["score"])
    net.add("ReduceMean", x, keepdims=0, outputs=["mean"])
    return net.model({"input": [1, 3, 8, 8]}, {"score": [1, 1], "mean": []})


def huge_values():
    """Activations of a million."""
    net = Net(30)
    x = net.conv(net.add("Mul", "input", net.constant(np.float32(1e6))), 3, 16)
    x = net.conv(net.conv(x, 16, 16), 16, 16)
    classifier(net, x, 16)
    return net.model({"input": [1, 3, 8, 8]}, {"logits": [1, 10]})


def leaky(kind="LeakyRelu"):
    """Activations that let negative values through."""
    net = Net(31)
    x, channels = "input", 3
    for _ in range(3):
        x = net.conv(x, channels, 16, relu=False)
        slope = [net.constant(np.abs(net.rng.standard_normal((16, 1, 1))).astype(np.float32))]
        x = net.add(kind, x, *(slope if kind == "PRelu" else []))
        channels = 16
    classifier(net, x, 16)
    return net.model({"input": [1, 3, 8, 8]}, {"logits": [1, 10]})


def decoder():
    """ConvTranspose between convolutions, joined with what came before it."""
    net = Net(32)
    x = net.conv("input", 3, 16)
    y = net.conv(x, 16, 32, stride=2)
    y = net.add("Relu", net.add("ConvTranspose", y, net.weight(32, 16, 2, 2), net.weight(16), strides=[2, 2]))
    net.conv(net.add("Concat", x, y, axis=1), 32, 4, relu=False)
    net.nodes[-1].output[0] = "map"
    return net.model({"input": [1, 3, 8, 8]}, {"map": [1, 4, 8, 8]})


def transformer(opset=17):
    """A block as torch exports it: attention in heads, products with biases, GELU from Erf, normalisations."""
    net = Net(33)

    def linear(x, rows, columns):
        return net.add("Add", net.add("MatMul", x, net.weight(rows, columns)), net.weight(columns))

    def normalised(x):
        return net.add("LayerNormalization", x, net.constant(np.ones(32, np.float32)), net.weight(32), axis=-1)

    def heads(x, perm):
        return net.add("Transpose", net.add("Reshape", x, net.constant(np.int64([0, 8, 4, 8]))), perm=perm)

    y = normalised("input")
    q, k, v = (heads(linear(y, 32, 32), perm) for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
    scores = net.add("Softmax", net.add("Mul", net.add("MatMul", q, k), net.constant(np.float32(8**-0.5))), axis=-1)
    y = net.add("Transpose", net.add("MatMul", scores, v), perm=[0, 2, 1, 3])
    x = net.add("Add", "input", linear(net.add("Reshape", y, net.constant(np.int64([0, 8, 32]))), 32, 32))
    y = linear(normalised(x), 32, 64)
    erf = net.add("Erf", net.add("Div", y, net.constant(np.float32(2**0.5))))
    y = net.add(
        "Mul", net.add("Mul", y, net.add("Add", erf, net.constant(np.float32(1)))), net.constant(np.float32(0.5))
    )
    x = normalised(net.add("Add", x, linear(y, 64, 32)))
    net.add(
        "Gemm", net.add("ReduceMean", x, axes=[1], keepdims=0), net.weight(32, 10), net.weight(10), outputs=["logits"]
    )
    return net.model({"input": ["N", 8, 32]}, {"logits": ["N", 10]}, opset)


def gated_recurrent():
    """A GRU after a convolution, a Gemm after it."""
    net = Net(34)
    x = net.add("Squeeze", net.conv("input", 3, 8, stride=1), net.constant(np.int64([0])))
    x = net.add("Reshape", x, net.constant(np.int64([8, 1, 64])))
    assert net.add("GRU", x, net.weight(1, 48, 64), net.weight(1, 48, 16), hidden_size=16, outputs=["all", "last"])
    x = net.add("Squeeze", "last", net.constant(np.int64([0])))
    net.add("Gemm", x, net.weight(16, 10), net.weight(10), outputs=["logits"])
    return net.model({"input": [1, 3, 8, 8]}, {"logits": [1, 10]})


def tied():
    """One weight that two convolutions use, and one that two Gemms do."""
    net = Net(35)
    shared = net.weight(16, 16, 3, 3)
    x = net.conv("input", 3, 16)
    for last in (False, True):
        x = net.add("Conv", x, shared, pads=[1, 1, 1, 1], outputs=["map"] if last else None)
        x = x if last else net.add("Relu", x)
    square = net.weight(16, 16)
    y = net.add("Relu", net.add("Gemm", "vector", square, net.weight(16)))
    net.add("Gemm", y, square, net.weight(16), outputs=["logits"])
    return net.model({"input": [1, 3, 8, 8], "vector": [1, 16]}, {"map": [1, 16, 8, 8], "logits": [1, 16]})


def no_bias():
    """Convolutions without biases, the last of them the output."""
    net = Net(36)
    x = net.conv(net.conv("input", 3, 16, bias=False), 16, 16, bias=False)
    net.conv(x, 16, 8, bias=False, relu=False)
    net.nodes[-1].output[0] = "map"
    return net.model({"input": [1, 3, 8, 8]}, {"map": [1, 8, 8, 8]})


def any_size():
    """Batch, height and width left open."""
    net = Net(37)
    x = net.conv(net.conv("input", 3, 16, stride=2), 16, 16)
    x = net.add("Resize", x, "", net.constant(np.float32([1, 1, 2, 2])), mode="nearest")
    net.conv(x, 16, 4, relu=False)
    net.nodes[-1].output[0] = "map"
    return net.model({"input": ["N", 3, "H", "W"]}, {"map": ["N", 4, "h", "w"]})


def fixed_batch():
    """A batch of four that cannot be fed singly."""
    net = Net(38)
    x = net.conv(net.conv("input", 3, 16), 16, 16, stride=2)
    x = net.add("Reshape", x, net.constant(np.int64([4, 256])))
    net.add("Gemm", x, net.weight(256, 10), net.weight(10), outputs=["logits"])
    return net.model({"input": [4, 3, 8, 8]}, {"logits": [4, 10]})


def shuffled():
    """Split and channel shuffle, as ShuffleNet and the CSP nets have them."""
    net = Net(39)
    x = net.conv("input", 3, 16)
    left, right = net.add("Split", x, net.constant(np.int64([8, 8])), axis=1, outputs=["left", "right"]), "right"
    right = net.conv(net.conv(right, 8, 8, k=1), 8, 8, group=8, relu=False)
    x = net.add("Concat", left, net.conv(right, 8, 8, k=1), axis=1)
    x = net.add("Reshape", x, net.constant(np.int64([1, 2, 8, 8, 8])))
    x = net.add("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = net.add("Reshape", x, net.constant(np.int64([1, 16, 8, 8])))
    net.conv(x, 16, 4, k=1, relu=False)
    net.nodes[-1].output[0] = "map"
    return net.model({"input": [1, 3, 8, 8]}, {"map": [1, 4, 8, 8]})


def preactivation():
    """Batch norms with no convolution before them to be folded into, and a mean instead of a pool."""
    net = Net(40)
    x = net.conv("input", 3, 16, relu=False)
    for _ in range(2):
        y = net.conv(net.add("Relu", norm(net, x, 16)), 16, 16, relu=False)
        x = net.add("Add", x, y)
    x = net.add("ReduceMean", net.add("Relu", norm(net, x, 16)), axes=[2, 3], keepdims=0)
    net.add("Gemm", x, net.weight(10, 16), net.weight(10), transB=1, outputs=["logits"])
    return net.model({"input": [1, 3, 8, 8]}, {"logits": [1, 10]})


def sound():
    """Convolutions over one axis."""
    net = Net(41)
    x, channels = "input", 4
    for stride in (2, 1, 1):
        x = net.add("Conv", x, net.weight(16, channels, 5), net.weight(16), pads=[2, 2], strides=[stride])
        x, channels = net.add("Relu", x), 16
    classifier(net, x, 16)
    return net.model({"input": [1, 4, 64]}, {"logits": [1, 10]})


def enlarged(opset):
    """Upsample and Resize as old opsets have them, with a Softmax over several axes where its axis meant that."""
    net = Net(42)
    x = net.conv("input", 3, 16)
    kind = "Upsample" if opset == 9 else "Resize"
    scales = net.constant(np.float32([1, 1, 2, 2]))
    x = net.conv(
        net.add(kind, x, *([net.constant(np.float32([]))] if opset >= 11 else []), scales, mode="nearest"),
        16,
        4,
        relu=False,
    )
    net.add("Softmax", net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), axis=1, outputs=["scores"])
    return net.model({"input": [1, 3, 8, 8]}, {"scores": [1, 4, 8, 8]}, opset)


def dense():
    """Features that all later layers read (DenseNet), a norm after each Concat, pools with padding between."""
    net = Net(43)
    x = net.add("MaxPool", net.conv("input", 3, 16), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for channels in (16, 24, 32):
        y = net.conv(net.add("Relu", norm(net, x, channels)), channels, 8, relu=False)
        x = net.add("Concat", x, y, axis=1)
    x = net.conv(x, 40, 16, k=1)
    x = net.add("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    net.conv(x, 16, 4, k=1, relu=False)
    net.nodes[-1].output[0] = "map"
    return net.model({"input": [1, 3, 16, 16]}, {"map": [1, 4, 4, 4]})


def rearranged():
    """Slices to depth at the start (Focus), depth to space and a bilinear Resize at the end, reflected padding."""
    net = Net(44)
    parts = []
    for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
        ends = [net.constant(np.int64(values)) for values in ([row, column], [16, 16], [2, 3], [2, 2])]
        parts.append(net.add("Slice", "input", *ends))
    x = net.conv(net.add("Concat", *parts, axis=1), 12, 16)
    x = net.add("Pad", x, net.constant(np.int64([0, 0, 1, 1, 0, 0, 1, 1])), mode="reflect")
    x = net.add("Relu", net.add("Conv", x, net.weight(16, 16, 3, 3)))
    x = net.add("DepthToSpace", net.conv(x, 16, 16), blocksize=2)
    net.add("Resize", net.conv(x, 4, 4), "", net.constant(np.float32([1, 1, 2, 2])), mode="linear", outputs=["map"])
    return net.model({"input": [1, 3, 16, 16]}, {"map": [1, 4, 32, 32]})


def left_weights():
    """Products whose weights stand left, a Gemm without a bias, a normalisation of instances."""
    net = Net(46)
    x = net.add("InstanceNormalization", net.conv("input", 3, 16), net.weight(16), net.weight(16))
    x = net.add("Reshape", x, net.constant(np.int64([16, 64])))
    x = net.add("Relu", net.add("MatMul", net.weight(8, 16), x))
    net.add("Gemm", x, net.weight(64, 10), outputs=["map"])
    return net.model({"input": [1, 3, 8, 8]}, {"map": [8, 10]})


def computed_shape():
    """A Reshape to a shape that is computed from the batch, as torch exports a flattening view."""
    net = Net(48)
    x = net.conv(net.conv("input", 3, 16), 16, 16, stride=2)
    batch = net.add("Gather", net.add("Shape", x), net.constant(np.int64(0)), axis=0)
    shape = net.add(
        "Concat", net.add("Unsqueeze", batch, net.constant(np.int64([0]))), net.constant(np.int64([-1])), axis=0
    )
    net.add("Gemm", net.add("Reshape", x, shape), net.weight(256, 10), net.weight(10), outputs=["logits"])
    return net.model({"input": ["N", 3, 8, 8]}, {"logits": ["N", 10]})


def read_twice():
    """Values that one node reads as both of its inputs, and an input that three nodes read."""
    net = Net(49)
    x = net.add("Add", net.conv("input", 3, 16, relu=False), net.conv("input", 3, 16, k=1))
    x = net.conv(net.add("Mul", x, x), 16, 16)
    x = net.add("Concat", net.add("Add", x, x), "input", x, axis=1)
    net.conv(x, 35, 4, relu=False)
    net.nodes[-1].output[0] = "map"
    return net.model({"input": [1, 3, 8, 8]}, {"map": [1, 4, 8, 8]})


def faint_channels():
    """A convolution of which every other channel has next to no weights, only a bias."""
    net = Net(50)
    weight = net.rng.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12
    weight[::2] *= 1e-9
    x = net.add("Conv", net.conv("input", 3, 16), net.constant(weight), net.weight(16), pads=[1, 1, 1, 1])
    net.conv(net.add("Relu", x), 16, 4, relu=False)
    net.nodes[-1].output[0] = "map"
    return net.model({"input": [1, 3, 8, 8]}, {"map": [1, 4, 8, 8]})


def words():
    """Numbers of words instead of pictures: a table of vectors, then products."""
    net = Net(51)
    x = net.add("Gather", net.weight(50, 32), "ids", axis=0)
    x = net.add("Relu", net.add("Add", net.add("MatMul", x, net.weight(32, 32)), net.weight(32)))
    net.add("MatMul", x, net.weight(32, 10), outputs=["logits"])
    return net.model({"ids": (TensorProto.INT64, [1, 8])}, {"logits": [1, 8, 10]})


def looping():
    """A Loop between two convolutions."""
    net = Net(52)
    value, flag = ["v", [1, 16, 8, 8]], [TensorProto.BOOL, []]
    nodes = [helper.make_node("Mul", ["v", "half"], ["w"]), helper.make_node("Identity", ["go"], ["on"])]
    number = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    fed = [number, helper.make_tensor_value_info("go", *flag), info(*value)]
    given = [helper.make_tensor_value_info("on", *flag), info("w", value[1])]
    body = helper.make_graph(nodes, "body", fed, given, [numpy_helper.from_array(np.float32(0.5), "half")])
    x = net.conv("input", 3, 16)
    x = net.add("Loop", net.constant(np.int64(3)), net.constant(np.bool_(True)), x, body=body)
    net.conv(x, 16, 4, relu=False)
    net.nodes[-1].output[0] = "map"
    return net.model({"input": [1, 3, 8, 8]}, {"map": [1, 4, 8, 8]})


def weights_in_nodes(model):
    """Give the model with every initializer as a Constant node."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    nodes = [helper.make_node("Constant", [], [w.name], "", value=w) for w in made.graph.initializer]
    nodes += list(made.graph.node)
    del made.graph.initializer[:], made.graph.node[:]
    made.graph.node.extend(nodes)
    onnx.checker.check_model(made)
    return made


def nameless(model):
    """Give the model without a name on any node."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for node in made.graph.node:
        node.name = ""
    return made


def renamed(model):
    """Give the model with spaces, slashes, colons, commas and letters beyond ASCII in all names."""
    made = onnx.ModelProto.FromString(model.SerializeToString())

    def odd(name):
        return name and f"/größe {name}/a b::{name},;0"

    for node in made.graph.node:
        node.name = odd(node.name)
        node.input[:] = [odd(name) for name in node.input]
        node.output[:] = [odd(name) for name in node.output]
    for value in (*made.graph.initializer, *made.graph.input, *made.graph.output):
        value.name = odd(value.name)
    onnx.checker.check_model(made)
    return made


def tied_transposed():
    """One weight that a Gemm reads as it is and another transposed: its channels lie along both axes."""
    net = Net(53)
    square = net.weight(16, 16)
    y = net.add("Relu", net.add("Gemm", "vector", square, net.weight(16)))
    net.add("Gemm", y, square, net.weight(16), transB=1, outputs=["logits"])
    return net.model({"vector": [1, 16]}, {"logits": [1, 16]})


def dense_layers():
    """What comes from TensorFlow: auto_pad, products and sums instead of Gemm, an input with channels last."""
    net = Net(45)
    x = net.add("Transpose", "input", perm=[0, 3, 1, 2])
    x = net.add("Conv", x, net.weight(16, 3, 3, 3), net.weight(16), strides=[2, 2], auto_pad="SAME_UPPER")
    x = net.add("Conv", net.add("Relu", x), net.weight(16, 16, 3, 3), net.weight(16), auto_pad="SAME_UPPER")
    x = net.add("Squeeze", net.add("GlobalAveragePool", net.add("Relu", x)), net.constant(np.int64([2, 3])))
    for rows, columns in ((16, 32), (32, 32)):
        x = net.add("Relu", net.add("Add", net.add("MatMul", x, net.weight(rows, columns)), net.weight(columns)))
    x = net.add("Add", net.add("MatMul", x, net.weight(32, 10)), net.weight(10))
    net.add("Softmax", x, outputs=["scores"])
    return net.model({"input": [1, 16, 16, 3]}, {"scores": [1, 10]})


def own_functions():
    """A block as a function of the model's own, called twice."""
    body = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], "relu"),
    ]
    block = helper.make_function("own", "Block", ["x", "w"], ["y"], body, [helper.make_opsetid("", 17)])
    net = Net(47)
    x = net.conv("input", 3, 16)
    for last in (False, True):
        x = net.add("Block", x, net.weight(16, 16, 3, 3), outputs=["map"] if last else None, domain="own")
    inputs, outputs = [info("input", [1, 3, 8, 8])], [info("map", [1, 16, 8, 8])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    shown = helper.make_graph(net.nodes, "net", inputs, outputs, net.weights)
    return helper.make_model(shown, opset_imports=opsets, functions=[block], ir_version=8)


def written_out(step):
    """Three convolutions, each with something after it that is one operator's work written as two."""
    net = Net(4)
    x, channels = "input", 3
    for _ in range(3):
        x = net.conv(x, channels, 16, relu=False)
        if step == "norm":
            x = net.add("Mul", x, net.constant(np.linspace(0.01, 3, 16, dtype=np.float32).reshape(1, 16, 1, 1)))
            x = net.add("Add", x, net.constant(np.linspace(-2, 2, 16, dtype=np.float32).reshape(16, 1, 1)))
        elif step == "relu6":
            x = net.add("Min", net.add("Max", x, net.constant(np.float32(0))), net.constant(np.float32([6])))
        elif step == "relu and norm":
            x = norm(net, net.add("Relu", x), 16)
        elif step == "channels last":
            slope = net.constant(np.linspace(0.5, 1.5, 16, dtype=np.float32))
            y = net.add("Mul", net.add("Transpose", x, perm=[0, 2, 3, 1]), slope)
            x = net.add("Transpose", net.add("Relu", y), perm=[0, 3, 1, 2])
        channels = 16
    net.conv(x, 16, 4, relu=False)
    net.nodes[-1].output[0] = "map"
    return net.model({"input": [1, 3, 8, 8]}, {"map": [1, 4, 8, 8]})


def padded():
    """Pad before convolutions and a pool, a mean over the map (as Keras and torch have them)."""
    net = Net(54)

    def pad(x):
        return net.add("Pad", x, net.constant(np.int64([0, 0, 1, 1, 0, 0, 1, 1])), net.constant(np.float32(0)))

    x = net.add("Relu", net.add("Conv", pad("input"), net.weight(16, 3, 3, 3), net.weight(16), strides=[2, 2]))
    x = net.add("MaxPool", pad(x), kernel_shape=[3, 3], strides=[2, 2])
    x = net.add("Relu", net.add("Conv", pad(x), net.weight(16, 16, 3, 3), net.weight(16), pads=[0, 0, 0, 0]))
    x = net.add("ReduceMean", x, axes=[-2, -1], keepdims=0)
    net.add("Gemm", x, net.weight(10, 16), net.weight(10), transB=1, outputs=["logits"])
    return net.model({"input": ["N", 3, 16, 16]}, {"logits": ["N", 10]})
