"""Parametric twins: the best single Sersic profile, or bulge and disc, of each observed galaxy.

The yardstick of Lanusse et al. (2020, Sec. 4.4): what simulations drew before generative models. Fitted to the stamp
with the galaxy's own PSF and noise by damped Gauss-Newton steps, a batch at once
(:func:`hiergal.runtime.least_squares.levenberg_marquardt`): parameters are latents with wide normal priors, so the fit
is that of least squares unless the data say nothing. A bulge has index 4, a disc index 1 (as in the COSMOS fits,
Mandelbaum et al. 2012); which of the two models is better says the Bayesian information criterion.

Profiles are as the generator's: on the pixels of the stamp, without the PSF, surface brightness at the centre of a
pixel times its area.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from astropy.table import Table
from jaxtyping import Float

from hiergal.measure.moments import measure_moments
from hiergal.measure.sersic import sersic_profile
from hiergal.observation.observation import Observation
from hiergal.observation.psf import convolve
from hiergal.runtime.least_squares import levenberg_marquardt
from hiergal.runtime.pytree import Array, brief
from hiergal.runtime.workers import in_order

__all__ = ["ParametricTwins", "fit_parametric"]

STEPS = 32
GALAXIES_PER_CALL = (
    8  # galaxies in one call: few are left for the later rounds, and the work of few stays in the cache
)
ROUND = 4  # steps after which galaxies that are done are left out
GALAXIES_PER_TASK = 16 * GALAXIES_PER_CALL  # galaxies whose rounds are taken together, by one thread
CONVERGED = 0.5  # chi-square that a round may still gain
MISFIT = 0.2  # part of the light that the best single profile may get wrong
INDEX = (0.3, 6.0)
LARGEST_G = 0.95
PSF_SIGMA_PIX = 1.5  # of HST's; only for where the fit starts
HLR_PER_SIGMA = 1.18
KINDS: dict[str, int] = {"sersic": 7, "bulge_disc": 10}  # numbers of parameters

COLUMNS = (
    *("kind", "flux", "hlr_arcsec", "sersic_index", "g1", "g2", "x_pix", "y_pix"),
    *("bulge_fraction", "bulge_hlr_arcsec", "chi_square", "flag"),
)


class ParametricTwins(NamedTuple):
    """Fits of a set of galaxies.

    Attributes:
        profile: Unconvolved profiles of the better model [flux per pixel], [n, y, x].
        table: One row for each galaxy: ``kind`` (``sersic`` or ``bulge_disc``), ``flux``, ``hlr_arcsec`` (of the disc
            where there is one), ``sersic_index``, ``g1``, ``g2``, ``x_pix``, ``y_pix`` (from the stamp's centre),
            ``bulge_fraction``, ``bulge_hlr_arcsec``, ``chi_square`` (per pixel) and ``flag`` (1 where nothing could be
            fitted).
    """

    profile: Float[Array, "n y x"]
    table: Table

    __repr__ = brief


def fit_parametric(
    observation: Observation,
    *,
    kinds: tuple[Literal["sersic", "bulge_disc"], ...] = ("sersic", "bulge_disc"),
    steps: int = STEPS,
    workers: int | None = 1,
    on_progress: Callable[[int], None] | None = None,
) -> ParametricTwins:
    """Fit parametric profiles to observed galaxies, and keep the better model of each.

    Args:
        observation: Galaxies with PSFs and noise.
        kinds: Models to try.
        steps: Gauss-Newton steps at most, in rounds of four.
        workers: Number of threads, or None for one per available core; a few hundred galaxies need one.
        on_progress: Called with the number of galaxies done since the last call.

    Raises:
        ValueError: If a kind is unknown, or none is given.

    Example:
        >>> from hiergal.survey.mock.galaxies import draw_mock
        >>> twins = fit_parametric(draw_mock(2, seed=1, stamp=48).observation, steps=8)
        >>> twins.profile.shape, twins.table.colnames[:2]
        ((2, 48, 48), ['kind', 'flux'])
    """
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, got {kinds!r}")
    observation = observation.bare()
    starts, bad = _starts(observation)
    chunks = np.array_split(np.arange(len(observation)), -(-len(observation) // GALAXIES_PER_TASK))
    tasks, found = [(kinds, steps, observation[rows], starts[rows]) for rows in chunks], []
    # Threads, as it is JAX that works: they share its compiled programs.
    for fits in in_order(_fit_chunk, tasks, workers=workers, threads=True):
        found.append(fits)
        if on_progress is not None:
            on_progress(len(fits[0]["flux"]))
    merged = [
        {name: np.concatenate([part[name] for part in several]) for name in several[0]}
        for several in zip(*found, strict=True)
    ]
    pixels = np.prod(observation.image.shape[1:])
    criterion = np.stack(
        [fit["chi_square"] + KINDS[kind] * np.log(pixels) for kind, fit in zip(kinds, merged, strict=True)]
    )
    better = np.argmin(np.where(np.isfinite(criterion), criterion, np.inf), axis=0)
    chosen = {
        name: np.choose(better.reshape(-1, *[1] * (merged[0][name].ndim - 1)), [fit[name] for fit in merged])
        for name in merged[0]
    }
    profile, scale = chosen.pop("profile"), observation.pixel_scale_arcsec
    table = Table({"kind": np.array(kinds)[better]} | chosen)
    for name in ("hlr", "bulge_hlr"):
        table.rename_column(f"{name}_pix", f"{name}_arcsec")
        table[f"{name}_arcsec"] = scale * table[f"{name}_arcsec"]
        table[f"{name}_arcsec"].unit = "arcsec"
    table["chi_square"] /= pixels
    finite = np.isfinite(profile).all(axis=(1, 2))
    table["flag"] = (bad | ~finite).astype(int)
    table = table[list(COLUMNS)]
    return ParametricTwins(np.where(finite[:, None, None], profile, 0.0), table)


def _fit_chunk(
    kinds: tuple[str, ...], steps: int, observation: Observation, starts: np.ndarray
) -> list[dict[str, np.ndarray]]:
    """Fit each model to some galaxies; a second one only where the data can tell it from the first."""
    first = _fit_in_rounds(kinds[0], steps, observation, starts)
    fits = [first]
    for kind in kinds[1:]:
        # It would have to gain more than this, and can gain no more than the first gets wrong.
        asked = (KINDS[kind] - KINDS[kinds[0]]) * np.log(np.prod(observation.image.shape[1:]))
        rows = np.flatnonzero(~(MISFIT**2 * first["signal"] < asked))
        fit = {name: np.full_like(values, np.nan) for name, values in first.items()}
        if len(rows):
            for name, values in _fit_in_rounds(kind, steps, observation, starts, rows).items():
                fit[name][rows] = values
        fits.append(fit)
    return fits


def _fit_in_rounds(
    kind: str, steps: int, observation: Observation, starts: np.ndarray, rows: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Fit one model, a batch at a time, in rounds of which the later are for those galaxies that need them."""
    rows = np.arange(len(observation)) if rows is None else rows
    n, size = len(rows), min(GALAXIES_PER_CALL, len(observation))
    z, chi_square = np.zeros((n, KINDS[kind]), starts.dtype), np.full(n, np.inf)
    todo, fits = np.arange(n), {}
    for done in range(0, steps, ROUND):
        before = chi_square[todo]
        for first in range(0, len(todo), size):
            here = todo[first : first + size]
            padded = np.resize(here, size)  # one shape, one program
            chosen = rows[padded]
            part = jax.tree.map(jnp.asarray, observation[chosen])
            found = _fit(kind, min(ROUND, steps - done), part, starts[chosen], z[padded])
            for name, values in found.items():
                values = np.asarray(values)[: len(here)]
                fits.setdefault(name, np.empty((n, *values.shape[1:]), values.dtype))[here] = values
            z[here], chi_square[here] = fits["z"][here], fits["chi_square"][here]
        todo = todo[before - chi_square[todo] > CONVERGED]
        if not len(todo):
            break
    del fits["z"]
    return fits


def _starts(observation: Observation) -> tuple[np.ndarray, np.ndarray]:
    """Flux, half-light radius, ellipticity and centre to start from, from adaptive moments; and where those failed."""
    images = np.asarray(observation.image, float)
    if observation.mask is not None:
        images = np.where(observation.mask, 0.0, images)
    moments = measure_moments(images, pixel_scale_arcsec=1.0)
    bad = np.asarray(moments["flag"] != 0)
    level = np.maximum(np.asarray(observation.noise.rms(), float), 1e-12) * np.ones(len(images))
    sigma = np.where(bad, 4.0, moments["sigma"])
    hlr = HLR_PER_SIGMA * np.sqrt(np.maximum(sigma**2 - PSF_SIGMA_PIX**2, 0.5))
    flux = np.where(bad, images.sum(axis=(1, 2)), 1.2 * moments["amplitude"])
    g1, g2 = (np.where(bad, 0.0, np.clip(moments[name], -0.6, 0.6)) for name in ("g1", "g2"))
    return np.stack([np.maximum(flux, 5 * level), hlr, g1, g2], axis=1).astype(np.float32), bad


def _model(
    kind: str, shape: tuple[int, int], start: jax.Array, z: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Profiles and their parameters; z = 0 is where the fit starts, and unit variance covers what galaxies are."""
    flux0, hlr0, g1, g2 = start.T
    flux = flux0 * jnp.exp(0.7 * z[:, 0])
    x, y = 3.0 * z[:, 1], 3.0 * z[:, 2]
    draw = partial(sersic_profile, shape)

    def shear(a, b):
        """Any two numbers to an ellipticity below the largest."""
        u, v = 2 * jnp.arctanh(g1 / LARGEST_G) + a, 2 * jnp.arctanh(g2 / LARGEST_G) + b
        length = jnp.sqrt(u**2 + v**2 + 1e-12)
        return LARGEST_G * jnp.tanh(length / 2) * u / length, LARGEST_G * jnp.tanh(length / 2) * v / length

    hlr = hlr0 * jnp.exp(0.8 * z[:, 3])
    shape_1 = shear(z[:, 4], z[:, 5])
    nothing = jnp.zeros_like(flux)
    if kind == "sersic":
        low, high = (jnp.log(v) for v in INDEX)
        index = jnp.exp(low + (high - low) * jax.nn.sigmoid(1.5 * z[:, 6] - 0.3))
        profile, fraction, bulge_hlr = draw(flux, hlr, index, *shape_1, x, y), nothing, nothing
    else:
        index, four = jnp.ones_like(flux), jnp.full_like(flux, 4.0)
        fraction, bulge_hlr = jax.nn.sigmoid(1.5 * z[:, 6] - 1.0), 0.7 * hlr0 * jnp.exp(0.8 * z[:, 7])
        disc = draw((1 - fraction) * flux, hlr, index, *shape_1, x, y)
        profile = disc + draw(fraction * flux, bulge_hlr, four, *shear(z[:, 8], z[:, 9]), x, y)
    return profile, {
        "flux": flux, "hlr_pix": hlr, "sersic_index": index, "g1": shape_1[0], "g2": shape_1[1], "x_pix": x, "y_pix": y,
        "bulge_fraction": fraction, "bulge_hlr_pix": bulge_hlr,
    }  # fmt: skip


@partial(jax.jit, static_argnums=(0, 1))
def _fit(
    kind: str, steps: int, observation: Observation, start: jax.Array, z: jax.Array
) -> dict[str, jax.Array]:
    """Take some steps for a batch; the chi-square is that of the whole stamp."""
    shape = observation.image.shape[1:]

    def residual(z):
        profile, _ = _model(kind, shape, start, z)
        difference = observation.image - convolve(profile, observation.psf)
        return observation.noise.whiten(difference, observation.mask).reshape(len(z), -1)

    posterior = levenberg_marquardt(residual, z, steps=steps, loop=True)
    profile, parameters = _model(kind, shape, start, posterior.mean)
    light = observation.noise.whiten(convolve(profile, observation.psf), observation.mask)
    return parameters | {
        "chi_square": jnp.sum(posterior.residual**2, axis=-1),
        "signal": jnp.sum(light**2, axis=(1, 2)),
        "profile": profile,
        "z": posterior.mean,
    }
