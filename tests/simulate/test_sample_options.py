"""What `hiergal sample` may be asked: exact fluxes and sizes, bands, identifiers, and rows without numbers."""

import time
import warnings

import galsim
import h5py
import numpy as np
import pytest
import zarr
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

import hiergal
from hiergal.cli.app import app
from hiergal.hub import load_model
from hiergal.runtime.seeds import SAMPLE, key_for
from hiergal.simulate import catalog as catalog_sampling
from hiergal.simulate import files as galaxy_files
from hiergal.simulate.catalog import sample_catalog
from hiergal.simulate.observing import Observing
from hiergal.simulate.profiles import draw_profiles, light_profiles
from hiergal.simulate.survey_presets import compare_bands, survey_conditions, survey_psf

N, PART = 12, 8
HOW = {"seed": 4, "progress": False}
NAMES = ("mag_auto", "flux_radius", "zphot")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(catalog_sampling, "GALAXIES_PER_TASK", PART)
    monkeypatch.setattr(galaxy_files, "GALAXIES_PER_CHUNK", PART)


@pytest.fixture(scope="module")
def model(drawing_folder):
    return load_model(drawing_folder)


@pytest.fixture
def catalog(model):
    return Table(np.asarray(model.population)[:N].astype(float), names=NAMES)


def read(path):
    """Images and columns of a file."""
    match path.suffix:
        case ".fits":
            with fits.open(path, memmap=False) as file:
                table = Table(file["CONDITIONS"].data)
                return np.array(file[0].data, np.float32), {n: np.asarray(table[n]) for n in table.colnames}
        case ".hdf5":
            with h5py.File(path) as file:
                columns = {name: column[:] for name, column in file["conditions"].items()}
                columns = {n: c.astype(str) if c.dtype.kind == "O" else c for n, c in columns.items()}
                return file["image"][:], columns
    group = zarr.open_group(path, mode="r")
    return group["image"][:], {name: array[:] for name, array in group["conditions"].arrays()}


def spoilt(catalog):
    """One row of each kind that is no request."""
    for row, (name, value) in enumerate(
        [("mag_auto", 99.0), ("mag_auto", -99.0), ("zphot", np.nan), ("flux_radius", np.inf), ("zphot", 1e20)]
    ):
        catalog[name][row] = value
    for name in NAMES:
        catalog[name][5] = np.nan
    return catalog, np.arange(len(catalog)) >= 6


@pytest.mark.parametrize("suffix", [".fits", ".hdf5", ".zarr"])
@pytest.mark.parametrize("observing", [None, Observing("LSST", "i", 24)])
def test_rows_without_numbers_are_not_drawn_and_nothing_else_changes(
    drawing_folder, catalog, tmp_path, suffix, observing
):
    whole, _ = read(
        sample_catalog(drawing_folder, catalog, tmp_path / f"w{suffix}", observing=observing, **HOW)
    )
    asked, good = spoilt(catalog)
    with pytest.warns(UserWarning, match="6 of 12 galaxies .50 %. .*6 of them are not drawn"):
        out = sample_catalog(drawing_folder, asked, tmp_path / f"g{suffix}", observing=observing, **HOW)
    found, columns = read(out)
    np.testing.assert_array_equal(columns["drawn"], good)
    np.testing.assert_array_equal(columns["outside"], ~good)
    np.testing.assert_array_equal(found[good], whole[good])
    assert np.isnan(found[~good]).all()
    with pytest.raises(ValueError, match="6 of 12 galaxies"):
        sample_catalog(drawing_folder, asked, tmp_path / f"r{suffix}", outside="raise", **HOW)


def test_what_is_far_outside_is_drawn_if_that_is_wished(drawing_folder, catalog, tmp_path):
    asked, good = spoilt(catalog)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, columns = read(
            sample_catalog(drawing_folder, asked, tmp_path / "g.zarr", outside="ignore", **HOW)
        )
    wished = good | np.isin(np.arange(N), (0, 1))  # 99 and -99; 1e20 is beyond what can be computed with
    np.testing.assert_array_equal(columns["drawn"], wished)
    np.testing.assert_array_equal(np.isfinite(found[:, 0, 0]), wished)


