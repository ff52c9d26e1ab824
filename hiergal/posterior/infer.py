"""Inference: posteriors of observed galaxies, by any method."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from hiergal.measure.profile import summarize_profile
from hiergal.model.conditions import given_conditions
from hiergal.model.prior import LatentFlow
from hiergal.model.profile_grid import grid_with_margin
from hiergal.model.program import without_margin
from hiergal.model.trained import GalaxyModel, check_model
from hiergal.observation.noise import count_unmasked
from hiergal.observation.observation import Observation, check_observation
from hiergal.observation.psf import PSF
from hiergal.posterior.input_checks import (
    check_counts,
    check_geometry,
    check_method,
    check_psf,
    judge_conditions,
    rows_of_psf,
)
from hiergal.posterior.origin import Origin
from hiergal.posterior.posterior import STATISTICS, Posterior, _join
from hiergal.posterior.residual_tests import residual_tests
from hiergal.posterior.samplers.importance import LARGEST_K_HAT
from hiergal.posterior.samplers.methods import METHODS, Method, draw_latents
from hiergal.posterior.verdict import DRAWS, P_VALUES, REPLICATES, flags_of
from hiergal.runtime.batching import padded_batches
from hiergal.runtime.extras import require_extra
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.progress import progress_bar
from hiergal.runtime.pytree import Array
from hiergal.runtime.seeds import as_key
from hiergal.survey.given import galaxies_of

__all__ = [
    "infer",
]

DRAWS_PER_CALL = 10  # draws decoded together
JACOBIANS = 4096  # profiles, at once
JUDGED = 2**31 - 1  # purpose of a key: no galaxy's place
COMPILING = "programs are compiled for these shapes first: up to a minute"


def infer(
    model: GalaxyModel,
    observation: Observation | Any,
    *,
    key: jax.Array | int,
    method: Method | str = "laplace",
    conditions: Any = None,
    draws: int = 200,
    proposals: int | None = None,
    psf: PSF | None = None,
    batch: int = 32,
    rows: Int[np.ndarray, "n"] | None = None,
    verdict: bool = True,
    progress: bool = False,
) -> Posterior:
    """Infer the posteriors of observed galaxies.

    Seven methods draw from the posterior p(z | x) of each galaxy. Times are those of a galaxy with 100 draws on two
    cores, in batches; compilation, up to a minute for each shape of stamps and PSFs, comes before.

    ``laplace``, about 0.03 s
        A Gaussian at the mode, which Gauss-Newton steps find (:mod:`hiergal.posterior.samplers.laplace`). For most
        uses, and for surveys.
    ``amortized``, about 0.02 s
        The guide q(z | x) of the training: one pass of the encoder. For a first look; it knows neither masks nor
        conditions nor the latent flow, and is the least accurate.
    ``map``, about 0.05 s
        The mode alone: one "draw", and no errors.
    ``flow``, about 0.05 s
        A normalizing flow at the mode, trained on simulations (:mod:`hiergal.posterior.samplers.posterior_flow`): it
        follows the bends and tails that a Gaussian lacks. Needs a model with a posterior flow
        (``hiergal fit-posterior-flow``; published models have it).
    ``importance``, about 0.3 s
        Draws of that flow, or where there is none of a fit to the posterior, weighted by the posterior density
        (:mod:`hiergal.posterior.samplers.importance`). Exact where the Pareto k-hat, in ``statistics``, is below 0.7.
    ``nuts``, about 5 s
        The No-U-Turn sampler with two chains (:mod:`hiergal.posterior.samplers.nuts`). Exact where R-hat, in
        ``statistics``, is near 1. For single galaxies, and as a reference.
    ``auto``, as ``importance``, and for some galaxies as ``nuts``
        ``importance``, then ``nuts`` for galaxies whose k-hat is too large or whose effective sample size is below
        ``draws``. For final results. Of a model with hundreds of latents (kind ``framed``) ``flow``, or ``laplace``
        where it has no posterior flow; ``posterior.method`` says which.

    Of such a model, ``flow`` draws around the guide (:mod:`hiergal.posterior.samplers.around_guide`), whose means are
    refined, and the methods with Jacobians (all but ``amortized`` and ``flow``) take seconds for each galaxy.

    All but ``amortized`` take the model's latent flow as the prior, given ``conditions`` where there are any. Misfit
    that noise does not explain widens their posteriors (``variance_factor``).

    Args:
        model: A trained model.
        observation: Galaxies on the model's stamp and pixel scale; or a survey's store, or its path, for all of it.
        key: PRNG key, or a seed; the draws of a galaxy depend on its place in the batch, not on how many follow.
        method: One of the seven.
        conditions: What is known of each galaxy: a table, whose columns with units are converted, or numbers, columns
            as in ``model.flow.config.conditions``; None for nothing. Rows that are not finite, or far outside the
            trained range (placeholders such as 99), are not used, and flagged.
        draws: Posterior draws of each galaxy; of ``map`` there is one.
        proposals: Draws that importance sampling picks from; default ten times as many.
        psf: PSFs to show the denoised image at, one for each galaxy [n, py, px] or one for all [1, py, px]; default
            the observation's own.
        batch: Galaxies in one call of the compiled program, at most.
        rows: A number for each galaxy, on which its draws depend as on the key, such as its row in a survey; default
            its row in the batch.
        verdict: Whether to judge the posteriors: ``flag`` and ``checks``, for some tenth of the time.
        progress: Whether to show a progress bar.

    Returns:
        Posteriors, as NumPy arrays; they keep the model and the galaxies for the methods of :class:`Posterior`.

    Raises:
        TypeError: If the model, the observations or the key are something else; the error says what to write.
        ValueError: If the observations are wrong, or do not fit the model, or the model lacks what the method needs.

    Example:
        >>> import hiergal
        >>> from hiergal.survey.mock.galaxies import draw_mock
        >>> model = hiergal.load_model("hub:mock-acs")
        >>> observation = draw_mock(2, seed=1).observation
        >>> posterior = hiergal.infer(model, observation, key=0, draws=50)
        >>> low, high = posterior.credible_interval("flux", 0.68)  # in the model's unit, model.provenance.flux_unit
        >>> low.shape
        (2,)
    """
    check_not_forked()
    check_model(model)
    key, observation = as_key(key), galaxies_of(observation)
    n = len(observation)
    check_counts(galaxies=n, draws=draws, batch=batch, proposals=1 if proposals is None else proposals)
    check_method(model, method, draws)
    if method in ("importance", "auto"):
        require_extra("posterior", f"method {method!r}, whose weights ArviZ smooths")
    observation = observation.in_photometry(model.provenance.photometry)
    check_observation(observation)
    check_geometry(model, observation.pixel_scale_arcsec, observation.image.shape[1:])
    for shown_at in (observation.psf, psf):
        if shown_at is not None:
            check_psf(model, shown_at, n)
    rows = np.arange(n) if rows is None else np.asarray(rows).astype(np.int64)
    if rows.shape != (n,):
        raise ValueError(f"rows: expected a number for each of {n} galaxies, got shape {rows.shape}")
    known = None if conditions is None else given_conditions(model, conditions, n)
    origin = Origin(model, observation, known, rows, psf is None)
    target = observation.psf if psf is None else psf
    options = {"draws": draws, "proposals": proposals or 10 * draws, "batch": batch, "progress": progress}
    names, observation = np.asarray(observation.identifier), observation.bare()
    groups, bits = judge_conditions(model, known, n)
    parts = []
    for of_group, given in groups:
        here = observation if len(of_group) == n else observation[of_group]
        galaxies = _Galaxies(
            here,
            model.latent_flow(given).expand((len(of_group),)),
            rows_of_psf(target, of_group),
            jax.vmap(partial(jax.random.fold_in, key))(rows[of_group]),
        )
        found = _by_method(model, galaxies, method, verdict=verdict, **options)
        if verdict:
            found = _judged(model, here, found, key, given, rows[of_group], batch)
        parts.append(found)
    order = np.argsort(np.concatenate([of_group for of_group, _ in groups]))
    posterior = parts[0] if len(parts) == 1 else _join(parts)[order]
    posterior = posterior.replace(identifier=names)
    if verdict:
        posterior = posterior.replace(flag=posterior.flag | bits)
    return posterior._with(origin)


def _judged(
    model: GalaxyModel,
    observation: Observation,
    posterior: Posterior,
    key: jax.Array,
    conditions: np.ndarray | None,
    rows: np.ndarray,
    batch: int,
) -> Posterior:
    """Add p-values and bits to posteriors that have statistics of their residuals."""
    from scipy.stats import chi2

    from hiergal.posterior.fit_checks import check_fits  # which looks at posteriors
    from hiergal.posterior.predictive import spread_draws

    found = check_fits(
        model,
        observation,
        posterior,
        key=jax.random.fold_in(key, JUDGED),
        conditions=conditions,
        draws=min(DRAWS, len(posterior.latents)),
        replicates=REPLICATES,
        batch=_batch_of(batch, len(posterior)),
        rows=rows,
    )
    values = {name: np.asarray(getattr(found, name), np.float32) for name in P_VALUES}
    some = posterior.latents[spread_draws(posterior, min(DRAWS, len(posterior.latents)))]
    base = np.asarray(_to_base(model.latent_flow(conditions).expand((len(posterior),)), some), float)
    values["p_latents"] = chi2.sf((base**2).sum(axis=-1), base.shape[-1]).mean(axis=0).astype(np.float32)
    posterior = posterior.replace(checks=posterior.checks | values)
    return posterior.replace(flag=flags_of(model, observation, posterior))


class _Galaxies(NamedTuple):
    """Inputs of inference for each galaxy."""

    observation: Observation
    prior: LatentFlow
    target: PSF
    keys: jax.Array

    def __getitem__(self, rows):
        target = self.target.replace(stamp=self.target.stamp[rows])
        return _Galaxies(self.observation[rows], self.prior[rows], target, self.keys[rows])


def _batch_of(batch: int, n: int) -> int:
    """Not each number of galaxies: every size is compiled for."""
    return min(batch, 2 ** math.ceil(math.log2(n)))


def _by_method(model, galaxies, method, **options) -> Posterior:
    if method != "auto":
        return _infer(model, galaxies, method, **options)
    if (
        model.recipe.generator.cell_latents is not None
    ):  # weights of importance say nothing in hundreds of dimensions
        chosen = "laplace" if model.posterior_flow is None else "flow"
        return _infer(model, galaxies, chosen, **options)
    posterior = _infer(model, galaxies, "importance", **options)
    bad = np.flatnonzero(~_trusted(posterior))
    if not len(bad):
        return posterior
    return _put(posterior, bad, _infer(model, galaxies[bad], "nuts", **options))


def _infer(model, galaxies, method, *, draws, proposals, batch, progress, verdict) -> Posterior:
    n, parts = len(galaxies.observation), []
    if method not in ("amortized", "flow"):  # a Jacobian has a profile for each latent of each galaxy
        batch = min(batch, max(1, JACOBIANS // model.recipe.generator.latents))
    batch = _batch_of(batch, n)
    with progress_bar(f"inference, {method}", n, shown=progress) as advance:
        for some in padded_batches(n, batch):
            here = galaxies[some.rows]
            if some.first == 0:
                advance(0, note=COMPILING)
            parts.append(
                jax.tree.map(np.asarray, _infer_batch(model, here, method, draws, proposals, verdict))
            )
            advance(some.kept, note="" if some.first == 0 else None)
    return _join(parts)[:n]


def _trusted(posterior: Posterior) -> np.ndarray:
    """Whether importance sampling worked: k-hat is small, and there were as many effective proposals as draws."""
    found = posterior.statistics
    return (found["k_hat"] < LARGEST_K_HAT) & (found["ess"] >= posterior.latents.shape[0])


def _put(posterior: Posterior, rows: np.ndarray, other: Posterior) -> Posterior:
    """Replace the posteriors of some galaxies; what importance sampling found of them stays on record."""
    kept = other.replace(
        statistics=other.statistics | {name: posterior.statistics[name][rows] for name in ("k_hat", "ess")}
    )
    order = np.arange(len(posterior))
    order[rows] = len(posterior) + np.arange(len(rows))
    return _join([posterior, kept])[order]


@jax.jit
def _measure(model: GalaxyModel, latents: Float[Array, "s n d"], about: Float[Array, "n y x"]):
    """Sum of the profiles of some draws less others, sum of the squares of that, and summaries of the profiles.

    Profiles have the margin that light is scattered in from; their summaries are those of the stamp.
    """
    s, n, d = latents.shape
    profile = _decode(model, latents.reshape(s * n, d))
    inside = without_margin(profile, model.recipe.generator.margin_pix)
    summary = summarize_profile(inside, model.recipe.pixel_scale_arcsec)
    away = profile.reshape(s, *about.shape) - about[None]
    return away.sum(0), (away**2).sum(0), jax.tree.map(lambda x: x.reshape(s, n), summary)


@jax.jit
def _to_base(prior: LatentFlow, latents: Float[Array, "s n d"]):
    return prior.to_base(latents)[0]


@jax.jit
def _decode(model: GalaxyModel, latents: Float[Array, "n d"]):
    return model.decode(latents, grid_with_margin(model.recipe))


@jax.jit
def _compare(model: GalaxyModel, observation: Observation, target: PSF, profile: Float[Array, "n y x"]):
    """Denoised images at the target PSF, and the reduced chi-square at the observation's own."""
    mask, margin = observation.mask, model.recipe.generator.margin_pix
    shown, wanted = (without_margin(model.render(profile, psf), margin) for psf in (observation.psf, target))
    residual = observation.image - shown
    chi_square = observation.noise.chi_square(residual, mask) / count_unmasked(residual.shape, mask)
    return wanted, chi_square


