"""Training curves."""

from typing import TYPE_CHECKING

import numpy as np

from hiergal.runtime.plotting import BLUE, GRAY, plain_axes, plain_figure
from hiergal.training.history import TrainInfo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["rate_and_distortion", "training_curves"]

LABELS = {
    "elbo": "ELBO [nats per galaxy]",
    "chi_square": "reduced χ² of a draw (median)",
    "kl": "KL divergence [nats per galaxy]",
}
LEAST_TO_ZOOM = 8  # evaluations


def training_curves(
    history: tuple[TrainInfo, ...], *, title: str = "Training, on validation galaxies"
) -> "Figure":
    """Show the bound, the reduced chi-square and the divergence at each evaluation.

    Args:
        history: Evaluations, as :func:`hiergal.training.svi.fit` returns them.
        title: Title of the figure.

    Returns:
        Three panels against the number of steps. A dashed line marks the best bound, whose parameters are kept.

    Raises:
        ValueError: If there are no evaluations.

    Example:
        >>> history = tuple(TrainInfo(100 * i, 1.0, 0.0, 8e3 - 1e3 / i, 0.0, 20.0, (), 1.1) for i in range(1, 5))
        >>> len(training_curves(history).axes)
        3
    """
    if not history:
        raise ValueError("history: expected at least one evaluation, got none; train for longer")
    step = np.array([info.step for info in history])
    best = step[np.argmax([info.elbo for info in history])]
    figure = plain_figure(10, 3.2, title)
    for axes, (name, label) in zip(figure.subplots(1, 3), LABELS.items(), strict=True):
        values = np.array([getattr(info, name) for info in history])
        axes.axvline(best, color=GRAY, linestyle="--", linewidth=1)
        axes.plot(step, values, color=BLUE, linewidth=1.6, marker="o", markersize=3)
        plain_axes(axes, xlabel="step", ylabel=label)
        axes.set_xlim(0, None)
        if name == "chi_square":
            axes.axhline(1, color=GRAY, linewidth=1)
        if len(values) >= LEAST_TO_ZOOM and name != "kl":
            _leave_out_the_start(axes, values)
    return figure


def rate_and_distortion(
    history: tuple[TrainInfo, ...], *, title: str = "Rate and distortion, on validation galaxies"
) -> "Figure":
    """Show the KL divergence of each latent, and the path of the training in rate and distortion.

    Args:
        history: Evaluations, as :func:`hiergal.training.svi.fit` returns them.
        title: Title of the figure.

    Returns:
        Three panels: the divergence of each latent against the number of steps, that of the last evaluation in order
        of size, and the path of the training in the plane of rate and distortion (Alemi et al. 2018).

    Raises:
        ValueError: If there are no evaluations.

    Example:
        >>> history = tuple(TrainInfo(i, 1.0, 0.0, 8e3, 9e3 - i, 3.0, (2.0, 1.0), 1.1) for i in range(1, 5))
        >>> len(rate_and_distortion(history).axes)
        3
    """
    if not history:
        raise ValueError("history: expected at least one evaluation, got none; train for longer")
    step = np.array([info.step for info in history])
    each = np.array([info.kl_per_latent for info in history])
    rate, distortion = (np.array([getattr(i, name) for i in history]) for name in ("kl", "distortion"))
    figure = plain_figure(10, 3.2, title)
    left, middle, right = figure.subplots(1, 3)
    left.plot(step, each, color=BLUE, linewidth=1, alpha=0.6)
    plain_axes(left, xlabel="step", ylabel="KL of each latent [nats per galaxy]")
    left.set_xlim(0, None)
    middle.bar(np.arange(1, each.shape[1] + 1), np.sort(each[-1])[::-1], color=BLUE)
    middle.locator_params(axis="x", integer=True, nbins=8)
    plain_axes(middle, xlabel="latent, by its KL", ylabel="KL [nats per galaxy]")
    right.plot(rate, distortion, color=BLUE, linewidth=1.6, marker="o", markersize=3)
    right.plot(rate[-1:], distortion[-1:], color=GRAY, marker="o", markersize=7, fillstyle="none")
    plain_axes(right, xlabel="rate [nats per galaxy]", ylabel="distortion [nats per galaxy]")
    if len(distortion) >= LEAST_TO_ZOOM:
        _leave_out_the_start(right, distortion)
    return figure


def _leave_out_the_start(axes, values: np.ndarray) -> None:
    """The first evaluations are so far off that nothing could be seen of the others."""
    later = values[len(values) // 5 :]
    low, high = later.min(), later.max()
    margin = 0.08 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
