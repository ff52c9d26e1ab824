"""Photometry: what units name, what contradicts them, and posteriors of the same galaxies in other units."""

import jax
import numpy as np
import pytest
from conftest import awkward_psf
from toys import linear_model, tiny_model, tiny_recipe, tiny_survey

import hiergal
from hiergal.hub import save_model
from hiergal.observation import Observation, Photometry
from hiergal.observation.photometry import photometry_from
from hiergal.survey import StoreHeader, write_store
from hiergal.training.fit_prior import fit_prior

CONDITIONS = (("mag_auto", 21.0, 25.0), ("flux_radius", 4.0, 12.0), ("zphot", 0.2, 2.0))


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
    first, second = (
        hiergal.infer(model, o, key=jax.random.key(0), draws=50, verdict=False) for o in (here, there)
    )
    spread = first.latents.std(axis=0)
    assert (np.abs(first.latents - second.latents).max(axis=0) < 1e-3 * spread).all()


def test_st_and_ab_do_not_meet():
    with pytest.raises(ValueError, match="one magnitude system"):
        Photometry("erg / (s cm2 Angstrom)", -21.1).factor_to(Photometry("nJy", 31.4))


@pytest.mark.slow
def test_a_flow_of_the_same_survey_in_another_unit_is_the_same(tmp_path):
    """Stored in nJy, for a model in counts/s at 25.94: latents, and so the flow, to float32."""
    model = tiny_model(tiny_recipe((16, 24)), flow=False)
    about = model.provenance
    galaxies = tiny_survey(60, (16, 24), awkward_psf(60))
    columns = {name: np.linspace(low, high, 60) for name, low, high in CONDITIONS}
    galaxies = galaxies.replace(catalog=columns)
    fitted = []
    for unit, zero_point in ((about.flux_unit, about.magnitude_zero_point), ("nJy", 31.4)):
        header = StoreHeader(
            survey="tiny",
            band="F814W",
            pixel_scale_arcsec=galaxies.pixel_scale_arcsec,
            magnitude_zero_point=zero_point,
            flux_unit=unit,
        )
        factor = np.float32(10 ** (0.4 * (zero_point - about.magnitude_zero_point)))
        scaled = galaxies.replace(image=galaxies.image * factor, noise=galaxies.noise.scaled(float(factor)))
        store = write_store(tmp_path / f"{unit[:3]}.zarr", header, [(scaled, None)])
        save_model(model, tmp_path / f"m{unit[:3]}")
        fitted.append(fit_prior(tmp_path / f"m{unit[:3]}", store, seed=1, steps=20, progress=False)[0])
    for first, second in zip(*(jax.tree.leaves(one.flow) for one in fitted), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-3)
