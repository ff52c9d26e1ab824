"""What each option of a recipe does that makes it differ from the others: noise, blur, flow, optimisers, averages."""

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from conftest import awkward_psf
from numpyro.handlers import seed, trace
from toys import pyramid_recipe, tiny_model, tiny_recipe, tiny_survey

from hiergal.cli.quickstart.run import _compared
from hiergal.model.architecture import encoder_of, generator_of, programs_of
from hiergal.model.flow.autoregressive import MaskedAutoregression
from hiergal.model.flow.density import ConditionalFlow
from hiergal.model.likelihood import choose_noise
from hiergal.model.program import total_variation
from hiergal.observation.independent import PixelNoise, WhiteNoise
from hiergal.observation.psf import PSF, convolve, convolve_by_modulus
from hiergal.observation.stationary import StationaryNoise
from hiergal.recipe.config import FlowConfig, TrainingConfig
from hiergal.recipe.recipe import load_recipe, recipe_from
from hiergal.runtime.optimizer import adafactor, learning_rate_at
from hiergal.survey import StoreHeader, write_store
from hiergal.survey.split import split_of
from hiergal.training.fit_prior import aggregate_posterior
from hiergal.training.svi import _optimizer, fit

SHAPE = (16, 24)
HEADER = StoreHeader(survey="tiny", band="V", pixel_scale_arcsec=0.03, magnitude_zero_point=25.0)


def galaxies(n: int = 80):
    return tiny_survey(n, SHAPE, awkward_psf(n))


def changed(recipe, **parts):
    """A recipe with some options of some of its parts changed."""
    new = {name: msgspec.structs.replace(getattr(recipe, name), **options) for name, options in parts.items()}
    return msgspec.structs.replace(recipe, **new)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s.zarr", HEADER, [(galaxies(), None)])


def test_noise_of_the_survey_of_each_pixel_or_one_for_all(make_noise):
    correlated, varying = make_noise("stationary", 3, (8, 9)), make_noise("pixel", 3, (8, 9))
    assert choose_noise(correlated, "survey") is correlated
    diagonal = choose_noise(correlated, "pixel")
    assert isinstance(correlated, StationaryNoise) and isinstance(diagonal, WhiteNoise)
    np.testing.assert_allclose(diagonal.sigma, correlated.rms())
    assert isinstance(varying, PixelNoise) and choose_noise(varying, "pixel") is varying
    for noise in (correlated, varying):
        np.testing.assert_array_equal(choose_noise(noise, "constant", 0.03).sigma, np.float32([0.03] * 3))


def test_a_constant_of_ten_times_the_noise_weighs_chi_square_a_hundred_times_less(rng):
    residual = rng.normal(size=(1, 8, 8)).astype(np.float32)
    known = WhiteNoise(np.array([0.003], np.float32))
    ratio = known.chi_square(residual) / choose_noise(known, "constant", 0.03).chi_square(residual)
    np.testing.assert_allclose(ratio, 100, rtol=1e-4)


def test_the_modulus_loses_the_phase_and_wraps(rng):
    """Against a periodic convolution written out with NumPy; for a symmetric PSF far from the edge both agree."""
    profile, stamp = rng.random((1, 10, 13)), awkward_psf(1).stamp
    kernel = np.zeros((10, 13))
    kernel[:5, :9] = stamp[0]
    expected = np.fft.ifft2(np.fft.fft2(profile[0]) * np.abs(np.fft.fft2(kernel))).real
    found = convolve_by_modulus(profile.astype(np.float32), PSF(stamp, pixel_scale_arcsec=0.03))
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    y, x = np.mgrid[-3:4, -3:4]
    round_ = np.exp(-0.5 * (x**2 + y**2))
    psf = PSF((round_ / round_.sum())[None].astype(np.float32), pixel_scale_arcsec=0.03)
    point = np.zeros((1, 15, 15), np.float32)
    point[0, 7, 7] = 1
    np.testing.assert_allclose(convolve_by_modulus(point, psf), convolve(point, psf), atol=2e-3)


@pytest.mark.parametrize("weight", [0.01, 0.02])
def test_smoothness_counts_as_often_as_the_recipe_says(weight):
    recipe = changed(tiny_recipe(SHAPE), objective={"total_variation_weight": weight})

    @jax.jit
    def sites(observation):
        found = trace(seed(programs_of(recipe).model, jax.random.key(0))).get_trace(observation)
        return found["smoothness"]["fn"].log_factor, found["profile"]["value"]

    found, profile = sites(galaxies(4))
    np.testing.assert_allclose(found, -weight * total_variation(profile), rtol=1e-5)


