"""The corruptions of ImageNet-C: an evaluation set, for telling how a model bears what it was not trained on.

Hendrycks and Dietterich 2019 (arXiv 1903.12261): fifteen corruptions at five severities, with the constants of the
published code: those of ImageNet-C, made for 224x224, as they are, in pixels, whatever the picture's size; and those of
CIFAR-10-C, made for 32x32, for pictures whose shorter side is below `MIDDLE`. Values are cut off to whole numbers, not
rounded, as there. What differs is said where it does: frost is synthesised, all random numbers are edgekit's own, and
labels follow the elastic transform; the others leave them where they are, zoom blur too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.augment import corrupt_blur as blur
from edgekit.augment import corrupt_digital as digital
from edgekit.augment import corrupt_noise as noise
from edgekit.augment import corrupt_weather as weather
from edgekit.augment.draws import new_seed
from edgekit.augment.op import Op
from edgekit.augment.photometric import full_scale, on_colours
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.spec import option, spec

if TYPE_CHECKING:
    from edgekit.augment.op import Params
    from edgekit.data.sample import Sample

SEVERITIES = 5
MIDDLE = 85  # pixels: the geometric mean of 32 and 224
# How far the corners of the elastic transform's triangle move at most, as a share of the picture's shorter side: as at
# 224 pixels. Further, and smaller pictures would be turned inside out.
FURTHEST = 0.218
IMAGENET, CIFAR = "imagenet", "cifar"  # whose constants
CLEAN = "clean"  # the folder of the originals, where they are wanted

# By corruption, in the order of the paper, and by whose they are: the constants of the severities 1 to 5.
# Zooms: from, step, how many (numpy.arange takes one more where its rounded end is a little further). Elastic: how far,
# how smooth, how far the triangle; 244 is what the code has, not 224.
CONSTANTS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "gaussian_noise": {IMAGENET: (0.08, 0.12, 0.18, 0.26, 0.38), CIFAR: (0.04, 0.06, 0.08, 0.09, 0.10)},
    "shot_noise": {IMAGENET: (60, 25, 12, 5, 3), CIFAR: (500, 250, 100, 75, 50)},
    "impulse_noise": {IMAGENET: (0.03, 0.06, 0.09, 0.17, 0.27), CIFAR: (0.01, 0.02, 0.03, 0.05, 0.07)},
    "defocus_blur": {
        IMAGENET: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        CIFAR: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    },
    "glass_blur": {
        IMAGENET: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        CIFAR: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    },
    "motion_blur": {
        IMAGENET: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        CIFAR: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    },
    "zoom_blur": {
        IMAGENET: ((1, 0.01, 12), (1, 0.01, 16), (1, 0.02, 11), (1, 0.02, 13), (1, 0.03, 11)),
        CIFAR: ((1, 0.01, 7), (1, 0.01, 12), (1, 0.01, 16), (1, 0.01, 21), (1, 0.01, 26)),
    },
    "snow": {
        IMAGENET: (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        CIFAR: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    },
    "frost": {
        IMAGENET: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        CIFAR: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    },
    "fog": {
        IMAGENET: ((1.5, 2, 256), (2, 2, 256), (2.5, 1.7, 256), (2.5, 1.5, 256), (3, 1.4, 256)),
        CIFAR: ((0.2, 3, 32), (0.5, 3, 32), (0.75, 2.5, 32), (1, 2, 32), (1.5, 1.75, 32)),
    },
    "brightness": {IMAGENET: (0.1, 0.2, 0.3, 0.4, 0.5), CIFAR: (0.05, 0.1, 0.15, 0.2, 0.3)},
    "contrast": {IMAGENET: (0.4, 0.3, 0.2, 0.1, 0.05), CIFAR: (0.75, 0.5, 0.4, 0.3, 0.15)},
    "elastic_transform": {
        IMAGENET: (
            (244 * 2, 244 * 0.7, 244 * 0.1), (244 * 2, 244 * 0.08, 244 * 0.2), (244 * 0.05, 244 * 0.01, 244 * 0.02),
            (244 * 0.07, 244 * 0.01, 244 * 0.02), (244 * 0.12, 244 * 0.01, 244 * 0.02),
        ),
        CIFAR: (
            (0, 0, 32 * 0.08), (32 * 0.05, 32 * 0.2, 32 * 0.07), (32 * 0.08, 32 * 0.06, 32 * 0.06),
            (32 * 0.1, 32 * 0.04, 32 * 0.05), (32 * 0.1, 32 * 0.03, 32 * 0.03),
        ),
    },
    "pixelate": {IMAGENET: (0.6, 0.5, 0.4, 0.3, 0.25), CIFAR: (0.95, 0.9, 0.85, 0.75, 0.65)},
    "jpeg_compression": {IMAGENET: (25, 18, 15, 10, 7), CIFAR: (80, 65, 58, 50, 40)},
}  # fmt: skip
NAMES = tuple(CONSTANTS)

Change = Callable[["np.ndarray", Any, "Params"], "np.ndarray"]
_SHARES: Mapping[str, Change] = {  # of float32 in 0..1
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
}
_WHOLE: Mapping[str, Change] = {  # of the values as they are
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
# Between which angles, in degrees clockwise from the x axis, things move.
_ANGLES = {"motion_blur": (-45.0, 45.0), "snow": (-135.0, -45.0)}
_SEEDLESS = ("defocus_blur", "motion_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")


@spec
class corruption(Op):
    """Corrupt a picture as ImageNet-C does. No op of a recipe: it makes evaluation sets."""

    kind: str = option("gaussian_noise", help="which", choices=NAMES)
    severity: int = option(1, help="how much", ge=1, le=SEVERITIES)

    @property
    def number(self) -> int:
        """The number of its variant, 1 to 75: draws depend on it, and on nothing else that was asked for."""
        return NAMES.index(self.kind) * SEVERITIES + self.severity

    @property
    def folder(self) -> str:
        """Where its pictures go, as ImageNet-C has them."""
        return f"{self.kind}/{self.severity}"

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Choose whose constants, and draw an angle, three moves or a seed, where there are such."""
        params: Params = {"constants": CIFAR if min(sample.size) < MIDDLE else IMAGENET}
        if self.kind in _ANGLES:
            params["degrees"] = float(rng.uniform(*_ANGLES[self.kind]))
        if self.kind == "elastic_transform":
            reach = min(self._constants(params)[2], FURTHEST * min(sample.size))
            params["moves"] = rng.uniform(-reach, reach, (3, 2)).tolist()
        if self.kind not in _SEEDLESS:
            params["seed"] = new_seed(rng)
        return params

    def members(self, params: Params) -> Sequence[tuple[Op, Params]] | None:
        """Give the two moves that the elastic transform is made of."""
        if self.kind != "elastic_transform":
            return None
        strength, sigma, _ = self._constants(params)
        moves: list[tuple[Op, Params]] = [(digital.elastic_affine(), {"moves": params["moves"]})]
        if strength:
            said = {"seed": params["seed"], "strength": strength, "sigma": sigma}
            moves.append((digital.elastic_pixels(), said))
        return moves

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Corrupt grey, red, green and blue; alpha stays."""
        constants, full = self._constants(params), full_scale(image)

        def change(colours: np.ndarray) -> np.ndarray:
            colours = colours.reshape(*colours.shape[:2], -1)
            if self.kind in _WHOLE:
                return _WHOLE[self.kind](colours, constants, params)
            made = _SHARES[self.kind](colours.astype(np.float32) / np.float32(full), constants, params)
            # What is a whole number but for the rounding of floats must not be cut off to the one below.
            cut = np.clip(made, 0, 1) * np.float32(full) + np.float32(full * 4e-6)
            return cut.astype(image.dtype)

        return on_colours(image, change)

    def _constants(self, params: Params) -> Any:
        return CONSTANTS[self.kind][params["constants"]][self.severity - 1]


def suite(severities: str) -> tuple[corruption, ...]:
    """Give every corruption at the severities of `1,3,5`; raises EdgekitError for anything but numbers from 1 to 5."""
    wanted = [part.strip() for part in severities.split(",")]
    if not all(part in map(str, range(1, SEVERITIES + 1)) for part in wanted):
        raise EdgekitError(f"severity={severities} is not numbers from 1 to {SEVERITIES}", "write 3, or 1,3,5")
    levels = sorted({int(part) for part in wanted})
    return tuple(corruption(kind=kind, severity=level) for kind in NAMES for level in levels)


def to_dict(wanted: Sequence[corruption]) -> dict[str, Any]:
    """Give what the stamp of a run says of a suite; nothing when there is none."""
    if not wanted:
        return {}
    kinds, levels = dict.fromkeys(one.kind for one in wanted), sorted({one.severity for one in wanted})
    return {"corruptions": {"names": list(kinds), "severities": levels}}
