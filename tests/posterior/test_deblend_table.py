"""``hiergal deblend``: scenes and sources from files, a row for each source in the order given."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from conftest import awkward_psf
from foreign import TinyEncoderConfig, TinyGeneratorConfig  # dense networks compile fast
from msgspec.structs import replace
from toys import SCALE, tiny_model, tiny_recipe, tiny_survey

from hiergal.hub.bundle import save_model
from hiergal.posterior.scenes.deblend import deblend
from hiergal.posterior.scenes.table import deblend_scenes, tabulate_deblended
from hiergal.survey.schema import StoreHeader
from hiergal.survey.writer import write_store

SHAPE, ROWS = (16, 24), 4
QUICK = {"method": "laplace", "draws": 4, "batch": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deblend")
    header = StoreHeader(survey="tiny", band="F814W", pixel_scale_arcsec=SCALE, magnitude_zero_point=25.94)
    survey = tiny_survey(ROWS, SHAPE, awkward_psf(ROWS)).replace(identifier=np.arange(10, 10 + ROWS))
    write_store(folder / "s.zarr", header, [(survey, None)])
    recipe = replace(tiny_recipe(SHAPE), generator=TinyGeneratorConfig(), encoder=TinyEncoderConfig())
    save_model(tiny_model(recipe), folder / "model")
    return folder


def test_rows_are_the_sources_in_their_order(folder, tmp_path):
    """Scenes with one source and with two, mixed; positions of another scene change nothing."""
    sources = {"scene": [13, 10, 13, 11], "x_pix": [3.0, 0.0, -4.0, 1.0], "y_pix": [0.0, 1.0, 2.0, 0.0]}
    out = tmp_path / "o.fits"
    words = deblend_scenes(folder / "model", folder / "s.zarr", out, sources=sources, images=True, **QUICK)
    assert words.startswith("4 sources in 3 scenes")
    table = Table.read(out)
    assert table["scene"].tolist() == sources["scene"] and table["source"].tolist() == [1, 1, 2, 1]
    assert table["image_mean"].shape == table["profile_std"].shape == (4, *SHAPE)
    assert np.isfinite(table["flux"]).all() and (table["flux_std"] > 0).all()
    assert (table["flux_q160"] <= table["flux_q840"]).all() and table.meta["METHOD"] == "laplace"
    assert table["chi_square"][0] == table["chi_square"][2] != table["chi_square"][1]
    again = deblend_scenes(folder / "model", folder / "s.zarr", out, sources=sources, images=True, **QUICK)
    assert "nothing to do" in again
    with pytest.raises(FileExistsError, match="another run"):
        deblend_scenes(folder / "model", folder / "s.zarr", out, sources=sources, seed=1, **QUICK)


def test_positions_are_those_of_centroids_in_the_scene(folder):
    """The column is the position of the profile plus the centroid in it, and the quantiles are of that sum."""
    from hiergal.hub.bundle import load_model
    from hiergal.survey.store import open_survey

    positions = np.array([[[2.0, -1.0], [-5.0, 3.0]]])
    scene = open_survey(folder / "s.zarr").read([1])
    found = deblend(load_model(folder / "model"), scene, positions, key=0, **QUICK)
    table = tabulate_deblended(found, magnitude_zero_point=25.94)
    for k in range(2):
        own = np.asarray(found.summary.x_pix)[:, 0, k]
        assert table["x_pix"][k] == pytest.approx(positions[0, k, 0] + own.mean(), abs=1e-5)
        assert table["x_pix_std"][k] == pytest.approx(own.std(), abs=1e-5)
    magnitude = 25.94 - 2.5 * np.log10(np.asarray(found.summary.flux, float)).mean(axis=0)[0]
    np.testing.assert_allclose(table["magnitude"], magnitude, rtol=1e-5)


def test_one_scene_from_a_fits_file(folder, tmp_path):
    rng = np.random.default_rng(3)
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(rng.normal(size=SHAPE), name="IMAGE")]
    hdus += [fits.ImageHDU(np.ones(SHAPE), name="RMS"), fits.ImageHDU(np.full((3, 3), 1 / 9), name="PSF")]
    fits.HDUList(hdus).writeto(tmp_path / "scene.fits")
    out, cutouts = tmp_path / "o.fits", {"magnitude_zero_point": 25.94, "pixel_scale_arcsec": SCALE}
    words = deblend_scenes(
        folder / "model", tmp_path / "scene.fits", out, at=["0,0", "-6.5,4"], cutouts=cutouts, **QUICK
    )
    assert words.startswith("2 sources in 1 scene,")
    assert Table.read(out)["scene"].tolist() == ["scene", "scene"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "expected positions of sources"),
        ({"at": ["1,2"], "sources": {"x_pix": [1.0], "y_pix": [0.0]}}, "expected positions of sources"),
        ({"at": ["1;2"]}, "two numbers X,Y"),
        ({"at": ["1,2"]}, "column scene"),
        ({"sources": {"scene": [10], "x_pix": [1.0]}}, "x_pix and y_pix"),
        ({"sources": {"scene": [99], "x_pix": [1.0], "y_pix": [0.0]}}, "first: 99"),
        ({"sources": {"scene": [10], "x_pix": [40.0], "y_pix": [0.0]}}, "inside the scenes"),
    ],
)
def test_wrong_sources_are_refused(folder, tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        deblend_scenes(folder / "model", folder / "s.zarr", tmp_path / "o.fits", **given, **QUICK)
    assert not list(tmp_path.iterdir())
