"""One program: NumPyro's own inference runs on it, and what is written for speed has its density."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from conftest import awkward_noise, awkward_psf
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal
from numpyro.infer.util import log_density
from toys import SCALE, affine_flow, exact_posterior, linear_model, tiny_model

from hiergal.model.guide import posterior_from
from hiergal.model.prior import LatentFlow
from hiergal.observation import Observation
from hiergal.observation.stationary import StationaryNoise
from hiergal.posterior.samplers import importance, nuts
from hiergal.posterior.samplers.posterior_flow import laplace_of
from hiergal.posterior.samplers.randomize_then_optimize import randomize_then_optimize
from hiergal.posterior.samplers.target import LatentPosterior

MODEL, D, N, S = (8, 16), 8, 2, 6  # shape of profiles, latents, stamps, draws of each
SCENE, POSITIONS, ERROR = (13, 26), np.float32([[[-3.2, 1], [4, -2.5]], [[0, 0], [5, 3]]]), 0.7
CENTER = np.stack([np.linspace(-1.0, 1.0, D), np.linspace(0.5, 1.2, D)])
CONDITIONS = np.float32([[21.0, 9.0, 0.3], [23.5, 4.0, 0.9]])
BOTH = pytest.mark.parametrize("given", [False, True], ids=["unit normal", "flow"])
CASES = pytest.mark.parametrize(
    ("kind", "masked", "sources", "given"),
    [
        ("white", False, 1, False),
        ("pixel", True, 1, True),
        ("stationary", False, 1, True),
        ("stationary", True, 1, False),
        ("white", False, 2, True),
        ("pixel", True, 2, False),
        ("stationary", False, 2, False),
        ("stationary", True, 2, True),
    ],
)


class Pair(NamedTuple):
    """A posterior as the samplers have it, the NumPyro model that it stands for, and some of its arguments."""

    posterior: LatentPosterior
    model: object
    observation: Observation
    arguments: dict


def bent_flow():
    """A conditional flow with bends, near the unit normal for the conditions above."""
    flow = tiny_model().flow
    weights = jax.tree.map(lambda leaf: 0.3 * jnp.asarray(leaf, float), flow.params)
    center = jnp.array([[22.0, 6.0, 0.6], [1.0, 3.0, 0.4]])
    return flow.replace(params=weights, conditions_center=center, center=jnp.asarray(CENTER))


def observed(kind, masked, shape):
    noise = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), awkward_noise(kind, N, shape))
    image = 9 + noise.sample(jax.random.key(1), (N, *shape))
    mask = np.random.default_rng(8).uniform(size=(N, *shape)) < 0.15 if masked else None
    image = np.asarray(image if mask is None else np.where(mask, np.nan, image))
    psf = awkward_psf(N, (5, 3))
    psf = psf.replace(stamp=jnp.asarray(psf.stamp, float))
    return Observation(image, psf, noise, mask, {}, np.arange(N), SCALE)


def louder(noise, factor):
    """The noise with this factor on the covariance of each galaxy."""
    name, power = ("power", 1) if isinstance(noise, StationaryNoise) else ("sigma", 0.5)
    value = getattr(noise, name)
    return noise.replace(**{name: value * (factor**power).reshape(-1, *[1] * (value.ndim - 1))})


def pair(kind, masked, sources, given, factor=(1.0, 2.5), error=ERROR):
    """The two densities for one galaxy, or for two sources, on each stamp."""
    model, batch = linear_model(MODEL).replace(flow=bent_flow() if given else None), (N, 2)[:sources]
    y = np.broadcast_to(CONDITIONS[:, None], (N, 2, 3)) + np.float32([[[0.0]], [[0.5]]]).reshape(1, 2, 1)
    y = y if sources == 2 else CONDITIONS
    unit = dist.Normal(0, 1).expand([D]).to_event(1)
    prior = model.latent_flow(y) if given else LatentFlow(None, np.zeros((*batch, 0)), latents=D)
    observation, factor = observed(kind, masked, SCENE if sources == 2 else MODEL), jnp.array(factor)
    where = (POSITIONS, error) if sources == 2 else (None, 0.0)
    posterior = LatentPosterior(model, observation, prior, factor, *where)
    program = model.programs(prior=prior if given else unit).model
    arguments = {"positions": POSITIONS, "position_error_pix": error} if sources == 2 else {}
    stated = observation.replace(noise=louder(observation.noise, factor))
    return Pair(posterior, program, stated, arguments)


def vectors(posterior, draws=S):
    size = D if posterior.positions is None else 2 * D + 4 * bool(posterior.position_error_pix)
    return 1.5 * jax.random.normal(jax.random.key(3), (draws, N, size))


def stated(one, t):
    """The logarithm of NumPyro's density at vectors t [s, n, t], summed over the stamps."""
    values = {"z": one.posterior.latents(t)}
    if one.posterior.position_error_pix:
        values["offset"] = one.posterior.positions_of(t) - POSITIONS[None]

    def density(values):
        return log_density(one.model, (one.observation,), one.arguments, values)[0]

    return jax.jit(jax.vmap(density))(values)


