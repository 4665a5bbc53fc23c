"""Corrupt pictures with the published code, for `corruptions.py`, in an environment of its own.

    python benchmarks/corruptions_reference.py IN.npy OUT.npy SEED

IN: NxHxWx3 uint8. OUT: 15 x 5 x N x H x W x 3 uint8, in the order of the paper. By `imagenet-c` 0.0.3, the authors' own
package; motion blur, snow and frost, for which that needs ImageMagick or has no textures, by `imagecorruptions` 1.1.2.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import skimage.filters
from PIL import Image


def gaussian(image: Any, sigma: Any, multichannel: bool = False, **more: Any) -> Any:
    """Blur as scikit-image does; its argument has another name now."""
    return skimage.filters.gaussian(image, sigma=sigma, channel_axis=-1 if multichannel else None, **more)


def main() -> None:
    for name in ("wand", "wand.image", "wand.api", "wand.color"):
        sys.modules[name] = MagicMock()
    sys.modules["wand.image"].Image = type("Image", (), {})  # type: ignore[attr-defined]
    from imagecorruptions import corruptions as rewritten
    from imagenet_c import corruptions as published

    for module in (rewritten, published):
        module.gaussian = gaussian
    pictures, seed = np.load(sys.argv[1]), int(sys.argv[3])
    names = (
        "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
        "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
    )  # fmt: skip
    made = np.empty((len(names), 5, *pictures.shape), np.uint8)
    for row, name in enumerate(names):
        module: ModuleType = rewritten if name in ("motion_blur", "snow", "frost") else published
        for severity in range(1, 6):
            for number, picture in enumerate(pictures):
                np.random.seed([seed, row, severity, number])
                made[row, severity - 1, number] = np.uint8(getattr(module, name)(Image.fromarray(picture), severity))
    np.save(sys.argv[2], made)


if __name__ == "__main__":
    main()
