"""Images of the posteriors of a survey on disk: a zarr group, written by parts that do not touch each other's chunks.

=====================================  =========================================================================
array                                  holds
=====================================  =========================================================================
``profile_mean``, ``profile_std``      the deconvolved profile and its error [flux per pixel], [galaxy, y, x]
``image_mean``                         the denoised stamp [flux per pixel], [galaxy, y, x]
``identifier``                         of each galaxy; -1 where nothing was inferred
``identifier_text``                    its text, if it is one: UTF-8, [galaxy, 64]
=====================================  =========================================================================

Rows are those of the survey; galaxies of which nothing was inferred are NaN.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from hiergal.model.trained import GalaxyModel
from hiergal.posterior.posterior import Posterior
from hiergal.runtime.extras import require_extra
from hiergal.runtime.marks import KIND, RUN
from hiergal.runtime.output import Output
from hiergal.survey.arrays import LONGEST_TEXT, identifier_arrays

__all__ = ["IMAGES", "create_images", "write_images"]

IMAGES = ("profile_mean", "profile_std", "image_mean")


def create_images(own: Output, galaxies: int, part: int, model: GalaxyModel, *, text: bool = False) -> None:
    """Make the group, as the result of an output that the caller owns.

    Args:
        own: The output.
        galaxies: Number of galaxies.
        part: Galaxies in a chunk: what one task writes.
        model: The model, for shapes and units.
        text: Whether identifiers are text.

    Raises:
        OSError: If it cannot be written.
    """
    require_extra("survey", "images of posteriors")
    import zarr

    group, origin = zarr.open_group(own.result, mode="w"), model.provenance
    group.attrs.update({KIND: own.kind, RUN: own.digest})
    group.attrs["pixel_scale_arcsec"] = model.recipe.pixel_scale_arcsec
    group.attrs["unit"] = f"{origin.flux_unit} / pixel"
    group.attrs["magnitude_zero_point"] = origin.magnitude_zero_point
    shape = model.recipe.shape
    for name in IMAGES:
        group.create_array(
            name, shape=(galaxies, *shape), chunks=(part, *shape), dtype="float32", fill_value=np.nan
        )
    group.create_array("identifier", shape=(galaxies,), chunks=(part,), dtype="int64", fill_value=-1)
    if text:
        size = (LONGEST_TEXT,)
        group.create_array(
            "identifier_text", shape=(galaxies, *size), chunks=(part, *size), dtype="uint8", fill_value=0
        )


def write_images(
    path: str | Path, rows: Int[np.ndarray, "r"], good: Bool[np.ndarray, "r"], posterior: Posterior
) -> None:
    """Write the images of one part.

    Args:
        path: The group.
        rows: Rows of the part, consecutive.
        good: Which of them were inferred.
        posterior: Their posteriors, in order.
    """
    import zarr

    group, where = zarr.open_group(path, mode="r+"), slice(int(rows[0]), int(rows[-1]) + 1)
    for name in IMAGES:
        values = np.full((len(rows), *posterior.profile_mean.shape[1:]), np.nan, np.float32)
        values[good] = getattr(posterior, name)
        group[name][where] = values
    for name, block in identifier_arrays(posterior.identifier).items():
        values = np.full((len(rows), *block.shape[1:]), group[name].fill_value, block.dtype)
        values[good] = block
        group[name][where] = values
