"""Groups of channels, checked on every toy graph and real model there is: what is masked equals what is removed."""

import itertools
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import prune_zoo
from conftest import ROOT, SAMPLES
from edgekit import graph
from edgekit.compress.prune.groups import find_groups
from edgekit.compress.prune.prepare import prepared
from edgekit.compress.prune.surgery import mask, remove
from edgekit.errors import EdgekitError
from edgekit.session import open_session, run
from prune_zoo import NETS, RULES, TINY, random_net, tiny

RANDOM = range(16)
ALL = {
    **{name: toy.build for name, toy in RULES.items() if toy.runs},
    **{f"net: {name}": build for name, (build, _) in NETS.items()},
    **{f"random {seed}": (lambda seed=seed: random_net(seed)) for seed in RANDOM},
}
TOLERANCE = 1e-5  # of the output's range


# ---- the check itself


def feed(model, seed=0):
    """Give random inputs; an open batch is 2, other open sides are 8."""
    rng = np.random.default_rng(seed)
    made = {}
    for entry in graph.inputs(model):
        shape = [side if isinstance(side, int) else 8 if axis else 2 for axis, side in enumerate(entry.shape)]
        whole = np.issubdtype(np.dtype(entry.dtype), np.integer)
        values = rng.integers(0, 20, shape) if whole else rng.standard_normal(shape)
        made[entry.name] = values.astype(entry.dtype)
    return made


def answers(model, fed):
    """Run the model as onnxruntime runs it by default."""
    return run(open_session(model), fed)


def assert_same(masked, removed, original, again=None):
    """Hold two lists of outputs against each other, to 1e-5 of the original output's range.

    `again`: the original outputs computed in another order; what that changes is no error either.
    """
    for one, other, before, rounded in zip(masked, removed, original, again or original, strict=True):
        assert one.shape == other.shape == before.shape
        tolerance = 2e-3 if before.dtype == np.float16 else TOLERANCE
        finite = before[np.isfinite(before)].astype(np.float64)
        scale = max(np.ptp(finite), np.abs(finite).max()) if finite.size else 1.0
        noise = np.nan_to_num(np.abs(before.astype(np.float64) - rounded)).max(initial=0)
        allowed = max(tolerance * max(scale, 1e-6), noise)
        np.testing.assert_allclose(other.astype(np.float64), one.astype(np.float64), rtol=0, atol=allowed)


