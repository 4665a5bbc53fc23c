"""Noise: of the strength and the kind that is said, independent everywhere, and the same however it is made."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.augment import draws
from edgekit.augment.draws import Normals, uniforms
from edgekit.augment.op import OPS

NOISES = [("noise", {"sigma": 0.03}), ("shot-noise", {"sigma": 0.05}), ("iso-noise", {"sigma": 0.05})]
each = pytest.mark.parametrize(("name", "params"), NOISES, ids=[name for name, _ in NOISES])


def noise_of(name: str, level: int, shape: tuple[int, ...] = (200, 300, 3), **params) -> np.ndarray:
    """Give what is added to an even 16-bit picture, as a share of full scale."""
    image = np.full(shape, level, np.uint16)
    return (OPS.parse(name).pixels(image, params).astype(np.float64) - level) / 65535


def test_draws_are_what_they_say():
    values = uniforms(3, 100_000)
    assert values.min() >= 0
    assert values.max() < 1
    assert np.abs(np.sort(values) - np.arange(100_000) / 100_000).max() < 0.005
    first, second = Normals(3).next(100_000), Normals(3, 1).next(100_000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01
    assert abs(first.std() - 1) < 0.01
    parts = Normals(3)
    assert (np.concatenate([parts.next(10, 20).ravel(), parts.next(400)]) == first[:600]).all()


def test_draws_are_the_same_on_every_machine():
    """The bits of PCG64 are promised by numpy; these are what they were when this was written."""
    assert np.round(uniforms(7, 3), 9).tolist() == [0.625095467, 0.897213801, 0.77568569]


@each
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bands_do_not_show(name, params, channels, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (67, 45, channels)).astype(np.uint8)
    op = OPS.parse(name)
    whole = op.pixels(image, {**params, "seed": 5})
    monkeypatch.setattr(draws, "BAND", 1)
    assert (op.pixels(image, {**params, "seed": 5}) == whole).all()


@each
def test_noise_of_two_seeds_and_of_neighbours_is_independent(name, params):
    one, other = (noise_of(name, 30000, seed=seed, **params) for seed in (1, 2))
    pairs = [(one, other)]
    if name != "iso-noise":  # grain is shared by channels, blotches by neighbours
        pairs += [(one[..., 0], one[..., 1]), (one[:, 1:], one[:, :-1]), (one[1:], one[:-1])]
    else:
        pairs += [(one[:, 2:], one[:, :-2]), (one[2:], one[:-2])]
    for a, b in pairs:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.012


@pytest.mark.parametrize("level", [0.1, 0.4, 0.8])
def test_shot_noise_is_poisson(level):
    """Mean, variance and skewness of a Poisson count of 1 / sigma^2 photons at white."""
    sigma, photons = 0.03, level / 0.03**2
    added = noise_of("shot-noise", round(level * 65535), (500, 500, 3), sigma=sigma, seed=1)
    counts = added * 65535 / 65535 / sigma**2
    assert abs(counts.mean()) < 0.003 * photons
    assert abs(counts.var() / photons - 1) < 0.01
    skew = (counts**3).mean() / counts.std() ** 3
    assert abs(skew - photons**-0.5) < 0.02


def test_iso_noise_grows_with_the_light_and_has_grain_and_colour():
    levels = [0.15, 0.5, 0.85]
    added = [noise_of("iso-noise color=0", round(level * 65535), sigma=0.02, seed=1) for level in levels]
    for level, values in zip(levels, added, strict=True):
        assert abs(values.std() / (0.02 * np.sqrt(0.04 + 0.96 * level)) - 1) < 0.02
        assert (values[..., 0] == values[..., 1]).all()
    coloured = noise_of("iso-noise color=1", 32768, sigma=0.02, seed=1)
    grain = noise_of("iso-noise color=0", 32768, sigma=0.02, seed=1)
    assert abs(coloured.std() / grain.std() - np.sqrt(2)) < 0.03
    assert abs(np.corrcoef(coloured[..., 0].ravel(), coloured[..., 1].ravel())[0, 1] - 0.5) < 0.02


@pytest.mark.parametrize("amount", [0.01, 0.3, 1.0])
def test_salt_and_pepper_are_as_many_as_it_says(amount):
    image = np.full((300, 400, 4), 100, np.uint8)
    out = OPS.parse("salt-pepper").pixels(image, {"amount": amount, "seed": 3})
    changed = (out[..., :3] != 100).all(axis=2)
    assert abs(changed.mean() / amount - 1) < 0.03
    assert (out[..., 3] == 100).all()
    assert set(np.unique(out[changed][:, :3])) == {0, 255}
    assert abs((out[changed][:, 0] == 255).mean() - 0.5) < 0.05
    assert (out[changed][:, 0] == out[changed][:, 2]).all()
    rows = np.nonzero(changed)[0]
    assert np.abs(np.histogram(rows, 5, (0, 300))[0] / len(rows) - 0.2).max() < 0.03
