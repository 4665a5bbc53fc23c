"""Presets: recipes under a name, written as a person would type them.

Each is what published recipes have in common, at strengths that keep a picture what it is; none of them mixes pictures,
so that every layout of labels can take them. `OPS.read` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping

PRESETS: Mapping[str, tuple[str, ...]] = {
    # What nearly every recipe for photographs has: mirroring and a little colour (He et al. 2016, with the jitter of
    # Krizhevsky et al. 2012), and a small move instead of their crop, which would lose objects.
    "light": ("flip", "scale 0.1", "translate 0.05", "color-jitter 0.1 hue=0"),
    # The strengths at which detectors are trained from scratch: mirroring, scale and colour in the proportions of
    # Ultralytics' defaults (scale 0.5, translate 0.1, hue 0.015, saturation 0.7, value 0.4), halved where they are
    # meant for hundreds of epochs, and a Gaussian blur as SimCLR's (Chen et al. 2020), weaker.
    "medium": (
        "flip", "rotate 10 p=0.5", "scale 0.25", "translate 0.1", "color-jitter 0.3 hue=5", "blur 1 p=0.2",
        "noise 0.02 p=0.2",
    ),
    # Wide moves and colours, then RandAugment's kind of damage and erasing as in the recipes for transformers (Touvron
    # et al. 2021, DeiT: random erasing 0.25, jitter 0.3 to 0.4).
    "strong": (
        "flip", "rotate 20 p=0.7", "shear 8 p=0.3", "perspective 0.05 p=0.3", "scale 0.5", "translate 0.15",
        "color-jitter 0.4 hue=10", "grayscale p=0.1", "blur 2 p=0.3", "iso-noise 0.06 p=0.3", "jpeg 40 p=0.3",
        "random-erasing 0.2 p=0.25",
    ),
    # From above there is no up: quarter turns and both mirrorings give all eight views of a square picture, as recipes
    # for DOTA and other sets of aerial pictures have them (Ding et al. 2019). Haze and the sun's colour vary.
    "aerial": ("flip", "vflip", "rot90", "scale 0.2", "color-jitter 0.2 hue=5", "fog 0.3 p=0.2", "blur 1 p=0.2"),
    # Print is never mirrored. What scanners and telephones do: slightly turned, seen from a slant, unevenly sharp,
    # compressed (Groleau et al. 2023, Augraphy, has the like as models of paper and ink); what comes in is white.
    "document": (
        "rotate 3 border=constant fill=1", "perspective 0.03 p=0.5 border=constant fill=1", "brightness 0.2",
        "contrast 0.2", "temperature 5000 p=0.3", "blur 0.8 p=0.3", "motionblur 4 p=0.1", "noise 0.02 p=0.3",
        "downscale 1.5 p=0.2", "jpeg 40 p=0.5",
    ),
    # Night and dark rooms: down to an eighth of the light, lamps' colour, the blur of long exposures, then the noise
    # of a camera at a high ISO (Foi et al. 2008; Wei et al. 2020, on extreme low light).
    "low-light": (
        "flip", "underexpose 3", "temperature 3000 p=0.5", "motionblur 5 p=0.3", "iso-noise 0.12", "jpeg 50 p=0.3",
    ),
}  # fmt: skip
