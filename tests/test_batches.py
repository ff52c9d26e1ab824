"""Which galaxies a step sees: all of them alike, or some of them more often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import awkward_psf
from toys import tiny_survey

from hiergal.batches import chances_of, favoured_rows, shuffled_rows

STEPS = 60


@pytest.mark.parametrize(("galaxies", "batch"), [(10, 4), (7, 7), (3, 8), (11, 3)])
def test_each_galaxy_comes_once_before_any_comes_again(key, galaxies, batch):
    rows = jax.jit(jax.vmap(lambda step: shuffled_rows(key, step, galaxies, batch)))(jnp.arange(STEPS))
    epochs = np.asarray(rows).ravel()[: STEPS * batch // galaxies * galaxies].reshape(-1, galaxies)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(galaxies), (len(epochs), 1)))
    assert len(np.unique(epochs, axis=0)) > 1, "each epoch should have an order of its own"


def test_a_step_alone_gives_what_it_gives_in_a_run(key):
    late = shuffled_rows(key, 1000, 37, 8)
    run = jnp.stack([shuffled_rows(key, step, 37, 8) for step in (999, 1000)])
    np.testing.assert_array_equal(late, run[1])


def test_favoured_galaxies_come_as_often_as_their_chances_say(key):
    """20,000 draws: five binomial standard errors for each of five galaxies (one failure in 300,000)."""
    chances = np.array([0.1, 0.2, 0.0, 0.3, 0.4])
    step = jax.jit(jax.vmap(lambda step: favoured_rows(key, step, jnp.cumsum(chances), 50)))
    counts = np.bincount(np.asarray(step(jnp.arange(400))).ravel(), minlength=5)
    errors = np.sqrt(20_000 * chances * (1 - chances))
    assert np.all(np.abs(counts - 20_000 * chances) <= 5 * errors)


def test_chances_grow_with_flux():
    survey = tiny_survey(50, (16, 24), awkward_psf(50))
    flux = 10 ** (-0.4 * (survey.catalog["mag_auto"] - 25.94))
    each = np.diff(chances_of(survey, 0.5), prepend=0.0)
    assert abs(each.sum() - 1) < 1e-5 and each.min() > 0
    bright = np.argsort(flux)[-5:]
    assert each[bright].mean() > 1.5 * each.mean()
    np.testing.assert_allclose(np.diff(chances_of(survey, 0.0), prepend=0.0), 1 / 50, rtol=1e-4)
