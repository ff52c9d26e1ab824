"""From the architecture that a recipe names to its network: kinds are registered where they are defined."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
from jaxtyping import Float

from hiergal.recipe.network_kinds import NetworkArchitecture, kind_of

__all__ = ["LightBeyond", "build_network", "register_network"]

Network = TypeVar("Network", bound=type[nn.Module])
NETWORKS: dict[type[NetworkArchitecture], type[nn.Module]] = {}


class LightBeyond(NamedTuple):
    """Light of galaxies beyond squares around the centre of their stamp.

    Attributes:
        share: Share of the total flux, [n, k]; where it is small at most twice too large, and hardly too small.
        brightness: Largest surface brightness [flux per squared pixel of the model], [n, k]; hardly too small.
    """

    share: Float[jax.Array, "n k"]
    brightness: Float[jax.Array, "n k"]


def register_network(architecture: type[NetworkArchitecture]) -> Callable[[Network], Network]:
    """Decorate a Flax module that is built from an architecture.

    A generator maps latents [n, d] to light profiles [n, y, x]; an encoder maps an
    :class:`~hiergal.observation.Observation` to [n, outputs]. It is built with those of these attributes that it
    declares:

    * ``config``: the architecture;
    * ``shape``: (ny, nx) of the stamps;
    * ``dtype``: what to compute in; None for the type of the inputs;
    * ``training``: whether gradients may take fast forms, which have no forward mode;
    * ``blur_pix``, of a generator: standard deviation of the round Gaussian that its profiles are to be blurred with
      (``Recipe.profile_fwhm_arcsec``) [pixels];
    * ``step``, of a generator whose architecture says ``any_grid``: width of the pixels of its profiles [pixels of the
      model, in which ``blur_pix`` is given, too]; called with ``half_sides``, a tuple of lengths in the same pixels, it
      returns what lies beyond squares, a :class:`LightBeyond`, in place of profiles;
    * ``outputs``, of an encoder: how many numbers describe the posterior of a galaxy;
    * ``generator``, of an encoder: the architecture of the generator.

    Args:
        architecture: Its hyperparameters: see :mod:`hiergal.recipe.network_kinds`.

    Raises:
        TypeError: If the architecture has no name.

    Example:
        >>> import jax.numpy as jnp, msgspec
        >>> from hiergal.recipe.network_kinds import GeneratorArchitecture
        >>> class Flat(GeneratorArchitecture, msgspec.Struct, frozen=True, tag_field="kind", tag="flat"):
        ...     latents: int = 1
        >>> @register_network(Flat)
        ... class FlatGenerator(nn.Module):
        ...     shape: tuple[int, int]
        ...     def __call__(self, z):
        ...         return jnp.ones((len(z), *self.shape)) * jnp.exp(z[:, :, None])
        >>> build_network(Flat(), shape=(4, 5)).apply({}, jnp.zeros((2, 1))).shape
        (2, 4, 5)
    """
    kind_of(architecture)

    def register(network: Network) -> Network:
        NETWORKS[architecture] = network
        return network

    return register


def build_network(architecture: NetworkArchitecture, **about: Any) -> nn.Module:
    """Build the network of an architecture.

    Args:
        architecture: Its hyperparameters.
        **about: What :func:`register_network` lists, of which it gets what it declares.

    Raises:
        TypeError: If no network is registered for it.

    Example:
        >>> from hiergal.recipe.recipe import Recipe
        >>> type(build_network(Recipe().generator, shape=(64, 64))).__name__
        'Generator'
    """
    network = NETWORKS.get(type(architecture))
    if network is None:
        raise TypeError(
            f"kind {kind_of(architecture)!r}: expected a network for {type(architecture).__name__}, got none; decorate "
            f"its Flax module with @register_network({type(architecture).__name__})"
        )
    declared = {field.name for field in dataclasses.fields(network)}
    given = {"config": architecture} | about
    return network(**{name: value for name, value in given.items() if name in declared})