def choices(group, rng):
    """Give channels to take out: one, half, all but one, all; None instead of what may not go."""
    order = rng.permutation(group.size).tolist()
    picked = (order[:1], order[: max(1, group.size // 2)], order[1:], order)
    return [sorted(channels) if channels and group.may_go(channels) else None for channels in picked]


def held(model, name):
    """Give the shape of a constant by its name, None where there is none."""
    tensor = graph.initializers(model).get(name)
    return None if tensor is None else tuple(tensor.dims)


def parameters(model):
    """Count the numbers of all constants but those that say where channels are."""
    whole = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return sum(int(np.prod(tensor.dims)) for tensor in graph.all_tensors(model) if tensor.data_type not in whole)


def signature(model):
    return graph.inputs(model), [value.SerializeToString(deterministic=True) for value in model.graph.output]


def is_strict(model):
    """Tell whether shapes can be inferred strictly at all."""
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def assert_smaller(model, made, groups, gone):
    """Every constant of the groups lost as many entries of each axis as channels went."""
    lost = {}
    for group in groups:
        out = set(gone.get(group.name, ()))
        for place in (*group.places, *(reader.weight for reader in group.readers)):
            hit = frozenset(np.flatnonzero([int(channel) in out for channel in place.channels]).tolist())
            lost.setdefault((place.constant, place.axis), set()).update(hit)
    for (name, axis), hit in lost.items():
        before, after = held(model, name), held(made, name)
        assert before is not None, name
        if after is not None and len(hit) < before[axis]:  # what nothing reads any more is dropped
            assert after[axis] == before[axis] - len(hit), (name, axis)
    assert parameters(made) < parameters(model)


@dataclass
class Case:
    """A model with its groups, its answers (of a `deep` one twice), and whether it was strict before."""

    model: onnx.ModelProto
    deep: bool = False

    def __post_init__(self):
        self.bytes = self.model.SerializeToString(deterministic=True)
        self.found = find_groups(self.model)
        self.ready = prepared(self.model)  # whose names of constants the groups have
        self.fed = feed(self.model)
        self.before = answers(self.model, self.fed)
        self.again = run(open_session(self.model, optimized=False), self.fed) if self.deep else None
        self.strict = is_strict(self.model)

    def check(self, gone):
        """Hold what is masked and what is removed against each other."""
        masked, removed = mask(self.model, gone), remove(self.model, gone)
        assert self.model.SerializeToString(deterministic=True) == self.bytes, "the input was changed"
        onnx.checker.check_model(removed)
        assert is_strict(removed) or not self.strict
        assert signature(removed) == signature(self.model)
        assert_smaller(self.ready, removed, self.found.groups, gone)
        assert_same(answers(masked, self.fed), answers(removed, self.fed), self.before, self.again)

    def may_go(self, gone):
        """Tell whether groups that may all go as a whole, each alone, may go together: mask and remove must agree."""
        refused = []
        for change in (mask, remove):
            try:
                change(self.model, gone)
            except EdgekitError as error:
                refused.append(error.message)
        assert len(refused) in (0, 2)
        assert all("would leave" in message for message in refused)
        return not refused

    def check_all(self, alone=4):
        """Check one, half, all but one and all of every group at once; then each group alone, `alone` ways."""
        rng = np.random.default_rng(1)
        picked = {group.name: choices(group, rng) for group in self.found.groups}
        for way in range(4):
            together = {name: ways[way] for name, ways in picked.items() if ways[way]}
            if len(together) > (alone > 0) and (way < 3 or self.may_go(together)):
                self.check(together)
        for number, (name, ways) in enumerate(picked.items()):
            possible = [way for way in ways if way]
            for turn in range(min(alone, len(possible))):
                self.check({name: possible[(number + turn) % len(possible)]})


@cache
def case(name):
    """Give the case of a graph of the zoo, made once."""
    return Case(ALL[name]())


def assert_sound(found, ready):
    """Names are unique, channels of all places and readers are in range and every one is somewhere.

    `ready` is the prepared model.
    """
    names = [group.name for group in found.groups]
    assert len(set(names)) == len(names)
    known = {node.name for node in ready.graph.node}
    for group in found.groups:
        assert group.size >= 1
        assert group.makers
        assert len(set(group.makers)) == len(group.makers)
        seen = set()
        for place in (*group.places, *(reader.weight for reader in group.readers)):
            assert place.channels.dtype == np.int64
            shape = held(ready, place.constant)
            assert shape is not None and shape[place.axis] == len(place.channels), place.constant
            assert place.channels.min() >= -1 and place.channels.max() < group.size
            seen.update(place.channels.tolist())
        assert seen - {-1} == set(range(group.size))
        assert known.issuperset((*group.makers, *(reader.node for reader in group.readers)))
    for frozen in found.frozen:
        assert frozen.reason.strip()
        assert "\n" not in frozen.reason
        assert len(frozen.reason) <= 100


# ---- every graph


@pytest.mark.parametrize("name", ALL)
def test_masked_equals_removed(name):
    assert_sound(case(name).found, case(name).ready)
    case(name).check_all(alone=int(name in RULES))


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_every_group_alone(name):
    case(name).check_all()


@pytest.mark.parametrize("name", RULES)
def test_what_the_rules_cover_can_go_and_the_rest_says_why(name):
    toy = RULES[name]
    found = case(name).found if toy.runs else find_groups(toy.build())
    reasons = {frozen.name: frozen.reason for frozen in found.frozen}
    assert len(found.groups) >= toy.groups, reasons
    assert sum(group.removable for group in found.groups) >= toy.removable
    for word in toy.frozen:
        assert any(word.lower() in reason.lower() for reason in reasons.values()), (word, reasons)


@pytest.mark.parametrize("name", NETS)
def test_what_the_other_nets_lose(name):
    found = case(f"net: {name}").found
    assert len(found.groups) >= NETS[name][1], [(frozen.name, frozen.reason) for frozen in found.frozen]


def test_at_least_nine_of_ten_that_the_rules_cover_can_go():
    """Counted over everything: what should be a group, and what is one."""
    wanted = {name: toy.groups for name, toy in RULES.items() if toy.runs}
    wanted |= {f"net: {name}": least for name, (_, least) in NETS.items()}
    got = {name: min(least, len(case(name).found.groups)) for name, least in wanted.items()}
    assert len(RULES) >= 40
    assert sum(got.values()) >= 0.9 * sum(wanted.values())


@pytest.mark.parametrize("seed", RANDOM)
def test_random_nets_freeze_nothing_but_their_ends(seed):
    """Only what the rules cover is drawn: channels may hang together, or be read by nothing, and no more."""
    allowed = ("output", "single channel", "one channel", "of groups", "nothing sums", "all at once")
    for frozen in case(f"random {seed}").found.frozen:
        assert any(word in frozen.reason for word in allowed), frozen


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # to shrink an example takes minutes
    suppress_health_check=list(HealthCheck),
)
@given(st.data())
def test_nets_that_hypothesis_draws(data):
    model = prune_zoo.draw_net(lambda n: data.draw(st.integers(0, n - 1)), steps=5)
    drawn = Case(model)
    assert_sound(drawn.found, drawn.ready)
    drawn.check_all(alone=0)


@pytest.mark.long
@pytest.mark.parametrize("block", range(10))
def test_many_random_nets(block):
    for seed in range(1000 + 40 * block, 1040 + 40 * block):
        drawn = Case(random_net(seed, steps=14))
        assert_sound(drawn.found, drawn.ready)
        drawn.check_all(alone=1)


# ---- stable


def plain(found):
    """Everything that find_groups says, comparable."""
    return [
        (
            *(group.name, group.size, group.makers, group.removable),
            [(reader.node, reader.value, reader.axis, reader.channels.tolist()) for reader in group.readers],
            [(place.constant, place.axis, place.channels.tolist()) for place in group.places],
        )
        for group in found.groups
    ] + [(frozen.name, frozen.size, frozen.reason) for frozen in found.frozen]


@pytest.mark.parametrize("name", ["cross stage", "vision transformer, split", "shuffled", "net: nameless", "random 3"])
def test_twice_the_same(name):
    model = ALL[name]()
    found = find_groups(model)
    assert plain(found) == plain(find_groups(graph.copy(model)))
    gone = {group.name: [group.size - 1] for group in found.groups if group.may_go([group.size - 1])}
    first, second = (remove(model, order) for order in (gone, dict(reversed(gone.items()))))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_the_same_whatever_the_hash_seed():
    code = (
        "import hashlib\n"
        "from prune_zoo import RULES, random_net\n"
        "from edgekit.compress.prune.groups import find_groups\n"
        "from edgekit.compress.prune.surgery import remove\n"
        "for model in (RULES['cross stage'].build(), RULES['two inputs'].build(), random_net(5), random_net(6)):\n"
        "    found = find_groups(model)\n"
        "    gone = {group.name: [0] for group in found.groups if group.may_go([0])}\n"
        "    made = remove(model, gone).SerializeToString(deterministic=True)\n"
        "    print(found.frozen, [(g.name, g.makers, g.parts, g.places, g.readers) for g in found.groups])\n"
        "    print(hashlib.sha256(made).hexdigest())"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=ROOT / "tests",
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        )
        for seed in ("1", "2")
    ]
    assert said[0].stdout, said[0].stderr
    assert said[0].stdout == said[1].stdout


def test_removing_nothing_changes_nothing_and_twice_is_once():
    model = RULES["cross stage"].build()
    found = find_groups(model)
    fed = feed(model)
    assert_same(answers(model, fed), answers(remove(model, {}), fed), answers(model, fed))
    group = max(found.groups, key=lambda one: one.size)
    smaller = remove(model, {group.name: [0]})
    again = {one.name: one for one in find_groups(smaller).groups}
    assert again[group.name].size == group.size - 1
    twice = remove(smaller, {group.name: [group.size - 2]})
    once = remove(model, {group.name: [0, group.size - 1]})
    assert_same(answers(once, fed), answers(twice, fed), answers(model, fed))


# ---- the brute-force twin: every deletion of single slices of constants that is consistent


def slices_of(model):
    """Give every (constant, axis, length) that may lose an entry: axes of weights that hold channels."""
    found = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            found += [(tensor.name, axis, size) for axis, size in enumerate(tensor.dims) if size > 2]
    spatial = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")}
    return [one for one in found if not (one[0] in spatial and one[1] > 1)]


def without(model, deleted):
    """Delete entries (constant, axis, indices) for real; depthwise convolutions get the groups they need."""
    made = graph.copy(model)
    for tensor in made.graph.initializer:
        values = graph.array(tensor)
        for name, axis, indices in deleted:
            if name == tensor.name:
                values = np.delete(values, indices, axis)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    shapes = {tensor.name: list(tensor.dims) for tensor in made.graph.initializer}
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name == "group" and attribute.i > 1:
                attribute.i = shapes[node.input[1]][0]
    del made.graph.value_info[:]
    return made


def zeroed(model, deleted):
    """Set the same entries to zero instead."""
    made = graph.copy(model)
    for tensor in made.graph.initializer:
        values = graph.array(tensor).copy()
        for name, axis, indices in deleted:
            if name == tensor.name:
                np.moveaxis(values, axis, 0)[list(indices)] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return made


def outputs_of(model, fed, shapes=None):
    """Run without optimisation; None when it does not run or gives other shapes."""
    try:
        given = run(open_session(model, optimized=False), fed)
    except Exception:  # onnxruntime refuses in many ways
        return None
    return given if shapes is None or [one.shape for one in given] == shapes else None


def is_consistent(model, deleted, fed, shapes):
    """Tell whether deleting the entries is the same as setting them to zero."""
    smaller = outputs_of(without(model, deleted), fed, shapes)
    if smaller is None:
        return False
    whole = outputs_of(zeroed(model, deleted), fed)
    return all(np.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in zip(smaller, whole, strict=True))


def every_deletion(model, most=1):
    """Find, by trying them all, the smallest sets of entries that can be deleted, `most` of one axis.

    First which sets of axes give a model that runs (one entry less each), then which entries of them.
    """
    fed = feed(model)
    shapes = [one.shape for one in outputs_of(model, fed)]
    axes = slices_of(model)
    found, fitting = [], []
    counts = range(most + 1)
    for amounts in sorted(itertools.product(counts, repeat=len(axes)), key=lambda one: (sum(one), one)):
        if not any(amounts) or any(all(a >= b for a, b in zip(amounts, less, strict=True)) for less in fitting):
            continue
        taken = [(name, axis, size, n) for (name, axis, size), n in zip(axes, amounts, strict=True) if n]
        probe = [(name, axis, list(range(n))) for name, axis, _, n in taken]
        if outputs_of(without(model, probe), fed, shapes) is None:
            continue
        entries = [list(itertools.combinations(range(size), n)) for *_, size, n in taken]
        consistent = []
        for picked in itertools.product(*entries):
            deleted = [(name, axis, list(hit)) for (name, axis, *_), hit in zip(taken, picked, strict=True)]
            if is_consistent(model, deleted, fed, shapes):
                consistent.append(frozenset((name, axis, index) for name, axis, hit in deleted for index in hit))
        if consistent:
            fitting.append(amounts)
            found += consistent
    return set(found)


def said_deletions(model):
    """Give the same of what find_groups says: the entries of every single channel."""
    found = set()
    for group in find_groups(model).groups:
        for channel in range(group.size if group.size > 1 else 0):
            entries = set()
            for place in (*group.places, *(reader.weight for reader in group.readers)):
                hit = np.flatnonzero(place.channels == channel)
                entries |= {(place.constant, place.axis, int(index)) for index in hit}
            found.add(frozenset(entries))
    return found


@pytest.mark.parametrize("kind", TINY)
def test_against_every_deletion_there_is(kind):
    model = tiny(kind)
    most = 2 if kind == "joined twice" else 1
    assert said_deletions(model) == every_deletion(model, most)


# ---- real models


MODELS = (
    "models/resnet8_cifar10.onnx",
    "models/resnet8_cifar10_jpegft.onnx",
    "models/resnet20_cifar10.onnx",
    "models/mobilenetv1_025_vww96.onnx",
    "models/vit_fmnist.onnx",
    "models/yolox_nano_416.onnx",
    "models/yolox_nano_416_opset11.onnx",
    "models/ultraface_rfb320_opset9.onnx",
    "sample_data_candidate/digits_dwcnn.onnx",
)


def real(assets, name):
    path = next(iter(sorted(assets.rglob(name.split("/")[-1]))), None)
    if path is None:
        pytest.skip(f"{name} is not among the shared assets")
    return graph.load(path)


def test_the_sample_model():
    Case(graph.load(SAMPLES / "fashion_resnet.onnx")).check_all(alone=0)


@pytest.mark.parametrize("name", [name for name in MODELS if "opset11" not in name])
def test_real_models_all_groups_at_once(assets, name):
    model = Case(real(assets, name), deep=True)
    assert_sound(model.found, model.ready)
    rng = np.random.default_rng(0)
    gone = {group.name: choices(group, rng)[1] for group in model.found.groups}
    assert gone
    model.check({name: half for name, half in gone.items() if half})


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_real_models_every_group(assets, name):
    model = Case(real(assets, name), deep=True)
    model.check_all(alone=4 if len(model.found.groups) < 20 else 1)
