"""The house rules of the design, kept true over the syntax tree."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import picture, save

PACKAGE = Path(__file__).parents[1] / "edgekit"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"numpy", "cv2", "onnx", "onnxruntime", "torch"}
HARD_LIMIT = 450


def room(path):
    return path.relative_to(PACKAGE).as_posix()


def nodes(path):
    return ast.walk(ast.parse(path.read_text()))


def under_type_checking(path):
    lines = set()
    for node in nodes(path):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            lines |= set(range(node.body[0].lineno, node.body[-1].end_lineno + 1))
    return lines


def imports(path):
    """Every module imported at run time, with from-imports spelled out."""
    skipped = under_type_checking(path)
    for node in nodes(path):
        if getattr(node, "lineno", 0) in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def calls(path):
    for node in nodes(path):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", MODULES, ids=room)
def test_only_the_command_line_prints_exits_or_knows_typer(path):
    if room(path).startswith("cli/"):
        return
    found = {name.split(".")[0] for name in imports(path)} & {"typer", "rich"}
    assert not found
    assert not {"print", "sys.exit", "exit", "quit"} & set(calls(path))


@pytest.mark.parametrize("path", MODULES, ids=room)
def test_the_two_verbs_never_meet(path):
    verb = room(path).split("/")[0]
    other = {"augment": "edgekit.compress", "compress": "edgekit.augment"}.get(verb)
    assert not other or not any(name.startswith(other) for name in imports(path))


@pytest.mark.parametrize("path", MODULES, ids=room)
def test_heavy_libraries_come_through_lazy(path):
    if room(path) == "lazy.py":
        return
    allowed = {"compress/quantize/qdq.py": {"onnxruntime"}}.get(room(path), set())
    tree = ast.parse(path.read_text())
    skipped = under_type_checking(path)
    top = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom)) and n.lineno not in skipped]
    names = {a.name.split(".")[0] for n in top if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module.split(".")[0] for n in top if isinstance(n, ast.ImportFrom) and n.module}
    assert not (names & HEAVY) - allowed


@pytest.mark.parametrize("path", MODULES, ids=room)
def test_a_method_never_imports_measure_and_measure_never_changes(path):
    name = room(path)
    line = ("compress/run.py", "compress/bench.py", "compress/verdict.py")  # they make the Workbench and the report
    if name.startswith("compress/") and name not in line:
        assert not any(module.startswith("edgekit.measure") for module in imports(path))
    if name.startswith("measure/"):
        assert not any(module.startswith("edgekit.compress") for module in imports(path))
    if name.startswith("report/"):
        assert not any(module.startswith(("edgekit.measure", "edgekit.compress")) for module in imports(path))


@pytest.mark.parametrize("path", MODULES, ids=room)
def test_one_owner_each(path):
    name = room(path)
    text = path.read_text()
    if name != "data/images.py":
        assert "imdecode" not in text and "imencode" not in text
    assert not {"cv2.imread", "cv2.imwrite"} & set(calls(path))
    if name not in ("config.py", "lazy.py"):
        assert "os.environ" not in text and "getenv" not in text
    if name != "compress/quantize/qdq.py":
        assert not any(module.startswith("onnxruntime.quantization") for module in imports(path))
    if name != "graph.py":
        assert "onnx.load" not in text and "onnx.save" not in text
    if name != "config.py":
        assert "tomllib" not in set(imports(path))


@pytest.mark.parametrize("path", MODULES, ids=room)
def test_ops_and_methods_are_pure(path):
    rooms = ("geometry", "framing", "deform", "photometric", "color", "noise", "draws", "degrade", "weather", "erase")
    rooms += ("policy", "corrupt", "warp", "labels", "outline", "field", "partners", "mix")
    rooms += ("text/op", "text/words", "text/graphemes")
    if not (
        room(path).startswith(tuple(f"augment/{name}" for name in rooms))
        or room(path).startswith(("compress/quantize", "compress/prune"))
    ):
        return
    banned = {"os", "time", "random", "datetime", "pathlib", "subprocess"}
    allowed = {"compress/quantize/qdq.py": {"os", "pathlib"}}.get(room(path), set())
    assert not ({name.split(".")[0] for name in imports(path)} & banned) - allowed
    assert "np.random.seed" not in path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=room)
def test_modules_keep_to_one_job(path):
    assert len(path.read_text().splitlines()) <= HARD_LIMIT
    assert path.stem not in ("utils", "common", "helpers", "base")


@pytest.mark.parametrize("path", MODULES, ids=room)
def test_broad_excepts_are_few(path):
    allowed = {"cli/app.py": 1, "augment/pool.py": 1, "session.py": 2, "measure/metric.py": 1}
    handlers = [node for node in nodes(path) if isinstance(node, ast.ExceptHandler)]
    broad = [h for h in handlers if h.type is None or ast.unparse(h.type) in ("Exception", "BaseException")]
    assert len(broad) <= allowed.get(room(path), 0)


# What is loaded before anything is done is what every start takes: each verb loads its own rooms, and no library early.
SLOW = {*HEAVY, "pydantic", "rich", "multiprocessing", "tomllib"}
VERBS = {f"edgekit.{room}" for room in ("augment", "bench", "compress", "data", "measure", "report")}
TOP = {*VERBS, "edgekit.config", "edgekit.files", "edgekit.spec", "edgekit.cli.listing", "edgekit.cli.signature"}
FLAGS = {"edgekit.config", "edgekit.files", "edgekit.cli.listing", "edgekit.measure", "edgekit.report"}
RUN = {"onnx", "onnxruntime", "torch", "pydantic", "rich", "edgekit.measure", "edgekit.report", "edgekit.cli.inspect"}


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--version"], SLOW | TOP),
        (["--help"], SLOW | TOP),
        (["nope"], SLOW | VERBS),
        (["augment", "--help"], SLOW | FLAGS | {"edgekit.compress", "edgekit.bench", "edgekit.cli.augment"}),
        (["augment", "x", "--flp"], SLOW | FLAGS | {"edgekit.compress", "edgekit.bench", "edgekit.cli.augment"}),
        (["compress", "--help"], (SLOW | FLAGS | {"edgekit.augment", "edgekit.bench"}) - {"edgekit.files"}),
        (["augment", "pictures", "--flip", "--no-config"], RUN | {"tomllib", "edgekit.compress.quantize"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_start_loads_no_more_than_it_needs(arguments, unwanted, tmp_path):
    save(tmp_path / "pictures/a.png", picture(height=6, width=8))
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['edgekit', *{arguments!r}]\n"
        "try: runpy.run_module('edgekit', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('loaded:', *sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    loaded = done.stdout.rpartition("loaded:")[2].split()
    assert "edgekit.cli.app" in loaded, done.stderr
    assert not unwanted & set(loaded)
    assert (tmp_path / "pictures-augmented").exists() == ("pictures" in arguments)
