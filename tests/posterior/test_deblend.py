"""Deblending: sources at their places, and joint posteriors that are exact where that is known."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from conftest import awkward_psf
from toys import (
    SCALE,
    LinearModel,
    convolution_matrix,
    covariance_matrix,
    linear_model,
    tiny_model,
    tiny_recipe,
    tiny_survey,
)

from hiergal.measure.profile import summarize_profile
from hiergal.model.sources import render_sources
from hiergal.observation import Observation
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.psf import PSF, convolve, gaussian_psf
from hiergal.posterior.samplers.target import LatentPosterior
from hiergal.posterior.scenes.deblend import deblend
from hiergal.posterior.scenes.start import start_of
from hiergal.runtime.pytree import record

MODEL, D = (8, 16), 8
POSITIONS = np.array([[[-3.0, 1.0], [4.0, -2.0]], [[0.0, 0.0], [5.0, 3.0]]], np.float32)


def scene(make_psf, make_noise, kind="white", shape=(14, 26), masked=False, position_error_pix=0.0):
    """Two scenes of two sources of the linear model, and the vectors that they were made from."""
    model, psf, noise = linear_model(MODEL), make_psf(2, (5, 3)), make_noise(kind, 2, shape)
    psf = psf.replace(stamp=jnp.asarray(psf.stamp, float))
    noise = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), noise)
    mask = np.random.default_rng(8).uniform(size=(2, *shape)) < 0.15 if masked else None
    empty = Observation(np.zeros((2, *shape)), psf, noise, mask, {}, np.arange(2), SCALE)
    prior = model.latent_flow().expand((2, 2))
    density = LatentPosterior(model, empty, prior, jnp.ones(2), POSITIONS, position_error_pix)
    size = 2 * D + (4 if position_error_pix else 0)
    t = jax.random.normal(jax.random.key(4), (2, size), float)
    image = density.sources(t).sum(1) + noise.sample(jax.random.key(5), (2, *shape))
    image = np.asarray(image if mask is None else np.where(mask, np.nan, image))
    return density.replace(observation=empty.replace(image=image)), t


def exact(density, row):
    """Mean and covariance of the latents of both sources, with dense matrices; whole-pixel places."""
    params, (ny, nx), shape = density.model.linear, MODEL, density.observation.image.shape[1:]
    sy, sx = shape
    room = (sy + 4 * ny, sx + 4 * nx)  # profiles may reach out of the scene
    blur = convolution_matrix(np.asarray(density.observation.psf.stamp[row], float), room)
    inside = np.zeros(room, bool)
    inside[2 * ny : 2 * ny + sy, 2 * nx : 2 * nx + sx] = True
    seen = blur[inside.ravel()]
    design, offset = [], 0.0
    for x, y in POSITIONS[row].astype(int):
        first = 2 * ny + (sy - ny) // 2 + y, 2 * nx + (sx - nx) // 2 + x
        place = np.zeros(room, bool)
        place[first[0] : first[0] + ny, first[1] : first[1] + nx] = True
        design.append(seen[:, place.ravel()] @ np.asarray(params["weights"], float).T)
        offset = offset + seen[:, place.ravel()] @ np.asarray(params["offset"], float)
    design = np.concatenate(design, axis=1)
    noise = covariance_matrix(density.observation.noise, row, shape)
    x = np.asarray(density.observation.image[row], float).ravel() - offset
    if density.observation.mask is not None:
        kept = ~density.observation.mask[row].ravel()
        design, noise, x = design[kept], noise[np.ix_(kept, kept)], x[kept]
    covariance = np.linalg.inv(np.eye(2 * D) + design.T @ np.linalg.solve(noise, design))
    return covariance @ design.T @ np.linalg.solve(noise, x), covariance


@pytest.mark.parametrize(("kind", "masked"), [("white", False), ("pixel", True), ("stationary", True)])
def test_two_linear_sources_have_their_closed_form_posterior(x64, make_psf, make_noise, kind, masked):
    """Means within four standard errors of 400 draws, covariances within a quarter of the widths."""
    density, _ = scene(make_psf, make_noise, kind, masked=masked)
    found = deblend(density.model, density.observation, POSITIONS, key=jax.random.key(1), draws=400, batch=2)
    latents = found.latents.reshape(400, 2, 2 * D)
    factor = np.where(found.misfit > 1.5, np.nan, 1.0)
    assert np.isfinite(factor).all(), "misfit of a model that is right"
    for row in range(2):
        mean, covariance = exact(density, row)
        width = np.sqrt(np.diag(covariance))
        z = (latents[:, row] - mean) / width
        assert np.abs(z.mean(axis=0)).max() < 4 / np.sqrt(400)
        correlation = covariance / np.outer(width, width)
        assert np.abs(np.cov(z.T) - correlation).max() < 5 / np.sqrt(400)
    assert found.profile_mean.shape == (2, 2, *MODEL) and found.image_mean.shape == (2, 2, 14, 26)
    np.testing.assert_allclose(found.chi_square, 1, atol=0.35)
    assert np.all(found.positions == POSITIONS)


def test_sources_are_moved_by_parts_of_a_pixel(x64):
    """Flux stays, the centroid is where it was asked for, on scenes and profiles that are not square."""
    y, x = np.mgrid[:15, :21] - np.array([7, 10]).reshape(2, 1, 1)
    profile = np.exp(-0.5 * (x**2 / 4 + y**2 / 2))[None, None]
    at = jnp.array([[[3.3, -2.7]]])
    psf = gaussian_psf(3 * SCALE, SCALE)
    image = render_sources(jnp.asarray(profile), at, psf.replace(stamp=psf.stamp.astype(float)), (41, 54))[
        0, 0
    ]
    summary = summarize_profile(image[None], SCALE)
    np.testing.assert_allclose(summary.flux[0], profile.sum(), rtol=1e-5)
    np.testing.assert_allclose([summary.x_pix[0], summary.y_pix[0]], at[0, 0], atol=1e-4)


def test_at_the_centre_it_is_the_convolution(rng, make_psf):
    profile, psf = rng.uniform(size=(3, 12, 17)).astype(np.float32), make_psf(3)
    found = render_sources(jnp.asarray(profile)[:, None], jnp.zeros((3, 1, 2)), psf, (12, 17))
    np.testing.assert_allclose(found[:, 0], convolve(profile, psf), atol=2e-5)


def test_light_that_leaves_the_scene_does_not_come_back(make_psf):
    profile = jnp.ones((1, 1, 8, 8))
    image = render_sources(profile, jnp.array([[[7.0, 0.0]]]), make_psf(1), (16, 16))[0, 0]
    assert float(jnp.abs(image[:, :4]).max()) < 1e-3 * float(image.max())


@pytest.fixture(scope="module")
def crowded():
    """Networks, and scenes of two galaxies that such networks cannot mistake, since each is far from the other."""
    model = tiny_model(tiny_recipe((16, 24)))
    galaxies = tiny_survey(6, (16, 24), awkward_psf(6))
    canvas = np.zeros((3, 24, 50), np.float32)
    canvas[:, 4:20, :24] += galaxies.image[:3]
    canvas[:, 4:20, 26:] += galaxies.image[3:]
    psf = galaxies.psf.replace(stamp=galaxies.psf.stamp[:3])
    scenes = Observation(canvas, psf, WhiteNoise(np.full(3, 0.5, np.float32)), None, {}, np.arange(3), SCALE)
    return model, scenes, np.tile(np.array([[-13.0, 0.0], [13.0, 0.0]], np.float32), (3, 1, 1))


@record
class RegressingModel(LinearModel):
    """A linear model whose guide knows its business, but for the PSF: least squares with the prior's penalty."""

    def encode(self, observation):
        n, d = len(observation), self.recipe.generator.latents
        weights = jnp.asarray(self.linear["weights"])
        light = (
            jnp.where(observation.mask, 0.0, observation.image).reshape(n, -1) - self.linear["offset"][None]
        )
        mean = jnp.linalg.solve(weights @ weights.T + jnp.eye(d), weights @ light.T).T
        return jnp.concatenate([mean, super().encode(observation)[:, d:]], axis=-1)


