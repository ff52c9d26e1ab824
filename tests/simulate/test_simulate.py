"""Drawing new galaxies: one for each row, whatever the other rows; and as GalSim objects."""

import jax
import numpy as np
import pytest
from astropy.table import Table
from toys import plain_recipe, tiny_model

from hiergal.model.condition_columns import conditions_from
from hiergal.simulate.profiles import draw_galsim, draw_profiles

SHAPE = (16, 24)
CATALOG = {
    "mag_auto": np.linspace(20, 25, 130),
    "flux_radius": np.linspace(4, 12, 130),
    "zphot": np.full(130, 0.7),
}


@pytest.fixture(scope="module")
def model():
    return tiny_model(plain_recipe(SHAPE))


@pytest.fixture(scope="module")
def profiles(model):
    return draw_profiles(model, CATALOG, key=jax.random.key(0))


def rows(count):
    return {name: column[:count] for name, column in CATALOG.items()}


def test_one_galaxy_for_each_row(profiles):
    assert profiles.shape == (130, *SHAPE)
    assert np.all(profiles >= 0) and np.all(np.isfinite(profiles))
    assert len(np.unique(profiles[:, 5, 5])) == 130


def test_a_row_does_not_depend_on_how_many_follow(model, profiles):
    """More rows than one batch, and a single one."""
    for count in (1, 3, 129):
        np.testing.assert_array_equal(
            draw_profiles(model, rows(count), key=jax.random.key(0)), profiles[:count]
        )


def test_other_keys_give_other_galaxies(model, profiles):
    other = draw_profiles(model, rows(3), key=jax.random.key(1))
    assert np.all(np.abs(other - profiles[:3]).max(axis=(1, 2)) > 0)


def test_no_rows(model):
    assert draw_profiles(model, rows(0), key=jax.random.key(0)).shape == (0, *SHAPE)


def test_tables_and_order_of_columns(model, profiles):
    table = Table(rows(3))[["zphot", "mag_auto", "flux_radius"]]
    np.testing.assert_array_equal(draw_profiles(model, table, key=jax.random.key(0)), profiles[:3])


def test_galsim_objects_are_the_profiles(model, profiles):
    galsim = pytest.importorskip("galsim")
    found = draw_galsim(model, rows(3), key=jax.random.key(0))
    assert isinstance(found, list) and len(found) == 3
    for galaxy, profile in zip(found, profiles, strict=False):
        assert isinstance(galaxy, galsim.InterpolatedImage)
        np.testing.assert_allclose(galaxy.flux, profile.sum(dtype=float), rtol=1e-6)
        drawn = galaxy.drawImage(nx=SHAPE[1], ny=SHAPE[0], scale=0.03, method="no_pixel").array
        np.testing.assert_allclose(drawn, profile, atol=1e-3 * profile.max())
    assert isinstance(draw_galsim(model, rows(1), key=jax.random.key(0)), list)


def test_galsim_options_pass_through(model):
    galsim = pytest.importorskip("galsim")
    (galaxy,) = draw_galsim(model, rows(1), key=jax.random.key(0), x_interpolant="linear")
    assert galaxy.x_interpolant == galsim.Linear()


BAD = [
    (
        {"mag_auto": [22.0], "zphot": [0.5]},
        "catalog: expected the columns mag_auto, flux_radius, zphot, which the model is conditioned on; "
        "missing: flux_radius; there are: mag_auto, zphot",
    ),
    ({}, "missing: mag_auto, flux_radius, zphot; there are: none"),
    (
        {"mag_auto": [22.0, np.nan, np.inf], "flux_radius": [4.0, 5, 6], "zphot": [0.1, 0.2, 0.3]},
        "catalog: expected finite conditions, got NaN or infinity in 2 of 3 rows (first: 1); drop those rows",
    ),
    (
        Table(
            {
                "mag_auto": np.ma.array([22.0, 23.0], mask=[True, False]),
                "flux_radius": [4.0, 5],
                "zphot": [1.0, 1],
            }
        ),
        "got NaN or infinity in 1 of 2 rows (first: 0)",
    ),
]


@pytest.mark.parametrize(("catalog", "message"), BAD)
def test_bad_catalogues(catalog, message):
    with pytest.raises(ValueError) as caught:
        conditions_from(("mag_auto", "flux_radius", "zphot"), catalog)
    assert message in str(caught.value)


def test_a_model_without_a_flow():
    with pytest.raises(
        ValueError,
        match="expected a model with a latent flow, got one without; fit it with `hiergal fit-prior`",
    ):
        draw_profiles(tiny_model(flow=False), rows(1), key=jax.random.key(0))
