"""Deblending from files to a table: scenes of a survey or of FITS cutouts, positions from a catalogue.

A row of the table is a source:

=====================================  ==========================================================================
column                                 holds
=====================================  ==========================================================================
``scene``, ``source``                  identifier of the scene; number of the source in it, from 1, in the order given
``x_pix``, ``y_pix``                   centroid of the source from the centre of the scene [pixels]
``flux``, ``magnitude``,               posterior means; with ``_std`` the standard deviations, with ``_q025`` to
``hlr_arcsec``, ``g1``, ``g2``         ``_q975`` the quantiles, as in :mod:`hiergal.posterior.table`; so for x and y
``chi_square``, ``misfit``             of the whole scene (:class:`hiergal.posterior.scenes.deblend.Deblended`)
``image_mean``, ``image_std``          with ``images``: the source in the scene, at its PSF [flux per pixel]
``profile_mean``, ``profile_std``      with ``images``: the same, deconvolved [flux per pixel]
=====================================  ==========================================================================
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import numpy as np
from astropy.table import Table, vstack
from jaxtyping import Float, Int

from hiergal.hub.bundle import load_model
from hiergal.hub.digest import digest_of_model
from hiergal.hub.names import resolve
from hiergal.model.conditions import condition_names
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.posterior.provenance import cards_of, provenance_of
from hiergal.posterior.scenes.deblend import Deblended, deblend
from hiergal.posterior.table import quantity_columns, write_result
from hiergal.runtime.identity import digest_of_arrays, digest_of_files
from hiergal.runtime.output import owned
from hiergal.runtime.seeds import key_for
from hiergal.survey.cutouts.survey import write_cutouts_survey
from hiergal.survey.schema import MANIFEST, digest_of_store
from hiergal.survey.store import open_survey
from hiergal.survey.tables.catalog import read_catalog

__all__ = ["BLENDS", "deblend_scenes", "tabulate_deblended"]

BLENDS = "table of deblended sources"  # what such a file says that it is
DEBLENDED = 440  # purpose of the seed
LARGEST_MISFIT = 2.0  # above which the words say that a scene was not fitted
SCENE, POSITIONS = "scene", ("x_pix", "y_pix")
IMAGES = ("image_mean", "image_std", "profile_mean", "profile_std")


class _Sources(NamedTuple):
    """Scenes with the same number k of sources: rows of the survey, positions, and rows of the catalogue."""

    rows: Int[np.ndarray, "n"]
    positions: Float[np.ndarray, "n k 2"]
    entries: Int[np.ndarray, "n k"]


def deblend_scenes(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    sources: Any = None,
    at: Sequence[str] | None = None,
    seed: int = 0,
    method: str = "curved",
    position_error_pix: float = 0.0,
    conditions: bool = False,
    images: bool = False,
    draws: int = 200,
    batch: int = 4,
    cutouts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> str:
    """Deblend scenes, and write a table with a row for each source.

    Args:
        model: ``hub:NAME``, a path or an address.
        source: A survey, or cutouts: a FITS file, a folder of them, or ``.npz`` (:mod:`hiergal.survey.cutouts.survey`).
        out: The table to write, ``.fits``.
        sources: A catalogue of all sources: ``x_pix`` and ``y_pix`` from the centre of the scene [pixels],
            ``scene``, the identifier of its scene, which is not needed where there is one scene.
        at: Instead, the sources of a single scene, each in words: ``"-6.5,4"``.
        seed: Seed of the draws.
        method: As for :func:`hiergal.posterior.scenes.deblend.deblend`.
        position_error_pix: Standard deviation of the positions along each axis [pixels].
        conditions: Whether the conditions of the model among the columns of ``sources`` inform the prior.
        images: Whether to add columns of images.
        draws: Posterior draws of each source.
        batch: Scenes in one call of the compiled program.
        cutouts: What cutouts do not say: arguments of :func:`hiergal.survey.cutouts.survey.write_cutouts_survey`.
        overwrite: Whether to replace a table of another run; anything else is never replaced.
        progress: Whether to show a progress bar.

    Returns:
        What was found, in words.

    Raises:
        FileExistsError: If something is there that may not be replaced.
        OSError: If something cannot be read or written.
        ValueError: If scenes, positions or conditions are wrong.

    Example:
        >>> from astropy.table import Table
        >>> sources = Table({"scene": [0, 0, 1], "x_pix": [-8.0, 8.0, 0.0], "y_pix": [0.0, 0.0, 0.0]})
        >>> sources.write("sources.csv")
        >>> deblend_scenes("hub:mock-acs", survey.path, "blends.fits", sources="sources.csv")
        '3 sources in 2 scenes, median reduced chi-square ...'
    """
    if Path(out).suffix != ".fits":
        raise ValueError(f"out: expected a table that ends in .fits, got {out}")
    path, options = resolve(model), {k: v for k, v in (cutouts or {}).items() if v is not None}
    given = _catalog(sources, at)
    run = {
        "files": {"model": digest_of_model(path), "scenes": _digest_of(source)},
        "sources": digest_of_arrays([np.asarray(given[name]).astype(str) for name in given.colnames]),
        "choices": {
            **{"seed": seed, "method": method, "position_error_pix": position_error_pix, "draws": draws},
            **{"conditions": conditions, "images": images, "batch": batch, "cutouts": options},
        },
    }
    inputs = [path, source, sources if isinstance(sources, str | Path) else None]
    with owned(out, BLENDS, run=run, inputs=inputs, overwrite=overwrite, resume=False) as own:
        if own.finished:
            return "is there already, of the same run; nothing to do"
        loaded, parts = load_model(path), []
        scenes = _read_scenes(source, options).in_photometry(loaded.provenance.photometry)
        for group in _groups(given, np.asarray(scenes.identifier)):
            found = deblend(
                loaded,
                scenes[group.rows],
                group.positions,
                key=jax.random.fold_in(key_for(seed, DEBLENDED), group.positions.shape[1]),
                method=method,
                position_error_pix=position_error_pix,
                conditions=_conditions(loaded, given, group) if conditions else None,
                draws=draws,
                batch=batch,
                progress=progress,
            )
            table = tabulate_deblended(
                found,
                magnitude_zero_point=loaded.provenance.magnitude_zero_point,
                flux_unit=loaded.provenance.flux_unit,
                images=images,
            )
            parts.append((group.entries.ravel(), table))
        order = np.argsort(np.concatenate([entries for entries, _ in parts]))
        table = vstack([table for _, table in parts], metadata_conflicts="silent")[order]
        about = {"method": method, "draws": draws, "conditions": conditions, "seed": seed}
        table.meta |= cards_of(provenance_of(loaded, **about))
        write_result(table, own)
        own.put()
    return _in_words(table)


def tabulate_deblended(
    found: Deblended, *, magnitude_zero_point: float, flux_unit: str = "", images: bool = False
) -> Table:
    """Summarise deblended sources, one row for each.

    Args:
        found: Posteriors of the k sources of n scenes.
        magnitude_zero_point: Magnitude of unit flux [mag].
        flux_unit: Unit of the flux, as the survey calls it.
        images: Whether to add columns of images.

    Returns:
        A table of n times k rows, the sources of the first scene first.

    Example:
        >>> from hiergal.posterior.scenes.deblend import deblend
        >>> positions = np.array([[[-8.0, 0.0], [8.0, 0.0]]])
        >>> found = deblend(model, observation[0], positions, key=0, draws=10)
        >>> len(tabulate_deblended(found, magnitude_zero_point=25.94))
        2
    """
    s, n, k = found.positions.shape[:3]
    draws = {
        name: np.asarray(getattr(found.summary, name), float).reshape(s, n * k)
        for name in ("flux", "hlr_arcsec", "x_pix", "y_pix", "g1", "g2")
    }
    for axis, name in enumerate(POSITIONS):  # centroids are measured from the centre of each profile
        draws[name] = draws[name] + np.asarray(found.positions[..., axis], float).reshape(s, n * k)
    table = Table(
        {
            SCENE: np.repeat(np.asarray(found.identifier), k),
            "source": np.tile(np.arange(1, k + 1, dtype=np.int32), n),
        }
    )
    for column in quantity_columns(draws, magnitude_zero_point, flux_unit).itercols():
        table[column.name] = column
    for name in ("chi_square", "misfit"):
        table[name] = np.repeat(np.asarray(getattr(found, name), np.float32), k)
    for name in IMAGES if images else ():
        image = np.asarray(getattr(found, name), np.float32)
        table[name] = image.reshape(n * k, *image.shape[2:])
    return table


def _catalog(sources: Any, at: Sequence[str] | None) -> Table:
    """All sources, with their positions, as a table."""
    if (sources is None) == (not at):
        raise ValueError(
            "expected positions of sources: either a catalogue of them (--sources), or those of one scene (--at)"
        )
    if sources is None:
        pairs = [_pair(text) for text in at or ()]
        return Table(np.array(pairs, float), names=POSITIONS)
    table = read_catalog(sources)
    missing = [name for name in POSITIONS if name not in table.colnames]
    if missing or not len(table):
        raise ValueError(
            f"sources: expected columns {' and '.join(POSITIONS)} from the centre of each scene [pixels], and at least "
            f"one row, got {len(table)} rows of {', '.join(table.colnames) or 'nothing'}"
        )
    return table


def _pair(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"at: expected two numbers X,Y from the centre of the scene, got {text!r}") from None
    return x, y


def _groups(given: Table, identifiers: np.ndarray) -> Iterator[_Sources]:
    """Scenes by their number of sources, in the order of the survey: the program is compiled for each number."""
    if SCENE in given.colnames:
        names = np.asarray(given[SCENE]).astype(str)
    elif len(identifiers) == 1:
        names = np.repeat(identifiers.astype(str), len(given))
    else:
        raise ValueError(
            f"sources: expected a column {SCENE} with the identifier of the scene of each source, as there are "
            f"{len(identifiers)} scenes, got {', '.join(given.colnames)}"
        )
    row_of = {str(name): row for row, name in enumerate(identifiers)}
    unknown = sorted(set(names) - set(row_of))
    if unknown:
        raise ValueError(
            f"sources: expected identifiers of scenes in {SCENE}, got others (first: {unknown[0]})"
        )
    members: dict[int, list[int]] = {}
    for entry, name in enumerate(names):
        members.setdefault(row_of[name], []).append(entry)
    positions = np.stack([np.asarray(given[name], float) for name in POSITIONS], axis=-1)
    for k in sorted({len(entries) for entries in members.values()}):
        rows = np.array(sorted(row for row, entries in members.items() if len(entries) == k))
        entries = np.array([members[row] for row in rows])
        yield _Sources(rows, positions[entries].astype(np.float32), entries)


def _conditions(model: GalaxyModel, given: Table, group: _Sources) -> Table:
    """Conditions of the sources of a group, in their order; its own columns of positions do not count."""
    names = [name for name in condition_names(model) if name in given.colnames]
    return given[group.entries.ravel()][names] if names else Table()


def _read_scenes(source: str | Path, options: dict[str, Any]) -> Observation:
    if (Path(source) / MANIFEST).is_file():
        return open_survey(source).read()
    with TemporaryDirectory() as folder:
        names: dict[str, Any] = {"survey": "scenes", "band": "unknown"}
        return write_cutouts_survey(source, Path(folder) / "scenes.zarr", **names, **options).read()


def _digest_of(source: str | Path) -> str:
    return (
        digest_of_store(source)
        if (Path(source) / MANIFEST).is_file()
        else digest_of_files(source, below=False)
    )


def _in_words(table: Table) -> str:
    first = table[table["source"] == 1]
    bad = int((np.asarray(first["misfit"]) > LARGEST_MISFIT).sum())
    words = (
        f"{_count(len(table), 'source')} in {_count(len(first), 'scene')}, median reduced chi-square "
        f"{np.median(np.asarray(first['chi_square'])):.3f}"
    )
    return words + (f"; {bad} not fitted (misfit above {LARGEST_MISFIT:g})" if bad else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
