"""Small models for the tests: a linear one, whose posterior is known in closed form, and a tiny network.

With a generator that is linear in the latents, profile = offset + z W, and Gaussian noise, everything is Gaussian. The
helpers here write the operators out as dense matrices, pixel by pixel, and solve with them.
"""

import copy
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from hiergal.measure.profile import ProfileSummary
from hiergal.model.architecture import encoder_of, generator_of
from hiergal.model.blank import blank_model
from hiergal.model.flow.density import ConditionalFlow
from hiergal.model.guide import output_count
from hiergal.model.provenance import Provenance
from hiergal.model.trained import GalaxyModel
from hiergal.observation import Observation
from hiergal.observation.independent import PixelNoise, WhiteNoise
from hiergal.observation.psf import PSF
from hiergal.observation.stationary import StationaryNoise
from hiergal.posterior import CHECKS, STATISTICS, Posterior
from hiergal.recipe.config import (
    EncoderConfig,
    FlowConfig,
    GeneratorConfig,
    ObjectiveConfig,
    PyramidEncoderConfig,
    PyramidGeneratorConfig,
    TrainingAidsConfig,
    TrainingConfig,
)
from hiergal.recipe.framed_config import FramedEncoderConfig, FramedGeneratorConfig
from hiergal.recipe.recipe import Recipe
from hiergal.runtime.pytree import record

SCALE = 0.03


class LinearGenerator(nn.Module):
    """Profiles that are affine in the latents."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self, z):
        pixels = self.shape[0] * self.shape[1]
        weights = self.param("weights", nn.initializers.normal(1.0), (z.shape[-1], pixels))
        offset = self.param("offset", nn.initializers.normal(1.0), (pixels,))
        profile = jnp.asarray(z) @ jnp.asarray(weights) + jnp.asarray(offset)[None]
        return profile.reshape(-1, *self.shape)


class TableEncoder(nn.Module):
    """An encoder that amortises nothing: the outputs of each galaxy are parameters."""

    outputs: int

    @nn.compact
    def __call__(self, observation):
        return self.param("outputs", nn.initializers.zeros, (len(observation), self.outputs))


class SilentEncoder(nn.Module):
    """An encoder without parameters, that says the same of every galaxy."""

    outputs: int

    @nn.compact
    def __call__(self, observation):
        return jnp.zeros((len(observation), self.outputs))


class LinearEncoder(nn.Module):
    """Posterior means linear in the image, and one covariance for all: exact where PSF and noise are shared."""

    latents: int
    outputs: int

    @nn.compact
    def __call__(self, observation):
        image = observation.image.reshape(len(observation), -1)
        mean = nn.Dense(self.latents, kernel_init=nn.initializers.zeros)(image)
        rest = self.param("rest", nn.initializers.zeros, (self.outputs - self.latents,))
        return jnp.concatenate([mean, jnp.broadcast_to(rest, (len(mean), *rest.shape))], axis=-1)


def linear_params(d: int, shape: tuple[int, int], *, seed: int = 5) -> dict:
    """Weights of a LinearGenerator: smooth, without symmetry, of a few times unit flux per pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / np.array(shape).reshape(2, 1, 1)
    waves = rng.normal(size=(d, 3))
    weights = [np.cos(2 * a * x + 3 * b * y + c) + 0.3 * rng.normal(size=shape) for a, b, c in waves]
    offset = 2 + x - 0.5 * y**2
    return {"weights": np.reshape(weights, (d, -1)), "offset": offset.ravel()}


