"""What `edgekit compress` can be told: flags, configuration keys, help and bounds, in one place."""

from __future__ import annotations

from edgekit.settings import Measured
from edgekit.spec import option, spec


@spec
class compress(Measured):
    """Write a smaller, faster ONNX model, measured against the original."""

    steps: tuple[str, ...] = option(
        (), help='a step in its general form: "int8 samples=128"', metavar="STEP", panel="Recipe"
    )
    only: tuple[str, ...] = option((), help="touch only these nodes: a name, an operator type, a glob", panel="Recipe")
    exclude: tuple[str, ...] = option((), help="leave these nodes alone, written likewise", panel="Recipe")
    isa: str = option(
        "auto",
        help="the CPU the model is for; portable is right on all, auto is this one",
        choices=("auto", "vnni", "avx2", "arm", "portable"),
        panel="Recipe",
    )
    recipe: str | None = option(
        None, help="replay the choices of an earlier --report x.json", metavar="FILE", path=True, panel="Recipe"
    )
    max_drop: float | None = option(
        None, help="largest loss of score or agreement to accept: 0.01", ge=0, le=1, panel="Budget"
    )
    max_ms: float | None = option(None, help="longest latency to accept, in milliseconds", ge=0.001, panel="Budget")
    max_mb: float | None = option(None, help="largest file to accept, in megabytes", ge=0.001, panel="Budget")
    search_seconds: float = option(60.0, help="longest time to try candidates", ge=1, le=3600, panel="Budget")
    max_memory: float = option(512.0, help="memory that calibration may hold, in megabytes", ge=16, panel="Budget")
    calib: str | None = option(None, help="pictures to calibrate on", metavar="DIR", path=True)
    out: str | None = option(
        None, help="file to make; MODEL.STEP.onnx beside MODEL if not given", metavar="FILE", path=True
    )
    preview: str | None = option(
        None, help="draw what the model sees (PNG)", metavar="FILE", path=True, panel="Pictures"
    )
    report: tuple[str, ...] = option(
        (), help="write the report too: x.json, x.md or x.html", metavar="FILE", path=True, panel="Report"
    )
    explain: bool = option(False, help="say of every node what it runs in, why, and what it costs", panel="Report")
    dry_run: bool = option(False, help="say what would be done and written, and write nothing")
