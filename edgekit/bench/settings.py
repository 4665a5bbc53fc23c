"""What `edgekit bench` and `edgekit inspect` can be told beside what all commands that measure share."""

from __future__ import annotations

from edgekit.augment.settings import augment
from edgekit.settings import Measured
from edgekit.spec import Spec, option, same, spec


@spec
class bench(Measured):
    """Measure ONNX models as they are on this machine: one alone, or several beside the first."""

    against: str | None = option(
        None, help="report of another machine (JSON) to set beside this one", metavar="FILE", path=True, panel="Report"
    )
    disagreements: str | None = option(
        None, help="folder to make of the pictures that are answered differently", metavar="DIR", path=True
    )
    report: tuple[str, ...] = option(
        (), help="write the report too: x.json or x.md", metavar="FILE", path=True, panel="Report"
    )

    @property
    def calib(self) -> None:
        """Folder to calibrate on: nothing is calibrated here."""


@spec
class inspect(Spec):
    """Show what an ONNX model is made of and where its time goes, or what a folder of pictures holds."""

    top: int = option(
        15, help="layers to show, the most expensive first; of a folder, classes", ge=1, short="-n", panel="Report"
    )
    groups: bool = option(
        False, help="the channels that can be pruned together, what they take, and what has to stay", panel="Report"
    )
    feeds: str | None = same(Measured, "feeds")
    size: str | None = same(Measured, "size")
    seconds: float = option(2.0, help="longest time to measure the layers", ge=0.1, le=600, panel="Report")
    threads: int = same(Measured, "threads")
    seed: int = same(Measured, "seed")
    labels: str = same(augment, "labels")
    labels_frame: str = same(augment, "labels_frame")
    follow_links: bool = same(augment, "follow_links")
    max_pixels: int = same(augment, "max_pixels")
    workers: int = same(augment, "workers")
    preview: str | None = option(
        None, help="draw some pictures of the folder, with their labels (PNG)", metavar="FILE", path=True
    )
    strict: bool = option(False, help="exit 1 when a picture cannot be read, is in two splits, or a label was mended")
    force: bool = same(Measured, "force")
    features: str | None = option(
        None, help="write this model's features of every picture", metavar="MODEL", path=True, panel="Features"
    )
    layer: str | None = option(
        None, help="tensor to take them from; what the last layer reads if not given", metavar="NAME", panel="Features"
    )
    out: str | None = option(None, help="file to write them to: x.npz", metavar="FILE", path=True, panel="Features")
    preset: str | None = same(Measured, "preset")
    resize: str | None = same(Measured, "resize")
    crop_ratio: float | None = same(Measured, "crop_ratio")
    mean: str | None = same(Measured, "mean")
    std: str | None = same(Measured, "std")
    range: str | None = same(Measured, "range")
    layout: str | None = same(Measured, "layout")
    color: str | None = same(Measured, "color")

    def foreign(self, what: str) -> tuple[str, ...]:
        """Name the settings that mean nothing to `what` is inspected: model, folder or features."""
        of_folder = ("workers", "preview")
        shared = ("labels", "labels_frame", "follow_links", "max_pixels", "strict", "force")
        of_features = (
            "features",
            "layer",
            "out",
            "preset",
            "resize",
            "crop_ratio",
            "mean",
            "std",
            "range",
            "layout",
            "color",
        )
        if what == "model":
            return (*of_folder, *shared, *of_features)
        measured = ("groups", "feeds", "seconds", "seed")
        if what == "folder":
            return (*measured, "size", "threads", *of_features[1:])
        return (*measured, "top", *of_folder)
