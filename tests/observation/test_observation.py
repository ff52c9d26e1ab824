"""Observations: one record that JAX can look into, and a table of bad inputs with the sentence that each gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import broken, with_value

from hiergal.observation import Observation, check_observation
from hiergal.observation.independent import WhiteNoise

N, NY, NX = 3, 11, 14


def messages(observation) -> list[str]:
    """What check_observation says is wrong, a sentence each."""
    with pytest.raises(ValueError) as error:
        check_observation(observation)
    title, *lines = str(error.value).splitlines()
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    assert title == f"{count} with the observations:"
    return [line.removeprefix("- ") for line in lines]


def sigma(values):
    return lambda o: {"noise": broken(o.noise, sigma=values(o.noise.sigma))}


def power(values):
    return lambda o: {"noise": broken(o.noise, power=values(o.noise.power))}


def stamp(values):
    return lambda o: {"psf": broken(o.psf, stamp=values(o.psf.stamp))}


WHITE, PIXEL, STATIONARY = "white", "pixel", "stationary"

# (name, noise model, changes to a good observation, the sentence)
BAD = [
    ("no image", WHITE, {"image": None}, "image: expected stamps of shape [n, y, x], got None"),
    (
        "one image without batch axis",
        WHITE,
        lambda o: {"image": o.image[0]},
        "image: expected stamps of shape [n, y, x], got (11, 14)",
    ),
    (
        "NaN",
        WHITE,
        lambda o: {"image": with_value(o.image, (1, 4, 5), np.nan)},
        "image: expected finite pixels, got NaN or infinity in 1 of 3 galaxies (first: 101); mask those pixels",
    ),
    (
        "infinities of both signs",
        WHITE,
        lambda o: {"image": with_value(o.image, ([1, 2, 2], 4, [5, 5, 6]), [np.inf, -np.inf, np.inf])},
        "image: expected finite pixels, got NaN or infinity in 2 of 3 galaxies (first: 101); mask those pixels",
    ),
    (
        "identifiers of other galaxies",
        WHITE,
        {"identifier": np.arange(4)},
        "identifier: expected one for each of 3 galaxies, got shape (4,)",
    ),
    (
        "mask of another shape",
        WHITE,
        {"mask": np.zeros((N, NX, NY), bool)},
        "mask: expected booleans of shape (3, 11, 14), got bool of shape (3, 14, 11)",
    ),
    (
        "mask of weights",
        WHITE,
        {"mask": np.ones((N, NY, NX), np.float32)},
        "mask: expected booleans of shape (3, 11, 14), got float32 of shape (3, 11, 14)",
    ),
    (
        "all masked",
        WHITE,
        {"mask": with_value(np.zeros((N, NY, NX), bool), 2, True)},
        "mask: expected at least one pixel that is not masked, got none in 1 of 3 galaxies (first: 102)",
    ),
    (
        "pixel of no width",
        WHITE,
        lambda o: {"pixel_scale_arcsec": 0.0, "psf": broken(o.psf, pixel_scale_arcsec=0.0)},
        "pixel_scale_arcsec: expected a positive width, got 0.0",
    ),
    (
        "PSF on another scale",
        WHITE,
        lambda o: {"psf": broken(o.psf, pixel_scale_arcsec=0.05)},
        "psf.pixel_scale_arcsec: expected the scale of the image, 0.03 arcsec, got 0.05; resample the PSF",
    ),
    (
        "one PSF for all",
        WHITE,
        stamp(lambda s: s[0]),
        "psf.stamp: expected one PSF for each of 3 galaxies, [n, py, px], got shape (5, 9)",
    ),
    (
        "PSFs of other galaxies",
        WHITE,
        stamp(lambda s: s[:2]),
        "psf.stamp: expected one PSF for each of 3 galaxies, [n, py, px], got shape (2, 5, 9)",
    ),
    (
        "PSF of an even size",
        WHITE,
        stamp(lambda s: np.pad(s, [(0, 0), (0, 0), (0, 1)])),
        "psf.stamp: expected an odd number of pixels along y and x, so that a central pixel is the origin, got "
        "(5, 10); draw or pad it to an odd size",
    ),
    (
        "PSF that does not sum to one",
        WHITE,
        stamp(lambda s: s * np.array([1.0, 1.05, 0.5], np.float32)[:, None, None]),
        "psf.stamp: expected PSFs that sum to 1, got sums as far off as 0.5 in 2 of 3 galaxies (first: 101); "
        "divide each by its sum",
    ),
    (
        "PSF with NaN",
        WHITE,
        stamp(lambda s: with_value(s, (0, 2, 2), np.nan)),
        "psf.stamp: expected finite pixels, got NaN or infinity in 1 of 3 galaxies (first: 100)",
    ),
    (
        "PSF with infinities of both signs",
        WHITE,
        stamp(lambda s: with_value(s, (0, 2, [2, 3]), [np.inf, -np.inf])),
        "psf.stamp: expected finite pixels, got NaN or infinity in 1 of 3 galaxies (first: 100)",
    ),
    (
        "zero noise",
        WHITE,
        sigma(lambda s: with_value(s, 1, 0)),
        "noise.sigma: expected positive and finite values, got others in 1 of 3 galaxies (first: 101)",
    ),
    (
        "negative, infinite and undefined noise",
        WHITE,
        sigma(lambda s: np.array([-1, np.inf, np.nan], np.float32)),
        "noise.sigma: expected positive and finite values, got others in 3 of 3 galaxies (first: 100)",
    ),
    (
        "one noise level for all",
        WHITE,
        sigma(lambda s: s[:1]),
        "noise.sigma: expected shape (3,), got (1,)",
    ),
    (
        "zero noise in a pixel",
        PIXEL,
        sigma(lambda s: with_value(s, (2, 10, 13), 0)),
        "noise.sigma: expected positive and finite values, got others in 1 of 3 galaxies (first: 102)",
    ),
    (
        "transposed noise map",
        PIXEL,
        sigma(lambda s: s.swapaxes(1, 2)),
        "noise.sigma: expected shape (3, 11, 14), got (3, 14, 11)",
    ),
    (
        "zero power",
        STATIONARY,
        power(lambda p: with_value(p, (0, 0, 0), 0)),
        "noise.power: expected positive and finite values, got others in 1 of 3 galaxies (first: 100)",
    ),
    (
        "power on the whole plane",
        STATIONARY,
        power(lambda p: np.ones((N, NY, NX), np.float32)),
        "noise.power: expected shape (3, 11, 8), got (3, 11, 14)",
    ),
    (
        "width of another stamp",
        STATIONARY,
        lambda o: {"noise": broken(o.noise, width=15)},
        "noise.width: expected the width of the image, 14, got 15",
    ),
    (
        "noise levels without a model",
        WHITE,
        {"noise": np.full(N, 0.003)},
        "noise: expected a noise model, such as WhiteNoise, got ndarray",
    ),
    (
        "column of another catalogue",
        WHITE,
        lambda o: {"catalog": {**o.catalog, "zphot": np.zeros(5, np.float32)}},
        "catalog['zphot']: expected one value for each of 3 galaxies, got shape (5,)",
    ),
]


@pytest.mark.parametrize(
    ("noise", "changes", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
def test_bad_input_gives_one_sentence(make_observation, noise, changes, message):
    good = make_observation(noise)
    bad = broken(good, **(changes(good) if callable(changes) else changes))
    assert messages(bad) == [message]


def test_every_problem_is_reported_at_once(make_observation):
    good = make_observation("pixel")
    bad = broken(
        good,
        image=with_value(good.image, (0, 0, 0), np.inf),
        psf=broken(good.psf, stamp=3 * good.psf.stamp[:, :4]),
        noise=broken(good.noise, sigma=-good.noise.sigma),
        mask=np.zeros((N, NY), bool),
        catalog={"mag_auto": np.zeros(1, np.float32)},
        identifier=np.arange(2),
    )
    subjects = [line.split(":")[0] for line in messages(bad)]
    assert subjects == [
        "identifier",
        "mask",
        "image",
        "psf.stamp",
        "psf.stamp",
        "noise.sigma",
        "catalog['mag_auto']",
    ]


@pytest.mark.parametrize("kind", ["white", "pixel", "stationary"])
def test_good_observations_pass_unchanged(make_observation, kind):
    observation = make_observation(kind)
    assert check_observation(observation) is observation
    on_device = jax.tree.map(jnp.asarray, observation)
    assert check_observation(on_device) is on_device


def test_masked_pixels_may_be_bad(make_observation):
    """NaN in the image and zeros in the noise do not matter where the mask hides them."""
    observation = make_observation("pixel", masked=True)
    assert np.isnan(observation.image).any()
    hidden = broken(observation.noise, sigma=np.where(observation.mask, 0, observation.noise.sigma))
    check_observation(observation.replace(noise=hidden))
    uncovered = observation.replace(mask=np.zeros_like(observation.mask))
    assert messages(uncovered)[0].startswith("image: expected finite pixels")


@pytest.mark.parametrize(
    "changes",
    [
        {"image": np.zeros((N, NY), np.float32)},
        {"image": np.zeros((N, NY, NX), np.int32)},
        {"mask": np.zeros((N, NX, NY), bool)},
        {"identifier": np.arange(N + 1)},
        {"noise": 0.003},
    ],
    ids=["rank", "integers", "transposed mask", "too many identifiers", "noise is a number"],
)
def test_shapes_are_checked_when_a_record_is_built(make_observation, changes):
    """Only here, in the tests: this shows that the checks of the signatures are in place."""
    with pytest.raises(TypeError, match=f"(?s)Type-check error.*{next(iter(changes))}"):
        make_observation().replace(**changes)


@pytest.mark.parametrize("kind", ["white", "pixel", "stationary"])
def test_rows_stay_together(make_observation, kind):
    """Whatever rows are taken, image, PSF, noise and catalogue are those of the galaxy that the identifier names."""
    observation = make_observation(kind, n=5)
    for rows in (slice(1, 4), np.array([4, 0, 0, 2]), np.array([True, False, True, True, False])):
        some = observation[rows]
        kept = some.identifier - 100
        assert len(some) == len(kept) == len(np.arange(5)[rows])
        np.testing.assert_array_equal(some.image, observation.image[kept])
        np.testing.assert_array_equal(some.psf.stamp, observation.psf.stamp[kept])
        np.testing.assert_array_equal(some.noise.rms(), observation.noise.rms()[kept])
        np.testing.assert_array_equal(some.catalog["zphot"], observation.catalog["zphot"][kept])
        assert some.pixel_scale_arcsec == observation.pixel_scale_arcsec


def test_is_a_pytree_with_static_scales(make_observation):
    observation = make_observation("stationary")
    leaves, structure = jax.tree.flatten(observation)
    assert len(leaves) == 7 and all(isinstance(leaf, np.ndarray) for leaf in leaves)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.unflatten(structure, leaves), observation)
    assert jax.tree.structure(observation.replace(pixel_scale_arcsec=0.05)) != structure
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(observation)]
    assert {".image", ".psf.stamp", ".noise.power", ".catalog['zphot']", ".identifier"} <= set(paths)
    twice = jax.jit(lambda o: o.replace(image=2 * o.image))(observation)
    assert isinstance(twice, Observation) and twice.noise.width == NX
    np.testing.assert_array_equal(twice.image, 2 * observation.image)


def test_records_are_frozen(make_observation):
    with pytest.raises(AttributeError, match="cannot assign to field"):
        make_observation().image = None
    with pytest.raises(AttributeError, match="cannot assign to field"):
        WhiteNoise(np.ones(2)).sigma = np.zeros(2)