def assert_same_but_for_a_constant(found, expected, within=1e-9):
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.ptp(expected) > 10, "expected densities that differ"
    np.testing.assert_allclose(
        found - found[0], expected - expected[0], rtol=0, atol=within * np.ptp(expected)
    )


@CASES
def test_what_samplers_work_on_is_the_program(x64, kind, masked, sources, given):
    """Density of importance sampling, and squares of Gauss-Newton steps, for one galaxy and for scenes."""
    one = pair(kind, masked, sources, given)
    posterior, t = one.posterior, vectors(one.posterior)
    expected = stated(one, t)
    within = 1e-7 if masked and kind == "stationary" else 1e-10  # there, an iterative solution
    same = partial(assert_same_but_for_a_constant, expected=expected, within=within)
    same(jax.jit(LatentPosterior.log_density)(posterior, t).sum(axis=1))

    @jax.jit
    def squares(t):
        """Half the squares that are minimised, and the logarithm of |du/dz|, which they leave out."""
        both = jnp.concatenate([posterior.residual(t), posterior.base(t)], axis=-1)
        volume = posterior.prior.to_base(posterior.latents(t))[1].reshape(S, -1).sum(axis=1)
        return 0.5 * jnp.sum(both**2, axis=(1, 2)), volume

    half, volume = squares(t)
    same(volume - half)
    if given:
        with pytest.raises(AssertionError):
            same(-half)
    wrong = posterior.replace(variance_factor=posterior.variance_factor[::-1])
    with pytest.raises(AssertionError):
        same(jax.jit(LatentPosterior.log_density)(wrong, t).sum(axis=1))


@BOTH
def test_samplers_start_from_the_density_of_the_program(x64, given):
    """The targets of importance sampling and of NUTS, each in its own coordinates, at their own latents."""
    one = pair("pixel", True, 1, given)
    posterior, v = one.posterior, vectors(one.posterior)
    found = jax.jit(partial(laplace_of, steps=4))(posterior)
    target = importance._target(posterior, found, v).sum(axis=1)
    assert_same_but_for_a_constant(target, stated(one, found.latents(v)))

    shared = nuts._Shared(posterior.model, posterior.prior.flow)
    y = jnp.asarray(posterior.prior.conditions)
    own = nuts._Own(posterior.observation, y, posterior.variance_factor, found.mean, found.scale)

    def potential(w, own):
        return nuts._potential(shared, own)(w)

    energy = jax.jit(jax.vmap(jax.vmap(potential), in_axes=(0, None)))(v, own).sum(axis=1)
    z = jax.vmap(jax.vmap(nuts._latents), in_axes=(None, 0))(own, v)
    assert_same_but_for_a_constant(-energy, stated(one, z))


