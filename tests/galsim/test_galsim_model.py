"""Galaxies inside GalSim: the caller's random numbers, exact fluxes and sizes, and all that a GSObject does."""

import pickle
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import astropy.units as u
import galsim
import numpy as np
import pandas as pd
import pytest
from astropy.table import QTable, Table
from toys import tiny_model

from hiergal import GenerativeGalaxyModel, save_model

N = 20


@pytest.fixture(scope="module")
def folder(drawing_folder):
    return drawing_folder


@pytest.fixture(scope="module")
def model(folder):
    return GenerativeGalaxyModel(folder)


@pytest.fixture(scope="module")
def catalog():
    rng = np.random.default_rng(0)
    return Table(
        {
            "mag_auto": rng.uniform(21, 24, N),
            "flux_radius": rng.uniform(6, 10, N),
            "zphot": rng.uniform(0.2, 1.4, N),
        }
    )


@pytest.fixture(scope="module")
def galaxies(model, catalog):
    return model.sample(catalog, rng=galsim.BaseDeviate(7))


def pixels(galaxies):
    return np.array([galaxy.image.array for galaxy in galaxies])


def test_attributes_of_galsim_hub(model):
    assert model.quantities == ["mag_auto", "flux_radius", "zphot"]
    assert (model.stamp_size, model.pixel_size) == (32, 0.03)
    assert (model.magnitude_zero_point, model.psf_fwhm) == (25.94, 0.1)


def test_the_script_of_the_paper(folder):
    """Fig. A1, as its readers have it, but for the name of the package and of the model."""
    script = f"""
import galsim
import hiergal
from astropy.table import Table

model = hiergal.GenerativeGalaxyModel({str(folder)!r})
cat = Table([[5., 10., 20.], [24., 24., 24.], [0.5, 0.5, 0.5]], names=['flux_radius', 'mag_auto', 'zphot'])
ims = model.sample(cat)
psf = galsim.Gaussian(sigma=0.06)
ims = [galsim.Convolve(im, psf) for im in ims]
"""
    names = {}
    with pytest.warns(UserWarning, match="1 of 3 galaxies .* beyond the range"):
        exec(compile(script, "figure_a1", "exec"), names)
    assert len(names["ims"]) == 3 and all(isinstance(im, galsim.GSObject) for im in names["ims"])
    assert [im.flux > 0 for im in names["ims"]] == [
        True,
        True,
        False,
    ]  # 20 pixels: this toy's largest have 14


@pytest.mark.parametrize("step", [1, 7])
def test_any_batching_gives_the_same_pixels(model, catalog, galaxies, step):
    rng, found = galsim.BaseDeviate(7), []
    for first in range(0, N, step):
        found += model.sample(catalog[first : first + step], rng=rng)
    np.testing.assert_array_equal(pixels(found), pixels(galaxies))
    assert len(np.unique(pixels(galaxies)[:, 16, 16])) == N


def test_a_generator_for_each_galaxy(model, catalog):
    rngs = [galsim.BaseDeviate(100 + i) for i in range(N)]
    together = model.sample(catalog, rng=rngs)
    alone = [model.sample(catalog[[i]], rng=galsim.BaseDeviate(100 + i))[0] for i in (0, 13)]
    np.testing.assert_array_equal(pixels(alone), pixels(together)[[0, 13]])
    with pytest.raises(ValueError, match="one for each of 20 galaxies, got 3"):
        model.sample(catalog, rng=rngs[:3])


def draw_one(folder, row, seed):
    (galaxy,) = GenerativeGalaxyModel(folder).sample(row, rng=galsim.BaseDeviate(seed))
    return galaxy.image.array


def test_other_processes_give_the_same_pixels(folder, model, catalog):
    rows = [{name: [float(catalog[name][i])] for name in catalog.colnames} for i in range(2)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(draw_one, [folder] * 2, rows, [100, 101]))
    here = model.sample(catalog[:2], rng=[galsim.BaseDeviate(100), galsim.BaseDeviate(101)])
    np.testing.assert_array_equal(found, pixels(here))


