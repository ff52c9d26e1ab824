"""A linear generator, whose posterior is known exactly: bound, guide, sharpening, NUTS and simulation must find it.

Stamps are not square, PSFs are off-centre and without symmetry and differ between galaxies, and so does the noise.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest
from numpyro.handlers import block, substitute
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from toys import (
    SCALE,
    LinearEncoder,
    LinearGenerator,
    TableEncoder,
    convolution_matrix,
    covariance_matrix,
    exact_posterior,
    guide_outputs,
    linear_params,
)

from hiergal.model.guide import galaxy_guide, output_count, posterior_from
from hiergal.model.program import galaxy_model, render
from hiergal.observation import Observation
from hiergal.observation.independent import WhiteNoise
from hiergal.posterior.samplers.laplace import misfit
from hiergal.runtime import least_squares
from hiergal.training.elbo import FreeBitsELBO

D, SHAPE, N = 3, (6, 9), 3
PARAMS = linear_params(D, SHAPE)
GENERATOR = {"generator$params": PARAMS}

levenberg_marquardt = jax.jit(least_squares.levenberg_marquardt, static_argnames=("residual", "steps"))


@pytest.fixture(params=[("white", False), ("pixel", True)], ids=["white", "pixel-masked"])
def observation(request, x64, make_psf, make_noise):
    """Three galaxies drawn from the model."""
    kind, masked = request.param
    return simulate(kind, masked, make_psf(N, (5, 3)), make_noise(kind, N, SHAPE))


def simulate(kind, masked, psf, noise, seed=11):
    rng = np.random.default_rng(seed)
    n = len(psf.stamp)
    noise = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), noise)
    psf = psf.replace(stamp=jnp.asarray(psf.stamp, float))
    profile = (rng.normal(size=(n, D)) @ PARAMS["weights"] + PARAMS["offset"]).reshape(n, *SHAPE)
    image = render(jnp.asarray(profile), psf, SCALE) + noise.sample(jax.random.key(seed), profile.shape)
    image = np.asarray(image)
    mask = rng.uniform(size=image.shape) < 0.2 if masked else None
    if masked:
        image = np.where(mask, np.nan, image)
    return Observation(image, psf, noise, mask, {}, np.arange(n), SCALE)


def model(observation, population=None):
    """The program, unchanged, with the generator's weights put in."""
    program = partial(galaxy_model, generator=LinearGenerator(SHAPE), latents=D, pixel_scale_arcsec=SCALE)
    return block(substitute(program, data=GENERATOR), hide=list(GENERATOR))(observation)


guide = partial(galaxy_guide, encoder=TableEncoder(output_count(D, "full")), covariance="full")


def exact_table(observation):
    exact = [exact_posterior(observation, PARAMS, i) for i in range(len(observation))]
    return exact, {"outputs": jnp.array([guide_outputs(e.mean, e.covariance) for e in exact])}


def residual_of(observation):
    def residual(z):
        profile = LinearGenerator(SHAPE).apply({"params": PARAMS}, z)
        difference = render(profile, observation.psf, SCALE) - observation.image
        return observation.noise.whiten(difference, observation.mask).reshape(len(z), -1)

    return residual


def test_bound_at_the_exact_posterior_is_the_evidence(observation, key):
    """With the logarithm of q itself in place of its divergence, every single draw gives log p(x)."""
    exact, table = exact_table(observation)
    evidence = sum(e.log_evidence for e in exact)
    for seed in jax.random.split(key, 3):
        loss = Trace_ELBO().loss(seed, {"encoder$params": table}, model, guide, observation)
        np.testing.assert_allclose(-loss, evidence, rtol=1e-9)


def test_bound_averages_to_the_evidence(observation, key):
    """The analytic divergence leaves the likelihood of a draw random: the mean of 2000, within five standard errors."""
    exact, table = exact_table(observation)
    evidence = sum(e.log_evidence for e in exact)

    def bound(table, key):
        return -FreeBitsELBO().loss(key, {"encoder$params": table}, model, guide, observation)

    def assert_is_evidence(table):
        draws = np.asarray(jax.jit(jax.vmap(partial(bound, table)))(jax.random.split(key, 2000)))
        assert abs(draws.mean() - evidence) < 5 * draws.std() / np.sqrt(len(draws))

    assert_is_evidence(table)
    wrong_mean = table["outputs"].at[0, 0].add(0.5 * np.sqrt(exact[0].covariance[0, 0]))
    wrong_scale = table["outputs"].at[:, D : 2 * D].add(0.3)
    for wrong in (wrong_mean, wrong_scale):
        with pytest.raises(AssertionError):
            assert_is_evidence({"outputs": wrong})


def test_guide_finds_the_exact_posterior(observation, key):
    """Means within 0.1 posterior standard deviations, covariances within 10 % of theirs."""
    exact, _ = exact_table(observation)
    svi = SVI(model, guide, optax.adam(optax.cosine_decay_schedule(0.1, 3000, alpha=1e-3)), FreeBitsELBO())
    fitted = svi.run(key, 3000, observation, progress_bar=False).params["encoder$params"]["outputs"]
    q = posterior_from(fitted, "full")
    for i, e in enumerate(exact):
        sigma = np.sqrt(np.diag(e.covariance))
        np.testing.assert_allclose((q.mean[i] - e.mean) / sigma, 0, atol=0.1)
        unit = np.outer(sigma, sigma)
        np.testing.assert_allclose(q.covariance_matrix[i] / unit, e.covariance / unit, atol=0.1)


