"""Ops that mix pictures: labels come along from all of them, and all of them stand in the manifest.

The result has the size, depth and channels of the first; partners are brought to them (`partners.py`). Objects that
another picture covers shrink to what is still seen. The label stays that of the first picture, of which mixup and
cutmix keep at least half; `Sample.weights` has everybody's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit.augment import labels, warp
from edgekit.augment.labels import Applied, Change
from edgekit.augment.op import OPS, Op
from edgekit.augment.partners import conform, conform_mask, fit
from edgekit.data import outline
from edgekit.lazy import cv2, np
from edgekit.spec import option

if TYPE_CHECKING:
    from edgekit.augment.labels import Rules
    from edgekit.augment.op import Params
    from edgekit.data.sample import Object, Sample

    Size = tuple[int, int]
    Window = tuple[int, int, int, int]
    Canvas = tuple[np.ndarray, np.ndarray | None]


MARGIN = 0.3  # least share of width and height that a tile of a mosaic has


@OPS.add
class mixup(Op):
    """Blend with another picture.

    The weight is drawn from Beta(alpha, alpha) and the larger side of it is the picture's own (Zhang et al. 2018, arXiv
    1710.09412; for detection, Zhang et al. 2019, arXiv 1902.04103). The partner is scaled to cover the picture. Objects
    of both stay, unless the partner's weight is below min-visibility; a mask stays the picture's own.
    """

    partners = 1

    alpha: float = option(0.4, help="both parameters of the Beta distribution; large is half and half", ge=0.01, le=100)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the picture's own weight, 0.5..1, and the place of the partner's window."""
        weight = float(rng.beta(self.alpha, self.alpha))
        return {"weight": max(weight, 1.0 - weight), "place": rng.random(2).tolist()}

    def mix(self, params: Params, sample: Sample, partners: Sequence[Sample], rules: Rules) -> Applied:
        """Blend."""
        own, weight = sample.image, params["weight"]
        other = fit(partners[0], sample.size, params["place"], rules)
        image = cv2.addWeighted(own, weight, conform(other.sample.image, own), 1.0 - weight, 0.0).reshape(own.shape)
        scene, first = _Scene.of(sample, rules), len(sample.objects)
        if 1.0 - weight >= rules.min_visibility:
            scene.put(other, first)
        else:
            faint = f"dropped: {1.0 - weight:.2f} visible"
            scene.changes += tuple(Change(first + index, faint) for index in range(len(partners[0].objects)))
        return scene.finish(image, sample.mask, _weights([(sample, weight), (partners[0], 1.0 - weight)]))


