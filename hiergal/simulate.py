"""Drawing new galaxies: from a catalogue of conditions to light profiles, and to GalSim objects (paper, Sec. 4.4).

The flow turns each row's magnitude, size and redshift into latents, the generator turns those into an unconvolved
profile. In GalSim a profile is an ``InterpolatedImage``, to be convolved with an effective PSF and drawn with
``method="no_pixel"`` (or with an optical PSF, and GalSim's own pixel).
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.hub import GalaxyModel

if TYPE_CHECKING:
    import galsim

__all__ = ["conditions_from", "draw_galsim", "draw_profiles"]

BATCH = 128
Catalog = Any  # an Astropy table, or a mapping from names to columns: not all tables are Mappings


def conditions_from(names: tuple[str, ...], catalog: Catalog) -> Float[np.ndarray, "n c"]:
    """Collect the columns that a model is conditioned on.

    Args:
        names: Names of the conditions, in order.
        catalog: An Astropy table, or any mapping from names to columns.

    Raises:
        ValueError: If a column is missing, or a value is not finite.

    Example:
        >>> conditions_from(("mag_auto",), {"mag_auto": np.array([22.0, 23.0])}).shape
        (2, 1)
    """
    columns = list(getattr(catalog, "colnames", catalog))
    missing = [name for name in names if name not in columns]
    if missing:
        raise ValueError(
            f"catalog: expected the columns {', '.join(names)}, which the model is conditioned on; "
            f"missing: {', '.join(missing)}; there are: {', '.join(columns) or 'none'}"
        )
    table = np.stack([np.ma.filled(np.ma.asarray(catalog[name], float), np.nan) for name in names], axis=-1)
    bad = ~np.isfinite(table).all(axis=-1)
    if bad.any():
        raise ValueError(
            f"catalog: expected finite conditions, got NaN or infinity in {bad.sum()} of {len(table)} rows "
            f"(first: {np.flatnonzero(bad)[0]}); drop those rows"
        )
    return table.astype(np.float32)


def draw_profiles(model: GalaxyModel, catalog: Catalog, *, key: jax.Array) -> Float[np.ndarray, "n y x"]:
    """Draw one new galaxy for each row of a catalogue.

    Args:
        model: A trained model with a flow.
        catalog: Columns of conditions, in the units of the training survey.
        key: PRNG key; the galaxy of a row depends on the key and the row's place alone.

    Returns:
        Unconvolved light profiles [flux per pixel].

    Raises:
        ValueError: If the model has no flow, or the catalogue lacks a column.

    Example:
        >>> profiles = draw_profiles(model, store.catalog, key=jax.random.key(0))  # doctest: +SKIP
    """
    if model.flow is None:
        raise ValueError("expected a model with a flow, got one without; fit it with `hiergal flow`")
    conditions = conditions_from(model.flow.config.conditions, catalog)
    parts = []
    for first in range(0, len(conditions), BATCH):
        rows = np.arange(first, first + BATCH)
        inside = np.minimum(rows, len(conditions) - 1)  # one compiled program for the last, shorter batch too
        parts.append(np.asarray(_draw(model, key, rows, conditions[inside])))
    return (
        np.concatenate(parts)[: len(conditions)] if parts else np.zeros((0, *model.recipe.shape), np.float32)
    )


def draw_galsim(
    model: GalaxyModel, catalog: Catalog, *, key: jax.Array, **options
) -> "list[galsim.GSObject]":
    """Draw one GalSim object for each row of a catalogue.

    Args:
        model: A trained model with a flow.
        catalog: Columns of conditions.
        key: PRNG key.
        options: Further arguments of ``galsim.InterpolatedImage``, such as ``x_interpolant`` or ``gsparams``.

    Returns:
        Unconvolved profiles, whose flux is that of the drawn galaxy; always a list. Those of a model with a
        ``profile_fwhm_arcsec`` can be drawn with any PSF that is wider than that, and with no narrower one.

    Example:
        >>> catalog = {"mag_auto": [22.5], "flux_radius": [10.0], "zphot": [0.8]}  # doctest: +SKIP
        >>> galaxies = draw_galsim(model, catalog, key=jax.random.key(0))  # doctest: +SKIP
    """
    import galsim

    scale, fwhm = model.recipe.pixel_scale_arcsec, model.recipe.profile_fwhm_arcsec
    profiles = draw_profiles(model, catalog, key=key).astype(float)
    galaxies = [
        galsim.InterpolatedImage(galsim.Image(profile, scale=scale), **options) for profile in profiles
    ]
    if not fwhm:
        return galaxies
    sharper = galsim.Deconvolve(galsim.Gaussian(fwhm=fwhm))
    return [galsim.Convolve(galaxy, sharper) for galaxy in galaxies]


@jax.jit
def _draw(model: GalaxyModel, key: jax.Array, rows: jax.Array, conditions: jax.Array) -> jax.Array:
    d = model.recipe.generator.latents
    keys = jax.vmap(partial(jax.random.fold_in, key))(rows)
    u = jax.vmap(lambda row_key: jax.random.normal(row_key, (d,)))(keys)
    return model.decode(model.flow.from_base(u, jnp.asarray(conditions)))
