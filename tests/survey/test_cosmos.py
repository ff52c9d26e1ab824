"""Real galaxies against GalSim: pixels, orientation, sub-pixel centre, PSF and noise spectrum."""

import shutil
from pathlib import Path

import galsim
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from hiergal.observation.psf import convolve
from hiergal.observation.stationary import StationaryNoise
from hiergal.survey import cosmos, open_survey, prepare, workers
from hiergal.survey.cosmos import open_catalog, padding_generator, read_stamps, write_cosmos_survey
from hiergal.survey.noise.correlation import floored, noise_power

SCALE = 0.03
TOLERANCE = 1e-5  # of the peak
CUTOUTS = (
    (12, 17),
    (40, 44),
    (33, 36),
    (90, 95),
)  # (ny, nx): padded, mixed, odd by even, larger than the stamp
PSFS = ((11, 9), (13, 15), (10, 13), (11, 9))  # odd, odd, even by odd, odd


def asymmetric(shape, seed, sharpness=0.05):
    """An off-centre, tilted blob."""
    y, x = np.indices(shape)
    rng = np.random.default_rng(seed)
    dy, dx = (y - 0.4 * shape[0] - rng.uniform()), (x - 0.6 * shape[1] + rng.uniform())
    return np.exp(-sharpness * (dy**2 + 2 * dx**2 + 1.5 * dy * dx)) * (1 + 0.1 * np.tanh(dy + 2 * dx))


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> Path:
    """A catalogue of four awkward galaxies in two image files, with fits and selection tables."""
    folder = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    for part in range(2):
        images, psfs = [fits.PrimaryHDU()], [fits.PrimaryHDU()]
        for i in range(2 * part, 2 * part + 2):
            image = 0.1 * asymmetric(CUTOUTS[i], i) + rng.normal(size=CUTOUTS[i]) * 0.003
            images.append(fits.ImageHDU(image.astype(np.float32)))
            psfs.append(fits.ImageHDU(0.9 * asymmetric(PSFS[i], 10 + i, 0.5).astype(np.float32)))
        fits.HDUList(images).writeto(folder / f"images_{part}.fits")
        fits.HDUList(psfs).writeto(folder / f"psfs_{part}.fits")
    lag = np.arange(-7, 8)
    correlation = 0.5 ** np.hypot(lag[:, None], lag + 0.4 * lag[:, None]) * (np.hypot(lag[:, None], lag) < 7)
    fits.PrimaryHDU(correlation).writeto(folder / "correlation.fits")

    def table(columns, name):
        columns = [
            fits.Column(name=key, format=form, array=np.asarray(value)) for key, form, value in columns
        ]
        fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(folder / name)

    ident = np.array([101, 55, 7, 9000])
    table(
        [
            ("IDENT", "J", ident),
            ("MAG", "D", [21.0, 22.0, 23.0, 24.0]),
            ("BAND", "5A", ["F814W"] * 4),
            ("WEIGHT", "D", np.ones(4)),
            ("GAL_FILENAME", "20A", [f"images_{i // 2}.fits" for i in range(4)]),
            ("PSF_FILENAME", "20A", [f"psfs_{i // 2}.fits" for i in range(4)]),
            ("GAL_HDU", "J", [1, 2, 1, 2]),
            ("PSF_HDU", "J", [1, 2, 1, 2]),
            ("PIXEL_SCALE", "D", np.full(4, SCALE)),
            ("NOISE_MEAN", "D", np.zeros(4)),
            ("NOISE_VARIANCE", "D", [1e-5, 2e-5, 3e-5, 4e-5]),
            ("NOISE_FILENAME", "20A", ["correlation.fits"] * 4),
            ("stamp_flux", "D", np.ones(4)),
        ],
        "real.fits",
    )
    table(
        [
            ("IDENT", "J", ident),
            ("mag_auto", "D", [21.5, 22.5, 23.5, 24.5]),
            ("flux_radius", "D", [20.0, 15.0, 10.0, 5.0]),
            ("zphot", "D", [0.3, 0.6, 0.9, 1.2]),
            ("hlr", "3D", np.outer([0.6, 0.4, 0.3, 0.2], [1, 2, 3])),
            ("flux", "4D", np.ones((4, 4))),
            ("sersicfit", "8D", np.ones((4, 8))),
            ("fit_status", "5J", np.array([[1] * 5, [1] * 5, [9] * 5, [1] * 5])),
        ],
        "real_fits.fits",
    )
    table(
        [
            ("IDENT", "J", ident),
            ("sn_ellip_gauss", "D", [50, 5, 50, 50]),
            ("min_mask_dist_pixels", "D", np.full(4, 100.0)),
            ("average_mask_adjacent_pixel_count", "D", np.zeros(4)),
            ("peak_image_pixel_count", "D", np.ones(4)),
            ("dmag", "D", np.zeros(4)),
        ],
        "real_selection.fits",
    )
    return folder / "real.fits"


