"""Frozen records that JAX can look into.

Every data type of the package is a frozen dataclass registered as a pytree: arrays are leaves, and fields
declared with :func:`static` (pixel scales, names) are compile-time constants. Rebuilding goes through
``object.__new__``, so that JAX may fill a record with placeholders while the shape checks of the tests still
see every record that a person builds.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, cast, dataclass_transform

import jax
import numpy as np

__all__ = ["Array", "Record", "Rows", "brief", "record", "rows_with_axis", "static"]

WIDTH, MOST = 110, 8  # characters of a line; members of a tuple or dict that are shown
LONGEST = 320  # characters of the one line that describes a record

if TYPE_CHECKING:  # kinds and shapes of arrays are checked in the tests, where they run
    Array = Any
else:
    Array = jax.Array | np.ndarray
Rows = SupportsIndex | slice | list[int] | list[bool] | Array  # which galaxies of a batch
T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """Declare a field that is part of the type, not of the data: it is compared, not traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


class Record:
    """Base of all records: copying with changes."""

    def replace(self: T, **changes: Any) -> T:  # not Self, which the type checker of the tests refuses here
        """Return a copy with some fields changed."""
        return dataclasses.replace(cast(Any, self), **changes)

    def __repr__(self) -> str:
        """Describe it in one line: types and shapes, never the numbers of arrays."""
        return brief(self)


def brief(value: Any) -> str:
    """Describe a value in one line: of arrays their type and shape.

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
    for depth in (0, 1):  # with what records inside hold, and if that is too long, by their types alone
        parts = ", ".join(f"{name}={_in_words(one, depth)}" for name, one in fields)
        line = f"{type(value).__name__}({parts})"
        if len(line) <= LONGEST:
            return line
    return line[: LONGEST - 4] + "...)"


def rows_with_axis(rows: Any, count: int) -> Any:
    """Make an index of one row a slice of length one, so that what it takes from a batch is a batch.

    Args:
        rows: An integer, or any other index of an axis, which is returned as an array (a slice as it is).
        count: Length of the axis.

    Raises:
        IndexError: If there is no such row.

    Example:
        >>> rows_with_axis(-1, 5), rows_with_axis([0, 3], 5)
        (slice(4, 5, None), array([0, 3]))
    """
    if isinstance(rows, slice) or (isinstance(rows, jax.Array) and rows.ndim):
        return rows
    if isinstance(rows, jax.core.Tracer):
        return rows[None]
    rows = np.asarray(rows)
    if rows.ndim == 0:
        if rows.dtype.kind not in "iu":
            raise IndexError(f"expected a row's number, a slice, or an array of either, got {rows[()]!r}")
        row = int(rows)
        if not -count <= row < count:
            raise IndexError(f"expected a row below {count}, got {row}")
        return slice(row % count, row % count + 1)
    return rows if rows.size else rows.astype(int)


def _in_words(value: Any, depth: int = 0) -> str:
    if isinstance(value, np.ndarray | jax.Array) or hasattr(value, "aval"):
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, Record):
        return type(value).__name__ if depth else f"{type(value).__name__}({_shortened(value)})"
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
    parts = [
        f"{f.name}={_in_words(getattr(value, f.name, None), 1)}" for f in dataclasses.fields(cast(Any, value))
    ]
    text = ", ".join(parts)
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static, dataclasses.field))
def record(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass and a pytree whose leaves are its non-static fields.

    Two records are equal if they are the same object: arrays have no single answer to ``==``.
    """
    cls = dataclasses.dataclass(frozen=True, repr=False, eq=False)(cls)
    fields = dataclasses.fields(cls)
    names = tuple(f.name for f in fields if not f.metadata.get("static"))
    statics = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten_with_keys(self: T):
        children = tuple((jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in names)
        return children, tuple(getattr(self, n) for n in statics)

    def flatten(self: T):
        return tuple(getattr(self, n) for n in names), tuple(getattr(self, n) for n in statics)

    def unflatten(aux: Any, children: Any) -> T:
        self = object.__new__(cls)
        for name, value in zip(names + statics, (*children, *aux), strict=True):
            object.__setattr__(self, name, value)
        return self

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