@pytest.mark.parametrize("suffix", [".fits", ".hdf5", ".zarr"])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("identifier", 36411448540268969 + np.arange(N)),
        ("ID", np.array([f"COSMOS J{i:03d}" for i in range(N)])),
        ("Number", np.arange(N, dtype=np.int32) - 3),
    ],
)
def test_identifiers_are_kept(drawing_folder, catalog, tmp_path, suffix, name, values):
    catalog[name] = values
    catalog.write(tmp_path / "c.fits")
    _, columns = read(
        sample_catalog(drawing_folder, tmp_path / "c.fits", tmp_path / f"g{suffix}", galaxies=None, **HOW)
    )
    name = name.lower()  # as the door of tables gives it
    kept = np.array(columns[name].tolist()) if values.dtype.kind == "U" else columns[name]
    np.testing.assert_array_equal(kept, values)
    assert kept.dtype.kind == values.dtype.kind


@pytest.mark.parametrize("observing", [None, Observing("LSST", "i", 24)])
@pytest.mark.parametrize("text", [False, True])
def test_a_galaxy_follows_its_key(drawing_folder, catalog, tmp_path, observing, text):
    ids = 2**60 + np.arange(N)
    catalog["name"] = [f"g{i}" for i in ids] if text else ids
    how = HOW | {"identifier": "name", "observing": observing}
    whole, _ = read(sample_catalog(drawing_folder, catalog, tmp_path / "whole.fits", **how))
    rows = np.array([10, 1, 2, 7])
    some, columns = read(sample_catalog(drawing_folder, catalog[rows], tmp_path / "some.fits", **how))
    np.testing.assert_array_equal(some, whole[rows])
    assert len(columns["name"]) == 4 and len(np.unique(whole[:, 12, 12])) == N
    if observing is None:
        again = draw_profiles(load_model(drawing_folder), catalog, key=key_for(4, SAMPLE), identifier="name")
        np.testing.assert_array_equal(again, whole)


def test_exact_fluxes_of_profiles(drawing_folder, catalog, model, tmp_path):
    catalog["f"] = np.linspace(1, 500, N)
    catalog["m"] = np.linspace(20, 26, N) * u.ABmag
    plain = draw_profiles(model, catalog, key=key_for(4, SAMPLE))
    for option, expected in (("flux", catalog["f"]), ("magnitude", 10 ** (-0.4 * (catalog["m"] - 25.94)))):
        name = {"flux": "f", "magnitude": "m"}[option]
        found, columns = read(
            sample_catalog(drawing_folder, catalog, tmp_path / f"{name}.fits", **{option: name}, **HOW)
        )
        total = found.sum(axis=(1, 2), dtype=float)
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        shape = plain / plain.sum(axis=(1, 2))[:, None, None]
        np.testing.assert_allclose(found / total[:, None, None], shape, rtol=1e-4)
        np.testing.assert_allclose(columns["asked_flux"], expected, rtol=1e-6)


@pytest.mark.parametrize("radius", [False, True])
def test_exact_galaxies_on_stamps_are_those_of_galsim(drawing_folder, catalog, model, tmp_path, radius):
    """Electrons of the survey, and pixels as GalSim draws them; the noise is that of the rows."""
    catalog["m"], catalog["r"] = np.linspace(20, 22, N), np.linspace(0.1, 0.4, N)
    sizes = {"half_light_radius": "r"} if radius else {}
    clean, noisy = (
        read(
            sample_catalog(
                drawing_folder,
                catalog,
                tmp_path / f"{noise}.zarr",
                observing=Observing("LSST", "i", 48, noise),
                magnitude="m",
                **sizes,
                **HOW,
            )
        )[0]
        for noise in (False, True)
    )
    about, psf = survey_conditions("LSST", "i"), survey_psf("LSST", "i")
    profiles = draw_profiles(model, catalog, key=key_for(4, SAMPLE))
    for i, galaxy in enumerate(light_profiles(model.recipe, profiles)):
        if radius:
            galaxy = galaxy.dilate(catalog["r"][i] / galaxy.calculateHLR())
            assert abs(galaxy.calculateHLR() / catalog["r"][i] - 1) < 1e-3
        galaxy = galaxy.withFlux(10 ** (0.4 * (about.zero_point - catalog["m"][i])))
        stamp = galsim.Convolve(galaxy, psf).drawImage(nx=48, ny=48, scale=about.pixel_scale).array
        np.testing.assert_allclose(clean[i], stamp, atol=1e-3 * stamp.max())
    scatter = (noisy - clean) / np.sqrt(clean.clip(0) + about.sky_level)
    assert abs(scatter.var() - 1) < 4 * np.sqrt(2 / scatter.size)