def assert_agrees(got, expected):
    """Agreement to 1e-5 of the peak."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def assert_galsim_draws_the_same(catalogue, shape, seed=4):
    """Compare each galaxy with what RealGalaxy draws."""
    catalog = open_catalog(catalogue, exclusion_level="none")
    stamps = read_stamps(catalog, catalog.rows, shape, seed=seed)
    (ny, nx), (py, px) = shape, stamps.psf.stamp.shape[1:]
    for i in range(len(stamps)):
        rng, size = padding_generator(seed, i), (max(shape) + 8) * SCALE
        galaxy = galsim.RealGalaxy(catalog.real, index=i, rng=rng, noise_pad_size=size)
        draw = {"scale": SCALE, "method": "no_pixel"}
        assert_agrees(stamps.image[i], galaxy.original_gal.drawImage(nx=nx, ny=ny, **draw).array)
        assert_agrees(stamps.psf.stamp[i], galaxy.original_psf.drawImage(nx=px, ny=py, **draw).array)
        noise = catalog.real.getNoise(i)
        correlation = noise.drawImage(galsim.Image(nx, ny, scale=SCALE, dtype=float))
        assert_agrees(stamps.noise.power[i], np.abs(np.fft.rfft2(correlation.array)))
        # The centroid on the stamp's grid, from the stamp's true centre, is GalSim's, and so is the flux.
        big = galaxy.original_psf.drawImage(nx=py + 20, ny=py + 20, **draw)
        assert stamps.psf.stamp[i].sum() == pytest.approx(big.array.sum(), abs=1e-5)
        x, y = np.arange(px) - px // 2, np.arange(py) - py // 2
        centroid = galaxy.original_psf.centroid / SCALE
        assert (stamps.psf.stamp[i] * x).sum() == pytest.approx(centroid.x, abs=1e-4)
        assert (stamps.psf.stamp[i] * y[:, None]).sum() == pytest.approx(centroid.y, abs=1e-4)
    return stamps


@pytest.mark.parametrize("shape", [(64, 64), (30, 41)])
def test_a_made_catalogue_agrees_with_galsim(catalogue, shape):
    assert_galsim_draws_the_same(catalogue, shape)


@pytest.mark.parametrize("shape", [(64, 64), (51, 66)])
@pytest.mark.parametrize("name", ["cosmos_dev", "aegis", "aegis/AEGIS_F606w_catalog.fits"])
@pytest.mark.filterwarnings("ignore:the noise spectrum vanishes")
def test_real_catalogues_agree_with_galsim(hiergal_data, name, shape):
    assert_galsim_draws_the_same(hiergal_data / name, shape)


def overlap(cutout, shape):
    """Slices of the stamp, and of the cutout, that cover each other when both are centred to the pixel."""
    shifts = [(want - have + (have - want) % 2) // 2 for have, want in zip(cutout, shape, strict=True)]
    stamp = [
        slice(max(s, 0), min(s + have, want)) for s, have, want in zip(shifts, cutout, shape, strict=True)
    ]
    return tuple(stamp), tuple(slice(a.start - s, a.stop - s) for a, s in zip(stamp, shifts, strict=True))


@pytest.mark.parametrize("shape", [(64, 64), (31, 36), (51, 66)])
def test_pixels_are_kept(catalogue, shape):
    """Original pixels, to the last digit of float32, wherever the cutout reaches, and noise beyond."""
    catalog = open_catalog(catalogue, exclusion_level="none")
    stamps = read_stamps(catalog, catalog.rows, shape, centre="pixel")
    for i, image in enumerate(stamps.image):
        on_stamp, on_cutout = overlap(CUTOUTS[i], shape)
        original = catalog.real.getGalImage(i).array
        np.testing.assert_allclose(image[on_stamp], original[on_cutout], rtol=1e-6, atol=1e-9)
        beyond = np.ones(shape, bool)
        beyond[on_stamp] = False
        if beyond.sum() > 500:
            sigma = np.sqrt(catalog.real.variance[i])
            assert image[beyond].std() == pytest.approx(sigma, rel=0.2)
    odd = [[(have - want) % 2 / 2 for have, want in zip(cutout, shape, strict=True)] for cutout in CUTOUTS]
    np.testing.assert_array_equal(stamps.catalog["shift_y_pix"], np.array(odd)[:, 0])
    np.testing.assert_array_equal(stamps.catalog["shift_x_pix"], np.array(odd)[:, 1])


def test_real_pixels_of_cosmos_are_kept(hiergal_data):
    """Even cutouts on even stamps: no interpolation, whatever the choice of centre."""
    catalog = open_catalog(hiergal_data / "cosmos_dev")
    stamps = read_stamps(catalog, catalog.rows)
    for i, image in enumerate(stamps.image):
        original = catalog.real.getGalImage(i).array
        on_stamp, on_cutout = overlap(original.shape, (64, 64))
        np.testing.assert_allclose(image[on_stamp], original[on_cutout], rtol=1e-6, atol=1e-9)
    assert not stamps.catalog["shift_x_pix"].any()
    assert (stamps.psf.stamp.shape[1:], len(stamps)) == ((65, 51), 33)


def test_convolving_with_the_psf_is_galsims_convolution(catalogue):
    """A smooth, tilted, off-centre profile: same orientation, same sub-pixel centre."""
    catalog = open_catalog(catalogue, exclusion_level="none")
    shape = (64, 61)
    psf = read_stamps(catalog, catalog.rows, shape).psf
    profile = galsim.Gaussian(sigma=0.13, flux=2.0).shear(g1=0.2, g2=-0.3).shift(0.11, -0.17)
    truth = profile.drawImage(nx=shape[1], ny=shape[0], scale=SCALE, method="no_pixel").array
    blurred = np.asarray(convolve(jnp.asarray(truth)[None], psf))
    for i, image in enumerate(blurred):
        both = galsim.Convolve(profile, catalog.real.getPSF(i))
        expected = both.drawImage(nx=shape[1], ny=shape[0], scale=SCALE, method="no_pixel").array
        assert np.abs(image - expected).max() < 1e-3 * expected.max()


# Noise


def pieces_of_noise(noise, shape, seed, fields=6, side=512):
    """Stamps cut out of larger noise fields, as real ones are."""
    pieces = []
    for field in range(fields):
        image = galsim.Image(side, side, scale=SCALE, dtype=float)
        noise.copy(rng=galsim.BaseDeviate(seed + field)).applyTo(image)
        for y in range(0, side - shape[0], shape[0]):
            pieces += [
                image.array[y : y + shape[0], x : x + shape[1]] for x in range(0, side - shape[1], shape[1])
            ]
    return np.array(pieces)


@pytest.mark.parametrize("shape", [(64, 64), (40, 57)])
def test_whitened_noise_has_unit_chi_square(shape):
    """The expected periodogram is unbiased for stamps of a larger field; GalSim's spectrum gives 3 to 5 % too much."""
    noise = galsim.getCOSMOSNoise(variance=1e-5, rng=galsim.BaseDeviate(1))
    pieces = pieces_of_noise(noise, shape, seed=11)
    chi_square = {}
    for spectrum in ("galsim", "expected"):
        power = noise_power(noise, shape, SCALE, spectrum)
        model = StationaryNoise(power.astype(np.float32)[None], width=shape[1])
        each = np.asarray(model.chi_square(jnp.asarray(pieces, jnp.float32))) / np.prod(shape)
        chi_square[spectrum] = each.mean(), each.std() / np.sqrt(len(each))
    mean, error = chi_square["expected"]
    assert abs(mean - 1) < 4 * error + 1e-3, chi_square  # fails once in 16,000 seeds
    mean, error = chi_square["galsim"]
    assert 1.02 < mean < 1.07, chi_square


