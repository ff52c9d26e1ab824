"""Common style of all figures: colours, plain axes, and pictures of them."""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GRAY",
    "ORANGE",
    "PURPLE",
    "TEXT_SIZE",
    "TITLE_SIZE",
    "plain_axes",
    "plain_figure",
    "png_of",
]

# Okabe & Ito (2008): apart for every kind of colour vision.
BLACK, BLUE, ORANGE, GREEN, PURPLE, GRAY = "#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"

TITLE_SIZE, TEXT_SIZE = 12, 9  # points
DOTS_PER_INCH = 130


def plain_figure(width_inch: float, height_inch: float, title: str) -> "Figure":
    """Make an empty figure with a title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inch, height_inch), layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.01, ha="left", fontsize=TITLE_SIZE)
    return figure


def plain_axes(axes: Any, *, xlabel: str = "", ylabel: str = "") -> None:
    """Label axes, and take away what a reader does not need."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(xlabel, fontsize=TEXT_SIZE + 1)
    axes.set_ylabel(ylabel, fontsize=TEXT_SIZE + 1)
    axes.tick_params(labelsize=TEXT_SIZE)


def png_of(figure: "Figure", *, dots_per_inch: int = DOTS_PER_INCH) -> bytes:
    """Return a figure as a PNG file."""
    return _image(figure, "png", dots_per_inch)


def _image(figure: "Figure", kind: str, dots_per_inch: int = DOTS_PER_INCH) -> bytes:
    buffer = io.BytesIO()
    # Without the time of its making, the same figure gives the same file.
    metadata = {"CreationDate": None} if kind == "pdf" else None
    figure.savefig(buffer, format=kind, dpi=dots_per_inch, metadata=metadata)
    return buffer.getvalue()
