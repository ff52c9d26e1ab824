"""The networks and the step that the benchmarks compare with are ours, number by number."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import pytest
from conftest import awkward_noise, awkward_psf
from numpyro.handlers import seed, substitute, trace
from places import ROOT
from toys import pyramid_recipe, tiny_model, tiny_recipe, tiny_survey

from hiergal.model.architecture import encoder_of, generator_of, programs_of
from hiergal.model.nets.training_aids import training_aids_at
from hiergal.training.svi import _objective, _optimizer

torch = pytest.importorskip("torch", reason="the other side of the benchmarks")
sys.path.insert(0, str(ROOT / "benchmarks"))
from torch_step import TorchStep, stamps_from  # noqa: E402
from torch_twin import parameter_count  # noqa: E402

SHAPE, GALAXIES, POPULATION, STEP = (16, 24), 5, 20, 3
KINDS = pytest.mark.parametrize("kind", ["sersic_residual", "lanusse2020"])


def changed(record, **tables):
    """A recipe with some values of some of its tables changed."""
    new = {name: msgspec.structs.replace(getattr(record, name), **values) for name, values in tables.items()}
    return msgspec.structs.replace(record, **new)


RECIPES = {
    "sersic_residual": changed(
        tiny_recipe(SHAPE, steps=10),
        generator={"blocks": 1},
        encoder={"blocks": 1},
    ),
    # Neither dropout nor copied maps: nothing is random but the draw.
    "lanusse2020": changed(
        pyramid_recipe(SHAPE, dropout=0.0, ema_decay=0.0),
        training_aids={"transverse_steps": 0},
        objective={"misfit_as_noise": False, "noise": "pixel", "reduction": "mean"},
    ),
}


@pytest.fixture(scope="module")
def galaxies():
    """Galaxies with correlated noise on stamps that are not square, through asymmetric PSFs."""
    galaxies = tiny_survey(GALAXIES, SHAPE, awkward_psf(GALAXIES))
    return galaxies.replace(noise=awkward_noise("stationary", GALAXIES, SHAPE))


def weights_of(recipe):
    """Random weights, none of them zero, by NumPyro's site names."""
    rng = np.random.default_rng(4)
    params = tiny_model(recipe, flow=False).params
    return jax.tree.map(lambda w: w + 0.05 * rng.normal(size=w.shape).astype(np.float32), params)


WEIGHTS = {kind: weights_of(recipe) for kind, recipe in RECIPES.items()}


def twin_of(kind: str, params, **options) -> TorchStep:
    """The step in PyTorch with our weights."""
    twin = TorchStep(RECIPES[kind], POPULATION, **options)
    twin.copy(params)
    return twin


@KINDS
def test_networks_are_ours(kind, galaxies):
    recipe, params = RECIPES[kind], WEIGHTS[kind]
    encoder, generator = encoder_of(recipe), generator_of(recipe)
    z = jax.random.normal(jax.random.key(2), (GALAXIES, recipe.generator.latents))
    ours = jax.jit(
        lambda params: {
            "encoder": encoder.apply({"params": params["encoder$params"]}, galaxies),
            "generator": generator.apply({"params": params["generator$params"]}, z),
        }
    )(params)
    stamps, level = stamps_from(galaxies), torch.tensor(np.asarray(galaxies.noise.rms()))
    for channels_last in (True, False):
        twin = twin_of(kind, params, channels_last=channels_last)
        with torch.no_grad():
            theirs = {
                "encoder": twin.encoder.eval()(stamps.image, stamps.psf, level),
                "generator": twin.generator(torch.tensor(np.asarray(z))),
            }
        for name, found in theirs.items():
            count = sum(leaf.size for leaf in jax.tree.leaves(params[f"{name}$params"]))
            assert parameter_count(getattr(twin, name)) == count
            expected = np.asarray(ours[name])
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@KINDS
def test_loss_and_gradient_are_ours(kind, galaxies):
    recipe, params = RECIPES[kind], WEIGHTS[kind]
    programs, key = programs_of(recipe, POPULATION, training=True), jax.random.key(3)
    aids = (
        (training_aids_at(STEP, recipe.training_aids, len(recipe.encoder.transverse_channels)),)
        if recipe.has_transverse_connections
        else ()
    )

    @jax.jit
    def ours(params):
        of = jax.value_and_grad(lambda w: _objective(recipe).loss(key, w, *programs, galaxies, *aids))
        guide = substitute(seed(programs.guide, jax.random.split(key)[1]), data=params)
        site = trace(guide).get_trace(galaxies, *aids)["z"]
        offset, q = site["value"] - site["fn"].mean, site["fn"]
        if recipe.covariance == "diagonal":
            unit = offset / jnp.sqrt(q.variance)
        else:
            unit = jax.scipy.linalg.solve_triangular(q.scale_tril, offset[..., None], lower=True)[..., 0]
        return *of(params), unit

    loss, gradient, unit = ours(params)
    for channels_last in (True, False):
        twin = twin_of(kind, params, channels_last=channels_last)
        found = twin.loss(stamps_from(galaxies), STEP, torch.tensor(np.asarray(unit)))
        assert found.item() == pytest.approx(float(loss), rel=1e-4)
        found.backward()
        for expected, own in zip(twin_of(kind, gradient).parameters, twin.parameters, strict=True):
            scale = expected.abs().max().item()
            assert scale > 0
            torch.testing.assert_close(own.grad, expected.detach(), rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize(
    ("kind", "parameter_scale"), [("sersic_residual", True), ("lanusse2020", True), ("lanusse2020", False)]
)
def test_the_optimiser_is_ours(kind, parameter_scale, monkeypatch):
    monkeypatch.setattr("torch_step.FACTORED", 6)  # or nothing so small would be factored
    monkeypatch.setattr(optax, "adafactor", partial(optax.adafactor, min_dim_size_to_factor=6))
    params = WEIGHTS[kind]
    recipe = changed(RECIPES[kind], training={"parameter_scale": parameter_scale})
    twin = TorchStep(recipe, POPULATION)
    twin.copy(params)
    optimizer = _optimizer(recipe.training, POPULATION)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for number in range(3):
        gradient = jax.tree.map(lambda w, n=number: 1e3 * np.cos(n + 30 * np.asarray(w)), params)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        scale = POPULATION if recipe.training.clip_norm else 1
        for theirs, own in zip(twin_of(kind, gradient).parameters, twin.parameters, strict=True):
            own.grad = theirs.detach() / scale
        twin.descend(number)
    for expected, own in zip(twin_of(kind, params).parameters, twin.parameters, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)
