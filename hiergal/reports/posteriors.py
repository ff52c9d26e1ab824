"""A page of many posteriors: one HTML file with a row for each galaxy, which a click on a heading sorts.

A row has thumbnails and the numbers that a reader looks for first; what speaks against a posterior is written out. The
page needs no network and no other file: pictures and the few lines of script are in it. It takes some 8 kB for each
galaxy, and 150 kB more with the galaxy's own page (:func:`hiergal.reports.figures.posterior`).
"""

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hiergal.posterior.posterior import METHODS, Posterior
from hiergal.posterior.verdict import describe_flags, explain_flags
from hiergal.reports.figures.reconstruction import RESIDUAL_LIMIT, whitened_residual
from hiergal.reports.figures.stamps import visible_pixels
from hiergal.reports.figures.style import noiseless_pixels, signed_pixels, stamp_pixels
from hiergal.reports.page import check_page, template
from hiergal.runtime.files import write_whole
from hiergal.runtime.plotting import png_of

__all__ = ["posterior_page"]

TEMPLATE = "posteriors.html.j2"
THUMB_HEIGHT = 72  # pixels of the screen
GAP = 3  # pixels of a stamp, between two of them
PAGE_DOTS = 75  # per inch, of a galaxy's own page


class Column(NamedTuple):
    """A column of the page.

    Attributes:
        name: Its heading.
        unit: Its unit; empty for none.
        text: Whether it is sorted as text.
    """

    name: str
    unit: str = ""
    text: bool = False


class Cell(NamedTuple):
    """A cell of the page.

    Attributes:
        shown: What is written.
        value: What it is sorted by; empty for no value.
        error: Written behind, smaller.
        text: Whether it is text.
        words: Whether it is a sentence.
    """

    shown: str
    value: str
    error: str = ""
    text: bool = False
    words: bool = False


