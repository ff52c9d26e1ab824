"""A mock survey on disk: galaxies drawn by any number of processes."""

import functools
from concurrent.futures import Executor
from pathlib import Path

from hiergal.runtime.seeds import check_seed
from hiergal.runtime.version import __version__
from hiergal.survey.store import StoreHeader, SurveyStore

__all__ = [
    "write_mock_survey",
]


def write_mock_survey(
    path: str | Path,
    galaxies: int,
    *,
    seed: int,
    stamp: int = 64,
    noise: str = "correlated",
    workers: int | Executor | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> SurveyStore:
    """Draw the mock survey (:mod:`hiergal.survey.mock.galaxies`) into a store, truths next to the stamps.

    The same call goes on with a run that was stopped (:func:`~hiergal.survey.prepare.prepare_store`).

    Args:
        path: The store to write.
        galaxies: Number of galaxies.
        seed: Seed of the survey.
        stamp: Pixels along each side of a stamp.
        noise: ``"correlated"`` or ``"white"``.
        workers: Number of processes, None for one per available core; or an executor that draws.
        overwrite: Whether to replace a store that is there.
        progress: Whether to show a progress bar.

    Example:
        >>> store = write_mock_survey("mock.zarr", 20, seed=1, stamp=32, workers=1, progress=False)
        >>> len(store), store.shape
        (20, (32, 32))
    """
    check_seed(seed)
    from hiergal.survey.mock.galaxies import draw_batch
    from hiergal.survey.prepare import prepare_store

    choices = {"seed": seed, "stamp": stamp, "noise": noise}
    header = StoreHeader(
        survey="mock",
        band="F814W",
        pixel_scale_arcsec=0.03,
        magnitude_zero_point=25.94,
        provenance={"generator": "hiergal mock survey", **choices, "hiergal": __version__},
        catalog_units={"sersic_index": "1", "axis_ratio": "1", "bulge_fraction": "1", "late_type": "1"},
    )
    return prepare_store(
        path,
        header,
        functools.partial(draw_batch, **choices),
        galaxies,
        workers=workers,
        progress=progress,
        overwrite=overwrite,
    )