def test_expected_spectrum_has_the_right_variance_and_is_positive():
    noise = galsim.getCOSMOSNoise(variance=2e-5)
    power = noise_power(noise, (30, 41), SCALE, "expected")
    model = StationaryNoise(power.astype(np.float32), width=41)
    assert float(model.rms()) ** 2 == pytest.approx(2e-5, rel=1e-4) and power.min() > 0


def test_a_correlation_image_of_even_size(hiergal_data, tmp_path):
    """GalSim's spectrum of AEGIS noise vanishes: said with a warning; the expected one does not."""
    with pytest.warns(UserWarning, match="use spectrum='expected'"):
        store = write_cosmos_survey(hiergal_data / "aegis", tmp_path / "a.zarr")
    assert store.header.band == "F814W"
    store = write_cosmos_survey(
        hiergal_data / "aegis", tmp_path / "b.zarr", band="F606W", spectrum="expected"
    )
    noise = store.read().noise
    ratio = noise.power.min(axis=(1, 2)) / noise.power.max(axis=(1, 2))
    assert (ratio > 1e-3).all() and store.header.magnitude_zero_point == pytest.approx(26.49, abs=0.01)
    np.testing.assert_allclose(
        np.asarray(noise.rms()) ** 2,
        open_catalog(hiergal_data / "aegis", band="F606W").real.variance,
        rtol=1e-4,
    )