def test_the_generator_moves_on_by_the_same_for_all(model, catalog):
    first, second = galsim.BaseDeviate(1), galsim.BaseDeviate(1)
    model.sample(catalog[:3], rng=first)
    model.sample(n=3, rng=second)
    assert first == second and first != galsim.BaseDeviate(1)


def test_without_a_generator_galaxies_differ(model, catalog):
    assert not np.array_equal(pixels(model.sample(catalog[:1])), pixels(model.sample(catalog[:1])))


def test_always_a_list_but_for_squeeze(model, catalog):
    assert isinstance(model.sample(catalog[:1]), list)
    assert isinstance(model.sample(catalog[:1], squeeze=True), galsim.GSObject)
    assert len(model.sample(catalog[:2], squeeze=True)) == 2
    assert model.sample(catalog[:0]) == []


def test_catalogues_of_any_kind(model, catalog, galaxies):
    shuffled = catalog["zphot", "mag_auto", "flux_radius"]
    mapping = {name: np.asarray(catalog[name]) for name in catalog.colnames}
    units = QTable(catalog)
    units["mag_auto"] = units["mag_auto"] * u.ABmag
    units["flux_radius"] = (np.asarray(catalog["flux_radius"]) * 0.03 / 60) * u.arcmin
    plain = Table(catalog)  # as one is read from FITS or ECSV
    plain["flux_radius"] = 0.03 * np.asarray(catalog["flux_radius"])
    plain["mag_auto"].unit, plain["flux_radius"].unit = u.ABmag, u.arcsec
    for other in (shuffled, mapping, catalog.as_array(), pd.DataFrame(mapping), units, plain):
        found = model.sample(other, rng=galsim.BaseDeviate(7))
        np.testing.assert_allclose(pixels(found), pixels(galaxies), rtol=2e-4, atol=1e-6)
    (one,) = model.sample({name: column[0] for name, column in mapping.items()}, rng=galsim.BaseDeviate(7))
    np.testing.assert_array_equal(one.image.array, galaxies[0].image.array)
    (one,) = model.sample(catalog.as_array()[0], rng=galsim.BaseDeviate(7))
    np.testing.assert_array_equal(one.image.array, galaxies[0].image.array)


def test_magnitudes_of_other_systems_convert_or_are_refused(model, catalog):
    flux = np.full(N, 5000.0)
    expected = model.request(dict(catalog, mag_auto=(flux * u.nJy).to_value(u.ABmag)), galsim.BaseDeviate(1))
    for column in (flux * u.nJy, u.Magnitude(flux * u.nJy)):
        found = model.request(dict(catalog, mag_auto=column), galsim.BaseDeviate(1))
        np.testing.assert_allclose(found.conditions, expected.conditions, rtol=1e-6)
    for wrong in (np.full(N, 22.0) * u.STmag, u.Dex(np.full(N, 22.0)), u.Magnitude(flux * u.ct / u.s)):
        with pytest.raises(ValueError, match="catalog: mag_auto: expected a column in mag, got"):
            model.request(dict(catalog, mag_auto=wrong), galsim.BaseDeviate(1))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"flux": 23 * u.ABmag},
            ValueError,
            "flux: expected plain numbers, in the model's unit of flux, got mag",
        ),
        ({"flux": np.full(N, 5.0) * u.nJy}, ValueError, "flux: expected plain numbers"),
        (
            {"flux": np.ma.masked_equal(np.full(N, -999.0), -999.0)},
            ValueError,
            "flux: expected finite numbers",
        ),
        (
            {"half_light_radius": 0.3 * u.mag},
            ValueError,
            "half_light_radius: expected numbers, or quantities in",
        ),
        ({"rng": 5}, TypeError, "rng: expected a galsim.BaseDeviate, or one for each galaxy, got int"),
        ({"magnitude_zero_point": np.nan}, ValueError, "magnitude_zero_point: expected finite numbers"),
    ],
)
def test_wrong_options_are_named(model, catalog, changes, error, message):
    with pytest.raises(error, match=message):
        model.sample(catalog, **({"rng": galsim.BaseDeviate(1)} | changes))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.full(N, 1e39), "expected finite conditions"),
        (np.full((N, 1), 22.0), "mag_auto: expected one number for each row, got shape"),
        (np.full(N, 22 + 1j), "mag_auto: expected numbers, got complex128"),
    ],
)
def test_columns_that_are_no_numbers_of_each_row_are_refused(model, catalog, column, message):
    with pytest.raises(ValueError, match=message):
        model.sample(dict(catalog, mag_auto=column), rng=galsim.BaseDeviate(1))


