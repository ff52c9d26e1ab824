"""The model that comes with the package: whole, small, found without a network, and true to what it is asked for."""

import socket

import galsim
import numpy as np
import pytest

import hiergal
from hiergal.hub import read_metrics, resolve
from hiergal.hub.names import packaged_models
from hiergal.hub.published import read_published

NAME = "hub:mock-acs"


@pytest.fixture(scope="module")
def generator():
    return hiergal.GenerativeGalaxyModel(NAME)


def asked_for(generator, count, magnitude, radius):
    values = zip(generator.quantities, (magnitude, radius, 0.7), strict=True)
    return {name: np.full(count, value) for name, value in values}


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_it_comes_with_the_package_and_says_what_it_is(offline):
    folder = resolve(NAME)
    assert folder in [path for path, _ in packaged_models()]
    about, metrics = read_published(folder), read_metrics(folder)
    assert about.name == "mock-acs" and about.limits and about.citation
    card = (folder / "CARD.md").read_text()
    assert card.startswith("# mock-acs") and about.limits.strip() in card
    for picture in ("galaxies.png", "coverage.png"):
        assert f"({picture})" in card and (folder / picture).read_bytes().startswith(b"\x89PNG")
    assert {"drawn", "parametric", "floor"} <= set(metrics["validation"]["verdicts"])
    assert metrics["calibration"]["flow"]["galaxies"] >= 1000
    assert sum(path.stat().st_size for path in folder.iterdir()) < 9e6


@pytest.mark.filterwarnings(
    "ignore:.*beyond the range"
)  # 24 mag and 0.6 arcsec: few are so large and so faint
def test_the_script_of_the_paper_runs_offline(offline):
    """Fig. A1 of Lanusse et al. (2020), but for the names of package and model."""
    script = """
import galsim
import hiergal
from astropy.table import Table

model = hiergal.GenerativeGalaxyModel('hub:mock-acs')
cat = Table([[5., 10., 20.], [24., 24., 24.], [0.5, 0.5, 0.5]], names=['flux_radius', 'mag_auto', 'zphot'])
ims = model.sample(cat)
psf = galsim.Gaussian(sigma=0.06)
ims = [galsim.Convolve(im, psf) for im in ims]
"""
    names = {}
    exec(compile(script, "figure_a1", "exec"), names)
    small, middle, large = (galaxy.calculateHLR() for galaxy in names["ims"])
    assert small < middle < large and all(galaxy.flux > 0 for galaxy in names["ims"])


def test_galaxies_are_those_asked_for(generator):
    """Magnitude and size follow the request: of 200 galaxies each, at the median as well as those of the survey do."""
    for magnitude, radius in ((22.0, 12.0), (23.0, 9.0), (24.0, 7.0)):
        galaxies = generator.sample(asked_for(generator, 200, magnitude, radius), rng=galsim.BaseDeviate(1))
        total = generator.magnitude_zero_point - 2.5 * np.log10([galaxy.flux for galaxy in galaxies])
        assert abs(np.median(total) - magnitude) < 0.15
        psf = galsim.Gaussian(fwhm=generator.psf_fwhm)
        sizes = [galsim.Convolve(galaxy, psf).calculateHLR() for galaxy in galaxies[:40]]
        # True profiles of the mock survey, which end at the stamp, have 0.82 of SExtractor's radius as well.
        assert abs(np.median(sizes) / (radius * generator.pixel_size) - 0.82) < 0.05


def test_no_two_galaxies_are_alike(generator):
    galaxies = generator.sample(asked_for(generator, 50, 22.0, 12.0), rng=galsim.BaseDeviate(2))
    images = np.array([galaxy.image.array for galaxy in galaxies])
    flat = images.reshape(50, -1) / np.linalg.norm(images.reshape(50, -1), axis=1)[:, None]
    alike = (flat @ flat.T)[np.triu_indices(50, 1)]
    assert alike.max() < 0.999
