"""Photometry: what units name, what contradicts them, and posteriors of the same galaxies in other units."""

import jax
import numpy as np
import pytest
from conftest import awkward_psf
from toys import linear_model, tiny_survey

import hiergal
from hiergal.observation import Observation, Photometry
from hiergal.observation.photometry import photometry_from


@pytest.mark.parametrize(
    ("unit", "zero_point", "expected"),
    [
        ("nJy", None, 31.4),
        ("uJy", 23.9, 23.9),
        ("nanomaggies", None, 22.5),
        ("e-/s", 25.94, 25.94),
        ("adu", 26.0, 26.0),
    ],
)
def test_zero_points(unit, zero_point, expected):
    assert photometry_from(unit, zero_point).magnitude_zero_point == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("unit", "zero_point", "words"),
    [
        ("nJy", 25.94, r"expected 31.4 mag \(AB\) for fluxes in nJy, got 25.94"),
        ("adu", None, "names no flux"),
        ("ABmag", None, "a magnitude"),
        ("MJy/sr", None, "width of a pixel"),
        ("Jy/beam", None, "per pixel"),
    ],
)
def test_contradictions_are_refused(unit, zero_point, words):
    with pytest.raises(ValueError, match=words):
        photometry_from(unit, zero_point)


@pytest.mark.parametrize(("unit", "zero_point"), [("nJy", 31.4), ("MJy / sr", None), ("electron / s", 25.94)])
def test_posteriors_in_other_units_agree(unit, zero_point):
    model = linear_model((8, 16))
    here = tiny_survey(3, (8, 16), awkward_psf(3)).replace(photometry=model.provenance.photometry)
    factor = here.photometry.factor_to(photometry_from(unit, zero_point, pixel_scale_arcsec=0.03))
    there = Observation.from_arrays(
        here.image * factor, psf=here.psf, rms=here.noise.sigma * factor, flux_unit=unit,
        magnitude_zero_point=zero_point, identifier=here.identifier,
    )  # fmt: skip
    first, second = (hiergal.infer(model, o, key=jax.random.key(0), draws=50) for o in (here, there))
    spread = first.latents.std(axis=0)
    assert (np.abs(first.latents - second.latents).max(axis=0) < 1e-3 * spread).all()


def test_st_and_ab_do_not_meet():
    with pytest.raises(ValueError, match="one magnitude system"):
        Photometry("erg / (s cm2 Angstrom)", -21.1).factor_to(Photometry("nJy", 31.4))