def test_imposed_fluxes_and_sizes_are_met(model, catalog):
    flux, radius = np.linspace(1, 500, N), np.linspace(0.08, 0.5, N)
    found = model.sample(catalog, rng=galsim.BaseDeviate(7), flux=flux, half_light_radius=radius * u.arcsec)
    np.testing.assert_allclose([galaxy.flux for galaxy in found], flux, rtol=1e-6)
    np.testing.assert_allclose([galaxy.calculateHLR() for galaxy in found], radius, rtol=1e-3)
    blurred = [galsim.Convolve(galaxy, PSF) for galaxy in found[:5]]
    drawn = [
        galaxy.drawImage(nx=400, ny=400, scale=0.03, method="no_pixel").array.sum() for galaxy in blurred
    ]
    np.testing.assert_allclose(drawn, flux[:5], rtol=1e-3)


def test_zero_points_scale_fluxes(model, catalog, galaxies):
    brighter = model.sample(catalog, rng=galsim.BaseDeviate(7), magnitude_zero_point=25.94 + 2.5)
    np.testing.assert_allclose(
        [galaxy.flux for galaxy in brighter], [10 * galaxy.flux for galaxy in galaxies], rtol=1e-9
    )
    exact = model.sample(catalog, rng=galsim.BaseDeviate(7), magnitude_zero_point=30.0, flux=3.0)
    np.testing.assert_allclose([galaxy.flux for galaxy in exact], 3.0)


PSF = galsim.Gaussian(fwhm=0.12)
CHANGES = {
    "pickle": lambda galaxy: pickle.loads(pickle.dumps(galaxy)),
    "shear": lambda galaxy: galaxy.shear(g1=0.2, g2=-0.1),
    "dilate": lambda galaxy: galaxy.dilate(1.3),
    "rotate": lambda galaxy: galaxy.rotate(40 * galsim.degrees),
    "shift": lambda galaxy: galaxy.shift(0.02, -0.05),
    "convolve": lambda galaxy: galsim.Convolve(galaxy, PSF),
    "convolved by sample": lambda galaxy: galaxy,
}


@pytest.mark.parametrize("change", CHANGES)
def test_galaxies_are_gsobjects(model, catalog, galaxies, change):
    found = galaxies
    if change == "convolved by sample":
        found = model.sample(catalog, rng=galsim.BaseDeviate(7), psf=PSF)
    for before, galaxy in zip(galaxies, found, strict=True):
        changed = CHANGES[change](galaxy)
        np.testing.assert_allclose(changed.flux, before.flux, rtol=1e-6)
        assert pickle.loads(pickle.dumps(changed)) == changed
        blurred = changed if change.startswith("convolve") else galsim.Convolve(changed, PSF)
        image = blurred.drawImage(nx=256, ny=256, scale=0.03, method="no_pixel")
        np.testing.assert_allclose(image.array.sum(), before.flux, rtol=5e-3)


def test_photons_have_the_flux(galaxies):
    for galaxy in galaxies[:5]:
        blurred = galsim.Convolve(galaxy, PSF)
        image = blurred.drawImage(
            nx=200, ny=200, scale=0.03, method="phot", n_photons=20000, rng=galsim.BaseDeviate(3)
        )
        # Some photons count negatively (the interpolant's lobes): 2 % is four standard errors.
        np.testing.assert_allclose(image.added_flux, galaxy.flux, rtol=0.02)