def test_learning_rates_are_those_of_the_paper_and_of_its_code():
    """The code's: 0.25 and 0.1 over the square root of the step; 1.1e-2 and 3.2e-3 at their peaks."""
    paper, coded = (load_recipe(f"models/lanusse2020/{name}.toml") for name in ("recipe", "recipe_as_coded"))
    for config, scale, at_peak, at_end in (
        (coded.training, 0.25, 1.1e-2, 7.1e-4),
        (coded.flow, 0.1, 3.2e-3, 4.5e-4),
    ):
        rate = learning_rate_at(config.schedule, config.learning_rate, config.warmup, config.steps)
        rising = round(config.warmup * config.steps)
        np.testing.assert_allclose(rate(rising - 1), at_peak, rtol=0.02)
        np.testing.assert_allclose(rate(config.steps - 1), at_end, rtol=0.02)
        np.testing.assert_allclose(rate(4 * rising - 1), scale / (4 * rising) ** 0.5, rtol=0.01)
        np.testing.assert_allclose(rate(rising // 2 - 1), rate(rising - 1) / 2, rtol=0.01)
    for config in (paper.training, paper.flow):
        rate = learning_rate_at(config.schedule, config.learning_rate, config.warmup, config.steps)
        np.testing.assert_allclose(max(float(rate(step)) for step in range(0, 2000, 9)), 1e-3, rtol=0.01)


@pytest.mark.parametrize("scaled", [True, False])
def test_steps_of_adafactor_are_in_units_of_the_parameters_or_not(scaled):
    """The first step of a matrix whose gradients have one magnitude is the rate, times its size where that counts."""
    params = {"w": jnp.full((3, 4), 5.0)}
    optimizer = adafactor(lambda _: 0.1, parameter_scale=scaled)
    updates, _ = optimizer.update({"w": jnp.full((3, 4), 7.0)}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.1 * (5.0 if scaled else 1.0), rtol=1e-4)


def test_adafactor_keeps_rows_and_columns_of_large_matrices():
    optimizer = adafactor(lambda _: 0.1, parameter_scale=False)
    state = optimizer.init({"w": jnp.ones((256, 512))})
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 2000


def test_gradients_are_clipped_per_galaxy():
    """A second gradient a hundred times as long as the first counts no more than it, if both exceed the limit."""

    def second_step(config, lengths, population=50):
        optimizer, params = _optimizer(config, population), {"w": jnp.ones(4)}
        state = optimizer.init(params)
        for length in lengths:
            updates, state = optimizer.update({"w": jnp.full(4, length * population)}, state, params)
        return updates["w"]

    clipped = TrainingConfig(clip_norm=1.0)
    np.testing.assert_allclose(
        second_step(clipped, (3.0, 300.0)), second_step(clipped, (3.0, 3.0)), rtol=1e-5
    )
    short = second_step(clipped, (0.1, 0.2)), second_step(TrainingConfig(), (0.1, 0.2))
    np.testing.assert_allclose(*short, rtol=1e-4, err_msg="below the limit nothing is clipped")
    free = second_step(TrainingConfig(), (3.0, 300.0)), second_step(TrainingConfig(), (3.0, 3.0))
    assert np.abs(free[0] / free[1] - 1).min() > 0.01


def test_parts_of_a_batch_make_one_step():
    """Nothing moves before the last part, which moves by the mean gradient, as the whole batch would."""
    parts, whole = (_optimizer(TrainingConfig(gradient_accumulation=n), 50) for n in (2, 1))
    params = {"w": jnp.ones(3)}
    state, gradients = parts.init(params), jnp.array([[1.0, 2.0, -3.0], [3.0, -1.0, 0.5]])
    first, state = parts.update({"w": gradients[0]}, state, params)
    second, state = parts.update({"w": gradients[1]}, state, params)
    expected, _ = whole.update({"w": gradients.mean(0)}, whole.init(params), params)
    assert np.all(first["w"] == 0)
    np.testing.assert_allclose(second["w"], expected["w"], rtol=1e-5)


@pytest.mark.slow
def test_a_fit_in_parts_learns_as_one_at_once(tmp_path):
    """Other draws of the latents, the same steps: loss and bound agree; parts have to be equal."""
    survey, found = galaxies(), {}
    for parts in (1, 4):
        recipe = tiny_recipe(SHAPE, steps=30, evaluate_every=30, batch=32, gradient_accumulation=parts)
        found[parts] = fit(
            jax.random.key(0),
            recipe,
            survey[:64],
            survey[64:],
            folder=tmp_path / str(parts),
            progress=False,
        ).history[-1]
    np.testing.assert_allclose(found[4].loss, found[1].loss, rtol=0.05)
    np.testing.assert_allclose(found[4].elbo, found[1].elbo, rtol=0.05)
    with pytest.raises(ValueError, match="times the 3 parts of training.gradient_accumulation, got 32"):
        fit(
            jax.random.key(0),
            changed(recipe, training={"gradient_accumulation": 3}),
            survey[:64],
            survey[64:],
            folder=tmp_path / "3",
            progress=False,
        )


@pytest.mark.slow
def test_what_is_kept_is_the_average(tmp_path):
    """After two steps, from the parameters that the same run without an average has after one and two: a young average
    forgets fast, at (1 + step) / (10 + step).
    """
    survey = galaxies()

    def params(steps, average):
        recipe = tiny_recipe(SHAPE, steps=steps, evaluate_every=1, schedule="rsqrt", ema_decay=average)
        recipe = changed(recipe, training={"warmup": 1.0 / steps, "evaluate_every": steps})
        found = fit(
            jax.random.key(0),
            recipe,
            survey[:64],
            survey[64:],
            folder=tmp_path / f"{steps}-{average}",
            progress=False,
        )
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found.params)])

    one, two = params(1, 0.0), params(2, 0.0)
    start = (params(1, 0.999) - 0.9 * one) / 0.1
    np.testing.assert_allclose(
        params(2, 0.999), 2 / 11 * (0.1 * start + 0.9 * one) + 9 / 11 * two, rtol=1e-4, atol=1e-6
    )
    assert np.abs(start - one).max() > 1e-4 and np.abs(one - two).max() > 1e-4


