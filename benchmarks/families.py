"""What pruning, low rank and sparsity give on real models, beside the simplest rivals; called by `compress.py`.

    python benchmarks/compress.py ASSETS --families [--steps prune] [--only MODEL] [--pictures 2000] [--seconds 8]

Every model is made by the command, from pictures in one folder, so without labels; except L1, which is the simplest
rival: the same share of every group's channels, those with the smallest weights, nothing repaired. "the same channels"
replays what the command above decided (--recipe), so that they differ by the repair alone. Those of one share stand
below each other. All of them are timed and scored as in the other tables. Commands are printed as typed, without
--calib and what is told of the preprocessing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from compress import FAMILIES, PAIRS, SAMPLES, Pair, ran, score, speeds

from edgekit import __version__, graph
from edgekit.compress import simplify
from edgekit.compress.method import STEPS
from edgekit.compress.prune.groups import Group, find_groups
from edgekit.compress.prune.surgery import remove
from edgekit.compress.settings import compress
from edgekit.measure import figures, machine, material, size
from edgekit.measure.material import Material

PRUNED = ("resnet20_cifar10", "resnet8_cifar10_jpegft")
SPLIT = (*PRUNED, "mobilenetv1_025_vww96", "vit_fmnist")
ZEROED = (*PRUNED, "vit_fmnist")
SHARES = (0.1, 0.2, 0.3)
REPAIRS = {
    "refit": "covariance fold, then least squares layer by layer",
    "fold": "covariance fold alone",
    "bias": "bias alone",
    "none": "no repair",
}
TOGETHER = 0.2  # pruned before --int8
RANKS = (0.2,)
ZEROS = (0.5, 0.7)
REPORTED = 64  # pictures that the command's own report is on


@dataclass
class Made:
    """One model: how it was made, what was asked, and the share of channels that is left."""

    how: str
    asked: str
    path: Path
    left: float | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Maker:
    """Runs the command on one model, and keeps what was typed and what was said."""

    pair: Pair
    model: Path
    told: Sequence[str]
    folder: Path
    made: list[Made] = field(default_factory=list)
    typed: list[str] = field(default_factory=list)

    def run(self, how: str, asked: str, *arguments: object, remark: str = "") -> Made | None:
        """Compress the model; None with a word on stderr when the command fails. What a gate rejected counts."""
        out = self.folder / f"{len(self.typed)}.onnx"
        words = " ".join(shown(argument) for argument in arguments)
        self.typed.append(f"edgekit compress {self.pair.model}.onnx {words}{remark}")
        command = [sys.executable, "-m", "edgekit", "compress", self.model, *arguments, *self.told, "--out", out]
        env = {**os.environ, "EDGEKIT_CACHE": "off"}
        code, answer, error, seconds, _ = ran([*command, "--seconds", 1, "--json", "--no-config"], env)
        path = out if out.exists() else out.with_name(f"{out.stem}.rejected.onnx")
        said = json.loads(answer).get("headline", "") if answer.startswith("{") else error.strip()
        print(f"{self.typed[-1]}: {said.splitlines()[0] if said else code} ({seconds:.0f} s)", file=sys.stderr)
        if code > 1 or not path.exists():
            return None
        return self.add(how, asked, path, json.loads(graph.metadata(graph.load(path))["edgekit.recipe"]))

    def add(self, how: str, asked: str, path: Path, recipe: Mapping[str, Any], left: float | None = None) -> Made:
        """Keep one model."""
        gone = next((each["gone"] for each in recipe.get("decisions", ()) if "gone" in each), None)
        if gone is not None:
            left = 1 - sum(map(len, gone.values())) / sum(group.size for group in self.groups)
        self.made.append(Made(how, asked, path, left, recipe))
        return self.made[-1]

    def again(self, how: str, made: Made, steps: int | None = None, **changed: object) -> Made | None:
        """Replay the first `steps` steps of what was made, with some fields of the first one changed."""
        recipe = dict(made.recipe)
        recipe["steps"] = [{**recipe["steps"][0], **changed}, *recipe["steps"][1:]][:steps]
        recipe["decisions"] = recipe["decisions"][:steps]
        file = self.folder / f"{made.path.stem}.{len(self.typed)}.json"
        file.write_text(json.dumps({"recipe": recipe}))
        said = ", ".join(f"{name}={value}" for name, value in changed.items())
        remark = f"  # the report of {made.how}" + (f", with {said}" if said else ", its first step alone")
        return self.run(how, made.asked, "--recipe", file, remark=remark)

    @property
    def plain(self) -> onnx.ModelProto:
        """The model as steps get it."""
        model = graph.load(self.model)
        return simplify.simplify(model, lambda before, after: True)[0]

    @property
    def groups(self) -> tuple[Group, ...]:
        """Its groups of channels."""
        return find_groups(self.plain).groups


def shown(argument: object) -> str:
    """Write an argument as it would be typed."""
    text = argument.name if isinstance(argument, Path) else str(argument)
    return f'"{text}"' if " " in text else text


def smallest(model: onnx.ModelProto, group: Group, count: int) -> list[int]:
    """Give the channels with the smallest absolute weights in the layers that make them (Li et al., 1608.08710)."""
    tensors = graph.initializers(model)
    read = {(reader.weight.constant, reader.weight.axis) for reader in group.readers}
    sums = np.zeros(group.size)
    for place in group.places:
        values = np.abs(graph.array(tensors[place.constant]))
        if values.ndim > 1 and (place.constant, place.axis) not in read:
            by_index = np.moveaxis(values, place.axis, 0).reshape(len(place.channels), -1).sum(1, dtype=np.float64)
            known = place.channels >= 0
            np.add.at(sums, place.channels[known], by_index[known])
    gone = sorted(np.argsort(sums, kind="stable")[:count].tolist())
    return gone if group.may_go(gone) else []


def by_l1(maker: Maker, how: str, asked: str, counts: Mapping[str, int]) -> None:
    """Prune so many channels of each group as anybody would."""
    plain = maker.plain
    gone = {group.name: smallest(plain, group, counts.get(group.name, 0)) for group in find_groups(plain).groups}
    path = maker.folder / f"l1-{len(maker.made)}.onnx"
    graph.save(remove(plain, {name: channels for name, channels in gone.items() if channels}), path)
    left = 1 - sum(map(len, gone.values())) / sum(group.size for group in maker.groups)
    maker.add(how, asked, path, {}, left)


def pruned(maker: Maker) -> None:
    """Prune by the command, then the same channels without repair, then as anybody would."""
    for share in SHARES:
        found = maker.run(f"--prune {share}", f"{share:.0%} of latency", "--prune", share)
        if found is None or not found.recipe["decisions"][0]["gone"]:
            continue
        for repair, said in REPAIRS.items():
            maker.again(f"the same channels, {said}", found, repair=repair)
        gone = found.recipe["decisions"][0]["gone"]
        by_l1(maker, "L1, as many of each group", found.asked, {name: len(each) for name, each in gone.items()})
        alike = {group.name: round((1 - (found.left or 0)) * group.size) for group in maker.groups}
        by_l1(maker, "L1, the same share of all", found.asked, alike)


def together(maker: Maker) -> tuple[Made, Made, Made] | None:
    """Prune before --int8: pruning alone, int8 alone, both."""
    both = maker.run(f"--prune {TOGETHER} --int8", f"{TOGETHER:.0%} of latency", "--prune", TOGETHER, "--int8")
    eight = maker.run("--int8", "-", "--int8")
    alone = maker.again("its pruning alone", both, 1) if both is not None else None
    return (alone, eight, both) if alone is not None and eight is not None and both is not None else None


def split(maker: Maker) -> None:
    """Split layers, as far as asked and as far as a small loss allows."""
    for share in RANKS:
        maker.run(f"--low-rank {share}", f"{share:.0%} of latency", "--low-rank", share)
    maker.run("--low-rank 0.8 --max-drop 0.01", "1 point", "--low-rank", 0.8, "--max-drop", 0.01)


def zeroed(maker: Maker) -> None:
    """Zero weights, the others moved or not."""
    for share in ZEROS:
        asked = f"{share:.0%} of weights"
        maker.run(f"--sparsity {share}", asked, "--sparsity", share)
        maker.run("the smallest", asked, "--step", f"sparsity {share} samples=0")


def flat(source: Path, target: Path, most: int | None = None) -> Path:
    """Copy pictures into one folder, so that nothing tells their classes."""
    target.mkdir()
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for number, path in enumerate(files[:: max(1, len(files) // most)] if most else files):
        shutil.copy(path, target / f"{number:05}{path.suffix}")
    return target


def rows(maker: Maker, known: Material, options: argparse.Namespace) -> Iterator[tuple[Made, float, str]]:
    """Measure everything that was made; give the speed-up of each, and its row."""
    known = replace(known, pictures=known.pictures[: options.pictures])
    feeds = list(islice(known.report, 8))
    maker.made.insert(0, Made("as it is (A/A)", "-", maker.model))
    found = speeds(maker.model, [made.path for made in maker.made], feeds, options.seconds)
    packed = size.zipped_bytes(maker.model)
    for made, (low, speedup, high) in zip(maker.made, found, strict=True):
        answers = figures.outputs(maker.model, made.path, known, cores=machine.describe().usable)
        ratios = size.file_bytes(made.path) / size.file_bytes(maker.model), size.zipped_bytes(made.path) / packed
        left = "-" if made.left is None else f"{made.left:.0%}"
        yield (
            made,
            speedup,
            f"| {maker.pair.model} ({len(known.pictures)}) | {made.how} | {made.asked} | {left} | {1 / speedup:.2f} "
            f"({1 / high:.2f}-{1 / low:.2f}) | {ratios[0]:.2f} | {ratios[1]:.2f} | {score(answers)} |",
        )


def families(options: argparse.Namespace) -> None:
    """Print the tables."""
    here = machine.describe()
    print(f"{here.cpu}, int8 instructions: {here.int8}, 1 thread, edgekit {__version__}, onnxruntime {ort.__version__}")
    chosen = "" if len(options.steps) == len(FAMILIES) else f" --steps {' '.join(options.steps)}"
    print(f"`python benchmarks/compress.py ASSETS --families{chosen} --pictures {options.pictures}`\n")
    print("| model (pictures) | how | asked | channels left | latency (95%) | size | packed | fp32 | after | points |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    typed: list[str] = []
    products: list[str] = []
    there = {cls.spec_name() for cls in STEPS} & set(options.steps)
    for pair in PAIRS:
        if pair.model not in SPLIT or (options.only and pair.model not in options.only):
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            maker, known = prepared(pair, folder, options.assets)
            parts = None
            if "prune" in there and pair.model in PRUNED:
                pruned(maker)
                parts = together(maker)
            if "low-rank" in there:
                split(maker)
            if "sparsity" in there and pair.model in ZEROED:
                zeroed(maker)
            gains: dict[int, float] = {}
            for made, speedup, row in rows(maker, known, options):
                gains[id(made)] = speedup
                print(row, flush=True)
            typed += maker.typed
            if parts is not None:
                alone, eight, both = (gains[id(made)] for made in parts)
                product = alone * eight
                products.append(
                    f"| {pair.model} | {alone:.2f}x | {eight:.2f}x | {product:.2f}x | {both:.2f}x | "
                    f"{both / product - 1:+.0%} |"
                )
    if products:
        print(f"\n| model | --prune {TOGETHER} | --int8 | product | both | off by |\n|---|---|---|---|---|---|")
        print("\n".join(products))
    print("\nCommands:\n\n```\n" + "\n".join(typed) + "\n```")


def prepared(pair: Pair, folder: Path, assets: Path) -> tuple[Maker, Material]:
    """Gather what one model is compressed with and judged on."""
    model = assets / "models" / f"{pair.model}.onnx"
    told = pair.settings(assets)
    known = material.gather(graph.load(model), model, compress(**told), SAMPLES)
    # Both folders are said below, with fewer pictures in them.
    kept = [name for name in told if name not in ("calib", "data", "classes")]
    flags = [part for name in kept for part in (f"--{name}", told[name])]
    calib = flat(assets / pair.calib, folder / "calib")
    data = flat(assets / pair.data, folder / "data", REPORTED)
    return Maker(pair, model, [*flags, "--calib", str(calib), "--data", str(data)], folder), known