def test_shear_and_rotation_do_what_they_say(galaxies):
    """A rotation by a right angle turns the drawn image (rows are from the bottom)."""
    galaxy = galsim.Convolve(galaxies[0].shear(g1=0.3), PSF)
    turned = galsim.Convolve(galaxies[0].shear(g1=0.3).rotate(90 * galsim.degrees), PSF)
    before = galaxy.drawImage(nx=101, ny=101, scale=0.03, method="no_pixel").array
    after = turned.drawImage(nx=101, ny=101, scale=0.03, method="no_pixel").array
    np.testing.assert_allclose(after, np.rot90(before, -1), atol=2e-3 * before.max())


def test_the_population(model):
    found = model.population(400, galsim.BaseDeviate(2))
    assert found.colnames == model.quantities
    rows = np.asarray(model.model.population)
    for name, column in zip(model.quantities, rows.T, strict=True):
        error = column.std() / 20
        assert abs(found[name].mean() - column.mean()) < 4 * error
    assert len(model.sample(n=3, rng=galsim.BaseDeviate(2))) == 3


def test_missing_conditions_come_from_galaxies_alike(model):
    magnitude = np.repeat([21.0, 24.0], 200)
    request = model.request({"mag_auto": magnitude}, galsim.BaseDeviate(5), missing="population")
    np.testing.assert_array_equal(request.conditions[:, 0], magnitude.astype(np.float32))
    rows = np.asarray(model.model.population)
    for bright, chosen in ((21.0, request.conditions[:200]), (24.0, request.conditions[200:])):
        alike = rows[np.abs(rows[:, 0] - bright) < 0.3, 1]
        # Two means of scatter 1.5 and more, 200 and some 70 galaxies: four standard errors and the kernel's slope.
        assert abs(chosen[:, 1].mean() - alike.mean()) < 0.9
    assert request.conditions[:200, 1].mean() > request.conditions[200:, 1].mean() + 2


