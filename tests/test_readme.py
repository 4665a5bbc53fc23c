"""The README keeps its word: its tables are those of the code, and its console blocks run."""

import importlib.util
import shutil

import pytest

from conftest import ROOT
from edgekit.augment.op import OPS
from edgekit.augment.text.op import TEXT_OPS
from edgekit.compress.method import STEPS

path = ROOT / "benchmarks" / "readme.py"
loader = importlib.util.spec_from_file_location("readme", path)
readme = importlib.util.module_from_spec(loader)
loader.loader.exec_module(readme)

TEXT = readme.README.read_text()
BLOCKS = list(readme.BLOCK.finditer(TEXT))


def test_the_tables_are_those_of_the_code():
    assert readme.with_tables(TEXT) == TEXT, "run: make tables"


@pytest.mark.parametrize("name", [cls.spec_name() for registry in (OPS, TEXT_OPS, STEPS) for cls in registry])
def test_every_op_and_step_has_a_row(name):
    assert f"| `--{name}" in TEXT


def labels(output):
    """The words that start a line of the output, up to the notes, whose number differs from run to run."""
    return [line.split()[0] for line in output.splitlines() if line[:1].isalpha() and not line.startswith("note")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("readme")
    shutil.copytree(
        ROOT / "sample_data", root / "sample_data", ignore=shutil.ignore_patterns("*-augmented", "*.int8.onnx")
    )
    return root


@pytest.mark.parametrize("block", BLOCKS, ids=[block["command"][:60] for block in BLOCKS])
def test_console_blocks_run_and_print_what_is_shown(block, folder):
    done = readme.run(block["command"], folder)
    assert done.returncode == 0, done.stderr
    assert block["output"].strip(), "run: make readme"
    assert labels(done.stdout) == labels(block["output"])
