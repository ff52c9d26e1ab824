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

__all__ = ["Array", "Record", "brief", "record", "static"]

WIDTH, MOST = 110, 8  # characters of a line; members of a tuple or dict that are shown

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

    def __repr__(self) -> str:
        """Return what it holds in a few lines: types and shapes, never the numbers of arrays."""
        return brief(self)


def brief(value: Any) -> str:
    """Describe a value in a few lines: of arrays their type and shape.

    Args:
        value: A record, a named tuple, or anything else.

    Example:
        >>> brief({"seed": 1, "rows": tuple(range(100))})
        "{'seed': 1, 'rows': tuple of 100}"
    """
    if isinstance(value, Record):
        fields = [(f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value)]
    elif hasattr(value, "_fields"):
        fields = list(value._asdict().items())
    else:
        return _in_words(value)
    parts = [f"{name}={_in_words(one)}" for name, one in fields]
    line = f"{type(value).__name__}({', '.join(parts)})"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{type(value).__name__}(", *(f"    {part}," for part in parts), ")"])


def _in_words(value: Any, depth: int = 0) -> str:
    if isinstance(value, np.ndarray | jax.Array) or hasattr(value, "aval"):
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, Record):
        names = ", ".join(f.name for f in dataclasses.fields(value))
        return f"{type(value).__name__}({names if depth else _shortened(value)})"
    if isinstance(value, dict):
        leaves = len(jax.tree.leaves(value))
        shown = [f"{key!r}: {_in_words(one, depth + 1)}" for key, one in list(value.items())[:MOST]]
        text = "{" + ", ".join(shown + ["..."] * (len(value) > MOST)) + "}"
        return text if len(text) <= WIDTH else f"dict of {len(value)} with {leaves} arrays"
    if isinstance(value, tuple | list) and len(value) > MOST:
        return f"{type(value).__name__} of {len(value)}"
    text = " ".join(repr(value).split())
    name = getattr(value, "name", None)
    if len(text) > WIDTH and isinstance(name, str):
        return f"{type(value).__name__}({name!r})"
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _shortened(value: "Record") -> str:
    parts = [f"{f.name}={_in_words(getattr(value, f.name, None), 1)}" for f in dataclasses.fields(value)]
    text = ", ".join(parts)
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def record(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass and a pytree whose leaves are its non-static fields."""
    cls = dataclasses.dataclass(frozen=True, repr=False)(cls)
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
