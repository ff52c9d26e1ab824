"""Every method of inference on a linear generator, whose posterior is known; and what each says of itself.

Stamps are not square, PSFs are off-centre and without symmetry, noise differs between galaxies, and pixels are masked.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size
from toys import SCALE, affine_flow, exact_posterior, linear_model, plain_recipe, tiny_model, tiny_survey

from hiergal.model.prior import LatentFlow
from hiergal.observation import Observation
from hiergal.posterior import METHODS
from hiergal.posterior.infer import infer
from hiergal.posterior.samplers import methods
from hiergal.posterior.samplers.importance import resample, sample_by_importance, smooth_by_pareto
from hiergal.posterior.samplers.nuts import sample_by_nuts, smallest_ess
from hiergal.posterior.samplers.posterior_flow import laplace_of, simulate
from hiergal.posterior.samplers.target import LatentPosterior
from hiergal.training.posterior_flow import fit_posterior_flow, shapes_of_survey

SHAPE, D, N = (8, 16), 8, 3
CENTER = np.stack([np.linspace(-0.5, 0.5, D), np.linspace(0.6, 1.2, D)])
WHITE, PIXEL, STATIONARY = (
    ("white", False),
    ("pixel", True),
    ("stationary", True),
)  # and whether pixels are masked


@pytest.fixture
def observation(request, x64, make_psf, make_noise):
    """Galaxies of the linear model."""
    kind, masked = request.param
    rng = np.random.default_rng(11)
    model, psf, noise = linear_model(SHAPE), make_psf(N, (5, 3)), make_noise(kind, N, SHAPE)
    psf = psf.replace(stamp=jnp.asarray(psf.stamp, float))
    noise = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), noise)
    image = model.render(model.decode(jnp.asarray(rng.normal(size=(N, D)))), psf)
    image = np.asarray(image + noise.sample(jax.random.key(1), image.shape))
    mask = rng.uniform(size=image.shape) < 0.2 if masked else None
    image = image if mask is None else np.where(mask, np.nan, image)
    return Observation(image, psf, noise, mask, {}, np.arange(N), SCALE)


white = pytest.mark.parametrize("observation", [WHITE], indirect=True)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Four steps to a mode where users have twelve: each is compiled, and a linear model needs one."""
    monkeypatch.setattr(methods, "_best_mode", partial(methods._best_mode, steps=4))


EXACT = {"draws": 500, "proposals": 2000, "batch": N, "verdict": False}


def exact_under(observation, center):
    """Exact means and covariances under a prior of independent normals, by a change of variables."""
    params = linear_model(SHAPE).linear
    shift, spread = center
    moved = {
        "weights": spread[:, None] * params["weights"],
        "offset": params["offset"] + shift @ params["weights"],
    }
    found = [exact_posterior(observation, moved, i) for i in range(len(observation))]
    return [(shift + spread * e.mean, np.outer(spread, spread) * e.covariance) for e in found]


def model_with(center=None, posterior_flow=True):
    model = linear_model(SHAPE)
    unit = np.stack([np.zeros(D), np.ones(D)])
    if center is not None:
        model = model.replace(marginal=affine_flow(model.recipe, center))
    return (
        model.replace(posterior_flow=affine_flow(model.recipe, unit, 2 * D + 1)) if posterior_flow else model
    )


def assert_exact(z, exact, ess, errors=4.0, within=None):
    """Means and covariances within Monte-Carlo standard errors; or means and widths within a share of the width."""
    for i, (mean, covariance) in enumerate(exact):
        variance, count = np.diag(covariance), ess[i]
        sigma, unit = np.sqrt(variance), np.sqrt(np.outer(variance, variance))
        off = np.abs(z[:, i].mean(axis=0) - mean) / sigma
        error = np.sqrt((1 + (covariance / unit) ** 2) / count)
        off_covariance = np.abs(np.cov(z[:, i].T) - covariance) / unit
        if within is None:
            assert off.max() < errors / np.sqrt(count)
            assert np.all(off_covariance < errors * error)
        else:
            width = z[:, i].std(axis=0) / sigma
            assert off.max() < within and np.abs(width - 1).max() < within


slow = partial(pytest.param, marks=pytest.mark.slow)  # each kernel of NUTS compiles for a quarter of a minute


