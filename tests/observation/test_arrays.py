"""Arrays of any kind, through every door: the same observation bit for bit, or one clear error."""

import astropy.units as u
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy.nddata import CCDData, InverseVariance, NDData, StdDevUncertainty, VarianceUncertainty
from astropy.utils.masked import Masked
from conftest import awkward_psf
from toys import SCALE, linear_model

import hiergal
from hiergal.observation import Observation
from hiergal.observation.independent import PixelNoise, WhiteNoise
from hiergal.observation.psf import PSF

SHAPE, N = (16, 24), 3
RNG = np.random.default_rng(4)
IMAGE = RNG.integers(-40, 400, (N, *SHAPE)).astype(np.float32)  # what integers can hold too
VARIANCE = RNG.choice(np.array([0.25, 4.0, 16.0], np.float32), IMAGE.shape)  # roots and inverses are exact
MASK = RNG.random(IMAGE.shape) < 0.1
STAMP = np.asarray(awkward_psf(N).stamp)
ABOUT = {"pixel_scale_arcsec": SCALE, "flux_unit": "nJy"}


def memory_map(tmp_path, array):
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def strided(array):
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


KINDS = {
    "float32": lambda a, _: a,
    "float64": lambda a, _: a.astype(float),
    "float16": lambda a, _: a.astype(np.float16),
    "big-endian": lambda a, _: a.astype(">f4"),
    "big-endian, double": lambda a, _: a.astype(">f8"),
    "column order": lambda a, _: np.asfortranarray(a),
    "not contiguous": lambda a, _: strided(a),
    "memory map": lambda a, tmp_path: memory_map(tmp_path, a),
    "lists": lambda a, _: a.tolist(),
    "list of arrays": lambda a, _: list(a),
    "numpy.ma, nothing masked": lambda a, _: np.ma.array(a),
    "JAX": lambda a, _: jnp.asarray(a),
    "xarray": lambda a, _: xr.DataArray(a),
}
NO_RECORDS = (
    "float16",
    "lists",
    "list of arrays",
    "xarray",
)  # which hold no PSF exactly, or are for from_arrays
INTEGERS = {name: name for name in ("int16", ">i2", "int32", ">i4", "uint16", "int64")}


@pytest.fixture(scope="module")
def expected():
    return Observation.from_arrays(IMAGE, psf=STAMP, variance=VARIANCE, mask=MASK, **ABOUT)


def assert_same(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.asarray(one).dtype == np.asarray(other).dtype and np.asarray(one).dtype.isnative
        np.testing.assert_array_equal(one, other)
    assert found.photometry == expected.photometry and found.pixel_scale_arcsec == expected.pixel_scale_arcsec


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_array(tmp_path, expected, kind):
    def of(array):
        return KINDS[kind](array, tmp_path)

    image = of(IMAGE)
    assert_same(Observation.from_arrays(image, psf=STAMP, variance=VARIANCE, mask=MASK, **ABOUT), expected)
    for name, noise in (("variance", VARIANCE), ("rms", np.sqrt(VARIANCE)), ("weight", 1 / VARIANCE)):
        found = Observation.from_arrays(IMAGE, psf=STAMP, mask=MASK, **{name: of(noise)}, **ABOUT)
        assert_same(found, expected)
    if kind != "float16":  # which holds no PSF exactly
        assert_same(
            Observation.from_arrays(IMAGE, psf=of(STAMP), variance=VARIANCE, mask=MASK, **ABOUT), expected
        )


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers(expected, kind):
    image, mask = np.abs(IMAGE).astype(kind), MASK.astype(kind)
    about = {"psf": STAMP, "variance": VARIANCE, **ABOUT}
    assert_same(
        Observation.from_arrays(image, mask=mask, **about),
        Observation.from_arrays(np.abs(IMAGE), mask=MASK, **about),
    )
    with pytest.raises(ValueError, match="mask: expected True or False, or 1 or 0, got .* if these are bits"):
        Observation.from_arrays(image, mask=4 * mask, **about)


def nddata(kind, uncertainty, of=VARIANCE, **more):
    return kind(np.where(MASK, np.nan, IMAGE), mask=MASK, uncertainty=uncertainty(of), **more)


RICH = {
    "numpy.ma": lambda: (np.ma.array(IMAGE, mask=MASK), {"variance": VARIANCE}),
    "numpy.ma of variance": lambda: (IMAGE, {"variance": np.ma.array(VARIANCE, mask=MASK)}),
    "NaN": lambda: (np.where(MASK, np.nan, IMAGE), {"variance": VARIANCE}),
    "weights of 0": lambda: (IMAGE, {"weight": np.where(MASK, 0, 1 / VARIANCE)}),
    "Quantity": lambda: (np.where(MASK, np.nan, IMAGE) * u.nJy, {"variance": VARIANCE * u.nJy**2}),
    "Masked Quantity": lambda: (Masked(IMAGE * u.nJy, MASK), {"rms": np.sqrt(VARIANCE) * u.nJy}),
    "NDData, variance": lambda: (nddata(NDData, VarianceUncertainty, unit=u.nJy), {}),
    "NDData, inverse variance": lambda: (nddata(NDData, InverseVariance, 1 / VARIANCE, unit=u.nJy), {}),
    "CCDData, standard deviation": lambda: (nddata(CCDData, StdDevUncertainty, np.sqrt(VARIANCE), unit=u.nJy), {}),
    "list of CCDData": lambda: (
        [
            CCDData(image, mask=mask, uncertainty=VarianceUncertainty(variance), unit=u.nJy)
            for image, mask, variance in zip(IMAGE, MASK, VARIANCE, strict=True)
        ],
        {},
    ),
    "xarray with units": lambda: (
        xr.DataArray(np.where(MASK, np.nan, IMAGE), attrs={"units": "nJy"}), {"variance": VARIANCE}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RICH)
def test_masks_and_units_come_along(kind):
    """Where a pixel is masked, its numbers do not count; all else is the same to the bit."""
    image, noise = RICH[kind]()
    found = Observation.from_arrays(
        image, psf=STAMP, pixel_scale_arcsec=SCALE, **noise, **unless_known(image)
    )
    assert str(found.photometry) == "nJy at zero point 31.4 mag"
    np.testing.assert_array_equal(found.mask, MASK)
    np.testing.assert_array_equal(np.where(MASK, 0, found.image), np.where(MASK, 0, IMAGE))
    np.testing.assert_array_equal(np.where(MASK, 0, found.noise.sigma), np.where(MASK, 0, np.sqrt(VARIANCE)))


def unless_known(image):
    known = hasattr(image, "unit") or isinstance(image, list) or getattr(image, "attrs", None)
    return {} if known else {"flux_unit": "nJy"}


def test_units_meet(expected):
    found = Observation.from_arrays(
        1e-3 * IMAGE.astype(float) * u.uJy,
        psf=STAMP,
        variance=VARIANCE * u.nJy**2,
        mask=MASK,
        pixel_scale_arcsec=30 * u.mas,
    )
    np.testing.assert_allclose(found.noise.sigma * 1e3, expected.noise.sigma, rtol=1e-6)
    np.testing.assert_allclose(found.image * 1e3, expected.image, rtol=1e-6)
    with pytest.raises(ValueError, match="image: expected a unit, as variance has"):
        Observation.from_arrays(IMAGE, psf=STAMP, variance=VARIANCE * u.nJy**2, pixel_scale_arcsec=SCALE)
    with pytest.raises(ValueError, match="variance: expected the square of nJy"):
        Observation.from_arrays(IMAGE * u.nJy, psf=STAMP, variance=VARIANCE * u.s, pixel_scale_arcsec=SCALE)


@pytest.mark.parametrize(
    "wrong",
    [
        IMAGE.astype(complex),
        IMAGE.astype(str),
        np.array([[["a", "b"]]], object),
        None,
        [[1.0, 2.0], [3.0]],
        "image.fits",
    ],
)
def test_what_holds_no_stamps_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match="image: expected"):
        Observation.from_arrays(wrong, psf=STAMP, variance=VARIANCE, **ABOUT)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NO_RECORDS])