def away(density, t):
    """Twice the negative log-posterior of each scene, but for a constant."""
    return np.sum(np.asarray(density.residual(t)) ** 2, -1) + np.sum(np.asarray(density.base(t)) ** 2, -1)


def test_each_source_starts_on_its_own_surroundings(make_psf, make_noise):
    """Sources beside each other, of which the guide sees one at a time, start near the truth."""
    density, t = scene(make_psf, make_noise, shape=(14, 40))
    model = RegressingModel(*(getattr(density.model, field.name) for field in fields(density.model)))
    density = density.replace(model=model, positions=np.float32([[[-9, 1], [8, 0]], [[-8, -1], [9, 2]]]))
    noise = density.observation.noise.sample(jax.random.key(6), (2, 14, 40))
    image = np.asarray(density.sources(t).sum(1) + noise)
    density = density.replace(observation=density.observation.replace(image=image))
    truth, nothing = away(density, t), away(density, jnp.zeros_like(t))
    assert np.all(away(density, start_of(density)) - truth < 0.1 * (nothing - truth))


@pytest.mark.slow
def test_the_search_starts_no_worse_than_from_nothing(crowded):
    """Whatever a guide says: this one has not been trained."""
    model, scenes, positions = crowded
    density = LatentPosterior(model, scenes, model.latent_flow().expand((3, 2)), jnp.ones(3), positions)
    t = jax.jit(start_of)(density)
    assert t.shape == (3, 16) and np.all(np.isfinite(t))
    assert np.all(away(density, t) <= away(density, jnp.zeros_like(t)))