def test_exact_sizes_of_profiles(drawing_folder, catalog, tmp_path):
    catalog["r"] = np.full(N, 5.0 / 60) * u.arcmin / 60 * 3  # 0.25 arcsec
    found, columns = read(
        sample_catalog(drawing_folder, catalog, tmp_path / "r.fits", half_light_radius="r", **HOW)
    )
    sizes = [galsim.Image(image.astype(float), scale=0.03).calculateHLR() for image in found]
    np.testing.assert_allclose(sizes, 0.25, rtol=0.2)  # the stamp of 1 arcsec cuts off the outskirts
    np.testing.assert_allclose(columns["asked_half_light_radius_arcsec"], 0.25, rtol=1e-5)


def test_placeholders_in_exact_columns_are_not_drawn(drawing_folder, catalog, tmp_path):
    catalog["m"] = np.full(N, 22.0)
    catalog["m"][:4] = 99.0, -99.0, np.nan, np.inf
    catalog["f"] = np.full(N, 5.0)
    catalog["f"][:3] = -1.0, np.nan, 0.0
    catalog["r"] = np.full(N, 0.2)
    catalog["r"][6:8] = 0.0, -1.0
    _, columns = read(
        sample_catalog(
            drawing_folder, catalog, tmp_path / "m.fits", magnitude="m", half_light_radius="r", **HOW
        )
    )
    np.testing.assert_array_equal(np.flatnonzero(~columns["drawn"]), [0, 1, 2, 3, 6, 7])
    found, columns = read(sample_catalog(drawing_folder, catalog, tmp_path / "f.fits", flux="f", **HOW))
    np.testing.assert_array_equal(np.flatnonzero(~columns["drawn"]), [0, 1, 2])
    np.testing.assert_array_equal(np.isnan(found[:, 0, 0]), ~columns["drawn"])


class TestBands:
    """Magnitudes of one band are not taken for those of another without a word."""

    def test_other_bands_are_refused(self, drawing_folder, catalog, tmp_path):
        with pytest.raises(
            ValueError, match="band: LSST u .368 nm. is not like F814W .807 nm.*--magnitude-column"
        ):
            sample_catalog(
                drawing_folder, catalog, tmp_path / "u.fits", observing=Observing("LSST", "u", 16), **HOW
            )
        assert not list(tmp_path.iterdir())

    def test_with_magnitudes_in_the_band_they_are_drawn(self, drawing_folder, catalog, tmp_path):
        catalog["u"] = np.full(N, 23.0)
        observing = Observing("LSST", "u", 64, noise=False)
        with pytest.warns(UserWarning, match="fluxes are those of the catalogue, shapes those of F814W"):
            out = sample_catalog(
                drawing_folder, catalog, tmp_path / "u.fits", observing=observing, magnitude="u", **HOW
            )
        electrons = 10 ** (0.4 * (survey_conditions("LSST", "u").zero_point - 23.0))
        np.testing.assert_allclose(
            read(out)[0].sum(axis=(1, 2)), electrons, rtol=0.02
        )  # but for the PSF's wings

    @pytest.mark.parametrize(
        ("survey", "band", "other", "differ"),
        [
            ("LSST", "i", "F814W", False),
            ("Euclid_VIS", "IE", "f814w", False),
            ("HSC", "z", "F814W", False),
            ("LSST", "r", "F814W", True),
            ("Roman_WFI", "F158", "F814W", True),
            ("LSST", "u", "my own filter", False),
            ("COSMOS", "f814w", "g", True),
        ],
    )
    def test_bands_are_compared_by_wavelength(self, survey, band, other, differ):
        assert compare_bands(survey, band, other).differ == differ

    def test_narrow_psfs_are_told_of(self, drawing_folder, catalog, tmp_path, monkeypatch):
        monkeypatch.setattr(catalog_sampling, "psf_of", lambda observing: galsim.Gaussian(fwhm=0.05))
        with pytest.warns(UserWarning, match="psf: expected .* got 0.05 arcsec"):
            sample_catalog(
                drawing_folder, catalog, tmp_path / "g.fits", observing=Observing("LSST", "i", 16), **HOW
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"flux": "f"},
            "flux: expected a column 'f' in the catalogue, there are: mag_auto, flux_radius, zphot",
        ),
        ({"magnitude": "m"}, "magnitude: expected a column 'm'"),
        ({"half_light_radius": "r"}, "half_light_radius: expected a column 'r'"),
        ({"identifier": "key"}, "identifier: expected a column 'key'"),
        ({"identifier": "zphot"}, "identifier: zphot: expected an integer or a text for each of 12 rows"),
        (
            {"flux": "zphot", "magnitude": "mag_auto"},
            "expected a column of fluxes or of magnitudes, got both",
        ),
    ],
)
def test_wrong_columns_are_named_and_leave_nothing(drawing_folder, catalog, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        sample_catalog(drawing_folder, catalog, tmp_path / "g.fits", **options, **HOW)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".fits", ".hdf5", ".zarr"])
def test_the_same_galaxies_are_the_same_file(drawing_folder, catalog, tmp_path, suffix):
    """In another second, too: no file has the time in it."""
    catalog["id"] = [f"g{i}" for i in range(N)]
    found = []
    for folder in ("one", "two"):
        out = sample_catalog(drawing_folder, catalog, tmp_path / folder / f"g{suffix}", **HOW)
        files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
        found.append({str(path.relative_to(out.parent)): path.read_bytes() for path in files})
        time.sleep(1.1)
    assert found[0] == found[1]


