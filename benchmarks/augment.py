"""Augment real photographs file to file, with edgekit and with the tools beside it, and print a Markdown table.

    python benchmarks/augment.py ASSETS --rivals PYTHON [--rounds 5] [--workers 2] [--only flips] [--small]

ASSETS holds images/coco_val64 and images/cifar10_jpeg. The photographs are saved anew once, as JPEG of quality 90 with
4:2:0 or as PNG, and copied under other names until there are enough; everyone then reads and writes that form: quality
90, 4:2:0. edgekit is the command as people call it, manifest, checksums and the search for equal variants included.
The Albumentations loop reads a picture once and writes it K times, in as many processes; "re-reading" reads it for each
output. Augmentor has threads of its own. "codecs alone" reads once and writes K times what it read: no tool that writes
the same files is faster. Each round runs all of them, every second one backwards; a ratio is the median over rounds of
the ratios within a round. Three figures each: wall-clock time of the whole process, the same without start-up and
imports, and CPU time with that of all child processes.

`--small` compares edgekit with the loop on 20,000 pictures of 32x32 instead.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2

import edgekit
from edgekit.measure import machine

QUALITY = 90
RIVALS = Path(__file__).with_name("augment_rivals.py")

# What edgekit is told; augment_rivals.py says the same in the rivals' words.
ROTATE = ("--flip", "--rotate", "15", "--brightness", "0.2")
HEAVY = (*ROTATE, "--hue", "10", "--saturation", "0.3", "--blur", "1", "--noise", "0.03")
RECIPES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "flip": ("flip", ("--op", "flip p=1")),
    "flips": ("flips, quarter turns", ("--flip", "--vflip", "--rot90")),
    "rotate": ("flip, rotate 15, brightness", ROTATE),
    "heavy": ("the same, hue, saturation, blur, noise", HEAVY),
}
COLUMNS = {
    "albumentations": "Albumentations",
    "rereading": "the same, re-reading",
    "augmentor": "Augmentor",
    "augrs": "augrs",
    "codecs": "codecs alone",
}


@dataclass(frozen=True)
class Case:
    """A row of the table. A mirror image has no second variant, so `flip` is for one copy."""

    recipe: str
    copies: int
    suffix: str
    pictures: int
    tools: tuple[str, ...]


@dataclass(frozen=True)
class Spent:
    """Milliseconds an output: wall-clock, the same without start-up, and CPU."""

    wall: float
    working: float
    cpu: float

    def over(self, other: Spent) -> tuple[float, float, float]:
        """Give the ratio of each."""
        return self.wall / other.wall, self.working / other.working, self.cpu / other.cpu


def cases(small: bool) -> Iterator[Case]:
    if small:
        for recipe in ("flip", "rotate"):
            yield Case(recipe, 1, ".png", 20_000, ("albumentations", "codecs"))
        return
    for suffix in (".jpg", ".png"):
        for recipe in RECIPES:
            # Augmentor has no blur and no noise.
            tools = tuple(tool for tool in COLUMNS if (tool, recipe) != ("augmentor", "heavy"))
            for copies in (1, 5):
                if (recipe, copies) != ("flip", 5):
                    once = tuple(tool for tool in tools if (tool, copies) != ("rereading", 1))
                    yield Case(recipe, copies, suffix, 128 if suffix == ".png" else 640, once)


def prepare(assets: Path, case: Case, folder: Path) -> None:
    """Write the pictures that everyone reads."""
    small = case.pictures > 10_000
    found = sorted((assets / "images" / ("cifar10_jpeg" if small else "coco_val64/images")).rglob("*.jpg"))
    if not found:
        raise SystemExit(f"{assets}: no photographs in it")
    flags = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if case.suffix == ".jpg" else []
    encoded = [cv2.imencode(case.suffix, cv2.imread(str(path)), flags)[1].tobytes() for path in found]
    folder.mkdir()
    for number in range(case.pictures):
        (folder / f"{number:06}{case.suffix}").write_bytes(encoded[number % len(encoded)])


def run(command: Sequence[object]) -> tuple[dict, float, float]:
    """Run a process; give the JSON that it prints, wall-clock and CPU seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return json.loads(done.stdout), wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def spent(tool: str, case: Case, options: argparse.Namespace, source: Path, out: Path) -> Spent:
    """Run one tool on the pictures once."""
    if tool == "edgekit":
        told = ("--copies", case.copies, "--quality", QUALITY, "--workers", options.workers, "--no-originals")
        command = [sys.executable, "-m", "edgekit", "augment", source, "--out", out, *RECIPES[case.recipe][1], *told]
        answer, wall, cpu = run([*command, "--json", "--no-config"])
        working, outputs = answer["seconds"], answer["counts"]["variants"]
    else:
        told = (case.recipe, case.copies, options.workers, QUALITY, source, out)
        answer, wall, cpu = run([options.rivals, RIVALS, tool, *told])
        working, outputs = answer["seconds"], answer["files"]
    shutil.rmtree(out)
    if outputs < 0.9 * case.pictures * case.copies:
        raise SystemExit(f"{tool} wrote {outputs} files of {case.pictures * case.copies}")
    return Spent(*(1000 * seconds / outputs for seconds in (wall, working, cpu)))


