"""Light at the edge of drawn galaxies: what lies beyond the stamp is missing, which a warning says.

A model whose light is no function on the plane (:mod:`hiergal.simulate.stamps`) draws what fits on its stamp. Of a
galaxy that is larger than that, the wings are cut off, and its flux is too small: of ``hub:mock-acs``, galaxies asked
for with magnitude 20 and a radius of 40 pixels have magnitude 21.4.
"""

import warnings

import numpy as np
from jaxtyping import Float

__all__ = ["MOST_AT_EDGE", "edge_light", "warn_of_edge_light"]

FRAME = 1 / 32  # of a side: width of the edge
MOST_AT_EDGE, OFTEN = 0.04, 0.05


def edge_light(profiles: Float[np.ndarray, "n y x"]) -> Float[np.ndarray, "n"]:
    """Return the share of each galaxy's light that is in the outermost 32nd of the stamp on each side.

    Example:
        >>> edge_light(np.ones((1, 64, 64))).round(3).tolist()
        [0.121]
    """
    ny, nx = (max(1, round(FRAME * size)) for size in profiles.shape[1:])
    inner = profiles[:, ny:-ny, nx:-nx].sum(axis=(1, 2), dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - inner / profiles.sum(axis=(1, 2), dtype=float)


def warn_of_edge_light(profiles: Float[np.ndarray, "n y x"], *, stacklevel: int = 3) -> None:
    """Warn if more than one in twenty galaxies have more than ``MOST_AT_EDGE`` of their light at the edge.

    Args:
        profiles: Light profiles; those of NaN, which are not drawn, do not count.
        stacklevel: As for ``warnings.warn``.
    """
    found = edge_light(profiles)
    drawn, cut = int(np.isfinite(found).sum()), int((found > MOST_AT_EDGE).sum())
    if cut > OFTEN * drawn:
        warnings.warn(
            f"{cut} of {drawn} galaxies have more than {MOST_AT_EDGE:.0%} of their light at the edge of the stamp: "
            "what lies beyond is missing, and their fluxes are too small by it; flux='catalog' imposes those of the "
            "magnitudes (`hiergal sample --magnitude-column`), on shapes that stay cut",
            stacklevel=stacklevel,
        )
