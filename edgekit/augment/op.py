"""Op: draws its parameters, then applies them; and the registry of all ops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.augment.labels import USUAL, Applied, Rules
from edgekit.errors import EdgekitError
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
    "edgekit.augment.mix",
)


def probability(default: float) -> Any:
    """Declare how often an op is applied."""
    return option(default, help="probability of applying it", ge=0, le=1)


@spec
class Op(Spec):
    """One augmentation: pure, without files, clock, environment or global randomness.

    `sample` draws; its result is plain JSON, so that a manifest row is enough to replay. Then an op has `matrix`
    (geometry: `warp.py` moves image and labels by it), `pixels` (the image alone changes, its size does not; `covered`
    says what can no longer be seen) or `mix` (with `partners`: as many other pictures take part).
    """

    partners: ClassVar[int] = 0

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

    def covered(self, params: Params, size: tuple[int, int]) -> np.ndarray | None:
        """Give the pixels that the op hides, HxW bool; None when it hides none."""
        return None

    def mix(self, params: Params, sample: Sample, partners: Sequence[Sample], rules: Rules) -> Applied:
        """Make one sample, of the size and kind of `sample`, of it and of its partners."""
        raise NotImplementedError(f"{self.spec_name()} takes no partners")


def apply(op: Op, params: Params, sample: Sample, partners: Sequence[Sample] = (), rules: Rules = USUAL) -> Applied:
    """Apply one draw of `op` to the image and every label of `sample`, with as many partners as the op takes.

    Raises EdgekitError when there are not as many.
    """
    from dataclasses import replace

    from edgekit.augment import labels, warp

    if op.partners:
        require_partners(op, partners)
        return op.mix(params, sample, partners, rules)
    moved = op.matrix(params, sample.size)
    if moved is not None:
        border, fill = getattr(op, "border", "reflect"), getattr(op, "fill", 0.0)
        return warp.move(sample, *moved, border=border, fill=fill, rules=rules)
    made = replace(sample, image=op.pixels(sample.image, params))
    covered = op.covered(params, sample.size) if sample.objects else None
    if covered is None:
        return Applied(made, tuple(range(len(sample.objects))))
    hidden = labels.cover(sample.objects, covered, rules, trim=False)
    return Applied(replace(made, objects=hidden.objects), hidden.kept, hidden.changes)


def require_partners(op: Op, partners: Sequence[Sample]) -> None:
    """Raise EdgekitError unless there are as many partners as the op takes."""
    if len(partners) != op.partners:
        raise EdgekitError(
            f"{op.spec_name()} takes {op.partners} other picture{'s' if op.partners > 1 else ''}, not {len(partners)}",
            "give a folder with more pictures, or leave it out",
        )
