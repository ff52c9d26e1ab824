"""Fitting the model and its guide: a loop of our own over NumPyro's ``SVI``.

Each step is one compiled program whose state is donated. The galaxies of a step are a function of the seed and the
number of the step, so that a run that was stopped goes on as if nothing had happened. ``TrainState`` is what the next
step needs; ``TrainInfo`` is what a person wants to see.
"""

import math
import time
import zlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState

from hiergal.architecture import encoder_of, generator_of, programs_of
from hiergal.checkpoints import Checkpoints
from hiergal.elbo import FreeBitsELBO, divergence_per_latent
from hiergal.guide import posterior_from
from hiergal.model import render
from hiergal.noise import NoisyImage, used_pixels
from hiergal.observation import Observation
from hiergal.progress import Stopped, progress_bar, stop_requested
from hiergal.recipe import Recipe, TrainingConfig
from hiergal.records import Record, record

__all__ = ["Fit", "TrainInfo", "TrainState", "fit", "read_history"]

HISTORY = "history.jsonl"

Params = dict[str, Any]


@record
class TrainState(Record):
    """What the next step of training needs.

    Attributes:
        svi: State of NumPyro's SVI: parameters, optimiser, key.
        best: The parameters with the best bound so far on the validation galaxies.
        best_bound: That bound [nats per galaxy].
        stale: Evaluations since.
    """

    svi: SVIState
    best: Params
    best_bound: jax.Array
    stale: jax.Array


class TrainInfo(NamedTuple):
    """What a person wants to see of an evaluation on the validation galaxies.

    Attributes:
        step: Steps done.
        seconds: Time since this process began to train [s].
        bound: Evidence lower bound, without free bits, with the likelihood that is trained [nats per galaxy].
        chi_square: Median reduced chi-square of a posterior draw.
        divergence: Mean divergence of the posteriors from the prior [nats].
    """

    step: int
    seconds: float
    bound: float
    chi_square: float
    divergence: float


class Fit(NamedTuple):
    """Result of training: the best parameters, and the history of evaluations."""

    params: Params
    history: tuple[TrainInfo, ...]