def _infer_batch(model, galaxies: _Galaxies, method, draws, proposals, verdict) -> Posterior:
    observation, n = galaxies.observation, len(galaxies.observation)
    found = draw_latents(
        method, model, observation, galaxies.prior, galaxies.keys, draws=draws, proposals=proposals
    )
    latents, statistics = found.draws.latents, found.draws.statistics
    # Squares are of differences from one draw: those of the profiles would hide an error of a thousandth.
    about, first, second, summaries = _decode(model, latents[0]), 0.0, 0.0, []
    for start in range(0, len(latents), DRAWS_PER_CALL):
        total, squares, summary = _measure(model, latents[start : start + DRAWS_PER_CALL], about)
        first, second = first + total / len(latents), second + squares / len(latents)
        summaries.append(summary)
    mean = about + first
    image, chi_square = _compare(model, observation, galaxies.target, mean)
    checks, margin = {}, model.recipe.generator.margin_pix
    if verdict:
        checks = residual_tests(model, observation, mean, found.projection)
        checks["remaining"] = jnp.full(n, jnp.nan) if found.remaining is None else found.remaining
    unknown = np.full(n, np.nan, np.float32)
    return Posterior(
        latents=latents,
        summary=jax.tree.map(lambda *values: jnp.concatenate(values), *summaries),
        profile_mean=without_margin(mean, margin),
        profile_std=without_margin(jnp.sqrt(jnp.maximum(second - first**2, 0.0)), margin),
        image_mean=image,
        chi_square=chi_square,
        misfit=found.misfit,
        variance_factor=found.variance_factor,
        method=np.full(n, METHODS.index(method)),
        statistics={name: statistics.get(name, unknown) for name in STATISTICS},
        identifier=observation.identifier,
        checks=checks,
        diverging=np.zeros(latents.shape[:2], bool)
        if found.draws.diverging is None
        else found.draws.diverging,
    )
