"""Augmentation: what is moved is moved for image, PSF, mask and noise alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import awkward_noise, awkward_psf

from hiergal.observation import Observation
from hiergal.observation.psf import PSF, convolve
from hiergal.recipe.config import AugmentationConfig
from hiergal.training.augment import augment, reorient, shift

EIGHT = [(y, x, t) for y in (False, True) for x in (False, True) for t in (False, True)]


def observation(kind: str, shape, psf_shape, masked: bool = False) -> Observation:
    rng = np.random.default_rng(4)
    mask = rng.random((2, *shape)) < 0.2 if masked else None
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    psf, noise = awkward_psf(2, psf_shape), awkward_noise(kind, 2, shape)
    return Observation(image, psf, noise, mask, {"g1": np.ones(2)}, np.arange(2), pixel_scale_arcsec=0.03)


def turned(image, y, x, t):
    """One image, by NumPy."""
    image = image[::-1] if y else image
    image = image[:, ::-1] if x else image
    return image.T if t else image


def moved(galaxies, y, x, t):
    """The first galaxy moved, the second left alone."""
    return reorient(galaxies, *(jnp.array([moved, False]) for moved in (y, x, t)))


@pytest.mark.parametrize("kind", ["white", "pixel", "stationary"])
@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize(("y", "x", "t"), EIGHT)
def test_symmetries_of_square_stamps(kind, size, y, x, t):
    """The density of the image under its noise, and the convolution with its PSF, are those of before."""
    before = observation(kind, (size, size), (5, 5), masked=kind == "pixel")
    after = moved(before, y, x, t)
    np.testing.assert_array_equal(after.image[0], turned(before.image[0], y, x, t))
    np.testing.assert_array_equal(after.image[1], before.image[1])
    np.testing.assert_allclose(
        after.noise.log_prob(after.image, after.mask),
        before.noise.log_prob(before.image, before.mask),
        rtol=1e-5,
    )
    expected = turned(np.asarray(convolve(before.image, before.psf))[0], y, x, t)
    np.testing.assert_allclose(convolve(after.image, after.psf)[0], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["pixel", "stationary"])
def test_stamps_that_are_not_square_are_not_turned(kind):
    before = observation(kind, (8, 11), (5, 9))
    after, mirrored = moved(before, True, False, True), moved(before, True, False, False)
    jax.tree.map(np.testing.assert_array_equal, after, mirrored)
    np.testing.assert_allclose(
        after.noise.log_prob(after.image), before.noise.log_prob(before.image), rtol=1e-5
    )


def test_a_wrong_spectrum_would_be_seen():
    """The noise of these tests is anisotropic enough for a spectrum that stayed behind to matter."""
    before = observation("stationary", (9, 9), (5, 5))
    after = moved(before, True, False, True)
    left_behind = before.noise.log_prob(after.image)[0]
    assert abs(left_behind - before.noise.log_prob(before.image)[0]) > 1


def test_a_shift_moves_the_centroid():
    y, x = np.mgrid[-10:11, -10:11]
    stamp = np.exp(-0.5 * (x**2 + (y - 1) ** 2) / 4.0) / (8 * np.pi)
    psf = PSF(np.stack([stamp, stamp]).astype(np.float32), pixel_scale_arcsec=0.03)
    moved = np.asarray(shift(psf, jnp.array([[0.4, -0.3], [0.0, 0.0]])).stamp)
    np.testing.assert_allclose(moved.sum((1, 2)), 1, rtol=1e-4)
    np.testing.assert_allclose([(moved[0] * y).sum(), (moved[0] * x).sum()], [1.4, -0.3], atol=1e-3)
    np.testing.assert_allclose(moved[1], stamp, atol=1e-6)


def test_nothing_is_the_default(key):
    before = observation("white", (8, 8), (5, 5))
    assert augment(key, before, AugmentationConfig()) is before


def test_a_step_varies_each_galaxy_by_itself(key):
    before = observation("white", (8, 8), (5, 5))
    many = before[np.zeros(64, int)]
    config = AugmentationConfig(symmetries=True, shift_pix=0.5)
    after = augment(key, many, config)
    assert after.catalog == {}
    assert len(np.unique(np.asarray(after.image).reshape(64, -1), axis=0)) == 8, "the symmetries of a square"
    assert len(np.unique(np.asarray(after.psf.stamp)[:, 0, 0])) == 64
    again = augment(key, many, config)
    jax.tree.map(np.testing.assert_array_equal, after, again)