def test_coordinates_of_draws_are_residuals_of_the_program(x64):
    """For a linear model w is exactly unit normal: minus half its square is the program's density."""
    one = pair("white", False, 1, False)
    found = jax.jit(partial(laplace_of, steps=4))(one.posterior)
    z = found.latents(vectors(one.posterior))
    w = jax.jit(lambda z: randomize_then_optimize(one.posterior, found)(z))(z)
    assert_same_but_for_a_constant(-0.5 * jnp.sum(w**2, axis=(1, 2)), stated(one, z), within=1e-6)


def test_gaussians_at_the_mode_are_the_program(x64):
    """For a linear model, the Laplace approximation is exact: of one source, of two, and of louder noise."""
    for sources in (1, 2):
        one = pair("stationary", False, sources, False, error=0.0)
        t = vectors(one.posterior)
        found = jax.jit(partial(laplace_of, steps=4, start=jnp.zeros_like(t[0])))(one.posterior)
        gaussian = -0.5 * jnp.sum(found.standardized(t) ** 2, axis=(1, 2))
        assert_same_but_for_a_constant(gaussian, stated(one, t), within=1e-8)


def test_a_galaxy_is_a_scene_of_one(x64):
    """Alone on its stamp, or as the one source of it: the same density, but for what leaves the stamp."""
    model = linear_model(MODEL)
    observation, z = observed("white", False, MODEL), vectors(pair("white", False, 1, False).posterior)
    program = model.programs().model

    def densities(z):
        alone, sites = log_density(program, (observation,), {}, {"z": z})
        scene = log_density(program, (observation, jnp.zeros((N, 1, 2))), {}, {"z": z[:, None]})
        assert sites["z"]["value"].shape == (N, D) and scene[1]["z"]["value"].shape == (N, 1, D)
        assert set(scene[1]) == {"galaxies", "z", "profile", "image"}
        return alone, scene[0]

    alone, scene = jax.jit(jax.vmap(densities))(z)
    np.testing.assert_allclose(scene, alone, rtol=1e-9)


# ------------------------------------------------------------------ NumPyro's own inference


def linear_observation(shape=MODEL):
    """Galaxies of the linear model, drawn under the prior of CENTER."""
    model = linear_model(shape)
    model = model.replace(
        marginal=affine_flow(model.recipe, CENTER), flow=affine_flow(model.recipe, CENTER, 3)
    )
    empty = observed("pixel", False, shape).replace(image=None)
    drawn = Predictive(model.programs(model.latent_flow()).model, num_samples=1)(jax.random.key(6), empty)
    return model, empty.replace(image=np.asarray(drawn["image"][0]))


def exact_under_center(model, observation):
    """Exact means and covariances under independent normals, by a change of variables."""
    shift, spread = CENTER
    weights, offset = model.linear["weights"], model.linear["offset"]
    moved = {"weights": spread[:, None] * weights, "offset": offset + shift @ weights}
    found = [exact_posterior(observation, moved, i) for i in range(N)]
    return [(shift + spread * e.mean, np.outer(spread, spread) * e.covariance) for e in found]


def own_program(model, observation, conditions):
    """Somebody's own program, with the latent flow as its prior."""
    noise = observation.noise.sigma
    with numpyro.plate("galaxies", N):
        z = numpyro.sample("z", model.latent_flow(conditions))
        stamp = model.render(model.decode(z), observation.psf)
        numpyro.sample("pixels", dist.Normal(stamp, noise).to_event(2), obs=observation.image)


def programs_under_test(model):
    return {
        "programs": (model.programs(prior=model.latent_flow()).model, ()),
        "own": (partial(own_program, model), (CONDITIONS,)),
    }


