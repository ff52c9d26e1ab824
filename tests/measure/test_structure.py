"""Concentration, Gini and M20 of noise-free images: formulas, laws, and the measurement of stamps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import SCALE, tiny_model, tiny_recipe, tiny_survey

from hiergal.measure.morphology import measure_morphology
from hiergal.measure.structure import measure_structure
from hiergal.posterior.infer import infer
from hiergal.posterior.structure import posterior_structure

SIZE = 101


def exponential(scale: float, *, axis_ratio: float = 1.0, x0: float = 0.0, y0: float = 0.0, size: int = SIZE):
    """An exponential disc, averaged over 5 x 5 points in each pixel."""
    fine = (np.arange(5 * size) - (5 * size - 1) / 2) / 5
    y, x = np.meshgrid(fine - y0, fine - x0, indexing="ij")
    image = np.exp(-np.hypot(x, y / axis_ratio) / scale)
    return image.reshape(size, 5, size, 5).mean((1, 3)).astype(np.float32)


def clumpy(seed: int = 3) -> np.ndarray:
    """A disc with three clumps off its centre."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    image = exponential(6.0, axis_ratio=0.7)
    for at_y, at_x in rng.uniform(-12, 12, (3, 2)):
        image += 0.4 * np.exp(-0.5 * ((x - at_x) ** 2 + (y - at_y) ** 2) / 2.5**2)
    return image.astype(np.float32)


def test_exponential_disc_has_its_known_numbers():
    """Petrosian radius 3.64 scale lengths; within 1.5 of it lies 97 % of the light, of which r_80 / r_20 = 3.44."""
    from scipy.optimize import brentq

    def within(r):  # light inside r, in scale lengths
        return 1 - np.exp(-r) * (1 + r)

    r_p = brentq(lambda r: np.exp(-r) * r**2 / 2 / within(r) - 0.2, 1, 10)
    edges = [brentq(lambda r, f=f: within(r) - f * within(1.5 * r_p), 0.01, 9) for f in (0.2, 0.8)]
    c = 5 * np.log10(edges[1] / edges[0])
    found = measure_structure(exponential(8.0)[None], SCALE)
    assert float(found.petrosian_arcsec[0]) == pytest.approx(8.0 * r_p * SCALE, rel=0.01)
    assert float(found.concentration[0]) == pytest.approx(c, rel=0.01)


def test_gini_and_m20_are_those_of_the_formulas():
    """Written out over the pixels above the threshold, which is read off the Gini region of a round disc."""
    image = exponential(8.0)
    found = measure_structure(image[None], SCALE)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    pixels = np.hypot(x, y) < float(found.petrosian_arcsec[0]) / SCALE
    f, m = image[pixels].astype(float), (x**2 + y**2)[pixels]
    order = np.argsort(f)
    n, rank = len(f), np.arange(1, len(f) + 1)
    gini = ((2 * rank - n - 1) * f[order]).sum() / (n * (n - 1) * f.mean())
    down = order[::-1]
    top = down[np.cumsum(f[down]) < 0.2 * f.sum()]
    assert float(found.gini[0]) == pytest.approx(gini, rel=0.01)
    assert float(found.m20[0]) == pytest.approx(np.log10((f * m)[top].sum() / (f * m).sum()), abs=0.03)


@pytest.mark.parametrize("image", [exponential(7.0, x0=0.3, y0=-0.4), clumpy()], ids=["disc", "clumps"])
def test_agrees_with_the_measurement_of_stamps(image):
    """On round, isolated galaxies without noise both measure the same; centre and aperture differ in detail."""
    sigma = 1e-4 * image.max()
    noisy = image + np.random.default_rng(1).normal(0, sigma, image.shape)
    row = measure_morphology(noisy[None], sigma, pixel_scale_arcsec=0.03)[0]
    found = measure_structure(image[None], SCALE)
    assert float(found.concentration[0]) == pytest.approx(row["concentration"], rel=0.05)
    assert float(found.gini[0]) == pytest.approx(row["gini"], abs=0.03)
    assert float(found.m20[0]) == pytest.approx(row["m20"], abs=0.15)


def test_invariance():
    """Brightness, place, and turns by right angles change nothing; clumps off the centre do."""
    image = clumpy()
    moved = np.roll(image, (3, -5), axis=(0, 1))
    found = measure_structure(np.stack([image, 7 * image, moved, np.rot90(image)]), SCALE)
    for values in jax.tree.leaves(found):
        np.testing.assert_allclose(values, values[0], rtol=5e-3)
    smooth = measure_structure(exponential(6.0, axis_ratio=0.7)[None], SCALE)
    assert float(found.m20[0]) > float(smooth.m20[0]) + 0.3
    assert float(found.concentration[0]) < float(smooth.concentration[0])


def test_no_petrosian_radius_is_nan():
    y, x = np.mgrid[:31, :33]
    flat, dark = np.ones((31, 33), np.float32), np.zeros((31, 33), np.float32)
    found = measure_structure(np.stack([flat, dark]), SCALE)
    assert all(np.isnan(values).all() for values in jax.tree.leaves(found))


@pytest.mark.slow
def test_draws_of_a_posterior(key, make_psf):
    model = tiny_model(tiny_recipe((16, 24)))
    observation = tiny_survey(3, (16, 24), make_psf(3))
    posterior = infer(model, observation, key=key, draws=9, batch=4, verdict=False)
    found = posterior_structure(model, posterior, psf=observation.psf)
    assert found.gini.shape == (9, 3)
    one = model.render(model.decode(jnp.asarray(posterior.latents[4])), observation.psf)
    np.testing.assert_allclose(found.gini[4], measure_structure(one, SCALE).gini, rtol=1e-3)