def test_beyond_the_range(model, catalog):
    bright = Table(catalog)
    bright["mag_auto"][:5] = 15.0
    with pytest.warns(UserWarning, match=r"5 of 20 galaxies \(25 %\) .* mag_auto from 20.* first: row 0"):
        model.sample(bright)
    with pytest.raises(ValueError, match="5 of 20 galaxies"):
        model.sample(bright, outside="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample(bright, outside="ignore")
    with pytest.raises(ValueError, match="outside: expected 'warn'"):
        model.sample(bright, outside="maybe")


def test_narrow_psfs_warn(model, catalog):
    with pytest.warns(UserWarning, match="got 0.05 arcsec"):
        model.sample(catalog[:1], psf=galsim.Gaussian(fwhm=0.05))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample(catalog[:1], psf=galsim.Gaussian(fwhm=0.095))  # slightly narrower


def test_noise_around_the_stamps_is_reproducible(model, catalog):
    options = {"noise": galsim.UncorrelatedNoise(variance=1e-4, scale=0.03), "noise_pad_size": 3.0}
    together = model.sample(catalog[:3], rng=galsim.BaseDeviate(4), **options)
    rng = galsim.BaseDeviate(4)
    alone = [model.sample(catalog[[i]], rng=rng, **options)[0] for i in range(3)]
    for first, second in zip(together, alone, strict=True):
        one, other = (g.drawImage(nx=90, ny=90, scale=0.03, method="no_pixel").array for g in (first, second))
        np.testing.assert_array_equal(one, other)
        assert one[:5].std() > 0.005


BAD = [
    (lambda c: c.remove_column("zphot"), {}, ValueError, "missing: zphot; there are: mag_auto, flux_radius"),
    (lambda c: c["zphot"].__setitem__(2, np.nan), {}, ValueError, "NaN or infinity in 1 of 20 rows"),
    (lambda c: None, {"flux": [1.0, 2.0]}, ValueError, "flux: expected one number, or one for each of 20"),
    (lambda c: None, {"flux": np.nan}, ValueError, "flux: expected finite"),
    (lambda c: None, {"half_light_radius": 0.0}, ValueError, "half_light_radius: expected positive"),
    (lambda c: None, {"n": 3}, ValueError, "n: expected 20"),
    (lambda c: None, {"missing": "guess"}, ValueError, "missing: expected 'raise' or 'population'"),
]


@pytest.mark.parametrize(("spoil", "options", "error", "message"), BAD)
def test_bad_requests(model, catalog, spoil, options, error, message):
    table = Table(catalog, copy=True)
    spoil(table)
    with pytest.raises(error, match=message):
        model.sample(table, **options)


def test_nothing_to_draw(model):
    with pytest.raises(ValueError, match="expected a catalogue, or n"):
        model.sample()
    with pytest.raises(ValueError, match="n: expected the number of galaxies"):
        model.sample({"other": [1.0]}, missing="population")
    with pytest.raises(TypeError, match="expected columns with names"):
        model.sample(np.zeros((3, 3)))
    with pytest.raises(TypeError, match="expected columns with names"):
        model.sample(3)


def test_models_without_what_is_needed(tmp_path, model):
    save_model(tiny_model(flow=False), tmp_path / "bare")
    with pytest.raises(ValueError, match="expected a model with a latent flow"):
        GenerativeGalaxyModel(tmp_path / "bare")
    save_model(tiny_model(), tmp_path / "old")
    with pytest.raises(ValueError, match="no population to draw them from"):
        GenerativeGalaxyModel(tmp_path / "old").sample(n=3)
    assert pickle.loads(pickle.dumps(model)).quantities == model.quantities


@pytest.mark.parametrize(
    "psf",
    [
        galsim.DeltaFunction(),
        galsim.OpticalPSF(lam=800, diam=2.4, defocus=0.5),
        galsim.ChromaticAtmosphere(galsim.Kolmogorov(fwhm=0.6), 500, zenith_angle=0 * galsim.degrees),
    ],
)
def test_psfs_without_a_width_to_compare_pass(model, catalog, psf):
    assert len(model.sample(catalog[:2], rng=galsim.BaseDeviate(1), psf=psf)) == 2


@pytest.mark.parametrize(
    "psf",
    [
        galsim.Moffat(beta=2.5, fwhm=0.07),
        galsim.Airy(lam=800, diam=6.5, obscuration=0.3),  # GalSim has no width of it
        0.5 * galsim.Gaussian(fwhm=0.05) + 0.5 * galsim.Gaussian(fwhm=0.8),
    ],
)
def test_psfs_that_show_more_are_told_of(model, catalog, psf):
    with pytest.warns(UserWarning, match="psf: expected one of at least about the 0.1 arcsec"):
        model.check_psf(psf)


def test_pickles_need_no_working_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    text = pickle.dumps(GenerativeGalaxyModel(folder.name))
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(text)
    assert again.file_name == folder.name and again.stamp_size == 32
    assert len(pickle.loads(pickle.dumps(again)).sample(n=2, rng=galsim.BaseDeviate(1))) == 2
    with pytest.raises(AttributeError, match="no attribute 'taste'"):
        _ = again.taste
    named = pickle.loads(pickle.dumps(GenerativeGalaxyModel("hub:mock-acs")))
    assert named.file_name == "hub:mock-acs" and named.stamp_size == 64


def test_columns_of_pandas_with_what_it_calls_missing(model, catalog):
    frame = pd.DataFrame(
        {name: pd.array(np.asarray(catalog[name]), dtype="Float64") for name in catalog.colnames}
    )
    np.testing.assert_array_equal(
        model.request(frame, galsim.BaseDeviate(1)).conditions,
        model.request(catalog, galsim.BaseDeviate(1)).conditions,
    )
    frame.loc[3, "zphot"] = pd.NA
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 20 rows .first: 3"):
        model.request(frame, galsim.BaseDeviate(1))


def test_masked_quantities(model, catalog):
    table = QTable(catalog, masked=True)
    table["mag_auto"] = table["mag_auto"] * u.ABmag
    table["flux_radius"] = u.Quantity(np.asarray(catalog["flux_radius"]) * 0.03, u.arcsec)
    from astropy.utils.masked import Masked

    table["flux_radius"] = Masked(table["flux_radius"], mask=np.arange(N) == 4)
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 20 rows .first: 4"):
        model.request(table, galsim.BaseDeviate(1))
