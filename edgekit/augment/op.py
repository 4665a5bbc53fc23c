"""Op: draws its parameters, then applies them; and the registry of all ops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.spec import Registry, Spec, option, spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from edgekit.data.sample import Sample

    Params = dict[str, Any]

OPS: Registry[Op] = Registry(
    "op",
    "edgekit.augment.geometry",
    "edgekit.augment.photometric",
    "edgekit.augment.degrade",
    "edgekit.augment.erase",
)


def probability(default: float) -> Any:
    """Declare how often an op is applied."""
    return option(default, help="probability of applying it", ge=0, le=1)


@spec
class Op(Spec):
    """One augmentation: pure, without files, clock, environment or global randomness.

    `sample` draws; its result is plain JSON, so that a manifest row is enough to replay. Then an op has `matrix`
    (geometry: `warp.py` moves image and labels by it) or `pixels` (the image alone changes, its size does not).
    """

    p: float = probability(1.0)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the parameters of one application: numbers, strings, lists, nothing else."""
        return {}

    def matrix(self, params: Params, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]] | None:
        """Give the 3x3 matrix source -> output (continuous pixel coordinates) and the output (width, height).

        None when the op is not geometric.
        """
        return None

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Give a new HxWxC image of the same dtype, size and channels; the input is not touched."""
        return image


def apply(op: Op, params: Params, sample: Sample) -> Sample:
    """Apply one draw of `op` to the image and every label of `sample`."""
    from dataclasses import replace

    from edgekit.augment import warp

    moved = op.matrix(params, sample.size)
    if moved is None:
        return replace(sample, image=op.pixels(sample.image, params))
    matrix, size = moved
    return warp.move(sample, matrix, size, border=getattr(op, "border", "reflect"), fill=getattr(op, "fill", 0.0))