def test_vanishing_power_is_raised():
    power = np.ones((1, 4, 3))
    power[0, 1, 1] = 0
    with pytest.warns(UserWarning, match="likelihoods"):
        assert floored(power).min() == pytest.approx(1e-6)


# The survey


def test_survey_goes_to_a_store(catalogue, tmp_path, caplog):
    caplog.set_level("INFO", "hiergal")
    store = write_cosmos_survey(
        catalogue, tmp_path / "s.zarr", stamp_shape=(30, 41), exclusion_level="none", seed=4, progress=True
    )
    assert "writing s.zarr" in caplog.text
    catalog = open_catalog(catalogue.parent, exclusion_level="none")
    whole = read_stamps(catalog, catalog.rows, (30, 41), seed=4)
    back = open_survey(store.path).read()
    np.testing.assert_array_equal(back.image, whole.image)
    np.testing.assert_array_equal(back.psf.stamp, whole.psf.stamp)
    np.testing.assert_array_equal(back.noise.power, whole.noise.power)
    assert back.identifier.tolist() == [101, 55, 7, 9000]
    assert store.catalog["mag_auto"].tolist() == [21.5, 22.5, 23.5, 24.5]
    assert store.catalog["hlr_arcsec"].tolist() == [0.6, 0.4, 0.3, 0.2]
    assert (store.header.band, store.header.magnitude_zero_point) == ("F814W", 25.94)
    assert store.header.provenance["exclusion_level"] == "none" and not store.has_truth
    # Another seed changes the padding alone; fewer galaxies change nothing in those that stay.
    other = write_cosmos_survey(
        catalogue, tmp_path / "o.zarr", stamp_shape=(30, 41), exclusion_level="none", seed=5, limit=2
    ).read()
    assert len(other) == 2
    inside = overlap(CUTOUTS[0], (30, 41))[0]
    assert not np.array_equal(other.image[0], back.image[0])
    margin = tuple(slice(part.start + 4, part.stop - 4) for part in inside)
    np.testing.assert_allclose(other.image[0][margin], back.image[0][margin], atol=1e-6)


def test_measured_radius_stands_in_for_that_of_a_fit(catalogue, tmp_path):
    catalogue = shutil.copytree(catalogue.parent, tmp_path / "copy") / catalogue.name
    fits = catalogue.with_name("real_fits.fits")
    table = Table.read(fits)
    table.remove_column("hlr")
    table.write(fits, overwrite=True)
    conditions = open_catalog(catalogue, exclusion_level="none").conditions
    np.testing.assert_allclose(conditions["hlr_arcsec"], [0.6, 0.45, 0.3, 0.15])
    table.remove_column("flux_radius")
    table.write(fits, overwrite=True)
    assert "hlr_arcsec" not in open_catalog(catalogue, exclusion_level="none").conditions