def convolution_matrix(psf: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The matrix of the convolution with one PSF, written out pixel by pixel in C order."""
    ny, nx = shape
    py, px = psf.shape
    matrix = np.zeros((ny, nx, ny, nx))
    for y, x in np.ndindex(ny, nx):
        for v, u in np.ndindex(py, px):
            to_y, to_x = y + v - py // 2, x + u - px // 2
            if 0 <= to_y < ny and 0 <= to_x < nx:
                matrix[to_y, to_x, y, x] = psf[v, u]
    return matrix.reshape(ny * nx, ny * nx)


def covariance_matrix(noise, row: int, shape: tuple[int, int]) -> np.ndarray:
    """The covariance matrix of one galaxy's pixels, in C order."""
    ny, nx = shape
    match noise:
        case WhiteNoise():
            return np.diag(np.full(ny * nx, float(noise.sigma[row]) ** 2))
        case PixelNoise():
            return np.diag(np.asarray(noise.sigma[row], float).ravel() ** 2)
        case StationaryNoise():
            half = np.asarray(noise.power[row], float)
            power = np.empty(shape)
            for ky in range(ny):
                for kx in range(nx):
                    power[ky, kx] = half[ky, kx] if kx <= nx // 2 else half[-ky % ny, nx - kx]
            wave_y, wave_x = (np.outer(np.arange(s), np.arange(s)) * 2 * np.pi / s for s in shape)
            phase = wave_y[:, None, :, None] + wave_x[None, :, None, :]
            correlation = np.einsum("yxkl,kl->yx", np.cos(phase), power) / (ny * nx)
            y, x = np.divmod(np.arange(ny * nx), nx)
            return correlation[(y[:, None] - y) % ny, (x[:, None] - x) % nx]


class Exact(NamedTuple):
    """The exact answers for one galaxy of a linear model."""

    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float


def exact_posterior(observation: Observation, params: dict, row: int) -> Exact:
    """Condition the joint Gaussian of latents and image on the image, densely."""
    shape = observation.image.shape[1:]
    blur = convolution_matrix(np.asarray(observation.psf.stamp[row], float), shape)
    design = blur @ params["weights"].T
    noise = covariance_matrix(observation.noise, row, shape)
    x = np.asarray(observation.image[row], float).ravel() - blur @ params["offset"]
    if observation.mask is not None:
        kept = ~np.asarray(observation.mask[row]).ravel()
        x, design, noise = x[kept], design[kept], noise[np.ix_(kept, kept)]
    covariance = np.linalg.inv(np.eye(design.shape[1]) + design.T @ np.linalg.solve(noise, design))
    mean = covariance @ design.T @ np.linalg.solve(noise, x)
    total = noise + design @ design.T
    log_evidence = -0.5 * (x @ np.linalg.solve(total, x) + np.linalg.slogdet(2 * np.pi * total)[1])
    return Exact(mean, covariance, float(log_evidence))


def guide_outputs(mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """What an encoder has to put out for the guide to be this Gaussian (full covariance)."""
    factor = np.linalg.cholesky(covariance)
    scale = np.diag(factor)
    below = (factor / scale[:, None])[np.tril_indices(len(mean), -1)]
    return np.concatenate([mean, np.log(scale), below])


def tiny_recipe(shape: tuple[int, int] = (16, 24), **training) -> Recipe:
    """A recipe that trains in seconds."""
    return Recipe(
        name="tiny",
        shape=shape,
        pixel_scale_arcsec=SCALE,
        generator=GeneratorConfig(latents=8, channels=4, blocks=1, log_flux_mean=5.0, log_flux_spread=0.7),
        encoder=EncoderConfig(channels=4, blocks=1, templates=8, features=16),
        objective=ObjectiveConfig(free_bits=1.0),
        training=TrainingConfig(**{"steps": 40, "batch": 16, "evaluate_every": 10} | training),
        flow=FlowConfig(layers=2, hidden=16, steps=20, batch=32),
    )


def plain_recipe(shape: tuple[int, int]) -> Recipe:
    """The same without residual blocks, whose random weights make profiles rough; no file may ask for none."""
    recipe = tiny_recipe(shape)
    parts = {
        name: msgspec.structs.replace(getattr(recipe, name), blocks=0) for name in ("generator", "encoder")
    }
    return msgspec.structs.replace(recipe, **parts)


def pyramid_recipe(shape: tuple[int, int] = (16, 24), *, dropout: float = 0.1, **training) -> Recipe:
    """The paper's networks in small, with all their aids."""
    return Recipe(
        name="lanusse2020",
        shape=shape,
        pixel_scale_arcsec=SCALE,
        covariance="diagonal",
        generator=PyramidGeneratorConfig(latents=6, depths=(8, 6, 4), dropout=dropout, taper_pix=3),
        encoder=PyramidEncoderConfig(embedding=4, psf_embedding=2, depths=(6, 8, 8), dropout=dropout),
        objective=ObjectiveConfig(free_bits=1.0),
        training_aids=TrainingAidsConfig(
            transverse_steps=4, bottleneck_weight=0.05, bottleneck_steps=20, border_weight=0.01
        ),
        training=TrainingConfig(
            **{
                "steps": 40,
                "batch": 16,
                "evaluate_every": 10,
                "optimizer": "adafactor",
                "schedule": "rsqrt",
                "clip_norm": 1.0,
                "ema_decay": 0.9,
                "learning_rate": 3e-2,
            }
            | training
        ),
        flow=FlowConfig(layers=2, hidden=16, steps=20, batch=32),
    )


def tiny_model(recipe: Recipe | None = None, *, seed: int = 0, flow: bool = True) -> GalaxyModel:
    """An untrained model of a recipe: every array is there, and has random numbers in it."""
    recipe = tiny_recipe() if recipe is None else recipe
    ny, nx = recipe.shape
    psf = PSF(jnp.ones((1, 3, 3)) / 9, pixel_scale_arcsec=recipe.pixel_scale_arcsec)
    noise, nothing = WhiteNoise(jnp.ones(1)), jnp.zeros((1, ny, nx))
    example = Observation(nothing, psf, noise, None, {}, jnp.zeros(1, int), recipe.pixel_scale_arcsec)
    z = jnp.zeros((1, recipe.generator.latents))

    def build():
        key = jax.random.key(0)
        params = {
            "generator$params": generator_of(recipe).init(key, z)["params"],
            "encoder$params": encoder_of(recipe).init(key, example)["params"],
        }
        return params, ConditionalFlow.untrained(key, recipe.flow, z.shape[-1]).params

    params, weights = _fill(
        jax.eval_shape(build), seed
    )  # compiling the initialisers would take half a minute
    unit = [jnp.stack([jnp.zeros(k), jnp.ones(k)]) for k in (z.shape[-1], len(recipe.flow.conditions))]
    density = ConditionalFlow(weights, *unit, recipe.flow) if flow else None
    marginal = affine_flow(recipe, np.asarray(unit[0])) if flow else None
    provenance = Provenance(
        "toy", "F814W", "counts / s", 25.94, 64, seed, "0.1.0", {"mag_auto": (20.0, 25.0)}
    )
    return GalaxyModel(params, density, recipe, provenance, marginal)


def drawing_model(shape: tuple[int, int] = (32, 32), latents: int = 8) -> GalaxyModel:
    """An untrained model that draws small, smooth galaxies for ordinary conditions, with a population."""
    recipe = tiny_recipe(shape)
    generator = msgspec.structs.replace(recipe.generator, latents=latents)
    model = tiny_model(msgspec.structs.replace(recipe, generator=generator))
    rng = np.random.default_rng(3)
    magnitude = rng.uniform(20.5, 24.5, 500)
    radius = 9 - 1.5 * (magnitude - 22.5) + 1.5 * rng.normal(size=500)
    population = np.stack([magnitude, np.clip(radius, 3, 14), rng.uniform(0.1, 1.5, 500)], axis=-1)
    population = population.astype(np.float32)
    center = jnp.stack([population.mean(0), population.std(0)])
    weights = jax.tree.map(lambda leaf: 0.3 * leaf, model.flow.params)
    names = model.flow.config.conditions
    provenance = msgspec.structs.replace(
        model.provenance,
        condition_ranges={
            name: (float(column.min()), float(column.max()))
            for name, column in zip(names, population.T, strict=True)
        },
        condition_units={"mag_auto": "mag", "flux_radius": "0.03 arcsec pixels", "zphot": "1"},
        psf_fwhm_arcsec=0.1,
    )
    flow = model.flow.replace(params=weights, conditions_center=center)
    generator = msgspec.structs.replace(model.recipe.generator, log_flux_mean=3.0)
    recipe = msgspec.structs.replace(model.recipe, generator=generator)
    ellipse = model.params["generator$params"]["ellipse"]
    bias = jnp.array([0, 0, 0, -1.6, 0, 0, 0], ellipse["bias"].dtype)  # smaller than the stamp
    kernel = 0.3 * ellipse["kernel"]
    generator_params = model.params["generator$params"] | {"ellipse": {"bias": bias, "kernel": kernel}}
    params = model.params | {"generator$params": generator_params}
    return model.replace(
        params=params, flow=flow, recipe=recipe, provenance=provenance, population=jnp.asarray(population)
    )


def framed_model(shape: tuple[int, int] = (24, 24), *, seed: int = 0) -> GalaxyModel:
    """A model of the framed kind with uneven weights, whose light is a function on the plane.

    Its flow is near the identity, so that base variables are the latents, the first of them the flux.
    """
    generator = FramedGeneratorConfig(
        global_latents=8, cells=2, local_latents=1, features=8, channels=8, blocks=1,
        log_flux_mean=3.0, log_flux_spread=1.0,
    )  # fmt: skip
    recipe = Recipe(
        name="framed",
        shape=shape,
        pixel_scale_arcsec=SCALE,
        profile_fwhm_arcsec=0.0353,
        covariance=8,
        generator=generator,
        encoder=FramedEncoderConfig(channels=4, blocks=1, templates=8, features=8, cell_channels=4),
        flow=FlowConfig(layers=1, hidden=8, cell_layers=1, cell_blocks=1, cell_features=8),
    )
    provenance = Provenance("toy", "F814W", "counts / s", 25.94, 64, seed, "0.1.0", psf_fwhm_arcsec=0.1)
    template = jax.eval_shape(lambda: blank_model(recipe, provenance, ("flow",), population=64))
    rng = np.random.default_rng(seed)

    def uneven(leaf):
        return jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype)

    params = jax.tree.map(uneven, template.params)
    numbers = params["generator$params"]["numbers"]
    numbers["bias"] = numbers["bias"].at[-1].set(2.0)  # structure that is to be seen
    flow = template.flow.replace(
        params=jax.tree.map(lambda leaf: 0.05 * uneven(leaf), template.flow.params),
        center=np.stack([np.zeros(generator.latents), np.ones(generator.latents)]).astype(np.float32),
        conditions_center=np.array([[23, 8, 0.8], [1, 3, 0.4]], np.float32),
    )
    population = rng.uniform([21, 5, 0.2], [24, 12, 1.4], (64, 3)).astype(np.float32)
    return template.replace(params=params, flow=flow, population=population)


def _fill(template, seed: int):
    """Weights of the usual size in place of shapes; the ellipse starts as it does in earnest."""
    rng = np.random.default_rng(seed)

    def value(path, leaf):
        names = [getattr(part, "key", "") for part in path]
        if names[-1] == "bias":
            return jnp.zeros(leaf.shape, leaf.dtype)
        if names[-1] == "scale":
            return jnp.ones(leaf.shape, leaf.dtype)
        if "ellipse" in names:
            return jnp.eye(*leaf.shape, dtype=leaf.dtype)
        weights = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        return jnp.asarray(weights, leaf.dtype)

    return jax.tree_util.tree_map_with_path(value, template)


def tiny_survey(
    n: int, shape: tuple[int, int], psf: PSF, *, sigma: float = 0.5, seed: int = 7
) -> Observation:
    """Draw stamps of elliptical exponential galaxies, off centre, through asymmetric PSFs."""
    from hiergal.observation.psf import convolve

    rng = np.random.default_rng(seed)
    y, x = (axis[None] - (s - 1) / 2 for axis, s in zip(np.mgrid[: shape[0], : shape[1]], shape, strict=True))
    u, v, log_flux, log_radius, e1, e2 = rng.normal(size=(6, n, 1, 1)) * np.reshape(
        [1.0, 1.0, 0.7, 0.3, 0.3, 0.3], (6, 1, 1, 1)
    )
    dx, dy = x - u, y - v
    radius = np.sqrt(np.exp(e1) * dx**2 + np.exp(-e1) * dy**2 + e2 * dx * dy + 0.25) / (
        2.5 * np.exp(log_radius)
    )
    profile = np.exp(-radius)
    profile *= np.exp(5 + log_flux) / profile.sum(axis=(1, 2), keepdims=True)
    image = np.asarray(convolve(profile.astype(np.float32), psf)) + sigma * rng.normal(size=profile.shape)
    magnitude = (25.94 - 2.5 * np.log10(np.exp(5 + log_flux.ravel()))).astype(np.float32)
    catalog = {
        "mag_auto": magnitude,
        "flux_radius": (3 * np.exp(log_radius)).ravel().astype(np.float32),
        "zphot": rng.uniform(0.2, 1.5, n).astype(np.float32),
    }
    noise = WhiteNoise(np.full(n, sigma, np.float32))
    return Observation(image.astype(np.float32), psf, noise, None, catalog, np.arange(n), SCALE)


@record
class LinearModel(GalaxyModel):
    """A model with a linear generator, and a guide that says nothing."""

    @property
    def generator(self):
        return LinearGenerator(self.recipe.shape)

    @property
    def linear(self):
        """The parameters of its generator."""
        return self.params["generator$params"]

    @property
    def encoder(self):
        return SilentEncoder(output_count(self.recipe.generator.latents, "full"))


def linear_model(shape: tuple[int, int] = (8, 16)) -> LinearModel:
    """A linear model of eight latents: its posterior is known, and every sampler can be put to it."""
    recipe = tiny_recipe(shape)
    params = linear_params(recipe.generator.latents, shape)
    params["weights"] = params["weights"] * np.geomspace(0.02, 1.0, 8)[:, None]  # some that data hardly see
    params = {"generator$params": params, "encoder$params": {}}
    return LinearModel(params, None, recipe, Provenance("toy", "F814W", "counts / s", 25.94, 64, 0, "0.1.0"))


def bare_posterior(latents: np.ndarray, observation: Observation, **changes) -> Posterior:
    """A posterior of which only the draws of the latents [s, n, d] mean something."""
    s, n, _ = latents.shape
    one, image = np.ones(n, np.float32), np.ones(observation.image.shape, np.float32)
    summary = ProfileSummary(*(np.ones((s, n), np.float32) for _ in range(6)))
    posterior = Posterior(
        latents=np.asarray(latents, np.float32), summary=summary,
        profile_mean=image, profile_std=image, image_mean=image,
        chi_square=one, misfit=one, variance_factor=one,
        method=np.zeros(n, int), statistics={}, identifier=observation.identifier,
    )  # fmt: skip
    return posterior.replace(**changes)


def full_posterior(observation: Observation, draws: int, d: int = 8, *, seed: int = 6) -> Posterior:
    """A posterior with a random number of the right kind in every place, as from ``laplace``; nothing is flagged."""
    rng, n = np.random.default_rng(seed), len(observation)

    def positive(*shape):
        return rng.uniform(0.5, 2.0, shape).astype(np.float32)

    image = observation.image.shape
    return bare_posterior(
        rng.normal(size=(draws, n, d)), observation,
        summary=ProfileSummary(*(positive(draws, n) for _ in range(6))),
        profile_mean=positive(*image), profile_std=positive(*image), image_mean=positive(*image),
        chi_square=positive(n), misfit=positive(n), variance_factor=positive(n),
        statistics=dict.fromkeys(STATISTICS, np.full(n, np.nan, np.float32)),
        checks={name: positive(n) for name in CHECKS}, flag=np.zeros(n, np.int32),
        diverging=np.zeros((draws, n), bool),
    )  # fmt: skip


def exact_draws(observation: Observation, params: dict, draws: int, *, seed: int = 3) -> np.ndarray:
    """Draws [s, n, d] of the exact posteriors of a linear model."""
    rng = np.random.default_rng(seed)
    exact = [exact_posterior(observation, params, i) for i in range(len(observation))]
    return np.stack([rng.multivariate_normal(e.mean, e.covariance, draws) for e in exact], axis=1)


def affine_flow(recipe: Recipe, center: np.ndarray, conditions: int = 0) -> ConditionalFlow:
    """A flow that shifts and scales, and no more: a Gaussian density of mean and standard deviation [2, d]."""
    config = msgspec.structs.replace(recipe.flow, conditions=tuple("abcdefghijklmnopqrstuvwxyz"[:conditions]))
    d = center.shape[-1]
    template = jax.eval_shape(lambda: ConditionalFlow.untrained(jax.random.key(0), config, d))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), template.params)
    unit = jnp.stack([jnp.zeros(conditions), jnp.ones(conditions)])
    return ConditionalFlow(params, jnp.asarray(center), unit, config)


NOISE_KINDS = ["white", "pixel", "stationary"]


def scaled(noise, factor):
    """The same noise when the unit of flux is divided by a factor."""
    match noise:
        case StationaryNoise():
            return noise.replace(power=noise.power * factor**2)
        case _:
            return noise.replace(sigma=noise.sigma * factor)


def double(noise):
    """The same noise in float64."""
    return jax.tree.map(lambda leaf: leaf.astype(float), noise)


def broken(record, **changes):
    """A copy with some fields changed, past the shape checks of the tests, which users do not have."""
    twin = copy.copy(record)
    for name, value in changes.items():
        object.__setattr__(twin, name, value)
    return twin


def with_value(array, index, value):
    """A copy of an array with some elements replaced."""
    array = np.array(array)
    array[index] = value
    return array
