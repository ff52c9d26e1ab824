"""What a run is: all that decides its numbers, and the digest by which its result and its parts know it again."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["differences", "digest_of", "plain"]


def digest_of(run: Mapping[str, Any]) -> str:
    """Return the digest of all that decides the numbers of a run.

    Args:
        run: Names and values: settings, seeds, digests of inputs, the version; whatever JSON can hold.

    Example:
        >>> digest_of({"seed": 1, "model": "a"}) == digest_of({"model": "a", "seed": 1})
        True
    """
    return hashlib.sha256(msgspec.json.encode(plain(run), order="sorted")).hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the names of what differs between two runs.

    Example:
        >>> differences({"seed": 1, "draws": 2}, {"seed": 3, "draws": 2})
        'seed'
    """
    old, new = _flat(plain(before)), _flat(plain(now))
    names = [name for name in new if name not in old or old[name] != new[name]]
    return ", ".join(names + [name for name in old if name not in new]) or "content"


def plain(run: Mapping[str, Any]) -> Any:
    """Return a run as it comes back from JSON: tuples are lists, paths are texts.

    Example:
        >>> plain({"shape": (64, 64)})
        {'shape': [64, 64]}
    """
    return msgspec.json.decode(msgspec.json.encode(run, enc_hook=str))


def _flat(of: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in of.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
