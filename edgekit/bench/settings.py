"""What `edgekit bench` and `edgekit inspect` can be told beside what all commands that measure share."""

from __future__ import annotations

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
    """Show what an ONNX model is made of, what it computes, and where its time goes."""

    top: int = option(15, help="layers to show, the most expensive first", ge=1, short="-n", panel="Report")
    feeds: str | None = same(Measured, "feeds")
    size: str | None = same(Measured, "size")
    seconds: float = option(2.0, help="longest time to measure the layers", ge=0.1, le=600, panel="Report")
    threads: int = same(Measured, "threads")
    seed: int = same(Measured, "seed")