@pytest.mark.parametrize(
    ("observation", "prior"),
    [
        (WHITE, "unit normal"),
        (PIXEL, "shifted"),
        (STATIONARY, "shifted"),
        slow(WHITE, "shifted"),  # the priors do not know the noise: every other pair adds compilation
        slow(PIXEL, "unit normal"),
        slow(STATIONARY, "unit normal"),
    ],
    indirect=["observation"],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
@pytest.mark.parametrize("method", ["laplace", "flow", "importance", slow("nuts"), "auto"])
def test_methods_find_the_closed_form_posterior(key, observation, method, prior):
    """Mean and covariance within four Monte-Carlo standard errors; for 3 x 36 numbers, a false alarm in 150 runs."""
    center = None if prior == "unit normal" else CENTER
    found = infer(model_with(center), observation, key=key, method=method, **EXACT)
    exact = exact_under(observation, np.stack([np.zeros(D), np.ones(D)]) if center is None else center)
    count = np.full(N, 500.0)
    if method == "nuts":  # squares of its draws are worth less than the draws
        squares = (found.latents - found.latents.mean(axis=0)).reshape(2, 250, N, D) ** 2
        count = np.minimum(found.statistics["ess_nuts"], effective_sample_size(squares).min(axis=-1))
    if method in ("importance", "auto"):
        count = 1 / (1 / count + 1 / found.statistics["ess"])
    assert_exact(found.latents, exact, count)
    shifted = [(mean + np.sqrt(np.diag(covariance)), covariance) for mean, covariance in exact]
    with pytest.raises(AssertionError):
        assert_exact(found.latents, shifted, count)


@white
def test_the_map_is_the_mode(key, observation):
    found = infer(model_with(CENTER), observation, key=key, method="map", batch=N, verdict=False)
    assert found.latents.shape == (1, N, D)
    np.testing.assert_allclose(
        found.latents[0], [mean for mean, _ in exact_under(observation, CENTER)], atol=1e-6
    )
    np.testing.assert_array_equal(found.profile_std, 0)


def density_and_mode(observation, model):
    density = LatentPosterior(model, observation, model.latent_flow().expand((N,)), jnp.ones(N))
    return density, jax.jit(partial(laplace_of, steps=6))(density)


def gaussian_draws(found, key, draws):
    normal = jax.random.normal(key, (draws, *found.mean.shape))
    return found.mean[None] + jnp.einsum("nij,snj->sni", found.scale, normal)


@pytest.mark.slow
@white
def test_importance_sampling_is_exact_to_a_per_cent(key, observation):
    """From a guide wrong in place and width: means and widths within one per cent of the width."""
    density, found = density_and_mode(observation, model_with(CENTER, posterior_flow=False))
    wrong = found.replace(
        mean=found.mean + 0.1 * jnp.einsum("nij,nj->ni", found.scale, jnp.ones((N, D))),
        scale=1.1 * found.scale,
    )
    keys, pilot = jax.random.split(key, N), gaussian_draws(wrong, key, 100)
    draws = sample_by_importance(density, wrong, pilot, keys, draws=300_000, proposals=300_000)
    assert np.all(draws.statistics["k_hat"] < 0.5)
    assert_exact(draws.latents, exact_under(observation, CENTER), np.full(N, np.inf), within=0.01)
    with pytest.raises(AssertionError):
        assert_exact(
            np.asarray(wrong.mean)[None] + 0 * draws.latents,
            exact_under(observation, CENTER),
            np.full(N, np.inf),
            within=0.01,
        )


@pytest.mark.slow
@white
def test_nuts_is_exact_to_a_per_cent(key, observation):
    density, found = density_and_mode(observation, model_with(CENTER, posterior_flow=False))
    keys, pilot = jax.random.split(key, N), gaussian_draws(found, key, 100)
    draws = sample_by_nuts(density, found, pilot, keys, draws=120_000)
    assert np.all(draws.statistics["r_hat"] < 1.001) and np.all(draws.statistics["divergences"] == 0)
    assert_exact(draws.latents, exact_under(observation, CENTER), np.full(N, np.inf), within=0.01)


def test_effective_draws_have_bounds(rng):
    """Independent draws count for themselves; alternating ones for more, within bounds; those of a walk for few."""
    noise = rng.normal(size=(2, 500, 1, 40))
    alternating = noise - 0.9 * np.roll(noise, 1, axis=1)
    few = noise[:, ::50].repeat(50, axis=1)
    independent, many, little = (smallest_ess(z)[0] for z in (noise, alternating, few))
    assert 500 < independent < 1100 and independent < many <= 3000 and 0 < little < 60


def test_smoothed_weights_tell_whether_they_can_be_trusted(rng):
    """Proposals from a Gaussian twice as wide are fine; from one half as wide, in many dimensions, they are not."""
    d = 10
    for width, trusted in ((1.2, True), (0.5, False)):
        z = width * rng.normal(size=(2000, 4, d))
        log_weight = -0.5 * (z**2).sum(-1) + 0.5 * (z**2).sum(-1) / width**2
        weight, k_hat = smooth_by_pareto(log_weight)
        np.testing.assert_allclose(weight.sum(axis=0), 1)
        assert np.all((k_hat < 0.7) == trusted)


def test_a_galaxy_without_finite_weights_is_not_trusted(rng):
    log_weight = rng.normal(size=(200, 3))
    log_weight[5, 1], log_weight[7, 2] = np.nan, -np.inf
    weight, k_hat = smooth_by_pareto(log_weight)
    assert np.isinf(k_hat[1]) and np.isfinite(k_hat[[0, 2]]).all()
    assert np.isfinite(weight).all() and weight[7, 2] < 1e-12


def test_resampling_picks_each_as_often_as_its_weight_says(rng):
    weight = rng.dirichlet(np.ones(7), size=2).T
    picked = resample(weight, rng.uniform(size=2), 1000)
    for i in range(2):
        counts = np.bincount(picked[:, i], minlength=7)
        assert np.all(np.abs(counts - 1000 * weight[:, i]) < 1)


@white
def test_draws_of_importance_sampling_come_in_random_order(key, observation):
    """Neighbours are no more alike than others: no lag-one correlation beyond four standard errors."""
    found = infer(model_with(), observation, key=key, method="importance", **EXACT)
    z = found.latents - found.latents.mean(axis=0)
    lag = (z[1:] * z[:-1]).mean(axis=0) / (z**2).mean(axis=0)
    assert np.abs(lag).max() < 4.5 / np.sqrt(EXACT["draws"])


@white
def test_conditions_change_the_prior(key, observation):
    """The flow is used where conditions are given, its marginal where not: exact posteriors under both."""
    elsewhere = CENTER + np.array([[1.0], [-0.3]])
    model = model_with(CENTER)
    model = model.replace(flow=affine_flow(model.recipe, elsewhere, 3))
    conditions = np.zeros((N, 3), np.float32)
    find = partial(infer, model, observation, key=key, method="map", batch=N, verdict=False)
    told, untold = find(conditions=conditions), find()
    for found, center in ((told, elsewhere), (untold, CENTER)):
        expected = [mean for mean, _ in exact_under(observation, center)]
        np.testing.assert_allclose(found.latents[0], expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"conditions:.*\(3, 3\).*got \(3, 2\)"):
        infer(model, observation, key=key, conditions=np.zeros((N, 2)))
    with pytest.raises(ValueError, match="conditions: expected a model with a latent flow"):
        infer(model.replace(flow=None), observation, key=key, conditions=conditions)
    with pytest.raises(ValueError, match="expected a model whose flow has a marginal"):
        infer(model.replace(marginal=None), observation, key=key)


def test_priors_invert_and_normalise(x64, rng):
    model = tiny_model()
    flow = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), model.flow)
    prior = LatentFlow(flow, jnp.asarray(rng.normal(size=(3, 3))))
    z = jnp.asarray(rng.normal(size=(5, 3, 8)))
    u, log_determinant = jax.jit(LatentFlow.to_base)(prior, z)
    np.testing.assert_allclose(jax.jit(LatentFlow.from_base)(prior, u), z, atol=1e-8)
    one = jax.jit(jax.jacobian(lambda z: prior[:1].to_base(z[None])[0][0]))(z[2, 0])
    np.testing.assert_allclose(log_determinant[2, 0], np.linalg.slogdet(one)[1], rtol=1e-8)
    base = -0.5 * np.sum(np.asarray(u) ** 2 + np.log(2 * np.pi), axis=-1)
    np.testing.assert_allclose(jax.jit(LatentFlow.log_prob)(prior, z), base + log_determinant, rtol=1e-10)


