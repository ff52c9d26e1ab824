"""Two-sample tests on the pixels themselves.

Statistics of morphology see what they were made for; a network that is trained to tell two samples of stamps apart sees
whatever it can find: the noise, the arms, the grid that a generator leaves behind (classifier two-sample tests:
Lopez-Paz & Oquab 2017). For tests that need few numbers for each galaxy, pixels become principal components.

Stamps are in units of their noise, on a stretch that is linear in the noise and logarithmic in the light. Conventions
are those of ``hiergal.validation.two_sample``.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float
from scipy import stats

from hiergal.model.nets.layers import Conv, Dense, LayerNorm, space_to_depth
from hiergal.runtime.batching import join_batches, padded_batches
from hiergal.runtime.extras import require_extra
from hiergal.runtime.pytree import Array
from hiergal.runtime.verdict import ALPHA, Verdict, checked, verdict_of

__all__ = ["pixel_classifier_test", "pixel_features"]

SOFTENING = 2.0  # the stretch is linear below so many standard deviations of the noise
EPOCHS, GALAXIES_PER_CALL = 10, 32
PATCH = 4
CHANNELS = (32, 48)
DROPOUT, LEARNING_RATE = 0.2, 3e-3
OPTIMIZER = (
    optax.chain(  # AdamW, except for the learning rate: a program that knows it would be compiled for each
        optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(0.05)
    )
)


def pixel_classifier_test(
    real_images: Float[Array, "n y x"],
    other_images: Float[Array, "m v u"],
    real_noise_rms: float | Float[Array, "n"],
    other_noise_rms: float | Float[Array, "m"],
    *,
    seed: int = 0,
    alpha: float = ALPHA,
    epochs: int = EPOCHS,
) -> Verdict:
    """Classify the samples by a convolutional network; the statistic is its accuracy on held-out stamps.

    Args:
        real_images: Stamps [flux per pixel].
        other_images: Stamps of the generator, of the same size. The larger sample is cut to the size of the smaller;
            half of each trains.
        real_noise_rms: Standard deviation of the noise of a pixel [flux per pixel].
        other_noise_rms: The same of the other sample.
        seed: Seed of the split and of the training; the same seed gives the same verdict on the same machine.
        alpha: Chance of a false alarm.
        epochs: How often the network sees each stamp of the training, turned and mirrored at random.

    Returns:
        The verdict, with the p-value of a hypergeometric, which holds however well or badly the network was trained.

    Raises:
        ValueError: If a sample has fewer than 20 stamps, shapes do not agree, or values are not finite.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> white, loud = rng.normal(size=(200, 8, 8)), rng.normal(0.0, 2.0, (200, 8, 8))
        >>> pixel_classifier_test(white, loud, 1.0, 1.0, epochs=5).passed
        False
    """
    if np.shape(real_images)[1:] != np.shape(other_images)[1:]:
        raise ValueError(
            f"other_images: expected stamps of {np.shape(real_images)[1:]} pixels as the real ones, got "
            f"{np.shape(other_images)[1:]}; cut both samples to the same stamp"
        )
    checked(real_images, other_images, least=20)
    rng = np.random.default_rng(seed)
    size = min(len(real_images), len(other_images))
    samples = [
        _stretched(images, rms, what)[rng.permutation(len(images))[:size]]
        for images, rms, what in (
            (real_images, real_noise_rms, "real"),
            (other_images, other_noise_rms, "other"),
        )
    ]
    half = size // 2
    trained = np.concatenate([sample[:half] for sample in samples])
    network = _Network(CHANNELS, DROPOUT)
    params = _train(network, trained, np.repeat([False, True], half), epochs, seed)
    # Odds that are weak are often all on one side of one: the half with the larger ones is called the other sample's.
    # Which labels that half holds, for samples that are alike, is a draw without replacement, whatever the odds.
    each = size - half
    logits = np.concatenate([_logits(network, params, sample[half:]) for sample in samples])
    upper = np.lexsort((rng.random(2 * each), logits))[each:]
    found = int((upper >= each).sum())
    held_out, accuracy = 2 * each, found / each
    p_value = float(stats.hypergeom.sf(found - 1, held_out, each, each))
    error = float(np.sqrt(accuracy * (1 - accuracy) / held_out))
    words = f"pixels: a network is right for {100 * accuracy:.1f} +- {100 * error:.1f} % of held-out stamps"
    return verdict_of("pixels (classifier)", accuracy, error, 0.5, p_value, alpha, words)


def pixel_features(
    *samples: tuple[Float[Array, "_ y x"], float | Float[Array, "_"]], components: int = 20, seed: int = 0
) -> list[Float[np.ndarray, "_ d"]]:
    """Describe each stamp by a few numbers: its principal components, for tests that exchange labels.

    The components are those of all samples together, whatever sample a stamp is of: a test that exchanges labels
    between samples stays exact.

    Args:
        samples: Pairs of stamps [flux per pixel] and the standard deviation of their noise [flux per pixel].
        components: Number of principal components.
        seed: Seed of the algorithm, whose components are approximate.

    Returns:
        Rows for each sample, of zero mean and unit variance over all of them, the largest component first.

    Raises:
        ValueError: If there are fewer stamps or pixels than components, shapes do not agree, or values are not finite.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> drawn, trained, held_out = ((rng.normal(size=(n, 8, 9)), 1.0) for n in (30, 50, 40))
        >>> [rows.shape for rows in pixel_features(drawn, trained, held_out, components=5)]
        [(30, 5), (50, 5), (40, 5)]
    """
    require_extra("validate", "principal components of pixels")
    from sklearn.utils.extmath import randomized_svd

    stretched = [_stretched(*sample, f"sample {k}") for k, sample in enumerate(samples)]
    shapes = sorted({sample.shape[1:] for sample in stretched})
    if len(shapes) > 1:
        raise ValueError(f"samples: expected stamps of one shape, got {shapes}; cut them to the same stamp")
    pooled = np.concatenate(stretched).reshape(sum(map(len, stretched)), -1)
    if min(pooled.shape) <= components:
        raise ValueError(
            f"components: expected fewer than {min(pooled.shape)} for {len(pooled)} stamps of {pooled.shape[1]} "
            f"pixels, got {components}; ask for fewer components"
        )
    # Random directions among pixels, not among stamps: the order of the stamps must not matter. In double precision,
    # and then rounded: components of mere noise are alike, and lift the roundings of other threads a thousandfold.
    pooled = pooled.astype(float)
    centred = pooled - pooled.mean(axis=0)[None]
    left, _, _ = randomized_svd(centred, components, n_iter=7, transpose=False, random_state=seed)
    rows = (np.sqrt(len(pooled) - 1) * left).astype(np.float32).astype(float)
    return np.split(rows, np.cumsum([len(sample) for sample in stretched])[:-1])


class _Network(nn.Module):
    """Patches of a stamp and of its asymmetry, convolutions, and what is there on average and at most.

    Attributes:
        channels: Number of channels of the patches, and at half their resolution.
        dropout: Fraction of the pooled numbers that is left out in training.
    """

    channels: tuple[int, int]
    dropout: float

    @nn.compact
    def __call__(self, images: Float[jax.Array, "n y x"], training: bool) -> Float[jax.Array, "n"]:
        """Return the logarithm of the odds that a stamp is of the other sample."""
        first, second = self.channels
        # Small asymmetries under the light of a galaxy take a network without this channel many times longer to find.
        asymmetry = jnp.abs(images - images[:, ::-1, ::-1])
        borders = [(0, -size % (2 * PATCH)) for size in images.shape[1:]]
        h = jnp.pad(jnp.stack([images, asymmetry], axis=-1), [(0, 0), *borders, (0, 0)])
        h = space_to_depth(h, PATCH)
        texture = nn.gelu(Dense(first)(h, training))
        fine = nn.gelu(LayerNorm()(Conv(first)(texture, training), training))
        h = Dense(second)(space_to_depth(fine, 2), training)
        h = nn.gelu(LayerNorm()(h, training))
        h = h + nn.gelu(LayerNorm()(Conv(second)(h, training), training))
        pooled = [part.mean(axis=(1, 2)) for part in (texture, fine, h)] + [h.max(axis=(1, 2))]
        h = jnp.concatenate(pooled, axis=-1)
        h = nn.Dropout(self.dropout, deterministic=not training)(h)
        h = nn.gelu(Dense(second)(h, training))
        return Dense(1, kernel_init=nn.initializers.zeros)(h, training)[:, 0]


class _State(NamedTuple):
    params: Any
    optimizer: optax.OptState


def _train(
    network: _Network,
    images: Float[np.ndarray, "n y x"],
    labels: Bool[np.ndarray, "n"],
    epochs: int,
    seed: int,
) -> Any:
    """Train a network, and return its parameters; programs are compiled once for each size of stamp."""
    batch = min(GALAXIES_PER_CALL, len(images))
    init_key, key = jax.random.split(jax.random.key(seed))
    params = _init(network, init_key, images[:1])
    state = _State(params, OPTIMIZER.init(params))
    steps = epochs * (len(images) // batch)
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, max(steps // 10, 1), max(steps, 2))
    rates, rng = np.asarray(schedule(np.arange(steps))), np.random.default_rng(seed)
    orders = [rng.permutation(len(images))[: len(images) // batch * batch] for _ in range(epochs)]
    for k, rows in enumerate(np.concatenate(orders).reshape(steps, batch)):
        state = _step(network, state, jax.random.fold_in(key, k), rates[k], images[rows], labels[rows])
    return state.params


@partial(jax.jit, static_argnums=0)
def _init(network: _Network, key: jax.Array, images: jax.Array) -> Any:
    return network.init(key, images, False)


@partial(jax.jit, static_argnums=0)
def _step(
    network: _Network,
    state: _State,
    key: jax.Array,
    rate: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> _State:
    turn_key, dropout_key = jax.random.split(key)
    turns = jax.random.bernoulli(turn_key, 0.5, (3, len(images), 1, 1))
    images = jnp.where(turns[0], images[:, ::-1], images)
    images = jnp.where(turns[1], images[:, :, ::-1], images)
    if images.shape[1] == images.shape[2]:
        images = jnp.where(turns[2], images.swapaxes(1, 2), images)

    def loss(params: Any) -> jax.Array:
        logits = network.apply(params, images, True, rngs={"dropout": dropout_key})
        return optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype)).mean()

    updates, optimizer = OPTIMIZER.update(jax.grad(loss)(state.params), state.optimizer, state.params)
    updates = jax.tree.map(lambda update: -rate * update, updates)
    return _State(optax.apply_updates(state.params, updates), optimizer)


def _logits(network: _Network, params: Any, images: Float[np.ndarray, "n y x"]) -> Float[np.ndarray, "n"]:
    """Logarithms of odds, averaged over the turns of a stamp."""
    n = len(images)
    parts = [
        _turned_logits(network, params, images[batch.rows]) for batch in padded_batches(n, GALAXIES_PER_CALL)
    ]
    return join_batches(parts, n)


@partial(jax.jit, static_argnums=0)
def _turned_logits(network: _Network, params: Any, images: jax.Array) -> jax.Array:
    turns = [images, images[:, ::-1], images[:, :, ::-1], images[:, ::-1, ::-1]]
    if images.shape[1] == images.shape[2]:
        turns += [turn.swapaxes(1, 2) for turn in turns]
    return sum(network.apply(params, turn, False) for turn in turns) / len(turns)


def _stretched(images: Array, noise_rms: float | Array, what: str) -> Float[np.ndarray, "n y x"]:
    """Stretch stamps in units of their noise."""
    images, rms = np.asarray(images, np.float32), np.asarray(noise_rms, np.float32)
    if rms.shape not in ((), images.shape[:1]) or not (np.isfinite(rms) & (rms > 0)).all():
        raise ValueError(
            f"{what} noise_rms: expected one positive standard deviation, or one for each of {len(images)} stamps, got "
            f"shape {rms.shape}, least {rms.min()}; divide the survey's variance, or measure the sky"
        )
    if not np.isfinite(images).all():
        raise ValueError(f"{what}: expected finite pixels, got NaN or infinity; leave out those stamps")
    return np.arcsinh(images / (SOFTENING * np.broadcast_to(rms, len(images))[:, None, None]))