def measure(case: Case, options: argparse.Namespace, folder: Path) -> dict[str, list[Spent]]:
    """Run all tools in every round, back and forth; a first round, not counted, warms the disk's cache."""
    source, out = folder / "source", folder / "out"
    prepare(options.assets, case, source)
    tools = ("edgekit", *case.tools)
    found: dict[str, list[Spent]] = {tool: [] for tool in tools}
    for number in range(options.rounds + 1):
        for tool in tools[:: -1 if number % 2 else 1]:
            once = spent(tool, case, options, source, out)
            if number:
                found[tool].append(once)
    shutil.rmtree(source)
    return found


def row(case: Case, found: Mapping[str, Sequence[Spent]]) -> str:
    ours = found["edgekit"]
    own = (median(getattr(one, name) for one in ours) for name in ("wall", "working", "cpu"))
    cells = [RECIPES[case.recipe][0], case.suffix[1:].upper(), str(case.copies), f"{case.pictures:,}"]
    cells.append(" / ".join(f"{value:.2f}" for value in own))
    for tool in COLUMNS:
        if tool not in found:
            cells.append("-")
            continue
        pairs = zip(found[tool], ours, strict=True)
        ratios = [median(each) for each in zip(*(theirs.over(mine) for theirs, mine in pairs), strict=True)]
        form = "{:.0%}" if tool == "codecs" else "{:.2f}x"
        cells.append(" / ".join(form.format(ratio) for ratio in ratios))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Augment photographs with edgekit and other tools, side by side.")
    parser.add_argument("assets", type=Path, help="folder of images/")
    parser.add_argument("--rivals", metavar="PYTHON", required=True, help="interpreter that has the other tools")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", action="append", metavar="RECIPE", choices=list(RECIPES))
    parser.add_argument("--format", choices=["jpg", "png"])
    parser.add_argument("--small", action="store_true", help="20,000 pictures of 32x32 instead of photographs")
    options = parser.parse_args()
    if shutil.which(options.rivals) is None:
        parser.error(f"--rivals {options.rivals}: no such interpreter")
    compileall.compile_dir(Path(edgekit.__file__).parent, quiet=1)  # as pip does when it installs one of the others
    tools = subprocess.run([options.rivals, RIVALS, "versions"], capture_output=True, text=True, check=True).stdout
    python = platform.python_version()
    print(f"{machine.describe().cpu}, {options.workers} processes, median of {options.rounds} rounds, Python {python}")
    print(f"edgekit {edgekit.__version__} with OpenCV {cv2.__version__}; {tools.strip()}\n")
    print("Each cell: wall clock / without start-up / CPU. edgekit: ms an output; others: how many times edgekit's.\n")
    print(f"| recipe | format | K | pictures | edgekit | {' | '.join(COLUMNS.values())} |")
    print("|---|---|---|---|---|" + "---|" * len(COLUMNS))
    for case in cases(options.small):
        wanted = (not options.only or case.recipe in options.only) and options.format in (None, case.suffix[1:])
        if wanted:
            with tempfile.TemporaryDirectory() as folder:
                print(row(case, measure(case, options, Path(folder))), flush=True)
    print(f"\n1-minute load at the end: {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