@pytest.mark.slow
def test_amortised_guide_finds_posteriors_of_galaxies_it_never_saw(x64, key, make_psf):
    """With one PSF and one noise level for all, a linear encoder is exact, and it generalises."""
    n = 400
    psf, noise = make_psf(1, (5, 3)), WhiteNoise(jnp.full(n, 1.5))
    psf = psf.replace(stamp=np.repeat(psf.stamp, n, axis=0))
    train = simulate("white", False, psf, noise)
    encoder = LinearEncoder(D, output_count(D, "full"))
    amortised = partial(galaxy_guide, encoder=encoder, covariance="full")
    svi = SVI(
        model, amortised, optax.adam(optax.cosine_decay_schedule(0.03, 3000, alpha=1e-3)), FreeBitsELBO()
    )
    params = svi.run(key, 3000, train, progress_bar=False).params["encoder$params"]
    unseen = simulate("white", False, psf, noise, seed=12)[:20]
    q = posterior_from(encoder.apply({"params": params}, unseen), "full")
    exact = [exact_posterior(unseen, PARAMS, i) for i in range(20)]
    sigma = np.sqrt(np.diag(exact[0].covariance))
    offset = (np.asarray(q.mean) - [e.mean for e in exact]) / sigma
    assert np.sqrt((offset**2).mean()) < 0.3, "finite training: 54 pixels regressed on 400 noisy galaxies"
    np.testing.assert_allclose(q.variance[0] / sigma**2, 1, atol=0.15)


def test_sharpening_is_exact_in_a_few_steps(observation):
    exact, _ = exact_table(observation)
    residual = residual_of(observation)
    start = jnp.array(np.random.default_rng(0).normal(size=(N, D)))
    for steps, tolerance in ((1, 0.3), (6, 1e-9)):
        found = levenberg_marquardt(residual, start, steps=steps)
        for i, e in enumerate(exact):
            reach = np.abs(start[i] - e.mean).max()
            np.testing.assert_allclose(found.mean[i], e.mean, atol=tolerance * reach)
            np.testing.assert_allclose(found.scale[i] @ found.scale[i].T, e.covariance, rtol=1e-7, atol=1e-12)


def test_misfit_is_one_where_the_model_is_right_and_more_where_it_is_not(x64, make_psf):
    """At most one for data of the model, and not much less; above it where a pattern is planted that none can make."""
    n = 300
    psf = make_psf(1, (5, 3))
    psf = psf.replace(stamp=np.repeat(psf.stamp, n, axis=0))
    observation = simulate("white", False, psf, WhiteNoise(jnp.full(n, 1.5)))
    found = misfit(
        levenberg_marquardt(residual_of(observation), jnp.zeros((n, D)), steps=6), psf, SHAPE
    ).factor
    error = np.std(found) / np.sqrt(n)
    assert 0.8 - 5 * error < np.mean(found) < 1 + 5 * error

    y, x = np.indices(SHAPE)
    pattern = 9 * np.cos(1.9 * x + 1.3 * y)
    planted = observation.replace(image=observation.image + pattern)
    found = misfit(levenberg_marquardt(residual_of(planted), jnp.zeros((n, D)), steps=6), psf, SHAPE).factor
    assert np.mean(found) > 2


def test_nuts_on_the_same_program_agrees(observation, key):
    """Means and covariances within five Monte-Carlo standard errors, from the effective sample size."""
    exact, _ = exact_table(observation)
    mcmc = MCMC(NUTS(model), num_warmup=300, num_samples=1000, progress_bar=False)
    mcmc.run(key, observation)
    z = np.asarray(mcmc.get_samples()["z"])
    ess = np.asarray(numpyro.diagnostics.effective_sample_size(z[None]))
    assert z.shape == (1000, N, D) and ess.min() > 200
    for i, e in enumerate(exact):
        variance = np.diag(e.covariance)
        assert np.all(np.abs(z[:, i].mean(axis=0) - e.mean) < 5 * np.sqrt(variance / ess[i]))
        error = np.sqrt((np.outer(variance, variance) + e.covariance**2) / ess[i].min())
        assert np.all(np.abs(np.cov(z[:, i].T) - e.covariance) < 5 * error)


def test_predictive_simulates_the_evidence(observation, key):
    """Without an image, stamps come with the mean and covariance of p(x): each within five standard errors."""
    draws = 6000
    shown = observation.replace(image=None)
    found = np.asarray(Predictive(model, num_samples=draws)(key, shown)["image"])
    assert found.shape == (draws, N, *SHAPE)
    for i in range(N):
        blur = convolution_matrix(np.asarray(observation.psf.stamp[i]), SHAPE)
        design = blur @ PARAMS["weights"].T
        expected = design @ design.T + covariance_matrix(observation.noise, i, SHAPE)
        flat = found[:, i].reshape(draws, -1)
        variance = np.diag(expected)
        assert np.all(np.abs(flat.mean(axis=0) - blur @ PARAMS["offset"]) < 5 * np.sqrt(variance / draws))
        error = np.sqrt((np.outer(variance, variance) + expected**2) / draws)
        assert np.all(np.abs(np.cov(flat.T) - expected) < 5 * error)
