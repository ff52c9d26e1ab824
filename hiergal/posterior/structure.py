"""Structure of noise-free images: concentration, Gini and M20, in batches on the device.

For draws from posteriors, of which there are hundreds for each galaxy; noisy stamps with neighbours are measured by
``hiergal.measure.morphology``. The definitions are those of Lotz et al. (2004, Eqs. 6 to 10) for an image without
noise, sky or neighbours, in circles about its centroid. With r_p the Petrosian radius, at which the mean brightness of
a ring falls to a fifth of that inside it,

    C = 5 log10(r_80 / r_20)         of the light within 1.5 r_p
    Gini = sum_i (2 i - n - 1) f_i / (n (n - 1) mean f)
    M20 = log10 [m(brightest with 20 % of the flux) / m(all)],

the last two of the n pixels f_1 <= ... <= f_n that are brighter than the ring at r_p, m their second moment about their
common centroid. A ring and a circle cut pixels softly, over a pixel's width.
"""

import jax

from hiergal.measure.structure import Structure, measure_structure
from hiergal.model.trained import GalaxyModel
from hiergal.observation.psf import PSF
from hiergal.posterior.images import posterior_images
from hiergal.posterior.posterior import Posterior
from hiergal.runtime.batching import join_batches, padded_batches
from hiergal.runtime.fork import check_not_forked

__all__ = [
    "posterior_structure",
]

IMAGES_PER_CALL = 64


def posterior_structure(
    model: GalaxyModel, posterior: Posterior, *, psf: PSF | None = None, draws: int | None = None
) -> Structure:
    """Measure posterior draws of observed galaxies.

    Args:
        model: The model that inferred the posterior.
        posterior: Posteriors of n galaxies.
        psf: PSFs to see them at, as for :func:`~hiergal.posterior.images.posterior_images`; default none: deconvolved.
        draws: How many of the draws; default all.

    Returns:
        Measurements of each draw, [s, n].

    Example:
        >>> found = posterior_structure(model, posterior, psf=observation.psf)
        >>> low, high = hiergal.credible_interval(found.gini, 0.68)
    """
    check_not_forked()
    images = posterior_images(model, posterior, psf=psf, draws=draws)
    flat = images.reshape(-1, *images.shape[2:])
    scale = model.recipe.pixel_scale_arcsec
    parts = [
        measure_structure(flat[batch.rows], scale) for batch in padded_batches(len(flat), IMAGES_PER_CALL)
    ]
    return jax.tree.map(lambda x: x.reshape(images.shape[:2]), join_batches(parts, len(flat)))