@pytest.mark.slow
@white
def test_auto_hands_what_fails_to_nuts_and_says_so(key, observation, monkeypatch):
    """Galaxy 1 is declared not to be trusted: it, and no other, comes from NUTS; importance diagnostics stay."""
    module = sys.modules[infer.__module__]  # its name in the package is the function's
    monkeypatch.setattr(module, "_trusted", lambda posterior: np.arange(N) != 1)
    draw = partial(infer, model_with(), key=key, draws=60, proposals=200, batch=N, verdict=False)
    found = draw(observation, method="auto")
    assert [METHODS[i] for i in found.method] == ["importance", "nuts", "importance"]
    assert np.isfinite(found.statistics["k_hat"]).all()
    np.testing.assert_array_equal(np.isfinite(found.statistics["r_hat"]), [False, True, False])
    np.testing.assert_array_equal(found.identifier, observation.identifier)
    alone = draw(observation[1:2], method="nuts", rows=np.array([1]))
    np.testing.assert_array_equal(found.latents[:, 1], alone.latents[:, 0])


@pytest.mark.slow
def test_modes_that_are_far_from_where_the_guide_sees_them_get_more_steps(make_psf, monkeypatch):
    """And they alone. This guide has not been trained: all are a little away, and some far."""
    monkeypatch.setattr(methods, "CLOSE", 0.5)
    model, survey = tiny_model(plain_recipe((16, 24))), tiny_survey(12, (16, 24), make_psf(12))
    prior = model.latent_flow().expand((12,))
    few, all_steps = (methods.mode_of(model, survey, prior, steps) for steps in (3, 12))
    found, far = methods.find_mode(model, survey, prior), np.asarray(few.remaining) > methods.CLOSE
    assert 2 < far.sum() < 10, few.remaining
    np.testing.assert_array_equal(found.found.mean[~far], few.found.mean[~far])
    np.testing.assert_allclose(found.found.mean[far], all_steps.found.mean[far], rtol=0.02, atol=0.02)
    assert np.all(found.remaining[far] < few.remaining[far])


