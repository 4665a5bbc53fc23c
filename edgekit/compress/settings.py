"""What `edgekit compress` can be told: flags, configuration keys, help and bounds, in one place."""

from __future__ import annotations

from edgekit.spec import Spec, option, spec


@spec
class compress(Spec):
    """Write a smaller, faster ONNX model, measured against the original."""

    steps: tuple[str, ...] = option(
        (), help='a step in its general form: "int8 samples=128"', metavar="STEP", panel="Recipe"
    )
    only: tuple[str, ...] = option((), help="touch only these nodes: a name, an operator type, a glob", panel="Recipe")
    exclude: tuple[str, ...] = option((), help="leave these nodes alone, written likewise", panel="Recipe")
    seed: int = option(0, help="seed of every random choice", ge=0, panel="Recipe")
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
    data: str | None = option(None, help="pictures to report on, labelled by folder or not", metavar="DIR", path=True)
    calib: str | None = option(None, help="pictures to calibrate on", metavar="DIR", path=True)
    feeds: str | None = option(None, help="model inputs ready-made, instead of pictures", metavar="NPZ", path=True)
    out: str | None = option(
        None, help="file to make; MODEL.STEP.onnx beside MODEL if not given", metavar="FILE", path=True
    )
    task: str | None = option(
        None, help="what the model does; detect reads boxes from YOLO or COCO labels", choices=("classify", "detect")
    )
    head: str | None = option(
        None, help="how a detector's outputs are decoded", choices=("yolox", "yolov5", "yolov8", "end2end")
    )
    preset: str | None = option(
        None,
        help="how pixels become inputs, in a word",
        choices=("imagenet", "unit", "signed", "raw", "caffe"),
        panel="Pictures",
    )
    size: str | None = option(None, help="input size: 224, or 320x240 (width x height)", panel="Pictures")
    resize: str | None = option(
        None, help="how it is reached", choices=("squash", "crop", "letterbox"), panel="Pictures"
    )
    crop_ratio: float | None = option(None, help="share kept by --resize crop", ge=0.1, le=1, panel="Pictures")
    mean: str | None = option(None, help="subtracted: 0.5, or one a channel: 0.485,0.456,0.406", panel="Pictures")
    std: str | None = option(None, help="divided by, written likewise", panel="Pictures")
    range: str | None = option(None, help="pixels are scaled to this first: 1, 255 or -1,1", panel="Pictures")
    layout: str | None = option(None, help="axes of the input", choices=("NCHW", "NHWC"), panel="Pictures")
    color: str | None = option(None, help="channels of the input", choices=("rgb", "bgr", "grey"), panel="Pictures")
    classes: str | None = option(
        None, help="class names in output order, one a line", metavar="FILE", path=True, panel="Pictures"
    )
    preview: str | None = option(
        None, help="draw what the model sees (PNG)", metavar="FILE", path=True, panel="Pictures"
    )
    gate: tuple[str, ...] = option(
        (), help="fail unless it holds: 'accuracy.drop<=0.01'", metavar="RULE", panel="Report"
    )
    strict: bool = option(False, help="judge gates on the bad end of the interval", panel="Report")
    report: tuple[str, ...] = option(
        (), help="write the report too: x.json, x.md or x.html", metavar="FILE", path=True, panel="Report"
    )
    explain: bool = option(False, help="say of every node what it runs in, why, and what it costs", panel="Report")
    seconds: float = option(10.0, help="longest time to measure latency", ge=0.5, le=3600, panel="Report")
    threads: int = option(1, help="threads the model runs with", ge=1, le=256, panel="Report")
    force: bool = option(False, help="replace an output that edgekit made")
    dry_run: bool = option(False, help="say what would be done and written, and write nothing")
