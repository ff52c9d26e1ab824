"""Kinds of networks, as data: the options of a generator or an encoder, by its ``kind``.

A kind is a frozen struct of hyperparameters, and its tag is the ``kind`` of a recipe's table. A further kind is one new
file, in this package or outside: its struct, a subclass of :class:`GeneratorArchitecture` or
:class:`EncoderArchitecture`, and the Flax module that is built from it, decorated with
:func:`hiergal.model.nets.registry.register_network`. Once that file has been imported, recipes and bundles with this
kind are read::

    class BlobConfig(
        GeneratorArchitecture, msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="blob"
    ):
        latents: int = 4
        width: int = 32
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
from jaxtyping import Float
from numpy import ndarray

__all__ = ["EncoderArchitecture", "GeneratorArchitecture", "NetworkArchitecture", "kind_of", "kinds_of"]


class NetworkArchitecture:
    """Architecture of a network: the base of all kinds."""

    __slots__ = ()

    @property
    def resolution_unit(self) -> int:
        """Pixels that a stamp's side must be a multiple of."""
        return 1

    @property
    def transverse_channels(self) -> tuple[int, ...]:
        """Channels of the maps of each level, full resolution first, that encoder and generator share in training.

        Empty, the default, for networks without transverse connections. With them, an encoder that is called with
        ``training=True`` returns its outputs and these maps, and a generator takes a
        :class:`~hiergal.model.nets.lanusse2020.Transverse` and returns an
        :class:`~hiergal.model.nets.lanusse2020.WithPenalties`.
        """
        return ()

    def problems(self) -> Iterator[str]:
        """Yield a sentence, beginning with the name of a field, for each thing that types alone do not say."""
        return iter(())


class GeneratorArchitecture(NetworkArchitecture):
    """Architecture of a generator: the base of all kinds. A struct of it has a field ``latents``.

    Attributes:
        latents: Number of latents.
    """

    __slots__ = ()
    latents: int

    @property
    def margin_pix(self) -> int:
        """Pixels around the stamp whose light the PSF scatters into it; 0 for profiles that end at their stamp."""
        return 0

    @property
    def cell_latents(self) -> tuple[int, int] | None:
        """Cells along each side of a square canvas, and how many of the last latents each has; None without cells."""
        return None

    @property
    def any_grid(self) -> bool:
        """Whether the light is a function on the plane, drawn on a stamp of any size, with pixels of any width.

        The network then has a field ``step``, and tells the light beyond squares
        (:func:`~hiergal.model.nets.registry.register_network`).
        """
        return False

    def measure_flux(self, log_flux: Callable[[], Float[ndarray, "n"]]) -> "GeneratorArchitecture":
        """Return the architecture with what it takes from the fluxes of the training galaxies; by default nothing.

        Args:
            log_flux: Measures log(flux) of the training galaxies; to be called only if needed.
        """
        return self


class EncoderArchitecture(NetworkArchitecture):
    """Architecture of an encoder: the base of all kinds."""

    __slots__ = ()

    @property
    def refinement_steps(self) -> int:
        """Steps that move the means of the guide on through the physics: see :mod:`hiergal.model.refinement`."""
        return 0

    def problems_with(self, generator: GeneratorArchitecture) -> Iterator[str]:
        """Yield a sentence for each thing that keeps it from inverting this generator; by default nothing does."""
        return iter(())


def kind_of(architecture: NetworkArchitecture | type[NetworkArchitecture]) -> str:
    """Return the name of a kind, as recipes have it.

    Raises:
        TypeError: If it has none.

    Example:
        >>> from hiergal.recipe.recipe import Recipe
        >>> kind_of(Recipe().generator)
        'sersic_residual'
    """
    if not _is_kind(architecture):
        name = architecture.__name__ if isinstance(architecture, type) else type(architecture).__name__
        raise TypeError(
            f"{name}: expected a msgspec.Struct with tag_field='kind' and its name as tag, got none; declare it: class "
            f"{name}(..., msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field='kind', tag=...)"
        )
    return cast(Any, architecture).__struct_config__.tag


def kinds_of(base: type[NetworkArchitecture]) -> dict[str, type[msgspec.Struct]]:
    """Return all kinds of generators, or of encoders, that are defined so far, by name.

    Args:
        base: :class:`GeneratorArchitecture` or :class:`EncoderArchitecture`.

    Raises:
        ValueError: If two have the same.

    Example:
        >>> import hiergal.recipe.recipe
        >>> {"lanusse2020", "sersic_residual"} <= set(kinds_of(GeneratorArchitecture))
        True
    """
    found: dict[str, Any] = {}
    for cls in _subclasses(base):
        if not _is_kind(cls):  # a base of several kinds
            continue
        kind = kind_of(cast(Any, cls))
        other = found.get(kind, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"kind: expected a name that no other network of its sort has, got {kind!r} for {other.__module__}."
                f"{other.__qualname__} and {cls.__module__}.{cls.__qualname__}; choose another"
            )
        found[kind] = cls  # of a class that was defined again, as in a notebook, the last
    return found


def _is_kind(architecture: Any) -> bool:
    config = getattr(architecture, "__struct_config__", None)
    return config is not None and config.tag_field == "kind" and isinstance(config.tag, str)


def _subclasses(base: type) -> Iterator[type]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)
