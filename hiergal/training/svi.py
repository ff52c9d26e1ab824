"""Fitting the model and its guide: a loop of our own over NumPyro's ``SVI``.

Each step is one compiled program whose state is donated, and no step waits for numbers to come back from a device. The
galaxies of a step are a function of the seed and the number of the step (:mod:`hiergal.training.batches`), so that a
run that was stopped goes on as if nothing had happened. ``TrainState`` is what the next step needs;
:class:`~hiergal.training.history.TrainInfo` is what a person wants to see.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
from jax.sharding import Mesh
from numpyro.infer import SVI

from hiergal.hub.packing import digest_of, flatten
from hiergal.model.architecture import programs_of
from hiergal.model.nets.training_aids import training_aids_at
from hiergal.observation.observation import Observation
from hiergal.recipe.config import TrainingConfig
from hiergal.recipe.recipe import Recipe
from hiergal.runtime.devices import (
    any_process,
    batch_sharding,
    galaxy_mesh,
    is_first_process,
    place,
    replicated,
)
from hiergal.runtime.extras import require_extra
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.host_memory import give_back_freed_memory
from hiergal.runtime.optimizer import adafactor, learning_rate_at
from hiergal.runtime.progress import Stopped, progress_bar, stop_requested
from hiergal.runtime.pytree import Record, brief, record
from hiergal.runtime.seeds import as_key
from hiergal.training.augment import augment
from hiergal.training.batches import Galaxies, bare, batches_from, checksum_of, order_of, sampling_weights
from hiergal.training.checkpoints import Checkpoints
from hiergal.training.elbo import FreeBitsELBO
from hiergal.training.evaluation import evaluator
from hiergal.training.history import History, TrainInfo

__all__ = ["Fit", "TrainState", "fit"]

Params = dict[str, Any]

LEFT_OUT = (
    10  # steps in a row whose gradients are not finite; with more, the bound is not, and training stops
)

KL_START = 0.1  # factor on the divergence in the first step, where it warms up


@record
class TrainState(Record):
    """State of training between two steps.

    Attributes:
        svi: State of NumPyro's SVI: parameters, optimiser, key.
        average: Moving average of the parameters, or None where the recipe has none.
        loss: Sum of the losses since the last evaluation [nats per galaxy].
        best: The parameters with the best bound so far on the validation galaxies.
        best_bound: That bound [nats per galaxy].
        stale: Evaluations since.
    """

    svi: Any
    average: Params | None
    loss: jax.Array
    best: Params
    best_bound: jax.Array
    stale: jax.Array


class Fit(NamedTuple):
    """Result of training: the best parameters, and the history of evaluations."""

    params: Params
    history: tuple[TrainInfo, ...]

    __repr__ = brief


def fit(
    key: jax.Array | int,
    recipe: Recipe,
    train: Galaxies,
    validation: Galaxies,
    *,
    folder: str | Path,
    start: Params | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = True,
) -> Fit:
    """Fit the generator and the encoder by amortised SVI (paper, Sec. 3).

    Args:
        key: PRNG key, or a seed; the same key gives the same result.
        recipe: What to fit, and how.
        train: Galaxies to learn from: an observation, which goes to the devices once, or rows of a store
            (``SurveyStore.subset``), which are read ahead of the steps.
        validation: Other galaxies, to watch the fit and to stop it.
        folder: Where checkpoints and ``history.jsonl`` go. A run with the same recipe, key and galaxies that was
            interrupted goes on; checkpoints of any other run are refused.
        start: Parameters to begin with, by NumPyro's site names; default new, random ones.
        devices: What to spread each batch over; default all there are, of all processes that were joined
            (:func:`~hiergal.runtime.devices.join_processes`). Results do not depend on it up to rounding.
        progress: Whether to show a progress bar.

    Returns:
        The parameters of the best evaluation, by NumPyro's site names, and the history.

    Raises:
        Stopped: After Ctrl-C, once a checkpoint is written.
        ValueError: If there are no galaxies, or the devices do not divide a batch.
        FloatingPointError: If the bound is not finite any more.
        FileExistsError: If the folder has checkpoints of another run, or something else of that name.
        BlockingIOError: If another process trains there.
    """
    require_extra("train", "training")
    check_not_forked()
    key = as_key(key)
    config = recipe.training
    if not len(train) or not len(validation):
        raise ValueError(
            f"expected galaxies to train and to validate with, got {len(train)} and {len(validation)}"
        )
    train, validation = bare(train), bare(validation)
    mesh, batch = _mesh(devices, config, len(train))
    programs = programs_of(recipe, plate_size=len(train), training=True)
    svi = SVI(*programs, _optimizer(config, len(train)), _objective(recipe))
    start_key, order_key, evaluation_key = jax.random.split(key, 3)
    weights = sampling_weights(train, config.flux_sampling_power) if config.flux_sampling_power else None
    order = order_of(int(jax.random.bits(order_key)), len(train), batch, weights)
    step = _compiled_at_first(_compile_step(svi, recipe, len(train), order_key, mesh))
    evaluate = evaluator(recipe, evaluation_key, mesh)
    state = _initial_state(svi, start_key, train, start, averaged=config.ema_decay > 0)
    state = place(state, replicated(mesh))
    judge = jax.jit(partial(_judge, svi), out_shardings=replicated(mesh), donate_argnums=0)

    history = History(Path(folder))
    checkpoints = Checkpoints(
        Path(folder) / "checkpoints", _fingerprint(recipe, key, train, start), history.path
    )
    with closing(checkpoints):
        done = 0
        if checkpoints.latest is not None:
            state, done = place(checkpoints.restore(state), replicated(mesh)), checkpoints.latest
        if is_first_process():
            history.cut(done)
        batches = batches_from(train, order, done * config.gradient_accumulation, mesh)

        began = time.perf_counter()
        shown, alone = progress and is_first_process(), jax.process_count() == 1
        with stop_requested() as asked, progress_bar("training", config.steps, shown=shown) as advance:
            advance(done)
            while done < config.steps and int(state.stale) < config.patience and not any_process(asked()):
                until = min(config.steps, (done // config.evaluate_every + 1) * config.evaluate_every)
                while done < until and not (
                    alone and asked()
                ):  # processes agree on a stop at evaluations only
                    for part in range(
                        done * config.gradient_accumulation, (done + 1) * config.gradient_accumulation
                    ):
                        state = step(state, part, *next(batches))
                        if mesh.devices.flat[0].platform == "cpu":
                            jax.block_until_ready(state)  # steps that wait there hold their buffers
                    done += 1
                    advance(1)
                give_back_freed_memory()  # neither evaluation nor steps fit into pieces of the other
                if done == until:
                    parts = ((done - 1) % config.evaluate_every + 1) * config.gradient_accumulation
                    evaluation = evaluate(_evaluated(svi, state), validation)
                    seconds = time.perf_counter() - began
                    info = TrainInfo(done, seconds, float(state.loss) / parts, **evaluation._asdict())
                    if not math.isfinite(info.elbo):
                        raise FloatingPointError(
                            f"the ELBO became {info.elbo} at step {done}: lower training.learning_rate, or check the "
                            "data with hiergal.check_observation"
                        )
                    state = judge(state, info.elbo)
                    if is_first_process():
                        history.add(info)
                    advance(
                        0,
                        note=f"ELBO {info.elbo:.0f}  chi2 {info.chi_square:.3f}  KL {info.kl:.1f} nats",
                    )
                checkpoints.save(done, state)
                give_back_freed_memory()
            stopped = any_process(asked())
        if stopped and done < config.steps:
            raise Stopped(f"stopped at step {done} of {config.steps}; the same command goes on from there")
        return Fit(state.best, history.rows())


def _compile_step(svi: SVI, recipe: Recipe, plate_size: int, order_key: jax.Array, mesh: Mesh):
    """One compiled step of training, or the part of one whose gradients are computed at once.

    A loop of steps inside one program would be slower: XLA runs convolutions inside loops on one core. A batch is
    spread over the devices of the mesh; parameters are on each of them.
    """
    config, levels = (
        recipe.training,
        len(recipe.encoder.transverse_channels) if recipe.has_transverse_connections else 0,
    )
    parts = config.gradient_accumulation

    @partial(jax.jit, donate_argnums=0, out_shardings=replicated(mesh))
    def step(
        state: TrainState, part: jax.Array | int, galaxies: Observation, rows: jax.Array | None
    ) -> TrainState:
        galaxies = galaxies if rows is None else galaxies[rows]
        galaxies = jax.lax.with_sharding_constraint(galaxies, batch_sharding(mesh))
        galaxies = augment(jax.random.fold_in(order_key, part), galaxies, config.augmentation)
        number = part // parts
        training_aids = (
            (training_aids_at(number, recipe.training_aids, levels),)
            if recipe.has_transverse_connections
            else ()
        )
        warming = {"kl_factor": _kl_factor(number, recipe)} if recipe.objective.kl_warmup else {}
        after, loss = svi.update(state.svi, galaxies, *training_aids, **warming)
        average = state.average
        if average is not None:
            # Young averages forget faster, or the start would stay in them.
            decay = jnp.minimum(config.ema_decay, (1 + number) / (10 + number))
            decay = jnp.where(part % parts == parts - 1, decay, 1.0)
            average = jax.tree.map(
                lambda old, new: decay * old + (1 - decay) * new, average, svi.get_params(after)
            )
        counted = jnp.where(jnp.isfinite(loss), loss, 0.0) / plate_size  # batches that are left out have none
        return state.replace(svi=after, average=average, loss=state.loss + counted)

    return step


def _compiled_at_first(step: Any) -> Callable:
    """Compile a function at its first call, and free what that needed before it runs."""
    program = None

    def call(*arguments):
        nonlocal program
        if program is None:
            program = step.lower(*arguments).compile()
            give_back_freed_memory()
        return program(*arguments)

    return call


def _mesh(devices: Sequence[jax.Device] | None, config: TrainingConfig, galaxies: int) -> tuple[Mesh, int]:
    """The devices, and how many galaxies they take at once: all of a survey that is smaller than that."""
    mesh = galaxy_mesh(devices)
    if config.batch % (mesh.size * config.gradient_accumulation):
        raise ValueError(
            f"training.batch: expected a multiple of the {mesh.size} devices times the "
            f"{config.gradient_accumulation} parts of training.gradient_accumulation, got {config.batch}; "
            "change one of them, or name fewer devices"
        )
    batch = config.batch // config.gradient_accumulation
    if galaxies < mesh.size:
        raise ValueError(f"expected a training galaxy for each of {mesh.size} devices, got {galaxies}")
    return mesh, min(batch, galaxies // mesh.size * mesh.size)


def _optimizer(config: TrainingConfig, plate_size: int) -> optax.GradientTransformation:
    rate = learning_rate_at(config.schedule, config.learning_rate, config.warmup, config.steps)
    steps = (
        optax.adam(rate, b2=0.99)
        if config.optimizer == "adam"
        else adafactor(rate, parameter_scale=config.parameter_scale)
    )
    if config.clip_norm:
        steps = optax.chain(optax.scale(1 / plate_size), optax.clip_by_global_norm(config.clip_norm), steps)
    # A rare galaxy, far from what the encoder knows so far, may overflow: leave out its batch, not the training.
    steps = optax.apply_if_finite(steps, max_consecutive_errors=LEFT_OUT)
    if config.gradient_accumulation == 1:
        return steps
    return optax.MultiSteps(steps, config.gradient_accumulation).gradient_transformation()


def _objective(recipe: Recipe) -> FreeBitsELBO:
    objective = recipe.objective
    return FreeBitsELBO(objective.free_bits, objective.reduction, objective.kl_weight)


def _kl_factor(step: jax.Array | int, recipe: Recipe) -> jax.Array:
    """Factor on the divergence at a step, while it warms up."""
    over = recipe.objective.kl_warmup * recipe.training.steps
    return jnp.minimum(1.0, KL_START + (1 - KL_START) * step / over)


def _initial_state(
    svi: SVI, key: jax.Array, train: Galaxies, start: Params | None, *, averaged: bool
) -> TrainState:
    example = train[np.arange(min(4, len(train)))]
    state = jax.jit(svi.init)(key, example, init_params=start)
    params = svi.get_params(state)
    average = jax.tree.map(jnp.copy, params) if averaged else None
    best = jax.tree.map(jnp.copy, params)
    return TrainState(
        svi=state,
        average=average,
        loss=jnp.zeros(()),  # not jnp.array(0.0), whose weak type would compile the step twice
        best=best,
        best_bound=jnp.full((), -jnp.inf),
        stale=jnp.zeros((), int),
    )


def _judge(svi: SVI, state: TrainState, elbo: jax.Array | float) -> TrainState:
    """Keep the parameters if they are the best so far, and begin a new sum of losses."""
    better = elbo > state.best_bound
    best = jax.tree.map(partial(jnp.where, better), _evaluated(svi, state), state.best)
    return state.replace(
        best=best,
        best_bound=jnp.maximum(state.best_bound, elbo),
        stale=jnp.where(better, 0, state.stale + 1),
        loss=jnp.zeros_like(state.loss),
    )


def _evaluated(svi: SVI, state: TrainState) -> Params:
    """The parameters that are evaluated and kept."""
    return svi.get_params(state.svi) if state.average is None else state.average


def _fingerprint(recipe: Recipe, key: jax.Array, train: Galaxies, start: Params | None) -> dict[str, Any]:
    """Identity of a run: recipe, key, checksum of the training galaxies, and what it began with."""
    begun = {} if start is None else {"start": digest_of(flatten(start))}
    return begun | {
        "recipe": msgspec.to_builtins(recipe),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "galaxies": len(train),
        "checksum": checksum_of(train),
    }