def test_what_zarr_left_of_a_killed_process_is_removed(drawing_folder, catalog, tmp_path, monkeypatch):
    write = galaxy_files.write_galaxies

    def and_leave(path, kind, first, images):
        write(path, kind, first, images)
        (path / "image" / "c" / "0" / "0" / "0.6e0f.partial").write_bytes(b"x")

    monkeypatch.setattr(catalog_sampling, "write_galaxies", and_leave)
    out = sample_catalog(drawing_folder, catalog, tmp_path / "g.zarr", **HOW)
    assert not list(out.rglob("*.partial"))


def test_the_command_takes_columns(drawing_folder, catalog, tmp_path):
    catalog["object"], catalog["flux"] = np.arange(N) + 2**60, np.linspace(1, 2, N)
    catalog["radius"], catalog["mag_u"] = np.full(N, 0.2), np.full(N, 22.0)
    catalog.write(tmp_path / "c.fits")
    words = ["sample", str(tmp_path / "c.fits"), "--model", str(drawing_folder), "--seed", "4", "--out"]
    more = ["--identifier-column", "object", "--flux-column", "flux", "--half-light-radius-column", "radius"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "g.fits"), *more])
    assert done.exit_code == 0, done.output
    _, columns = read(tmp_path / "g.fits")
    np.testing.assert_array_equal(columns["object"], catalog["object"])
    np.testing.assert_allclose(columns["asked_flux"], catalog["flux"], rtol=1e-6)
    observed = ["--preset", "LSST", "--band", "u", "--stamp", "16"]
    with pytest.raises(ValueError, match="--magnitude-column"):
        CliRunner().invoke(app, [*words, str(tmp_path / "u.fits"), *observed], catch_exceptions=False)
    with pytest.warns(UserWarning, match="shapes those of F814W"):
        done = CliRunner().invoke(
            app,
            [*words, str(tmp_path / "u.fits"), *observed, "--magnitude-column", "mag_u"],
            catch_exceptions=False,
        )
    assert done.exit_code == 0


def test_a_population_may_have_exact_magnitudes(drawing_folder, tmp_path):
    out = sample_catalog(drawing_folder, None, tmp_path / "p.fits", galaxies=9, magnitude="mag_auto", **HOW)
    images, columns = read(out)
    total = 25.94 - 2.5 * np.log10(images.sum(axis=(1, 2), dtype=float))
    np.testing.assert_allclose(total, columns["mag_auto"], atol=1e-4)
    assert columns["drawn"].all() and not columns["outside"].any()


def test_light_that_is_cut_off_is_said_and_fluxes_of_the_catalogue_can_be_imposed():
    """Large bright galaxies do not fit on a stamp; ordinary ones do."""
    model = hiergal.GenerativeGalaxyModel("hub:mock-acs")
    large = {"mag_auto": [20.0] * 30, "flux_radius": [40.0] * 30, "zphot": [0.5] * 30}
    with pytest.warns(
        UserWarning, match="of 30 galaxies have more than 4% of their light at the edge of the stamp"
    ):
        galaxies = model.sample(large, rng=galsim.BaseDeviate(1), flux="catalog", outside="ignore")
    np.testing.assert_allclose([one.flux for one in galaxies], 10 ** (0.4 * (25.94 - 20)), rtol=1e-5)
    others = {"mag_auto": [23.5, 24.0], "flux_radius": [9.0, 8.0], "zphot": [0.5, 0.5]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        galaxies = model.sample(others, rng=galsim.BaseDeviate(1), flux="catalog", magnitude_zero_point=31.4)
    assert not [one for one in caught if "edge" in str(one.message)]
    np.testing.assert_allclose(
        [one.flux for one in galaxies], 10 ** (0.4 * (31.4 - np.array([23.5, 24.0]))), rtol=1e-5
    )
    with pytest.raises(ValueError, match="flux: expected numbers, or 'catalog', got 'mine'"):
        model.sample(others, flux="mine")
