"""Policies: ops that choose other ops and their strength at random.

What they chose stands in the parameters, each op with its fields and its own parameters, so that a replay draws
nothing. The ops are edgekit's own: contrast is about mid-grey and equalize works on luma, where PIL's, which the papers
used, are about the mean and by channel; what comes into the frame is the border, not black.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.augment.geometry import border_field, fill_field
from edgekit.augment.op import OPS, Op, in_turn
from edgekit.augment.photometric import on_colours
from edgekit.data.sample import Sample
from edgekit.lazy import cv2, np
from edgekit.spec import option

if TYPE_CHECKING:
    from edgekit.augment.op import Params

LEVELS = 30  # magnitudes go from 0 to this

# What each op does at the highest magnitude, as torchvision's policies have it. Shares of the picture's sides but for
# TRIVIAL's moves, which are pixels; slants are tangents; posterize is (bits at magnitude 0, bits fewer at the highest).
Space = Mapping[str, Any]
TRIVIAL: Space = {  # Mueller and Hutter 2021 (arXiv 2103.10158), table 1, "wide"
    "identity": 0, "shear-x": 0.99, "shear-y": 0.99, "move-x": 32, "move-y": 32, "rotate": 135.0, "brightness": 0.99,
    "saturation": 0.99, "contrast": 0.99, "sharpen": 0.99, "posterize": (8, 6), "solarize": 1.0, "autocontrast": 0,
    "equalize": 0,
}  # fmt: skip
RAND: Space = {  # Cubuk et al. 2019 (arXiv 1909.13719), section 3, with the ranges of AutoAugment
    "identity": 0, "shear-x": 0.3, "shear-y": 0.3, "move-x": 150 / 331, "move-y": 150 / 331, "rotate": 30.0,
    "brightness": 0.9, "saturation": 0.9, "contrast": 0.9, "sharpen": 0.9, "posterize": (8, 4), "solarize": 1.0,
    "autocontrast": 0, "equalize": 0,
}  # fmt: skip
AUGMIX: Space = {  # Hendrycks et al. 2020 (arXiv 1912.02781), section 3 and its code: none that ImageNet-C has, too
    "shear-x": 0.3, "shear-y": 0.3, "move-x": 1 / 3, "move-y": 1 / 3, "rotate": 30.0, "posterize": (4, 3),
    "solarize": 1.0, "autocontrast": 0, "equalize": 0,
}  # fmt: skip
GEOMETRIC = ("shear-x", "shear-y", "move-x", "move-y", "rotate")


@OPS.add
class trivial_augment(Op):
    """Apply one op of fourteen, at a random strength.

    TrivialAugment, the wide space (Mueller and Hutter 2021, arXiv 2103.10158): op and magnitude are drawn uniformly.
    Labels follow what moves. One of the fourteen changes nothing.
    """

    border: str = border_field()
    fill: float = fill_field()

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the op and its magnitude."""
        name = list(TRIVIAL)[int(rng.integers(len(TRIVIAL)))]
        level = int(rng.integers(LEVELS + 1)) / LEVELS
        size = (1, 1) if name not in ("move-x", "move-y") else sample.size
        outside = {"border": self.border, "fill": self.fill}
        return {"ops": _chosen(name, TRIVIAL[name], level, rng, size, outside)}

    def members(self, params: Params) -> Sequence[tuple[Op, Params]]:
        """Give the op, or nothing."""
        return _read(params["ops"])


