"""`edgekit inspect --groups`: the channels that can be pruned together, and what has to stay."""

import numpy as np
import onnx
import pytest

from conftest import SAMPLES, picture, save
from edgekit import graph
from edgekit.cli import inspect_groups
from edgekit.compress.prune.groups import Group, Place, Reader, find_groups
from nets import NETS, Net, residual, transformer

MODEL = SAMPLES / "fashion_resnet.onnx"
QUICK = ("--groups", "--seconds", "0.1", "--no-config")


def saved(tmp_path, made, name="m"):
    path = tmp_path / f"{name}.onnx"
    onnx.save(made, path)
    return path


def table(lines, first):
    """Give the rows below the heading that starts with `first`, as words."""
    start = next(number for number, line in enumerate(lines) if line.startswith(f"  {first}"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("  "):
            break
        rows.append(line.split())
    return rows


def test_the_tables_on_one_screen(edgekit):
    done = edgekit("inspect", MODEL, *QUICK)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    found = find_groups(graph.load(MODEL))
    assert lines[0].startswith("fashion_resnet.onnx    920.1 kB; 228,346 parameters; ")
    assert lines[2] == (f"{len(found.groups)} groups of channels can be pruned, {len(found.frozen)} cannot")
    assert "Shares overlap" in done.out
    assert max(map(len, lines)) <= 100
    rows = table(lines, "made by")
    assert {row[0] for row in rows} == {group.makers[0] for group in found.groups}
    frozen = table(lines, "stays whole")
    assert {row[0] for row in frozen} == {one.name for one in found.frozen}
    assert any("output" in row for row in frozen) or "output" in done.out.lower()


def test_top_bounds_both_tables(edgekit):
    lines = edgekit("inspect", MODEL, *QUICK, "--top", "2").out.splitlines()
    number = len(find_groups(graph.load(MODEL)).groups)
    assert len(table(lines, "made by")) == 2
    assert f"and {number - 2} more; --top {number} shows all" in lines


def test_the_document_has_what_the_layers_say(edgekit):
    document = edgekit("inspect", MODEL, *QUICK, "--json").json
    found = find_groups(graph.load(MODEL))
    assert document["schema"] == "edgekit.inspect/1"
    assert {group["name"]: group["channels"] for group in document["groups"]} == {g.name: g.size for g in found.groups}
    assert [(one["name"], one["channels"], one["reason"]) for one in document["frozen"]] == [
        (one.name, one.size, one.reason) for one in found.frozen
    ]
    layers = {layer["name"]: layer for layer in document["layers"]}
    for group in document["groups"]:
        own = {*group["makers"], *group["readers"]}
        assert own <= set(layers)
        assert group["ms"] == pytest.approx(sum(layers[name]["ms"] for name in own))
        assert group["time_share"] == pytest.approx(sum(layers[name]["share"] for name in own))
        assert 0 < group["byte_share"] <= 1
        assert isinstance(group["removable"], bool)
    times = [group["ms"] for group in document["groups"]]
    assert times == sorted(times, reverse=True)


def test_without_the_flag_nothing_is_different(edgekit):
    assert not {"groups", "frozen"} & set(edgekit("inspect", MODEL, *QUICK[1:], "--json").json)


def test_bytes_are_those_along_the_channels():
    """An entry of a weight that lies along two axes of the group counts once; other channels do not count."""
    shape = {"w": (4, 6), "b": (4,), "v": (8, 10)}
    weights = {name: 4 * int(np.prod(dims)) for name, dims in shape.items()}
    half = np.array([0, 1, 2, 3, -1, -1])
    group = Group(
        name="a",
        size=4,
        makers=("a",),
        readers=(Reader("c", "x", 1, np.arange(4), Place("v", 0, np.array([0, 1, 2, 3, -1, -1, -1, -1]))),),
        places=(Place("w", 0, np.arange(4)), Place("w", 1, half), Place("b", 0, np.arange(4))),
        removable=False,
    )
    assert inspect_groups.bytes_along(group, weights) == pytest.approx(4 * (24 + 4 + 40))
    partly = Group("a", 4, ("a",), (), (Place("w", 1, half), Place("w", 1, half[::-1].copy())), False)
    assert inspect_groups.bytes_along(partly, weights) == pytest.approx(4 * 24)
    assert inspect_groups.bytes_along(Group("a", 4, (), (), (Place("w", 1, half),), False), weights) == 4 * 16


@pytest.mark.parametrize("name", ["nameless", "recurrent", "weightless", "branching", "own-domain"])
def test_every_difficult_net_has_an_answer(edgekit, tmp_path, name):
    if name == "nameless":
        made = residual()
        for node in made.graph.node:
            node.name = ""
    elif name == "own-domain":
        net = Net()
        x = net.add("Strange", net.conv(net.conv("input", 3, 4), 4, 5), domain="my.own")
        net.add("Relu", x, outputs=["y"])
        made = net.model({"input": [1, 3, 8, 8]}, {"y": [1, 5, 8, 8]}, domains=("my.own",))
    else:
        made = NETS[name]()
    path = saved(tmp_path, made)
    found = find_groups(graph.load(path))
    text = edgekit("inspect", path, *QUICK)
    assert text.code == 0, text.err
    assert f"\n{len(found.groups)} group" in text.out
    assert max(map(len, text.out.splitlines())) <= 100
    if name == "own-domain":  # it cannot be run
        document = edgekit("inspect", path, *QUICK, "--json").json
        assert document["groups"][0]["ms"] is None
        assert document["groups"][0]["time_share"] is None


def test_long_names_keep_their_ends(edgekit, tmp_path):
    made = transformer()
    for number, node in enumerate(made.graph.node):
        node.name = f"/a/module/of/a/module/of/a/module/of/a/module\x1b/{node.op_type}_{number}"
    lines = edgekit("inspect", saved(tmp_path, made), *QUICK).out.splitlines()
    assert max(map(len, lines)) <= 100
    assert all(row[0].startswith("...") for row in table(lines, "made by"))
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize(
    ("arguments", "what", "how"),
    [
        (["imgs", "--groups"], "--groups: for a model, and imgs is a folder", "leave out"),
        (["imgs", "--groups", "--features", "m.onnx"], "--groups: not for --features", "leave out"),
        (["int8.onnx", "--groups"], "int8.onnx: is quantised already, and channels are pruned before that", "float"),
        (["a.jpg", "--groups"], "a.jpg: is a picture, not a model", "folder"),
        (["missing.onnx", "--groups"], "no such file", ""),
    ],
)
def test_every_mistake_has_one_sentence_and_a_way_out(edgekit, tmp_path, arguments, what, how):
    save(tmp_path / "imgs/a.jpg", picture())
    save(tmp_path / "a.jpg", picture())
    net = Net()
    scale, zero = net.constant(np.float32(0.1)), net.constant(np.int8(0))
    x = net.add("DequantizeLinear", net.add("QuantizeLinear", "input", scale, zero), scale, zero)
    net.add("Relu", x, outputs=["y"])
    saved(tmp_path, net.model({"input": [1, 3]}, {"y": [1, 3]}), "int8")
    done = edgekit("inspect", *arguments, "--no-config")
    assert done.code == 2, done.out
    assert what in done.err
    assert how in done.err
    assert done.out == ""
    assert len(done.err.strip().splitlines()) == 2
