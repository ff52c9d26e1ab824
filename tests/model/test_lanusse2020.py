"""The paper's networks: each layer against XLA's own, the published counts, and what the aids do as they fade."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import awkward_psf
from toys import pyramid_recipe, tiny_survey

from hiergal.model.architecture import encoder_of, generator_of, programs_of
from hiergal.model.blank import parameter_counts
from hiergal.model.nets.encoder import centred, visible
from hiergal.model.nets.lanusse2020 import PyramidEncoder, Transverse, tukey_taper
from hiergal.model.nets.resampling import DoublingConv, HalvingConv, SeparableConv, _drop_out
from hiergal.model.nets.training_aids import training_aids_at
from hiergal.recipe.config import TrainingAidsConfig
from hiergal.recipe.recipe import Recipe, load_recipe, recipe_from

SHAPE = (16, 24)
RECIPE = pyramid_recipe(SHAPE)
PAPER = ["models/lanusse2020/recipe.toml", "models/lanusse2020/recipe_as_coded.toml"]
CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(scope="module")
def networks():
    """Encoder and generator with random weights, and three galaxies on stamps that are not square."""
    observation = tiny_survey(3, SHAPE, awkward_psf(3))
    encoder, generator = encoder_of(RECIPE), generator_of(RECIPE)
    z = jax.random.normal(jax.random.key(1), (3, RECIPE.generator.latents))
    start = jax.jit(lambda key: (encoder.init(key, observation), generator.init(key, z)))
    weights = jax.tree.map(lambda w: w + 0.1, start(jax.random.key(2)))
    encode = jax.jit(partial(encoder.apply, training=True))
    features = encode(weights[0], observation, rngs={"dropout": jax.random.key(3)})[1]

    @jax.jit
    def aided(z, copied, seed=0):
        keys = jax.random.split(jax.random.key(seed))
        rngs = {"dropout": keys[0], "transverse": keys[1]}
        return generator.apply(weights[1], z, Transverse(features, copied), rngs=rngs)

    return z, aided, jax.jit(lambda z: generator.apply(weights[1], z)), features


@pytest.mark.parametrize(
    "shape", [(2, 10, 14, 3), (1, 2, 2, 5), (1, 4, 6, 300)]
)  # the last two as matrix products
def test_halving_is_a_strided_convolution(x64, rng, shape):
    x, layer = jnp.asarray(rng.normal(size=shape)), HalvingConv(4)
    params = {"kernel": rng.normal(size=(4, 4, shape[-1], 4)), "bias": rng.normal(size=4)}
    twin = jax.lax.conv_general_dilated(
        x, params["kernel"], (2, 2), [(1, 1), (1, 1)], dimension_numbers=CHANNELS_LAST
    )
    found = layer.apply({"params": params}, x)
    np.testing.assert_allclose(found, twin + params["bias"][None, None, None], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(2, 6, 10, 2), (1, 4, 4, 2)])
def test_halving_takes_a_mixture_before_it_into_its_kernel(x64, rng, shape):
    """Borders too: outside, the mixed channels are zero, and with them the one that holds the bias."""
    x, mixture = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=(2, 7)))
    params = {"kernel": rng.normal(size=(4, 4, 7, 12)), "bias": rng.normal(size=12)}

    def gradients(halve):
        return jax.grad(lambda params, mixture: (halve(params, mixture) ** 2).sum(), argnums=(0, 1))(
            params, mixture
        )

    def twin(params, mixture):
        return HalvingConv(12).apply({"params": params}, x @ mixture)

    def merged(params, mixture):
        return HalvingConv(12).apply({"params": params}, x, True, mixture)

    np.testing.assert_allclose(merged(params, mixture), twin(params, mixture), rtol=1e-10, atol=1e-10)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9), gradients(merged), gradients(twin))


def test_the_encoder_halves_its_embeddings(rng):
    """The embeddings go into the kernel of the first halving, with the same numbers as if they were computed first."""
    config, seen = RECIPE.encoder, tiny_survey(3, SHAPE, awkward_psf(3))
    encoder = PyramidEncoder(config, 3)
    weights = jax.jit(encoder.init)(jax.random.key(1), seen)["params"]
    weights = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), weights)
    _, state = jax.jit(partial(encoder.apply, capture_intermediates=True))({"params": weights}, seen)
    images = {"embedding": visible(seen), "psf_embedding": centred(jnp.asarray(seen.psf.stamp), SHAPE)}
    weights = jax.tree.map(np.asarray, weights)
    embedded = [
        np.asarray(images[name])[..., None] @ weights[name]["kernel"] + weights[name]["bias"]
        for name in images
    ]
    twin = HalvingConv(config.depths[0]).apply({"params": weights["halve_0"]}, jnp.concatenate(embedded, -1))
    found = state["intermediates"]["halve_0"]["__call__"][0]
    np.testing.assert_allclose(found, twin, atol=1e-5 * np.abs(twin).max())


def test_dropped_numbers_are_independent():
    """As often as asked, and without correlation between channels, pixels and galaxies; rate 0.1 has sigma 0.3."""
    kept = (
        np.stack([_drop_out(jax.random.key(seed), jnp.ones((8, 32, 32, 16)), 0.1) for seed in range(8)]) > 0
    )
    off, error = kept - 0.9, 1 / kept.size**0.5
    assert abs(off.mean()) < 4 * 0.3 * error
    shifts = [(0, 1, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, 1, 0), *((0, 0, 0, 0, k) for k in range(1, 9))]
    for shift in shifts:
        products = off * np.roll(off, shift, axis=range(5))
        assert abs(products.mean()) < 4 * 0.09 * error, shift
    of_seeds = np.corrcoef(off.reshape(8, -1)) - np.eye(8)
    assert np.abs(of_seeds).max() < 5 * 8**0.5 * error


@pytest.mark.parametrize("shape", [(2, 3, 5, 3), (1, 1, 1, 5), (1, 2, 3, 300)])  # the last as matrix products
def test_doubling_is_the_transpose_of_halving(x64, rng, shape):
    """<y, A x> = <A^T y, x>, with the channels of the kernel swapped."""
    features = 4
    kernel = rng.normal(size=(4, 4, shape[-1], features))
    y = jnp.asarray(rng.normal(size=shape))
    x = jnp.asarray(rng.normal(size=(shape[0], 2 * shape[1], 2 * shape[2], features)))
    up = DoublingConv(features).apply({"params": {"kernel": kernel, "bias": np.zeros(features)}}, y)
    back = {"kernel": kernel.transpose(0, 1, 3, 2), "bias": np.zeros(shape[-1])}
    down = HalvingConv(shape[-1]).apply({"params": back}, x)
    assert up.shape == x.shape
    np.testing.assert_allclose(jnp.vdot(up, x), jnp.vdot(y, down), rtol=1e-10)


def test_separable_is_a_grouped_convolution(x64, rng):
    x = jnp.asarray(rng.normal(size=(2, 5, 7, 3)))
    each, mixture = rng.normal(size=(3, 3, 3)), rng.normal(size=(3, 6))
    params = {"kernel": each, "Dense_0": {"kernel": mixture, "bias": np.zeros(6)}}
    twin = jax.lax.conv_general_dilated(
        x, each[:, :, None], (1, 1), "SAME", dimension_numbers=CHANNELS_LAST, feature_group_count=3
    )
    found = SeparableConv(6).apply({"params": params}, x)
    np.testing.assert_allclose(found, twin @ mixture, rtol=1e-10, atol=1e-10)


def test_separable_has_the_same_gradient_in_training(x64, rng):
    x, layer = jnp.asarray(rng.normal(size=(3, 5, 7, 2))), SeparableConv(3)
    params = layer.init(jax.random.key(0), x)
    weight = jnp.asarray(rng.normal(size=(3, 5, 7, 3)))
    loss = lambda training: lambda p, x: jnp.sum(weight * jnp.tanh(layer.apply(p, x, training)))  # noqa: E731
    found, twin = (jax.jit(jax.grad(loss(t), argnums=(0, 1)))(params, x) for t in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), found, twin)


@pytest.mark.parametrize("path", PAPER)
def test_counts_are_those_of_the_published_weights(path):
    """59.0, 54.7 and 2.58 MB of float32."""
    counts = parameter_counts(load_recipe(path))
    np.testing.assert_allclose(
        [counts.encoder, counts.generator, counts.flow], [14.7e6, 13.7e6, 0.645e6], rtol=0.01
    )


def test_profiles_are_positive_and_tapered(networks):
    z, _, plain, _ = networks
    profile = plain(z)
    assert profile.shape == (3, *SHAPE) and np.all(profile >= 0)
    assert np.all(profile[:, 0] < 0.5 * profile[:, 8]) and np.all(profile[:, :, -1] < 0.5 * profile[:, :, 12])
    assert np.all(tukey_taper((40, 64), 8)[8:-8, 8:-8] == 1)


def test_everything_is_copied_at_first(networks):
    """At probability one the generator's image is the encoder's, whatever the latents are."""
    z, aided, _, _ = networks
    ones = jnp.ones(len(RECIPE.encoder.transverse_channels))
    np.testing.assert_array_equal(aided(z, ones).profile, aided(-z, ones).profile)


def test_half_of_the_maps_are_copied_half_way(networks):
    """Whole maps, drawn for each galaxy: the image at full resolution is a mixture of the two, map by map."""
    z, aided, _, _ = networks
    half = jnp.zeros(len(RECIPE.encoder.transverse_channels)).at[0].set(0.5)
    profiles = np.stack([aided(z, half, seed).profile for seed in range(40)])
    assert np.all(profiles.std(0).max((1, 2)) > 0), "each galaxy should see other maps at other steps"
    ends = [np.asarray(aided(z, jnp.zeros(len(half)).at[0].set(p)).profile) for p in (0.0, 1.0)]
    assert not np.allclose(ends[0], ends[1], rtol=1e-2)


def test_nothing_is_copied_at_the_end(networks):
    """Without dropout the aided generator is the plain one."""
    z, _, _, features = networks
    recipe = pyramid_recipe(SHAPE, dropout=0.0)
    generator = generator_of(recipe)
    params = jax.jit(generator.init)(jax.random.key(0), z)
    keys = {"dropout": jax.random.key(1), "transverse": jax.random.key(2)}
    done = Transverse(features, jnp.zeros(len(recipe.encoder.transverse_channels)))
    aided = jax.jit(generator.apply)(params, z, done, rngs=keys)
    np.testing.assert_allclose(aided.profile, jax.jit(generator.apply)(params, z), rtol=1e-5)


def test_dropout_acts_in_training_alone(networks):
    z, aided, plain, _ = networks
    nothing = jnp.zeros(len(RECIPE.encoder.transverse_channels))
    assert np.abs(aided(z, nothing, 1).profile - aided(z, nothing, 2).profile).max() > 0
    np.testing.assert_array_equal(plain(z), plain(z))


def test_the_border_is_what_the_taper_takes(networks):
    z, aided, _, _ = networks
    out = aided(z, jnp.zeros(len(RECIPE.encoder.transverse_channels)))
    taper = tukey_taper(SHAPE, RECIPE.generator.taper_pix)
    np.testing.assert_allclose(out.border, (out.profile / taper[None] - out.profile).sum((1, 2)), rtol=1e-4)


def test_schedules_at_start_middle_and_end():
    """250 steps at full resolution, 32,000 at the bottleneck; a ceiling that falls from 1000 to 1."""
    config = TrainingAidsConfig(transverse_steps=250, bottleneck_weight=0.05, bottleneck_steps=32_000)
    start, middle, end = (training_aids_at(step, config, 8) for step in (0, 16_000, 32_000))
    np.testing.assert_array_equal(start.copied, 1)
    np.testing.assert_allclose(middle.copied, [0] * 7 + [0.5])
    np.testing.assert_array_equal(end.copied, 0)
    np.testing.assert_allclose(training_aids_at(125, config, 8).copied[:2], [0.5, 0.75])
    ceilings = [float(aids.bottleneck_ceiling) for aids in (start, middle, end)]
    np.testing.assert_allclose(ceilings, [1000, 1000**0.5, 1], rtol=1e-4)
    np.testing.assert_array_equal(training_aids_at(0, TrainingAidsConfig(), 8).copied, 0)


def test_the_bottleneck_penalty_has_a_ceiling():
    """What SVI adds to the loss: the weight times the distance, or times the ceiling where that is less."""
    config = TrainingAidsConfig(bottleneck_weight=0.05, bottleneck_steps=100)
    recipe = recipe_from({"training_aids": {"bottleneck_weight": 0.05}, **_pyramid(1e2)})
    assert recipe.training_aids.bottleneck_weight == config.bottleneck_weight
    factors = jax.jit(partial(_factors, recipe, tiny_survey(3, SHAPE, awkward_psf(3))))
    for step, ceiling in ((0, 1000.0), (50, 1000**0.5), (100, 1.0)):
        terms = factors(training_aids_at(step, config, len(recipe.encoder.transverse_channels)))
        np.testing.assert_allclose(
            terms["bottleneck"], -0.05 * np.minimum(terms["distance"], ceiling), rtol=1e-4
        )


def _pyramid(scale: float) -> dict:
    import msgspec

    content = msgspec.to_builtins(pyramid_recipe(SHAPE))
    return {name: content[name] for name in ("shape", "covariance", "generator", "encoder")}


def _factors(recipe, observation, aids):
    """The bottleneck's factor in the trace of the model, and the distance that it penalises."""
    from numpyro.handlers import seed, substitute, trace

    model, guide = programs_of(recipe)
    handed = trace(seed(guide, jax.random.key(0)))
    features = handed(observation, aids)
    features = (*features[:-1], features[-1] * 20.0)
    z = handed.trace["z"]["value"]
    run = substitute(seed(model, jax.random.key(1)), data={"z": z})
    sites = trace(run).get_trace(observation, aids, features)
    params = {"params": sites["generator$params"]["value"]}
    left = z @ params["params"]["latents"]["kernel"] + params["params"]["latents"]["bias"][None]
    distance = jnp.mean((features[-1].reshape(len(left), -1) - left) ** 2, axis=-1)
    return {"bottleneck": sites["bottleneck"]["fn"].log_factor, "distance": distance}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"generator": {"depths": [8, 4]}},
            "generator: expected the channels of the encoder at each level, [4, 6, 8, 8]",
        ),
        ({"shape": [16, 20]}, "shape: expected multiples of 8 pixels, got (16, 20)"),
        (
            {"encoder": {"kind": "sersic_residual"}},
            "aids: expected none unless generator and encoder have transverse connections",
        ),
        (
            {"generator": {"depth": 3}},
            "unknown field `depth` - at `$.generator`; known there: latents, depths",
        ),
    ],
)
def test_networks_that_do_not_fit_are_named(change, message):
    import msgspec

    content = msgspec.to_builtins(pyramid_recipe(SHAPE))
    for name, value in change.items():
        fresh = name == "encoder"
        content[name] = (value if fresh else content[name] | value) if isinstance(value, dict) else value
    with pytest.raises(ValueError) as caught:
        recipe_from(content)
    assert message in str(caught.value)


def test_both_recipes_name_every_difference():
    """Each row of the table of differences between the paper and its code is an option that the two set apart."""
    paper, coded = (load_recipe(path) for path in PAPER)
    for part, names in {
        "objective": ("reduction", "kl_weight", "total_variation_weight", "noise", "blur"),
        "training": ("learning_rate", "parameter_scale"),
        "flow": ("fit_to", "permutations", "learning_rate", "conditions", "compared_at"),
        "training_aids": ("bottleneck_weight",),
    }.items():
        for name in names:
            assert getattr(getattr(paper, part), name) != getattr(getattr(coded, part), name), (part, name)
    assert (paper.generator, paper.encoder) == (coded.generator, coded.encoder)
    assert isinstance(paper, Recipe) and paper.shape == (128, 128) and paper.training.steps == 125_000
