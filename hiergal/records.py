"""Frozen records that JAX can look into.

Every data type of the package is a frozen dataclass registered as a pytree: arrays are leaves, and fields
declared with :func:`static` (pixel scales, names) are compile-time constants. Rebuilding goes through
``object.__new__``, so that JAX may fill a record with placeholders while the shape checks of the tests still
see every record that a person builds.
"""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

__all__ = ["Array", "Record", "record", "static"]

Array = jax.Array | np.ndarray
T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """Declare a field that is part of the type, not of the data: it is compared, not traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


class Record:
    """Base of all records: copying with changes."""

    def replace(self: T, **changes: Any) -> T:  # not Self, which the type checker of the tests refuses here
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def record(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass and a pytree whose leaves are its non-static fields."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)
    names = tuple(f.name for f in fields if not f.metadata.get("static"))
    statics = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten_with_keys(self: T):
        children = tuple((jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in names)
        return children, tuple(getattr(self, n) for n in statics)

    def flatten(self: T):
        return tuple(getattr(self, n) for n in names), tuple(getattr(self, n) for n in statics)

    def unflatten(aux: tuple, children: tuple) -> T:
        self = object.__new__(cls)
        for name, value in zip(names + statics, (*children, *aux), strict=True):
            object.__setattr__(self, name, value)
        return self

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
