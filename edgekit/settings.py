"""What every command that measures can be told: what a model is fed with, what it is judged on, and how long."""

from __future__ import annotations

from edgekit.spec import Spec, option, spec


@spec
class Measured(Spec):
    """Pictures, preprocessing, labels, gates, threads: what the commands that measure have in common."""

    data: str | None = option(None, help="pictures to report on, labelled by folder or not", metavar="DIR", path=True)
    feeds: str | None = option(
        None, help="model inputs ready-made, instead of pictures: x.npz, or a folder of such", metavar="NPZ", path=True
    )
    metric: str | None = option(
        None, help="a score of one's own, higher is better: module:function", metavar="MODULE:FUNCTION"
    )
    task: str | None = option(
        None, help="what the model does; detect reads boxes from YOLO or COCO labels", choices=("classify", "detect")
    )
    head: str | None = option(
        None, help="how a detector's outputs are decoded", choices=("yolox", "yolov5", "yolov8", "end2end")
    )
    force: bool = option(False, help="replace an output that edgekit made")
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
    gate: tuple[str, ...] = option(
        (), help="fail unless it holds: 'accuracy.drop<=0.01'", metavar="RULE", panel="Report"
    )
    strict: bool = option(False, help="judge gates on the bad end of the interval", panel="Report")
    seconds: float = option(10.0, help="longest time to measure latency", ge=0.5, le=3600, panel="Report")
    threads: int = option(1, help="threads the model runs with", ge=1, le=256, panel="Report")
    seed: int = option(0, help="seed of every random choice", ge=0, panel="Report")
