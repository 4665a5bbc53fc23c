"""A cache that changes nothing but the time, and that nothing can break."""

import json
import os

import numpy as np
import pytest

from conftest import picture, save
from edgekit import config, graph
from edgekit.cache import SUFFIX, Cache
from edgekit.compress.bench import Bench
from edgekit.compress.quantize import ranges
from edgekit.measure.calibration import Calibration
from nets import feeds, residual


class Maker:
    """Makes arrays, and counts how often."""

    def __init__(self, **arrays):
        self.arrays, self.calls = arrays or {"a b": np.arange(5.0), "none": np.zeros((0, 3))}, 0

    def __call__(self):
        self.calls += 1
        return self.arrays


def entries(folder):
    return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)


def test_what_was_made_once_is_remembered(tmp_path):
    cache, make = Cache(tmp_path / "deep" / "folder"), Maker()
    for _ in range(3):
        found = cache.remember("key", make)
        assert list(found) == ["a b", "none"]
        assert all(
            (found[name] == make.arrays[name]).all() and found[name].shape == make.arrays[name].shape for name in found
        )
    assert make.calls == 1
    cache.remember("other key", make)
    assert make.calls == 2 and len(entries(cache.folder)) == 2


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"x" * 500, "cut", "flip", "pickle", "other"])
def test_damaged_entries_are_made_again(tmp_path, damage):
    cache, make = Cache(tmp_path), Maker(a=np.random.default_rng(0).random(3000))
    cache.remember("key", make)
    (path,) = entries(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 2] ^= 255
        path.write_bytes(data)
    elif damage == "pickle":
        with path.open("wb") as stream:
            np.savez(stream, heading=np.array([{}], object))
    elif damage == "other":
        cache.remember("another", Maker(a=np.zeros(1)))
        (foreign,) = [one for one in entries(tmp_path) if one != path]
        path.write_bytes(foreign.read_bytes())
    else:
        path.write_bytes(damage)
    assert (cache.remember("key", make)["a"] == make.arrays["a"]).all()
    assert make.calls == 2
    cache.remember("key", make)
    assert make.calls == 2


def test_the_least_recently_used_go_and_nothing_else_does(tmp_path):
    for name in ("mine.npz", "notes.txt", "old.partial"):
        (tmp_path / name).write_bytes(b"x" * 100_000)
    rng = np.random.default_rng(0)
    cache = Cache(tmp_path, largest=50_000)
    makers = {key: Maker(a=rng.random(2000)) for key in "abcdef"}
    for number, (key, make) in enumerate(makers.items()):
        cache.remember(key, make)
        for path in entries(tmp_path):
            if path.stat().st_mtime > 1e6:
                os.utime(path, (number, number))
        cache.remember("a", makers["a"])  # used all the time, so it stays
    assert makers["a"].calls == 1
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= 50_000
    assert {"mine.npz", "notes.txt", "old.partial"} < {path.name for path in tmp_path.iterdir()}
    cache.remember("b", makers["b"])
    assert makers["b"].calls == 2


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path):
    cache = Cache(tmp_path, largest=100)
    assert len(cache.remember("key", Maker(a=np.random.default_rng(0).random(100)))["a"]) == 100
    assert not entries(tmp_path)


def test_a_place_that_cannot_be_written_does_no_harm(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (None, tmp_path / "file", tmp_path / "file" / "below", "/proc/nothing"):
        make = Maker()
        cache = Cache(None if folder is None else type(tmp_path)(folder))
        for _ in range(2):
            assert (cache.remember("key", make)["a b"] == np.arange(5.0)).all()
        assert make.calls == 2


def test_where_it_is(monkeypatch, tmp_path):
    for name in ("EDGEKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.cache_folder() == tmp_path / ".cache" / "edgekit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert config.cache_folder() == tmp_path / ".cache" / "edgekit"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert str(config.cache_folder()) == "/xdg/edgekit"
    monkeypatch.setenv("EDGEKIT_CACHE", "/mine")
    assert str(config.cache_folder()) == "/mine"
    monkeypatch.setenv("EDGEKIT_CACHE", "OFF")
    assert config.cache_folder() is None


def bench(model, cache, *, seed=0):
    passes = []

    def stream(unreadable):
        passes.append(seed)
        unreadable["broken.png"] = "truncated"
        return feeds(model, 6, seed)

    made = Calibration("real", 6, stream, [f"{seed}".encode()])
    return Bench(made, made, "vnni", cache=cache), passes


def test_histograms_are_measured_once(tmp_path):
    model = residual()
    names = [name for node in model.graph.node for name in node.output]
    first, passes = bench(model, Cache(tmp_path))
    fresh = ranges.measured(model, names, first, 6)
    second, again = bench(model, Cache(tmp_path))
    kept = ranges.measured(model, names, second, 6)
    assert passes and not again and list(kept) == list(fresh)
    for name, seen in fresh.items():
        assert (kept[name].counts == seen.counts).all()
        assert [kept[name].limits(method) for method in ranges.METHODS] == [seen.limits(m) for m in ranges.METHODS]
    assert second.calibrate.unreadable == {"broken.png": "truncated"}


def test_other_data_models_tensors_and_settings_are_measured_anew(tmp_path):
    model = residual()
    other = graph.copy(model)
    other.graph.initializer[0].raw_data = bytes(len(other.graph.initializer[0].raw_data))
    cache = Cache(tmp_path)
    for made, names, samples, seed in (
        (model, ["t0"], 6, 0),
        (other, ["t0"], 6, 0),
        (model, ["t1"], 6, 0),
        (model, ["t0"], 5, 0),
        (model, ["t0"], 6, 1),
    ):
        workbench, passes = bench(made, cache, seed=seed)
        ranges.measured(made, names, workbench, samples)
        assert passes
    assert len(entries(tmp_path)) == 5


def test_the_model_is_the_same_the_second_time(edgekit, tmp_path):
    graph.save(residual(), tmp_path / "m.onnx")
    for number in range(12):
        save(tmp_path / "calib" / f"{number}.png", picture(number, 16, 16))
    made = []
    for number, place in enumerate((str(tmp_path / "cache"), str(tmp_path / "cache"))):
        out = tmp_path / f"{number}.onnx"
        arguments = ("m.onnx", "--static", "--calib", "calib", "--preset", "unit", "--seconds", "0.5", "--out", out)
        done = edgekit("compress", *arguments, "--json", env={"EDGEKIT_CACHE": place})
        assert done.code == 0, done.err
        made.append((out.read_bytes(), json.dumps(done.json["calibration"])))
    assert made[0] == made[1]
    assert entries(tmp_path / "cache")