@pytest.mark.parametrize("name", ["programs", "own"])
def test_nuts_of_numpyro_finds_the_closed_form(x64, key, name):
    """Means and covariances within five Monte-Carlo standard errors, from the effective sample size."""
    model, observation = linear_observation()
    program, more = programs_under_test(model)[name]
    mcmc = MCMC(NUTS(program, dense_mass=True), num_warmup=400, num_samples=1000, progress_bar=False)
    mcmc.run(key, observation, *more)
    z = np.asarray(mcmc.get_samples()["z"])
    assert z.shape == (1000, N, D)
    squares = (z - z.mean(axis=0)) ** 2
    count = np.minimum(effective_sample_size(z[None]), effective_sample_size(squares[None]))
    assert count.min() > 200

    def assert_exact(exact):
        for i, (mean, covariance) in enumerate(exact):
            sigma = np.sqrt(np.diag(covariance))
            assert np.all(np.abs(z[:, i].mean(axis=0) - mean) / sigma < 5 / np.sqrt(count[i]))
            correlation = covariance / np.outer(sigma, sigma)
            off = np.cov(z[:, i].T) / np.outer(sigma, sigma) - correlation
            assert np.all(np.abs(off) < 5 * np.sqrt((1 + correlation**2) / count[i].min()))

    exact = exact_under_center(model, observation)
    assert_exact(exact)
    unit = [exact_posterior(observation, model.linear, i) for i in range(N)]
    with pytest.raises(AssertionError):
        assert_exact([(e.mean, e.covariance) for e in unit])


@pytest.mark.parametrize("name", ["programs", "own"])
def test_svi_with_an_autoguide_finds_the_closed_form(x64, key, name):
    """Means within a tenth of the posterior's width, widths within a tenth."""
    model, observation = linear_observation()
    program, more = programs_under_test(model)[name]
    guide, steps = AutoMultivariateNormal(program), 3000
    svi = SVI(program, guide, optax.adam(optax.cosine_decay_schedule(0.05, steps, alpha=1e-3)), Trace_ELBO(4))
    found = svi.run(key, steps, observation, *more, progress_bar=False)
    assert set(found.params) == {"auto_loc", "auto_scale_tril"}, "expected constants for weights"
    fitted = guide.get_posterior(found.params)
    for i, (mean, covariance) in enumerate(exact_under_center(model, observation)):
        sigma, mine = np.sqrt(np.diag(covariance)), slice(i * D, (i + 1) * D)
        np.testing.assert_allclose((fitted.mean[mine] - mean) / sigma, 0, atol=0.1)
        np.testing.assert_allclose(fitted.variance[mine] ** 0.5 / sigma, 1, atol=0.1)


def test_predictive_draws_from_the_prior_and_the_noise(x64, key):
    """Moments of latents and of whitened residuals within five standard errors, of both programs."""
    model, observation = linear_observation()
    count, empty = 1500, observation.replace(image=None)
    for name, (program, more) in programs_under_test(model).items():
        drawn = Predictive(program, num_samples=count)(key, empty, *more)
        z, image = np.asarray(drawn["z"]), drawn["pixels" if name == "own" else "image"]
        assert z.shape == (count, N, D) and image.shape == (count, N, *MODEL)
        np.testing.assert_allclose(z.mean(axis=0) - CENTER[0], 0, atol=5 * 1.2 / np.sqrt(count))
        np.testing.assert_allclose(z.std(axis=0) / CENTER[1], 1, atol=5 / np.sqrt(2 * count))
        profile = model.decode(jnp.asarray(z.reshape(-1, D))).reshape(image.shape)
        clean = model.render(profile, observation.psf)
        squares = np.asarray(observation.noise.whiten(image - clean)) ** 2
        assert abs(squares.mean() - 1) < 5 * np.sqrt(2 / squares.size)