def fit(
    key: jax.Array,
    recipe: Recipe,
    train: Observation,
    validation: Observation,
    *,
    folder: str | Path,
    progress: bool = True,
) -> Fit:
    """Fit the generator and the encoder by amortised SVI (paper, Sec. 3).

    Args:
        key: PRNG key; the same key gives the same result.
        recipe: What to fit, and how.
        train: Galaxies to learn from.
        validation: Other galaxies, to watch the fit and to stop it.
        folder: Where checkpoints and ``history.jsonl`` go. A run with the same recipe, key and galaxies that was
            interrupted goes on; files of any other run are replaced.
        progress: Whether to show a progress bar.

    Returns:
        The parameters of the best evaluation, by NumPyro's site names, and the history.

    Raises:
        Stopped: After Ctrl-C, once a checkpoint is written.
        ValueError: If there are fewer galaxies than a batch takes.
        FloatingPointError: If the bound is not finite any more.
    """
    config = recipe.training
    if len(train) < config.batch:
        raise ValueError(f"expected at least {config.batch} training galaxies (one batch), got {len(train)}")
    svi = SVI(*programs_of(recipe, population=len(train)), _optimizer(config), _objective(recipe))
    start_key, order_key, evaluation_key = jax.random.split(key, 3)
    train, validation = jax.device_put((train, validation))
    step, evaluate = _compile(svi, recipe, order_key, evaluation_key)

    fingerprint = _fingerprint(recipe, key, train)
    checkpoints = Checkpoints(Path(folder) / "checkpoints", fingerprint)
    history = _History(Path(folder))
    state = jax.jit(partial(_initial_state, svi))(start_key, train[: min(4, len(train))])
    done = 0
    if checkpoints.latest is not None:
        state, done = checkpoints.restore(state), checkpoints.latest
    history.cut(done)

    began = time.perf_counter()
    with stop_requested() as stop, progress_bar("training", config.steps, shown=progress) as advance:
        advance(done)
        while done < config.steps and int(state.stale) < config.patience and not stop():
            until = min(config.steps, (done // config.evaluate_every + 1) * config.evaluate_every)
            while done < until and not stop():
                state = state.replace(svi=step(state.svi, done, train))
                done += 1
                advance(1)
            if done == until:
                bound, chi_square, divergence = (
                    float(x) for x in evaluate(svi.get_params(state.svi), validation)
                )
                if not math.isfinite(bound):
                    raise FloatingPointError(
                        f"the bound became {bound} at step {done}: lower training.learning_rate, or check the data "
                        "with hiergal.check_observation"
                    )
                info = TrainInfo(done, time.perf_counter() - began, bound, chi_square, divergence)
                state = _judge(state, svi.get_params(state.svi), bound)
                history.add(info)
                advance(0, note=f"ELBO {bound:.0f}  chi2 {chi_square:.3f}  KL {divergence:.1f} nats")
            checkpoints.save(done, state)
        stopped = stop()
    checkpoints.close()
    if stopped and done < config.steps:
        raise Stopped(f"stopped at step {done} of {config.steps}; the same command goes on from there")
    return Fit(state.best, history.rows())


def read_history(folder: str | Path) -> tuple[TrainInfo, ...]:
    """Return the evaluations of a run, from its ``history.jsonl``; none if there is no such file."""
    path = Path(folder) / HISTORY
    lines = path.read_bytes().splitlines() if path.exists() else []
    return tuple(TrainInfo(**msgspec.json.decode(line)) for line in lines)


def _compile(svi: SVI, recipe: Recipe, order_key: jax.Array, evaluation_key: jax.Array):
    """One compiled step and one compiled evaluation.

    A loop of steps inside one program would be slower: XLA runs convolutions inside loops on one core.
    """
    batch = recipe.training.batch

    @partial(jax.jit, donate_argnums=0)
    def step(state: SVIState, number: jax.Array | int, train: Observation) -> SVIState:
        epoch, place = jnp.divmod(number, len(train) // batch)
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), len(train))
        rows = jax.lax.dynamic_slice_in_dim(order, place * batch, batch)
        return svi.update(state, train[rows])[0]

    @jax.jit
    def evaluate(params: Params, observation: Observation):
        outputs = encoder_of(recipe).apply({"params": params["encoder$params"]}, observation)
        q = posterior_from(outputs, recipe.covariance)
        z = q.sample(evaluation_key)
        profile = generator_of(recipe).apply({"params": params["generator$params"]}, z)
        mean = render(profile, observation.psf, recipe.pixel_scale_arcsec)
        # As it is trained: a mean over exact likelihoods is a statement about the few brightest galaxies.
        noise, mask = observation.noise, observation.mask
        likelihood = NoisyImage(mean, noise, mask, inflate=recipe.objective.inflate)
        divergence = divergence_per_latent(q, dist.Normal(jnp.zeros_like(q.mean), 1.0).to_event(1)).sum(-1)
        bound = likelihood.log_prob(observation.image) - divergence
        chi_square = noise.chi_square(observation.image - mean, mask) / used_pixels(mean.shape, mask)
        return bound.mean(), jnp.median(chi_square), divergence.mean()

    return step, evaluate


def _optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / 20,
        peak_value=config.learning_rate,
        warmup_steps=max(1, round(config.warmup * config.steps)),
        decay_steps=max(2, config.steps),
        end_value=config.learning_rate / 50,
    )
    return optax.adam(schedule, b2=0.99)


def _objective(recipe: Recipe) -> FreeBitsELBO:
    return FreeBitsELBO(recipe.objective.free_bits, recipe.objective.reduction)


def _initial_state(svi: SVI, key: jax.Array, example: Observation) -> TrainState:
    state = svi.init(key, example)
    params = jax.tree.map(jnp.copy, svi.get_params(state))
    return TrainState(state, params, jnp.array(-jnp.inf), jnp.array(0))


def _judge(state: TrainState, params: Params, bound: float) -> TrainState:
    """Remember the parameters if they are the best so far."""
    if bound > float(state.best_bound):
        return state.replace(
            best=jax.tree.map(jnp.copy, params), best_bound=jnp.array(bound), stale=jnp.array(0)
        )
    return state.replace(stale=state.stale + 1)


def _fingerprint(recipe: Recipe, key: jax.Array, train: Observation) -> dict[str, Any]:
    """What makes a run this run: recipe, key, and the pixels that it learns from."""
    return {
        "recipe": msgspec.to_builtins(recipe),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "galaxies": len(train),
        "pixels_crc32": zlib.crc32(np.ascontiguousarray(train.image)),
    }


class _History:
    """The evaluations of a run, one JSON object a line, in step with its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / HISTORY

    def rows(self) -> tuple[TrainInfo, ...]:
        return read_history(self.folder)

    def cut(self, step: int) -> None:
        """Forget what came after the checkpoint that training goes on from."""
        self._write(info for info in self.rows() if info.step <= step)

    def add(self, info: TrainInfo) -> None:
        self._write((*self.rows(), info))

    def _write(self, rows: Iterable[TrainInfo]) -> None:
        content = b"".join(msgspec.json.encode(info._asdict()) + b"\n" for info in rows)
        partial_path = self.path.with_name(f"{self.path.name}.partial")
        partial_path.write_bytes(content)
        partial_path.replace(self.path)