@OPS.add
class rand_augment(Op):
    """Apply random ops, all of one strength.

    RandAugment (Cubuk et al. 2019, arXiv 1909.13719): `count` ops of fourteen, drawn uniformly with repetition, at
    magnitude of 30; where it has a direction, that is drawn. Labels follow what moves. One of the fourteen changes
    nothing.
    """

    magnitude: int = option(9, help="strength of all ops", ge=0, le=LEVELS)
    count: int = option(2, help="how many ops", ge=1, le=10)
    border: str = border_field()
    fill: float = fill_field()

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the ops and their directions."""
        chosen: list[Params] = []
        outside = {"border": self.border, "fill": self.fill}
        for _ in range(self.count):
            name = list(RAND)[int(rng.integers(len(RAND)))]
            chosen += _chosen(name, RAND[name], self.magnitude / LEVELS, rng, outside=outside)
        return {"ops": chosen}

    def members(self, params: Params) -> Sequence[tuple[Op, Params]]:
        """Give the ops in order."""
        return _read(params["ops"])


@OPS.add
class augmix(Op):
    """Blend chains of random ops into the picture; with labels, none that moves.

    AugMix (Hendrycks et al. 2020, arXiv 1912.02781): each chain is one to three ops, at magnitudes drawn uniformly
    from 0.1 to severity of 10; their weights are drawn from a Dirichlet distribution, and that of all against the
    picture from a Beta distribution, all parameters alpha. A mean of pictures that moved apart has no right place for
    boxes, masks and points: pictures that have them get only the ops that move nothing.
    """

    looks: ClassVar[bool] = True

    severity: float = option(3.0, help="largest magnitude, of 10", ge=0.1, le=10)
    chains: int = option(3, help="how many chains are blended", ge=1, le=10)
    alpha: float = option(1.0, help="parameters of both distributions; large is an even mean", ge=0.01, le=100)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the chains, their weights (adding up to 1) and their share against the picture."""
        labelled = sample.mask is not None or bool(sample.objects)
        names = [name for name in AUGMIX if not (labelled and name in GEOMETRIC)]
        chains = []
        for _ in range(self.chains):
            chain: list[Params] = []
            for _ in range(int(rng.integers(1, 4))):
                name = names[int(rng.integers(len(names)))]
                level = float(rng.uniform(0.1, max(0.1, self.severity))) / 10
                chain += _chosen(name, AUGMIX[name], level, rng)
            chains.append(chain)
        weights = rng.dirichlet([self.alpha] * self.chains).tolist()
        return {"chains": chains, "weights": weights, "share": float(rng.beta(self.alpha, self.alpha))}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Average in float, and round once."""
        share, depth = params["share"], cv2.CV_8U if image.dtype == np.uint8 else cv2.CV_16U

        def mixed(colours: np.ndarray) -> np.ndarray:
            plain = Sample("", colours.reshape(*colours.shape[:2], -1))
            total = plain.image.astype(np.float32) * np.float32(1.0 - share)
            for weight, chain in zip(params["weights"], params["chains"], strict=True):
                done = in_turn(_read(chain), plain).sample.image
                cv2.addWeighted(total, 1.0, done, share * weight, 0.0, dst=total, dtype=cv2.CV_32F)
            averaged: np.ndarray = cv2.add(total, (0.0,) * 4, dtype=depth)
            return averaged

        return on_colours(image, mixed)


def _chosen(
    name: str,
    highest: Any,
    level: float,
    rng: np.random.Generator,
    size: tuple[int, int] = (1, 1),
    outside: Mapping[str, Any] | None = None,
) -> list[Params]:
    """Write down an op of a space at a level, 0..1, as a manifest does; its direction, where it has one, is drawn."""
    if name == "identity":
        return []
    if name == "posterize":
        return [_row(name, {"bits": highest[0] - round(highest[1] * level)})]
    if name == "solarize":
        return [_row(name, {"threshold": 1.0 - highest * level})]
    if name in ("autocontrast", "equalize"):
        return [_row(name, {})]
    value = highest * level * (-1.0 if rng.random() < 0.5 else 1.0)
    if name == "rotate":
        return [_row(name, {"degrees": value}, outside)]
    if name not in GEOMETRIC:
        return [_row(name, {"factor": 1.0 + value})]
    along = {"x": 0.0, "y": 0.0}
    if name.startswith("shear"):
        return [_row("shear", along | {name[-1]: math.degrees(math.atan(value))}, outside)]
    return [_row("translate", along | {name[-1]: value / size["xy".index(name[-1])]}, outside)]


def _row(name: str, params: Params, fields: Mapping[str, Any] | None = None) -> Params:
    return {"name": name, "fields": dict(fields or {}), "params": params}


def _read(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Op, Params]]:
    return [(OPS.from_dict({"use": row["name"], **row["fields"]}), row["params"]) for row in rows]