@pytest.mark.slow
def test_processes_read_the_same_galaxies(catalogue, tmp_path, monkeypatch):
    """Each opens the catalogue itself; the parent holds no file when it is done."""
    monkeypatch.setattr(prepare, "TASK_GALAXIES", 2)
    monkeypatch.setattr(workers, "TASK_GALAXIES", 2)
    one, two = (
        write_cosmos_survey(catalogue, tmp_path / f"{n}.zarr", exclusion_level="none", workers=n).path
        for n in (1, 2)
    )
    files = [file.relative_to(one) for file in one.rglob("*") if file.is_file()]
    assert len(files) > 10 and all((one / file).read_bytes() == (two / file).read_bytes() for file in files)
    assert not cosmos._open


@pytest.mark.parametrize(
    ("level", "identifiers"),
    [
        ("none", [101, 55, 7, 9000]),
        ("bad_fits", [101, 55, 9000]),
        ("bad_stamp", [101, 7, 9000]),
        (None, [101, 9000]),
    ],
)
def test_exclusion(catalogue, tmp_path, level, identifiers):
    store = write_cosmos_survey(catalogue, tmp_path / "s.zarr", exclusion_level=level)
    assert store.identifier.tolist() == identifiers
    assert store.header.provenance["exclusion_level"] == (level or "marginal")


def test_conditions_of_cosmos(hiergal_data):
    catalog = open_catalog(hiergal_data / "cosmos_dev")
    assert list(catalog.conditions) == ["mag_auto", "flux_radius", "zphot", "hlr_arcsec"]
    assert catalog.exclusion_level == "none"
    assert np.array([np.isfinite(column).all() for column in catalog.conditions.values()]).all()


def test_bad_input(catalogue, tmp_path):
    with pytest.raises(FileNotFoundError, match="got no such file"):
        open_catalog(tmp_path / "nowhere.fits")
    with pytest.raises(OSError, match="expected a catalogue of real galaxies in F814W .* bands none"):
        open_catalog(tmp_path)
    with pytest.raises(OSError, match=r"in F606W .* bands \['F814W'\]"):
        open_catalog(catalogue.parent, band="F606W")
    with pytest.raises(ValueError, match="limit of at least 1"):
        write_cosmos_survey(catalogue, tmp_path / "s.zarr", limit=0)
    alone = tmp_path / "alone.fits"
    alone.write_bytes(catalogue.read_bytes())
    with pytest.raises(
        OSError, match="alone_fits.fits and alone_selection.fits .* use exclusion level 'none'"
    ):
        open_catalog(alone, exclusion_level="marginal")
    shuffled = tmp_path / "alone_fits.fits"
    with fits.open(catalogue.with_name("real_fits.fits")) as hdus:
        hdus[1].data["IDENT"] += 1
        hdus.writeto(shuffled)
    with pytest.raises(ValueError, match="expected the galaxies of .* to be those of"):
        open_catalog(alone)
    shuffled.unlink()
    with fits.open(catalogue) as hdus:
        hdus[1].data["PIXEL_SCALE"][1] = 0.05
        hdus[1].data["BAND"] = "F999W"
        hdus.writeto(alone, overwrite=True)
    with pytest.raises(ValueError, match="expected galaxies of one pixel scale"):
        open_catalog(alone)
    with fits.open(alone) as hdus:
        hdus[1].data["PIXEL_SCALE"][1] = SCALE
        hdus.writeto(tmp_path / "band.fits")
    with pytest.raises(ValueError, match="expected a band among"):
        write_cosmos_survey(tmp_path / "band.fits", tmp_path / "s.zarr")


def test_the_sample_that_is_not_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(galsim.meta_data, "share_dir", str(tmp_path))
    with pytest.raises(OSError, match="galsim_download_cosmos"):
        open_catalog()