@OPS.add
class cutmix(Op):
    """Paste a rectangle of another picture.

    The rectangle has the picture's aspect ratio; its area is drawn from Beta(alpha, alpha), the smaller side of it, and
    its place uniformly, inside the frame (after Yun et al. 2019, arXiv 1905.04899). The partner is scaled to cover the
    picture, and the rectangle is cut where it is pasted.
    """

    partners = 1

    alpha: float = option(1.0, help="both parameters of the Beta distribution; 1 is uniform", ge=0.01, le=100)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the share of the area, 0..0.5, the rectangle's place, and the place of the partner's window."""
        share = float(rng.beta(self.alpha, self.alpha))
        return {"share": min(share, 1.0 - share), "at": rng.random(2).tolist(), "place": rng.random(2).tolist()}

    def mix(self, params: Params, sample: Sample, partners: Sequence[Sample], rules: Rules) -> Applied:
        """Paste."""
        width, height = sample.size
        wide, tall = (int(math.sqrt(params["share"]) * side) for side in sample.size)
        x, y = int(params["at"][0] * (width - wide + 1)), int(params["at"][1] * (height - tall + 1))
        canvas, scene = _canvas(sample), _Scene.of(sample, rules)
        if wide * tall > 0:
            patch = _crop(fit(partners[0], sample.size, params["place"], rules), (x, y, wide, tall), rules)
            hidden = np.zeros((height, width), np.bool_)
            hidden[y : y + tall, x : x + wide] = True
            scene.cover(hidden)
            scene.put(patch, len(sample.objects), x, y)
            _paste(canvas, patch.sample, (x, y), None, rules)
        share = wide * tall / (width * height)
        return scene.finish(*canvas, _weights([(sample, 1.0 - share), (partners[0], share)]))


@OPS.add
class mosaic(Op):
    """Put four pictures together, two by two.

    The point where they meet is drawn uniformly, at least MARGIN of the sides from the edges; who is where is drawn
    too. Each is scaled to cover its tile, and cut where it is too long (after Bochkovskiy et al. 2020, arXiv
    2004.10934). The size stays.
    """

    partners = 3

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the meeting point as shares, the picture in each tile, and the place of each one's window."""
        return {
            "at": rng.uniform(MARGIN, 1.0 - MARGIN, 2).tolist(),
            "order": rng.permutation(4).tolist(),
            "places": rng.random((4, 2)).tolist(),
        }

    def mix(self, params: Params, sample: Sample, partners: Sequence[Sample], rules: Rules) -> Applied:
        """Fill the four tiles."""
        width, height = sample.size
        x, y = (round(share * side) for share, side in zip(params["at"], sample.size, strict=True))
        tiles = [(0, 0, x, y), (x, 0, width - x, y), (0, y, x, height - y), (x, y, width - x, height - y)]
        canvas, scene, shares, first = _canvas(sample), _Scene(sample, rules), [], 0
        for number, other in enumerate((sample, *partners)):
            left, top, wide, tall = tiles[params["order"].index(number)]
            shares.append((other, wide * tall / (width * height)))
            if wide * tall > 0:
                tile = fit(other, (wide, tall), params["places"][number], rules)
                scene.put(tile, first, left, top)
                _paste(canvas, tile.sample, (left, top), None, rules)
            first += len(other.objects)
        return scene.finish(*canvas, _weights(shares))