def test_records_and_functions_take_them_after_native_ones(tmp_path, key, kind):
    """JAX's fast path takes anything of the right shape once it is warm: so it has to be warm here."""
    model = linear_model(SHAPE)

    def posterior(of):
        noise = PixelNoise(of(np.sqrt(VARIANCE)))
        psf = PSF(of(STAMP), pixel_scale_arcsec=SCALE)
        observation = Observation(of(IMAGE), psf, noise, None, {}, of(np.arange(N)), pixel_scale_arcsec=SCALE)
        return hiergal.infer(model, observation, key=key, draws=4, psf=psf, verdict=False)

    one, other = posterior(np.asarray), posterior(lambda array: KINDS[kind](array, tmp_path))
    np.testing.assert_array_equal(one.latents, other.latents)
    np.testing.assert_array_equal(one.image_mean, other.image_mean)


def test_tables_of_pandas_are_catalogues(expected):
    frame = pd.DataFrame({"mag_auto": [21.0, np.nan, 23.0], "zphot": pd.array([1, 2, None], "Int64")})
    found = Observation.from_arrays(
        IMAGE,
        psf=STAMP,
        variance=VARIANCE,
        mask=MASK,
        catalog=frame,
        identifier=pd.Series(["a", "b", "c"]),
        **ABOUT,
    )
    np.testing.assert_array_equal(found.catalog["zphot"], [1, 2, np.nan])
    assert found.identifier.tolist() == ["a", "b", "c"]


def test_one_of_everything():
    """A stamp [y, x], a PSF for all, one number for the noise: white noise, and no mask where nothing is excluded."""
    found = Observation.from_arrays(IMAGE[0], psf=STAMP[0], rms=2, mask=np.zeros(SHAPE, bool), **ABOUT)
    assert isinstance(found.noise, WhiteNoise) and found.mask is None and len(found) == 1
    many = Observation.from_arrays(IMAGE, psf=STAMP[0], rms=2.0, **ABOUT)
    np.testing.assert_array_equal(many.psf.stamp[0], many.psf.stamp[2])
    np.testing.assert_array_equal(many.noise.sigma, [2, 2, 2])


def test_own_arrays_cost_what_a_survey_costs():
    """No mask where nothing is masked, so that no more steps are taken; PSFs of similar sizes compile once."""
    clean = Observation.from_arrays(IMAGE, psf=STAMP, rms=1.0, mask=np.zeros(IMAGE.shape, bool), **ABOUT)
    assert clean.mask is None
    sizes = {
        Observation.from_arrays(IMAGE, psf=np.ones((s, s)) / s**2, rms=1.0, **ABOUT).psf.stamp.shape
        for s in (17, 21, 31)
    }
    assert sizes == {(N, 17, 23), (N, 21, 23), (N, 31, 31)}  # not beyond the stamp; as they are, if larger
    assert Observation.from_arrays(np.zeros((N, 64, 64)), psf=STAMP, rms=1.0, **ABOUT).psf.stamp.shape == (
        N,
        15,
        15,
    )
    other = Observation.from_arrays(IMAGE, psf=STAMP[0], rms=1.0, **ABOUT).psf
    np.testing.assert_allclose(other.stamp[0, 5:10, 3:12], STAMP[0], rtol=1e-6)
