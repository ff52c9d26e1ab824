"""The table of bad inputs: what a user may bring, and the words that come back.

One row for each kind; the tests of a module try many more of its own.
"""

import re

import numpy as np
import pytest
from toys import broken, with_value

from hiergal.model.condition_columns import conditions_from
from hiergal.observation import check_observation
from hiergal.recipe.recipe import recipe_from
from hiergal.survey import StoreHeader, open_survey, write_store

FIRST = 101  # identifier of the second galaxy of make_observation


def observed(kind="white", **changes):
    """Check an observation with one thing wrong."""

    def act(make_observation, tmp_path):
        good = make_observation(kind)
        check_observation(good)
        check_observation(broken(good, **{name: change(good) for name, change in changes.items()}))

    return act


def stored(damage):
    """Write a store, damage it, and read it whole."""

    def act(make_observation, tmp_path):
        path = tmp_path / "survey.zarr"
        header = StoreHeader(survey="toy", band="r", pixel_scale_arcsec=0.03, magnitude_zero_point=25.0)
        write_store(path, header, [(make_observation("white"), None)])
        assert len(open_survey(path).read()) == 3
        damage(path)
        open_survey(path).read()

    return act


def called(function, *arguments):
    return lambda make_observation, tmp_path: function(*arguments)


def shards(path):
    return sorted(file for file in (path / "image").rglob("*") if file.is_file() and file.name != "zarr.json")


def truncate(path):
    shard = shards(path)[0]
    shard.write_bytes(shard.read_bytes()[:-100])


def flip(path):
    shard = shards(path)[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)


NAN, INF = float("nan"), float("inf")
TABLE = {
    "NaN in an image": (
        observed(image=lambda o: with_value(o.image, (1, 4, 5), NAN)),
        r"image: expected finite pixels, got NaN or infinity in 1 of 3 galaxies \(first: 101\); mask those pixels",
    ),
    "infinity in an image": (
        observed(image=lambda o: with_value(o.image, (1, 4, 5), -INF)),
        r"image: expected finite pixels, got NaN or infinity",
    ),
    "wrong shape of the image": (
        observed(image=lambda o: o.image[0]),
        r"image: expected stamps of shape \[n, y, x\], got \(11, 14\)",
    ),
    "too few identifiers": (
        observed(identifier=lambda o: o.identifier[:2]),
        r"identifier: expected one for each of 3 galaxies, got shape \(2,\)",
    ),
    "zero noise": (
        observed(noise=lambda o: broken(o.noise, sigma=with_value(o.noise.sigma, 1, 0.0))),
        r"noise.sigma: expected positive and finite values, got others in 1 of 3 galaxies \(first: 101\)",
    ),
    "negative noise of a pixel": (
        observed("pixel", noise=lambda o: broken(o.noise, sigma=with_value(o.noise.sigma, (1, 2, 3), -1.0))),
        r"noise.sigma: expected positive and finite values",
    ),
    "a negative noise power": (
        observed(
            "stationary", noise=lambda o: broken(o.noise, power=with_value(o.noise.power, (1, 2, 3), -1.0))
        ),
        r"noise.power: expected positive and finite values",
    ),
    "a stamp that is masked whole": (
        observed(mask=lambda o: np.arange(3)[:, None, None] == np.ones(o.image.shape)),
        r"mask: expected at least one pixel that is not masked, got none in 1 of 3 galaxies \(first: 101\)",
    ),
    "a PSF that does not sum to one": (
        observed(psf=lambda o: broken(o.psf, stamp=2.0 * np.asarray(o.psf.stamp))),
        r"psf.stamp: expected PSFs that sum to 1, got sums as far off as 2 .*; divide each by its sum",
    ),
    "an even-sized PSF": (
        observed(psf=lambda o: broken(o.psf, stamp=np.asarray(o.psf.stamp)[:, :, :8])),
        r"psf.stamp: expected an odd number of pixels along y and x",
    ),
    "a truncated store": (stored(truncate), r"(?s)survey\.zarr.*(size|bytes|truncated|damaged)"),
    "a store with a flipped byte": (stored(flip), r"(?s)survey\.zarr.*(checksum|damaged|corrupt)"),
    "a store that lost a file": (stored(lambda path: shards(path)[0].unlink()), r"(?s)survey\.zarr.*missing"),
    "no store at all": (
        lambda make_observation, tmp_path: open_survey(tmp_path / "none.zarr"),
        r"none\.zarr",
    ),
    "an unknown key of a recipe": (
        called(recipe_from, {"training": {"stepps": 3}}),
        r"unknown field `stepps` - at `\$\.training`; known there: steps, batch",
    ),
    "a recipe value of another type": (
        called(recipe_from, {"training": {"steps": "many"}}),
        r"Expected `int`, got `str` - at `\$\.training\.steps`",
    ),
    "a column that the catalogue lacks": (
        called(conditions_from, ("mag_auto", "zphot"), {"mag_auto": np.array([22.0])}),
        r"catalog: expected the columns mag_auto, zphot, .* missing: zphot; there are: mag_auto",
    ),
    "NaN in a condition": (
        called(conditions_from, ("mag_auto",), {"mag_auto": np.array([22.0, NAN])}),
        r"catalog: expected finite conditions, got NaN or infinity in 1 of 2 rows \(first: 1\); drop those rows",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_bad_input_is_refused_in_words(case, make_observation, tmp_path):
    act, message = TABLE[case]
    with pytest.raises((ValueError, OSError)) as error:
        act(make_observation, tmp_path)
    assert re.search(message, str(error.value)), str(error.value)