def test_the_guide_is_the_amortised_one(key, make_psf):
    """Its draws have the moments that its network says, and SVI of both programs has nothing left to learn."""
    model = tiny_model()
    shape, n = model.recipe.shape, 2
    image = np.asarray(jax.random.normal(jax.random.key(1), (n, *shape)))
    noise = awkward_noise("white", n, shape)
    observation = Observation(image, make_psf(n), noise, None, {}, np.arange(n), SCALE)
    programs = model.programs()
    z = Predictive(programs.guide, num_samples=2000)(key, observation)["z"]
    q = posterior_from(jax.jit(type(model).encode)(model, observation), model.recipe.covariance)
    off = (z.mean(axis=0) - q.mean) / jnp.sqrt(q.variance)
    assert float(jnp.abs(off).max()) < 5 / np.sqrt(2000)
    svi = SVI(*programs, optax.adam(1e-2), Trace_ELBO())
    params = jax.eval_shape(lambda key: svi.get_params(svi.init(key, observation)), key)
    assert params == {}


# ------------------------------------------------------------------ the latent flow as a distribution


@pytest.fixture
def conditioned():
    return linear_model(MODEL).replace(
        flow=bent_flow(), marginal=affine_flow(linear_model(MODEL).recipe, CENTER)
    )


def test_latent_flow_has_the_shapes_of_a_distribution(x64, conditioned, key):
    prior, marginal = conditioned.latent_flow(CONDITIONS), conditioned.latent_flow()
    assert (prior.batch_shape, prior.event_shape, marginal.batch_shape) == ((2,), (D,), ())

    def shape(function, *arguments):
        return jax.eval_shape(lambda: function(*arguments)).shape

    assert shape(prior.sample, key, (5, 3)) == (5, 3, 2, D) and shape(marginal.sample, key) == (D,)
    assert shape(prior.log_prob, jnp.zeros(D)) == (2,), "expected values to be broadcast"
    assert shape(prior.log_prob, jnp.zeros((7, 1, D))) == (7, 2)
    wide = prior.expand((4, 2))
    assert isinstance(wide, LatentFlow) and wide.batch_shape == (4, 2) and prior.expand((2,)) is prior
    assert wide[1:3].batch_shape == (2, 2) and wide.to_event(1).event_shape == (2, D)
    assert shape(marginal.expand([3]).sample, key) == (3, D) and prior.has_rsample
    assert repr(prior) == "LatentFlow(given mag_auto, flux_radius, zphot, batch_shape=(2,), event_shape=(8,))"


def test_latent_flow_is_its_flow(x64, conditioned, key):
    """Density and draws are those of the flow, for each galaxy; draws have the density, by their base variables."""
    prior = conditioned.latent_flow(CONDITIONS)
    z = jax.jit(lambda prior: prior.sample(key, (3,)))(prior)
    rows = np.tile(CONDITIONS, (3, 1))
    expected = jax.jit(type(conditioned.flow).log_prob)(conditioned.flow, z.reshape(6, D), rows)
    np.testing.assert_allclose(jax.jit(prior.log_prob)(z).ravel(), expected, rtol=1e-10)
    u = jax.random.normal(key, (3, 2, D))
    np.testing.assert_allclose(jax.jit(prior.to_base)(z)[0], u, atol=1e-9)
    unit = LatentFlow(None, np.zeros((2, 0)), latents=D)
    np.testing.assert_array_equal(unit.sample(key, (3,)), u)
    expected = dist.Normal(0, 1).expand([D]).to_event(1).log_prob(u)
    np.testing.assert_allclose(unit.log_prob(u), expected, rtol=1e-12)