@white
def test_a_posterior_flow_has_to_be_fitted(key, observation):
    with pytest.raises(ValueError, match="'flow'.*got one without"):
        infer(model_with(posterior_flow=False), observation, key=key, method="flow")


@pytest.mark.slow
def test_posterior_flow_of_a_linear_model_is_gaussian(key, make_psf):
    """Trained on simulations of a linear model, the shape of posteriors is a unit normal: 0.1 nats from its entropy."""
    model = model_with(CENTER.astype(np.float32), posterior_flow=False)
    survey = tiny_survey(64, SHAPE, make_psf(64))
    fitted = fit_posterior_flow(key, model, survey, None, simulations=3000, progress=False)
    assert max(fitted.validation) == pytest.approx(-0.5 * D * (1 + np.log(2 * np.pi)), abs=0.15)


@pytest.mark.slow
def test_shapes_of_a_survey_are_those_of_its_posteriors(key, make_psf):
    """Of a linear model, w of exact draws is unit normal; a galaxy that cannot be trusted is left out."""
    model = model_with(CENTER.astype(np.float32))
    survey = tiny_survey(32, SHAPE, make_psf(32))
    image = survey.image.copy()
    image[3] = np.inf
    found = shapes_of_survey(key, model, survey.replace(image=image), None, galaxies=32, progress=False)
    assert found.w.shape == (8, 31, D) and len(found.features) == 31
    w = found.w.reshape(-1, D)
    assert np.abs(w.mean(axis=0)).max() < 4.5 / np.sqrt(len(w))
    assert abs(w.std() - 1) < 4.5 / np.sqrt(2 * w.size)


def test_simulated_galaxies_are_those_of_the_prior(key, x64, make_psf):
    model = model_with(CENTER)
    n = 4000
    psf = make_psf(1)
    survey = tiny_survey(1, SHAPE, psf)[np.zeros(n, int)]
    known = jax.jit(lambda key: simulate(model, survey, model.latent_flow().expand((n,)), key=key))(key)
    np.testing.assert_allclose(known.latents.mean(axis=0), CENTER[0], atol=5 * 1.2 / np.sqrt(n))
    np.testing.assert_allclose(known.latents.std(axis=0), CENTER[1], rtol=5 / np.sqrt(2 * n))
    clean = model.render(model.decode(known.latents), survey.psf)
    whitened = survey.noise.whiten(known.observation.image - clean)
    assert abs(float((whitened**2).mean()) - 1) < 5 * np.sqrt(2 / whitened.size)