def posterior_page(
    posterior: Posterior,
    path: str | Path,
    *,
    title: str = "Posteriors",
    pages: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a sortable HTML page of many galaxies.

    Args:
        posterior: Posteriors that keep their model and their galaxies, as :func:`hiergal.infer` returns them.
        path: The file, which ends in ``.html``.
        title: Title of the page.
        pages: Whether a click on a galaxy shows its page (:func:`hiergal.reports.figures.posterior`): a second or two
            for each galaxy, and its galaxies are drawn again with all their images.
        overwrite: Whether to replace a page of hiergal that is there; anything else is never replaced.

    Returns:
        The path of the page.

    Raises:
        ValueError: If the posteriors have lost their galaxies (:meth:`hiergal.Posterior.attach`), or the file ends in
            something else.
        FileExistsError: If something is there that may not be replaced.
        OSError: If it cannot be written.

    Example:
        >>> posterior_page(posterior, "galaxies.html", title="Four mock galaxies").name
        'galaxies.html'
    """
    path = Path(path)
    if path.suffix != ".html":
        raise ValueError(f"path: expected a file that ends in .html, got {path}")
    check_page(path, overwrite=overwrite)
    posterior = posterior.at_own_psf()
    columns, cells = _columns(posterior)
    thumbs = _thumbnails(posterior)
    flag = np.zeros(len(posterior), int) if posterior.flag is None else np.asarray(posterior.flag)
    rows = [
        {
            "name": str(posterior.identifier[i]),
            "flag": int(flag[i]),
            "thumb": base64.b64encode(thumbs[i]).decode("ascii"),
            "page": _page(posterior, i) if pages else "",
            "cells": cells[i],
        }
        for i in range(len(posterior))
    ]
    about = posterior.model.provenance
    judged = "not judged" if posterior.flag is None else describe_flags(flag)
    summary = (
        f"{len(posterior)} galaxies, {len(posterior.latents)} draws of each, inferred with the model "
        f"{posterior.model.recipe.name!r} trained on {about.survey} {about.band}; {judged}. Numbers are means and "
        "standard deviations of the posterior."
    )
    page = template(TEMPLATE).render(
        title=title, summary=summary, columns=columns, rows=rows, pages=pages, thumb_height=THUMB_HEIGHT
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.encode("utf-8"))
    return path


def _columns(posterior: Posterior) -> tuple[list[Column], list[list[Cell]]]:
    """The columns, and the cells of each galaxy."""
    unit = posterior.model.provenance.flux_unit
    n = len(posterior)
    known = posterior.observation.catalog.get("mag_auto")
    columns: list[tuple[Column, list[Cell]]] = [
        (
            Column("identifier", text=True),
            [Cell(str(name), str(name), text=True) for name in posterior.identifier],
        ),
    ]
    if posterior.flag is not None:
        words = [" ".join(explain_flags(int(flag))) for flag in posterior.flag]
        columns.append(
            (Column("verdict", text=True), [Cell(one, one, text=True, words=True) for one in words])
        )
    if known is not None:
        columns.append((Column("mag_auto", "mag"), [_cell(value, 2) for value in np.asarray(known)]))
    drawn = {
        Column("magnitude", "mag"): ("magnitude", 2),
        Column("flux", unit): ("flux", None),
        Column("half-light radius", "arcsec"): ("hlr_arcsec", 3),
        Column("g1"): ("g1", 3),
        Column("g2"): ("g2", 3),
    }
    for column, (name, digits) in drawn.items():
        draws = np.asarray(posterior.draws_of(name), float)
        mean, error = draws.mean(axis=0), draws.std(axis=0)
        shown = [_cell(mean[i], digits, error[i] if len(draws) > 1 else None) for i in range(n)]
        columns.append((column, shown))
    columns.append((Column("χ²"), [_cell(value, 2) for value in np.asarray(posterior.chi_square)]))
    columns.append((Column("misfit"), [_cell(value, 2) for value in np.asarray(posterior.misfit)]))
    for name, heading in (("p_pixels", "p pixels"), ("p_prior", "p prior"), ("detection", "signal to noise")):
        if name in posterior.checks:
            digits = 1 if name == "detection" else None
            columns.append(
                (Column(heading), [_cell(value, digits) for value in np.asarray(posterior.checks[name])])
            )
    methods = [METHODS[place] for place in np.asarray(posterior.method)]
    columns.append((Column("method", text=True), [Cell(name, name, text=True) for name in methods]))
    return [column for column, _ in columns], [[cells[i] for _, cells in columns] for i in range(n)]


def _cell(value: Any, digits: int | None, error: Any = None) -> Cell:
    """A number, with its error."""
    value = float(value)
    if not np.isfinite(value):
        return Cell("–", "")
    if digits is None and error is None:
        return Cell(f"{value:.3g}", repr(value))
    if digits is None:  # two digits of the error
        digits = int(np.clip(1 - np.floor(np.log10(max(float(error), 1e-9))), 0, 6))
    return Cell(f"{value:.{digits}f}", repr(value), "" if error is None else f"± {float(error):.{digits}f}")


def _thumbnails(posterior: Posterior) -> list[bytes]:
    """PNG files of the stamps of each galaxy, next to each other."""
    observation = posterior.observation
    image, level = visible_pixels(observation), np.asarray(observation.noise.rms())
    residual = whitened_residual(observation, posterior)
    found = []
    for i in range(len(posterior)):
        peak, profile, error = np.nanmax(image[i]), posterior.profile_mean[i], posterior.profile_std[i]
        stamps = [
            stamp_pixels(image[i], level[i], peak),
            stamp_pixels(posterior.image_mean[i], level[i], peak),
            signed_pixels(residual[i], RESIDUAL_LIMIT),
            noiseless_pixels(profile, level[i], profile.max()),
            noiseless_pixels(error, level[i], error.max(), cmap="Purples"),
        ]
        found.append(_png(stamps))
    return found


def _png(stamps: list[np.ndarray]) -> bytes:
    """Stamps as colours [y, x, 4], next to each other with white between them, as a PNG file."""
    from PIL import Image

    white = np.full((stamps[0].shape[0], GAP, 4), 255, np.uint8)
    parts = [part for stamp in stamps for part in (stamp, white)][:-1]
    pixels = np.concatenate(parts, axis=1)[::-1, :, :3]  # the first row of a PNG file is the upper one
    palette, places = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    picture = Image.fromarray(places.reshape(pixels.shape[:2]).astype(np.uint8), "P")
    picture.putpalette(palette.astype(np.uint8).ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _page(posterior: Posterior, row: int) -> str:
    from hiergal.reports.figures.one_galaxy import posterior as figure_of

    return base64.b64encode(png_of(figure_of(posterior[row]), dots_per_inch=PAGE_DOTS)).decode("ascii")