@pytest.mark.slow
def test_bfloat16_is_for_the_networks_alone():
    observation = galaxies(4)
    for kind in (tiny_recipe, pyramid_recipe):
        half, full = kind(SHAPE, precision="bfloat16"), kind(SHAPE)
        z = jnp.linspace(-1, 1, 4 * half.generator.latents).reshape(4, -1)
        outputs = []
        for recipe in (half, full):
            generator, encoder = generator_of(recipe), encoder_of(recipe)
            params = (
                jax.jit(generator.init)(jax.random.key(0), z),
                jax.jit(encoder.init)(jax.random.key(1), observation),
            )
            assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
            outputs.append(
                (
                    jax.jit(generator.apply)(params[0], z),
                    jax.jit(encoder.apply)(params[1], observation),
                )
            )
        for rough, exact in zip(*outputs, strict=True):
            assert rough.dtype == exact.dtype == np.float32
            assert 0 < np.abs(rough - exact).max() <= 0.1 * np.abs(exact).max()


@pytest.mark.slow
def test_training_in_bfloat16_learns(tmp_path):
    survey = galaxies()
    recipe = tiny_recipe(SHAPE, precision="bfloat16", learning_rate=5e-3)
    history = fit(
        jax.random.key(0), recipe, survey[:64], survey[64:], folder=tmp_path, progress=False
    ).history
    assert history[-1].elbo > history[0].elbo


@pytest.mark.slow
def test_weights_change_what_training_sees_and_nothing_else(tmp_path):
    survey = galaxies()
    found = {}
    for power in (0.0, 0.7):
        recipe = tiny_recipe(SHAPE, flux_sampling_power=power)
        found[power] = fit(
            jax.random.key(0), recipe, survey[:64], survey[64:], folder=tmp_path / str(power), progress=False
        ).history[-1]
    assert found[0.0].elbo != found[0.7].elbo and np.isfinite(found[0.7].elbo)


def test_the_flow_learns_samples_or_means(store):
    model = tiny_model(tiny_recipe(SHAPE), flow=False)
    rows, key = np.arange(10), jax.random.key(3)
    means = aggregate_posterior(model, store, rows, key, None)
    samples = aggregate_posterior(model, store, rows, key, 400)
    assert means.shape == (1, 10, 8) and samples.shape == (400, 10, 8)
    error = samples.std(0) / 20
    assert np.all(np.abs(samples.mean(0) - means[0]) < 5.5 * error), "80 numbers: once in 300,000"


def test_the_flow_reverses_and_shuffles_or_shuffles_alone():
    def orders(permutations):
        config = FlowConfig(layers=4, hidden=8, permutations=permutations)
        flow = ConditionalFlow.untrained(jax.random.key(0), config, 6)
        return [list(order) for order in flow._stack._orders()]

    reverse = [5, 4, 3, 2, 1, 0]
    alternate, shuffle = orders("alternate"), orders("shuffle")
    assert alternate[0] == alternate[2] == reverse and reverse not in alternate[1::2]
    assert reverse not in shuffle and len({tuple(order) for order in shuffle}) == 4
    assert all(sorted(order) == sorted(reverse) for order in alternate + shuffle)


@pytest.mark.parametrize(("limit", "inside"), [("hard", 2.0), ("smooth", 3 * np.tanh(2 / 3))])
def test_log_scales_stay_within_three(limit, inside):
    layer = MaskedAutoregression(4, limit)
    z, y = jnp.zeros((1, 2)), jnp.zeros((1, 1))
    params = jax.tree.map(jnp.zeros_like, layer.init(jax.random.key(0), z, y))
    last = sorted(name for name in params["params"] if name.startswith("_MaskedDense"))[-1]
    for bias, expected in ((2.0, inside), (50.0, 3.0), (-50.0, -3.0)):
        params["params"][last]["bias"] = jnp.full(2, bias)
        np.testing.assert_allclose(layer.apply(params, z, y)[1], expected, rtol=1e-5)


@pytest.mark.parametrize("at", ["test", "train"])
def test_drawn_galaxies_are_compared_at_conditions_of_unseen_galaxies_or_not(store, at):
    recipe = recipe_from({"shape": list(SHAPE), "flow": {"compared_at": at}})
    split = split_of(store, recipe)
    test = store.read(split.test)
    compared = _compared(store, recipe, test)
    np.testing.assert_array_equal(
        compared.identifier, store.identifier[split.test if at == "test" else split.train[: len(test)]]
    )
