"""The pixels that profiles are on: those of a recipe, or, for generators that give a function on the plane, any others.

A profile is light blurred with a round Gaussian (``profile_fwhm_arcsec``, 0 for none) and sampled at the middles of
pixels, each worth its area. The centre of the stamp is that of the plane, whatever its size and its pixels.
"""

from typing import NamedTuple

from hiergal.observation.psf import FWHM_PER_SIGMA
from hiergal.recipe.network_kinds import kind_of
from hiergal.recipe.recipe import Recipe

__all__ = ["ProfileGrid", "check_grid", "grid_of", "grid_with_margin", "scaled_grid"]


class ProfileGrid(NamedTuple):
    """Pixels of profiles.

    Attributes:
        shape: Pixels (ny, nx) of the stamp.
        pixel_scale_arcsec: Width of a pixel [arcsec].
        profile_fwhm_arcsec: Full width at half maximum of the Gaussian that profiles are blurred with [arcsec].
    """

    shape: tuple[int, int]
    pixel_scale_arcsec: float
    profile_fwhm_arcsec: float

    @property
    def blur_pix(self) -> float:
        """Standard deviation of that Gaussian [pixels of this grid]."""
        return self.profile_fwhm_arcsec / self.pixel_scale_arcsec / FWHM_PER_SIGMA


def grid_of(recipe: Recipe) -> ProfileGrid:
    """Return the grid that a model was trained on.

    Example:
        >>> grid_of(Recipe())
        ProfileGrid(shape=(64, 64), pixel_scale_arcsec=0.03, profile_fwhm_arcsec=0.0)
    """
    return ProfileGrid(recipe.shape, recipe.pixel_scale_arcsec, recipe.profile_fwhm_arcsec)


def grid_with_margin(recipe: Recipe) -> ProfileGrid:
    """Return the grid of the likelihood: the stamp, and what is around it where light is scattered in from there.

    Example:
        >>> grid_with_margin(Recipe()).shape
        (64, 64)
    """
    grid, margin = grid_of(recipe), recipe.generator.margin_pix
    return grid._replace(shape=(grid.shape[0] + 2 * margin, grid.shape[1] + 2 * margin))


def scaled_grid(
    recipe: Recipe, *, shape: tuple[int, int] | None = None, pixel_scale_arcsec: float | None = None
) -> ProfileGrid:
    """Return a grid of other pixels, on which profiles are blurred in proportion: finer pixels show more.

    Args:
        recipe: Recipe of the model.
        shape: Pixels (ny, nx); default the recipe's.
        pixel_scale_arcsec: Width of a pixel [arcsec]; default the recipe's.

    Raises:
        ValueError: If it is another grid than the recipe's, and the generator has no other, or if it has no pixels.

    Example:
        >>> scaled_grid(Recipe(), pixel_scale_arcsec=0.01)
        Traceback (most recent call last):
        ...
        ValueError: profiles: expected (64, 64) pixels of 0.03 arcsec, the only ones that a generator of kind \
'sersic_residual' draws on, got (64, 64) of 0.01; take a model whose kind is 'framed'
    """
    own = grid_of(recipe)
    scale = own.pixel_scale_arcsec if pixel_scale_arcsec is None else float(pixel_scale_arcsec)
    fwhm = own.profile_fwhm_arcsec * (scale / own.pixel_scale_arcsec)
    grid = ProfileGrid(own.shape if shape is None else (int(shape[0]), int(shape[1])), scale, fwhm)
    check_grid(recipe, grid)
    return grid


def check_grid(recipe: Recipe, grid: ProfileGrid) -> None:
    """Check that a generator can draw profiles on a grid.

    Args:
        recipe: Recipe of the model.
        grid: The grid.

    Raises:
        ValueError: If it is another grid than the recipe's, and the generator has no other, or if it has no pixels.
    """
    own = grid_of(recipe)
    if not grid.pixel_scale_arcsec > 0 or min(grid.shape) < 1:
        raise ValueError(
            f"profiles: expected positive pixels, got {grid.shape} of {grid.pixel_scale_arcsec} arcsec"
        )
    if grid != own and not recipe.generator.any_grid:
        raise ValueError(
            f"profiles: expected {own.shape} pixels of {own.pixel_scale_arcsec} arcsec, the only ones that a generator "
            f"of kind {kind_of(recipe.generator)!r} draws on, got {grid.shape} of {grid.pixel_scale_arcsec}; take a "
            "model whose kind is 'framed'"
        )
