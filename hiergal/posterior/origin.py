"""Origin of a posterior, for its methods: model, galaxies, and what was known of them.

A posterior refers to it and does not own it: JAX's tree functions, files and other processes get the numbers alone, and
a pickle has the galaxies but not the model. :meth:`hiergal.Posterior.attach` gives it back.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.runtime.pytree import brief

__all__ = ["Origin"]


if TYPE_CHECKING:
    Inferring = Any
else:  # what asks for it without model says what to do (``Posterior.attach``)
    Inferring = GalaxyModel | None


class Origin(NamedTuple):
    """Model and galaxies of a posterior.

    Attributes:
        model: The model that inferred it; None after unpickling.
        observation: The galaxies, in the model's unit of flux.
        conditions: What was known of each, in the model's units; None for nothing.
        rows: A number of each galaxy that its random numbers depend on.
        own_psf: Whether ``image_mean`` is seen at the galaxies' own PSFs.
    """

    model: Inferring
    observation: Observation
    conditions: Float[np.ndarray, "n c"] | None
    rows: Int[np.ndarray, "n"]
    own_psf: bool = True

    __repr__ = brief

    def select(self, rows: slice | np.ndarray) -> "Origin":
        """Take some of the galaxies."""
        conditions = None if self.conditions is None else self.conditions[rows]
        return self._replace(observation=self.observation[rows], conditions=conditions, rows=self.rows[rows])
