"""Op: draws its parameters, then applies them; and the registry of all ops."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.augment.labels import USUAL, Applied, Rules
from edgekit.errors import EdgekitError
from edgekit.spec import Registry, Spec, option, spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from edgekit.data.sample import Sample

    Params = dict[str, Any]

OPS: Registry[Op] = Registry(
    "op",
    "edgekit.augment.geometry",
    "edgekit.augment.framing",
    "edgekit.augment.deform",
    "edgekit.augment.photometric",
    "edgekit.augment.color",
    "edgekit.augment.noise",
    "edgekit.augment.degrade",
    "edgekit.augment.weather",
    "edgekit.augment.erase",
    "edgekit.augment.mix",
    "edgekit.augment.policy",
)


def probability(default: float) -> Any:
    """Declare how often an op is applied."""
    return option(default, help="probability of applying it", ge=0, le=1)


@spec
class Op(Spec):
    """One augmentation: pure, without files, clock, environment or global randomness.

    `sample` draws; its result is plain JSON, so that a manifest row is enough to replay. Then an op has `matrix`
    or `field` (geometry: `warp.py` moves image and labels by it), `pixels` (the image alone changes, its size does not;
    `table` when each value does by itself; `covered` says what can no longer be seen), `mix` (with `partners`: as many
    other pictures take part) or `members` (it chooses other ops, and is what they do).

    looks: what it draws depends on the labels, not only on the size and the type of the picture. mirrors: what is
    written in the picture cannot be read after it.
    """

    partners: ClassVar[int] = 0
    looks: ClassVar[bool] = False
    mirrors: ClassVar[bool] = False

    p: float = probability(1.0)

    @classmethod
    def treats_alike(cls) -> bool:
        """Tell whether it does the same to all channels, so that their order does not matter."""
        moves = cls.pixels is Op.pixels and (cls.matrix is not Op.matrix or cls.field is not Op.field)
        return (moves or cls.table is not Op.table) and cls.members is Op.members and not cls.partners

    @cached_property
    def fields(self) -> Mapping[str, Any]:
        """Its settings as plain values, without its name."""
        return {key: value for key, value in self.to_dict().items() if key != "use"}

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the parameters of one application: numbers, strings, lists, nothing else."""
        return {}

    def matrix(self, params: Params, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]] | None:
        """Give the 3x3 matrix source -> output (continuous pixel coordinates) and the output (width, height).

        None when the op is not geometric.
        """
        return None

    def field(self, params: Params, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Give the place (x, y) in the source that the centre of each output pixel shows, both HxW, same size.

        In continuous pixel coordinates, as `warp.move_by_field` takes them; as large as the picture. None when the op
        does not bend.
        """
        return None

    def members(self, params: Params) -> Sequence[tuple[Op, Params]] | None:
        """Give the ops that were chosen, each with its own draw, in order; None when the op is not made of others."""
        return None

    def table(self, params: Params, full: int) -> np.ndarray | None:
        """Give what becomes of each value 0..full, in the type of the image: all that `pixels` does to colours.

        None when there is no such table.
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
    from edgekit.augment import labels, warp

    if op.partners:
        require_partners(op, partners)
        return op.mix(params, sample, partners, rules)
    members = op.members(params)
    if members is not None:
        return in_turn(members, sample, rules)
    border, fill = getattr(op, "border", "reflect"), getattr(op, "fill", 0.0)
    moved = op.matrix(params, sample.size)
    if moved is not None:
        return warp.move(sample, *moved, border=border, fill=fill, rules=rules)
    maps = op.field(params, sample.size)
    if maps is not None:
        folds = getattr(op, "folds", False)
        return warp.move_by_field(sample, *maps, border=border, fill=fill, folds=folds, rules=rules)
    made = sample.with_image(op.pixels(sample.image, params))
    covered = op.covered(params, sample.size) if sample.objects else None
    if covered is None:
        return Applied(made, tuple(range(len(sample.objects))))
    hidden = labels.cover(sample.objects, covered, rules, trim=False)
    return Applied(replace(made, objects=hidden.objects), hidden.kept, hidden.changes)


def in_turn(members: Sequence[tuple[Op, Params]], sample: Sample, rules: Rules = USUAL) -> Applied:
    """Apply ops one after the other; positions count through the objects of the first one's input."""
    whole = Applied(sample, tuple(range(len(sample.objects))))
    for op, params in members:
        one = apply(op, params, whole.sample, rules=rules)
        changes = tuple(replace(change, index=whole.kept[change.index]) for change in one.changes)
        whole = Applied(one.sample, tuple(whole.kept[index] for index in one.kept), whole.changes + changes)
    return whole


def refuse_mirrors(ops: Sequence[Op], origin: str = "") -> None:
    """Raise EdgekitError when one of the ops mirrors: the pictures show text, and mirrored text is none."""
    for op in ops:
        if op.mirrors:
            where = f"{origin}: " if origin else ""
            raise EdgekitError(
                f"{where}{op.spec_name()} mirrors, and the pictures show text (text = true)",
                f"leave {op.spec_name()} out, or text when nobody has to read it",
            )


def require_partners(op: Op, partners: Sequence[Sample]) -> None:
    """Raise EdgekitError unless there are as many partners as the op takes."""
    if len(partners) != op.partners:
        raise EdgekitError(
            f"{op.spec_name()} takes {op.partners} other picture{'s' if op.partners > 1 else ''}, not {len(partners)}",
            "give a folder with more pictures, or leave it out",
        )