@OPS.add
class copy_paste(Op):
    """Paste objects of another picture.

    Each of the partner's outlined objects (polygons or regions, no crowds) is taken with probability share and pasted
    anywhere inside the frame, as large against the picture as it was against its own (Ghiasi et al. 2021, arXiv
    2012.07177). Edges are hard, as there: blending them did not help.
    """

    partners = 1

    share: float = option(0.5, help="probability that an object of the other picture is pasted", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw which objects are pasted, and where: (position in the partner, x, y as shares of the room there is)."""
        objects = partners[0].objects if partners else ()
        draws = rng.random((len(objects), 3)).tolist()
        outlined = [bool(one.polygons or one.region is not None) and not one.crowd for one in objects]
        return {
            "objects": [
                [index, x, y] for index, (chance, x, y) in enumerate(draws) if outlined[index] and chance < self.share
            ]
        }

    def mix(self, params: Params, sample: Sample, partners: Sequence[Sample], rules: Rules) -> Applied:
        """Paste them one after the other; a later one may cover an earlier one."""
        other, size = partners[0], sample.size
        factor = min(size[0] / other.size[0], size[1] / other.size[1])
        small = (max(1, round(other.size[0] * factor)), max(1, round(other.size[1] * factor)))
        chosen = replace(other, objects=tuple(other.objects[index] for index, _, _ in params["objects"]))
        scaling = np.diag([small[0] / other.size[0], small[1] / other.size[1], 1.0])
        scaled = warp.move(chosen, scaling, small, rules=rules)
        canvas, scene = _canvas(sample), _Scene.of(sample, rules)
        for one, position in zip(scaled.sample.objects, scaled.kept, strict=True):
            index, x, y = params["objects"][position]
            window = outline.window(one.box, small)
            at = int(x * (size[0] - window[2] + 1)), int(y * (size[1] - window[3] + 1))
            alone = Applied(replace(scaled.sample, objects=(one,)), (index,))
            piece = _crop(alone, window, rules)
            if piece.kept:
                pasted = labels.footprint(piece.sample.objects[0], piece.sample.size)
                hidden = np.zeros(size[::-1], np.bool_)
                hidden[at[1] : at[1] + window[3], at[0] : at[0] + window[2]] = pasted
                scene.cover(hidden)
                scene.put(piece, len(sample.objects), *at)
                _paste(canvas, piece.sample, at, pasted, rules)
        return scene.finish(*canvas, sample.weights)


@dataclass
class _Scene:
    """Objects gathered from several pictures; positions count through the objects of all of them, in order."""

    sample: Sample
    rules: Rules
    objects: tuple[Object, ...] = ()
    kept: tuple[int, ...] = ()
    changes: tuple[Change, ...] = ()

    @classmethod
    def of(cls, sample: Sample, rules: Rules) -> _Scene:
        """Begin with all objects of a picture."""
        return cls(sample, rules, sample.objects, tuple(range(len(sample.objects))))

    def put(self, placed: Applied, first: int, x: int = 0, y: int = 0) -> None:
        """Add the objects of a picture whose corner lies at (x, y); its own are numbered from `first`."""
        self.objects += labels.shift(placed.sample.objects, x, y, self.sample.size)
        self.kept += tuple(first + index for index in placed.kept)
        self.changes += tuple(Change(first + change.index, change.what) for change in placed.changes)

    def cover(self, hidden: np.ndarray) -> None:
        """Hide what lies under `hidden` (HxW bool)."""
        left = labels.cover(self.objects, hidden, self.rules, trim=True)
        self.changes += _renamed(left.changes, self.kept)
        self.kept = tuple(self.kept[index] for index in left.kept)
        self.objects = left.objects

    def finish(self, image: np.ndarray, mask: np.ndarray | None, weights: Mapping[str, float]) -> Applied:
        """Give the sample."""
        made = replace(self.sample, image=image, mask=mask, objects=self.objects, weights=weights)
        return Applied(made, self.kept, self.changes)


def _renamed(changes: Sequence[Change], positions: Sequence[int]) -> tuple[Change, ...]:
    return tuple(Change(positions[change.index], change.what) for change in changes)


def _crop(before: Applied, window: Window, rules: Rules) -> Applied:
    """Cut a window (x, y, width, height) out of a moved picture."""
    x, y, width, height = window
    matrix = np.array([[1.0, 0.0, -x], [0.0, 1.0, -y], [0.0, 0.0, 1.0]])
    cut = warp.move(before.sample, matrix, (width, height), rules=rules)
    kept = tuple(before.kept[index] for index in cut.kept)
    return Applied(cut.sample, kept, before.changes + _renamed(cut.changes, before.kept))


def _paste(canvas: Canvas, piece: Sample, at: tuple[int, int], pixels: np.ndarray | None, rules: Rules) -> None:
    """Put a piece into the image and the mask, with its corner at `at`; only `pixels` of it, where given."""
    image, mask = canvas
    place = np.s_[at[1] : at[1] + piece.size[1], at[0] : at[0] + piece.size[0]]
    where = ... if pixels is None else pixels
    image[place][where] = conform(piece.image, image)[where]
    if mask is not None:
        mask[place][where] = conform_mask(piece, mask, rules)[where]


def _canvas(sample: Sample) -> Canvas:
    return sample.image.copy(), None if sample.mask is None else sample.mask.copy()


def _weights(shares: Sequence[tuple[Sample, float]]) -> dict[str, float]:
    """Add up the classes of a mixture; nothing when there is but one, or when a picture has none."""
    total: dict[str, float] = {}
    for sample, share in shares:
        classes = dict(sample.weights) or ({} if sample.label is None else {sample.label: 1.0})
        if share > 0 and not classes:
            return {}
        for label, weight in classes.items():
            total[label] = total.get(label, 0.0) + share * weight
    total = {label: weight for label, weight in total.items() if weight > 0}
    return total if len(total) > 1 else {}