def test_latent_flow_works_under_transformations(x64, conditioned, key):
    """As an argument of what is compiled, mapped over its galaxies, in a plate; draws are differentiable."""
    prior, z = conditioned.latent_flow(CONDITIONS), jnp.ones((2, D))
    expected = jax.jit(LatentFlow.log_prob)(prior, z)
    np.testing.assert_allclose(jax.jit(lambda: prior.log_prob(z))(), expected)
    mapped = jax.vmap(lambda y, z: conditioned.latent_flow(y).log_prob(z))
    np.testing.assert_allclose(jax.jit(mapped)(jnp.asarray(CONDITIONS), z), expected)
    again = jax.tree.map(lambda leaf: leaf, prior)
    assert again.batch_shape == (2,) and again.event_shape == (D,)

    def first(y):
        return conditioned.latent_flow(y).rsample(key)[0]

    slope, step = jax.jit(jax.grad(first))(jnp.asarray(CONDITIONS[0], float)), np.array([1e-5, 0, 0])
    up, down = (jax.jit(first)(CONDITIONS[0] + sign * step) for sign in (1, -1))
    numeric = (up - down) / 2e-5
    assert slope[0] != 0 and float(slope[0]) == pytest.approx(float(numeric), rel=1e-2)

    def program(y=None):
        magnitude = numpyro.sample("magnitude", dist.Normal(22.0, 1.0))
        y = jnp.stack([magnitude, 6.0, 0.6])
        with numpyro.plate("galaxies", 3):
            numpyro.sample("z", conditioned.latent_flow(y))

    drawn = Predictive(program, num_samples=4)(key)
    assert drawn["z"].shape == (4, 3, D) and np.ptp(drawn["magnitude"]) > 0
    values = {"magnitude": jnp.array(21.5), "z": jnp.ones((3, D))}
    slope = jax.jit(jax.grad(lambda values: log_density(program, (), {}, values)[0]))(values)
    assert abs(slope["magnitude"] - 0.5) > 1e-3 and np.all(np.isfinite(slope["z"])), (
        "expected more than its own prior"
    )


def test_conditions_may_be_a_table_or_numbers(conditioned):
    names = conditioned.flow.config.conditions
    table = {name: CONDITIONS[:, i] for i, name in enumerate(names)}
    np.testing.assert_array_equal(conditioned.latent_flow(table).conditions, CONDITIONS)
    assert conditioned.latent_flow(CONDITIONS[0]).batch_shape == ()
    assert conditioned.latent_flow(CONDITIONS[None]).batch_shape == (1, 2)


@pytest.mark.parametrize(
    ("change", "conditions", "error", "words"),
    [
        ({}, np.zeros((2, 2)), ValueError, r"expected shape \(..., 3\) for mag_auto, .*, got \(2, 2\)"),
        ({}, [[22.0, np.nan, 0.5]] * 2, ValueError, "got NaN or infinity for 2 of 2 galaxies"),
        ({}, "table.fits", TypeError, "read it first"),
        ({"flow": None}, CONDITIONS, ValueError, "expected a model with a latent flow"),
        ({"marginal": None}, None, ValueError, "expected a model whose flow has a marginal"),
    ],
)
def test_wrong_conditions_are_refused(conditioned, change, conditions, error, words):
    with pytest.raises(error, match=words):
        conditioned.replace(**change).latent_flow(conditions)


def test_wrong_priors_and_positions_are_refused(conditioned, key):
    observation = observed("white", False, MODEL)
    for prior in (
        dist.Normal(0, 1),
        dist.Normal(0, 1).expand([3, D]).to_event(1),
        LatentFlow(None, np.zeros(0), latents=3),
    ):
        with pytest.raises(
            ValueError, match=r"prior: expected batch shape \(\) or \(2,\), and event shape \(8,\)"
        ):
            log_density(conditioned.programs(prior).model, (observation,), {}, {"z": jnp.zeros((N, D))})
    objective = msgspec.structs.replace(conditioned.recipe.objective, blur="modulus")
    paper = conditioned.replace(recipe=msgspec.structs.replace(conditioned.recipe, objective=objective))
    arguments = (observation, np.zeros((N, 1, 2), np.float32))
    with pytest.raises(ValueError, match="blur: expected 'exact' for sources at positions, got 'modulus'"):
        log_density(paper.programs().model, arguments, {}, {"z": jnp.zeros((N, 1, D))})
    with pytest.raises(ValueError, match="expected the number of latents of a unit normal"):
        LatentFlow(None, np.zeros(0))
    with pytest.raises(ValueError, match="conditions: expected 3 for each galaxy, got 2"):
        LatentFlow(conditioned.flow, np.zeros((4, 2)))
