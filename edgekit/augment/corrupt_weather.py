"""The three corruptions by weather of ImageNet-C; each works on HxWxC float32 of 0..1, and gives the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.augment.corrupt_blur import dragged, zoomed
from edgekit.augment.draws import Normals, uniforms
from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    from edgekit.augment.op import Params

# What synthesised frost looks like: mean of red, green and blue, and standard deviation, of 255; as measured on crops
# of 224x224, 40 of each of the five photographs that the published code draws from.
FROSTS = (
    ((80, 149, 165), 16), ((198, 202, 211), 20), ((198, 202, 211), 20), ((144, 159, 172), 26), ((101, 113, 125), 35),
)  # fmt: skip
CRYSTALS = 6  # directions that crystals grow in
LENGTH = 13  # of a crystal in pixels
CLOUDS = 0.45  # the part of frost's standard deviation that is coarser than crystals


def snow(
    image: np.ndarray, constants: tuple[float, float, float, float, int, float, float], params: Params
) -> np.ndarray:
    """Let flakes fall, and whiten what is below.

    Normal noise of a mean and a standard deviation, zoomed into; what is above a threshold falls (motion blur, by
    radius and standard deviation), once as it is and once turned upside down. The last constant is the share of the
    picture that is not whitened.
    """
    mean, spread, factor, least, radius, sigma, kept = constants
    height, width = image.shape[:2]
    noise = Normals(params["seed"]).next(height, width, 1) * np.float32(spread) + np.float32(mean)
    flakes = zoomed(noise, factor)
    flakes[flakes < least] = 0
    flakes = np.floor(np.clip(flakes, 0, 1) * 255)  # 8 bits, as the published code has them here
    flakes = np.rint(dragged(flakes, radius, sigma, params["degrees"])) / np.float32(255)
    grey = image if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]
    white = np.maximum(image, grey * np.float32(1.5) + np.float32(0.5))
    return np.float32(kept) * image + np.float32(1 - kept) * white + flakes + flakes[::-1, ::-1]


def frost(image: np.ndarray, constants: tuple[float, float], params: Params) -> np.ndarray:
    """Add frost: so much of the picture and so much of a texture, which is synthesised.

    The published code has photographs of frost, whose licences do not let them be shipped. The texture stands in for
    them: crystals (ridges of noise that was drawn out in several directions) on clouds, with the mean colour and the
    standard deviation that crops of the photographs have; it has not their shapes.
    """
    kept, weight = constants
    height, width = image.shape[:2]
    first, second = np.random.PCG64(params["seed"]).random_raw(2).tolist()
    colour, spread = FROSTS[first % len(FROSTS)]
    texture = _standard(_crystals(second, height, width)) * (1 - CLOUDS**2) ** 0.5
    texture += _standard(plasma(second, max(64, _power_of_two(max(height, width))), 1.6)[:height, :width]) * CLOUDS
    grey = (_standard(texture) * np.float32(spread))[:, :, None]
    tint = np.array(colour if image.shape[2] == 3 else [sum(colour) / 3], np.float32)
    frosted = np.clip((grey + tint) / np.float32(255), 0, 1)
    return np.float32(kept) * image + np.float32(weight) * frosted


def fog(image: np.ndarray, constants: tuple[float, float, int], params: Params) -> np.ndarray:
    """Add clouds (diamond-square noise) of a strength and a roughness, and darken by as much as they add to white.

    The map of the clouds has a side of a power of two: the last constant, or the next one that covers the picture.
    """
    strength, decay, least = constants
    height, width = image.shape[:2]
    clouds = plasma(params["seed"], max(least, _power_of_two(max(height, width))), decay)[:height, :width]
    brightest = float(image.max())
    made = image + np.float32(strength) * clouds.astype(np.float32)[:, :, None]
    return made * np.float32(brightest / (brightest + strength))


def plasma(seed: int, side: int, decay: float) -> np.ndarray:
    """Make side x side float64 of 0..1 by the diamond-square algorithm, on a torus (Fournier et al. 1982).

    Midpoints of squares, then of the squares that stand on their corners, get the mean of their corners plus a uniform
    value; its range is divided by decay squared each time that the distance is halved. side: a power of two.
    """
    cells = np.zeros((side, side))
    values = np.random.PCG64(seed)
    reach, step = 1.0, side

    def moved(corners: np.ndarray) -> np.ndarray:
        raw = values.random_raw(corners.size).reshape(corners.shape)
        added: np.ndarray = corners / 4 + reach * ((raw >> np.uint64(11)) * 2.0**-52 - 1.0)
        return added

    while step >= 2:
        half = step // 2
        corners = cells[::step, ::step]
        rows = corners + np.roll(corners, -1, axis=0)
        cells[half::step, half::step] = moved(rows + np.roll(rows, -1, axis=1))
        middles = cells[half::step, half::step]
        above = middles + np.roll(middles, 1, axis=0) + corners + np.roll(corners, -1, axis=1)
        cells[::step, half::step] = moved(above)
        beside = middles + np.roll(middles, 1, axis=1) + corners + np.roll(corners, -1, axis=0)
        cells[half::step, ::step] = moved(beside)
        step, reach = half, reach / decay**2
    cells -= cells.min()
    return cells / max(cells.max(), 1e-12)


def _crystals(seed: int, height: int, width: int) -> np.ndarray:
    """Draw noise out in several directions, and keep the strongest of them at every pixel: HxW float32."""
    ridges = np.full((height, width), -np.inf, np.float32)
    turns = uniforms(seed, CRYSTALS)
    for number in range(CRYSTALS):
        noise = Normals(seed, number + 1).next(height, width)
        degrees = 180.0 * (number + float(turns[number])) / CRYSTALS
        drawn = dragged(noise[:, :, None], LENGTH // 2, LENGTH / 3, degrees)
        np.maximum(ridges, drawn[:, :, 0], out=ridges)
    return ridges


def _standard(values: np.ndarray) -> np.ndarray:
    """Bring to a mean of 0 and a standard deviation of 1, where there is any."""
    centred = (values - values.mean()).astype(np.float32)
    return centred / max(float(centred.std()), 1e-6)


def _power_of_two(length: int) -> int:
    return 1 << (length - 1).bit_length()