@pytest.mark.slow
def test_uncertain_positions_are_found(crowded):
    """Draws of the positions scatter by no more than the prior, and batches do not matter."""
    model, scenes, positions = crowded
    scenes = scenes.replace(identifier=2**40 + np.arange(3))
    found = deblend(
        model, scenes, positions, key=jax.random.key(1), position_error_pix=0.5, draws=20, batch=2
    )
    np.testing.assert_array_equal(found.identifier, 2**40 + np.arange(3))
    assert found.positions.shape == (20, 3, 2, 2) and found.latents.shape == (20, 3, 2, 8)
    assert np.all(np.isfinite(found.summary.flux)) and np.all(found.positions.std(axis=0) < 1.0)
    assert found.positions.std(axis=0).max() > 0.01
    first = deblend(
        model, scenes[:1], positions[:1], key=jax.random.key(1), position_error_pix=0.5, draws=20, batch=2
    )
    np.testing.assert_allclose(first.summary.flux, found.summary.flux[:, :1], rtol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((3, 2, 3))}, r"expected shape \[3, k, 2\]"),
        ({"positions": np.full((3, 2, 2), np.nan)}, "leave such sources out"),
        ({"positions": np.array([[[40.0, 0.0], [0.0, 0.0]]] * 3)}, "inside the scenes of 24 x 50 pixels"),
        ({"positions": np.zeros((3, 2, 2))}, "at least 0.5 pixels apart, got closer ones in 3 of 3"),
        ({"method": "magic"}, "expected curved or laplace"),
        ({"position_error_pix": -1.0}, "expected zero or more, and finite, got -1"),
        ({"position_error_pix": np.inf}, "expected zero or more, and finite, got inf"),
        ({"conditions": np.zeros((2, 3, 1))}, r"conditions: expected shape \[3, 2, c\], .*, got \(2, 3, 1\)"),
        ({"draws": 0}, "draws: expected at least 1, got 0"),
        ({"batch": 0}, "batch: expected at least 1, got 0"),
    ],
)
def test_wrong_requests_are_refused(crowded, change, message):
    model, scenes, positions = crowded
    arguments = {"positions": positions} | change
    with pytest.raises(ValueError, match=message):
        deblend(model, scenes, key=jax.random.key(1), **arguments)


def test_models_that_ignore_where_psfs_are_centred_are_refused(crowded):
    model, scenes, positions = crowded
    objective = msgspec.structs.replace(model.recipe.objective, blur="modulus")
    model = model.replace(recipe=msgspec.structs.replace(model.recipe, objective=objective))
    with pytest.raises(ValueError, match="objective.blur.*'exact'.*got 'modulus'"):
        deblend(model, scenes, positions, key=jax.random.key(1))


def test_point_psfs_and_one_source_are_the_whole_model(make_psf):
    """One source at the centre of a stamp: the images are those of the model without scenes."""
    model = linear_model(MODEL)
    z = jax.random.normal(jax.random.key(3), (1, D))
    psf = PSF(np.ones((1, 1, 1), np.float32), pixel_scale_arcsec=SCALE)
    image = model.render(model.decode(z), psf)
    found = render_sources(model.decode(z)[:, None], jnp.zeros((1, 1, 2)), psf, MODEL)[:, 0]
    np.testing.assert_allclose(found, image, atol=1e-4)
