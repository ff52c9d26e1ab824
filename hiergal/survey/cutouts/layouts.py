"""Layouts of FITS cutouts: the extensions of image, noise, mask and PSF, by the names of surveys.

==========  =======================================================================================================
role        names of extensions (``EXTNAME``, or ``EXTTYPE`` as HSC has it), in any case
==========  =======================================================================================================
image       ``IMAGE``, ``SCI``, ``DATA``; else the primary HDU, as CCDData has it
variance    ``VARIANCE``, ``VAR``; ``UNCERT`` whose ``UTYPE`` says so
rms         ``RMS``, ``ERR``, ``ERROR``, ``STDDEV``, ``SIGMA``; ``UNCERT`` of a standard deviation (CCDData)
weight      ``WEIGHT``, ``IVAR``, ``INVVAR``, ``WGT``, ``WHT``; ``UNCERT`` of an inverse variance
mask        ``MASK``, ``DQ``, ``MSK``, ``FLAGS``
psf         ``PSF``, ``PSFIMAGE``, ``PSF_IMAGE``
==========  =======================================================================================================

Where a file states its noise several ways (JWST: ``ERR``, ``WHT``, ``VAR_POISSON``), a standard deviation is taken,
else a variance, else a weight; but two of ``VARIANCE``, ``RMS`` and ``WEIGHT`` are refused. Anything else is said by
name: ``image=SCI,rms=ERR``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["NOISE_ROLES", "ROLES", "find_roles", "parse_extensions", "stamp_of"]

NOISE_ROLES = ("variance", "rms", "weight")
ROLES = {
    "image": ("IMAGE", "SCI", "DATA"),
    "variance": ("VARIANCE", "VAR"),
    "rms": ("RMS", "ERR", "ERROR", "STDDEV", "SIGMA"),
    "weight": ("WEIGHT", "IVAR", "INVVAR", "WGT", "WHT"),
    "mask": ("MASK", "DQ", "MSK", "FLAGS"),
    "psf": ("PSF", "PSFIMAGE", "PSF_IMAGE"),
}
UNCERTAINTIES = {"STDDEVUNCERTAINTY": "rms", "VARIANCEUNCERTAINTY": "variance", "INVERSEVARIANCE": "weight"}
PREFERRED = ("rms", "variance", "weight")  # where the names are those of surveys


def parse_extensions(words: str | Mapping[str, str] | None) -> dict[str, str]:
    """Return the extension of each role that is named: ``image=SCI,rms=ERR``, or ``image=SCI:2`` for EXTVER 2.

    Args:
        words: Pairs in words, or a mapping.

    Raises:
        ValueError: If a role is unknown, or something is no pair.

    Example:
        >>> parse_extensions("image=SCI:2,rms=ERR")
        {'image': 'SCI:2', 'rms': 'ERR'}
    """
    if words is None:
        return {}
    if isinstance(words, str):
        pairs = [pair.partition("=") for pair in words.split(",")]
        wrong = ["".join(pair) for pair in pairs if not pair[0].strip() or not pair[2].strip()]
        if wrong:
            raise ValueError(f"extensions: expected ROLE=NAME, such as image=SCI,rms=ERR, got {wrong[0]!r}")
        words = {role.strip(): name.strip() for role, _, name in pairs}
    unknown = [role for role in words if role not in ROLES]
    if unknown:
        raise ValueError(f"extensions: expected roles among {', '.join(ROLES)}, got {', '.join(unknown)}")
    if sum(role in words for role in NOISE_ROLES) > 1:
        raise ValueError(
            "extensions: expected one of variance, rms, weight, got several; name the one to use"
        )
    return dict(words)


def find_roles(
    hdus: Any, file: Path, extensions: Mapping[str, str], needed: Mapping[str, bool]
) -> dict[str, Any]:
    """Find the HDU of each role; all that is wrong is told at once.

    Args:
        hdus: The open file.
        file: Its name, for errors.
        extensions: As :func:`parse_extensions` gives them.
        needed: Whether a file has to have the ``psf`` and the ``noise``.

    Returns:
        HDUs by role; mask, PSF and noise may be missing where they are not needed.

    Raises:
        ValueError: With one line for all that is missing or ambiguous.
    """
    found: dict[str, list[Any]] = {role: [] for role in ROLES}
    named = {role: _named(hdus, name) for role, name in extensions.items()}
    for hdu in hdus:
        role = _role_of(hdu)
        if role is not None and hdu.shape:
            found[role].append(hdu)
    if not found["image"] and hdus[0].shape and "image" not in named:
        found["image"] = [hdus[0]]
    found |= named
    noise = [role for role in NOISE_ROLES if found[role]]
    stated = [role for role in NOISE_ROLES if role in named]
    canonical = [role for role in noise if any(_name(hdu) == ROLES[role][0] for hdu in found[role])]
    problems = []
    if stated:
        noise = stated
    elif len(canonical) > 1:
        got = ", ".join(role.upper() for role in canonical)
        problems.append(f"one extension of VARIANCE, RMS, WEIGHT, got {got}")
    else:
        noise = canonical or [role for role in PREFERRED if role in noise][:1]
    problems += [
        f"an extension {name} for {role}, got none" for role, name in extensions.items() if not named[role]
    ]
    if not found["image"] and "image" not in extensions:
        problems.append("an extension IMAGE (or SCI) with the image, got none")
    if not noise and needed["noise"]:
        problems.append("one extension of VARIANCE, RMS, WEIGHT (or ERR, VAR, WHT), got none")
    if not found["psf"] and needed["psf"] and "psf" not in extensions:
        problems.append("an extension PSF, got none (or give one for all with --psf FILE)")
    chosen = {}
    for role in ("image", *noise[:1], "mask", "psf"):
        several = found[role]
        if len(several) > 1 and role not in extensions:
            first = [hdu for hdu in several if _name(hdu) == _name(several[0])]
            if len(first) > 1:
                listed = ", ".join(f"{_name(hdu)}:{hdu.ver}" for hdu in first)
                problems.append(
                    f"one extension for {role}, got {listed}; say which with --extensions {role}=NAME:EXTVER"
                )
            several = sorted(
                several,
                key=lambda hdu, role=role: ROLES[role].index(_name(hdu)) if _name(hdu) in ROLES[role] else 99,
            )
        if several:
            chosen[role] = several[0]
    if problems:
        there = ", ".join(f"{hdu.name or 'without a name'}{list(hdu.shape or ())}" for hdu in hdus)
        raise ValueError(f"{file}: expected {'; and '.join(problems)}; there are: {there}")
    shapes = {role: stamp_of(hdu, role, file).shape for role, hdu in chosen.items() if role != "psf"}
    for role, shape in shapes.items():
        if shape != shapes["image"]:
            raise ValueError(
                f"expected {role.upper()} and IMAGE of one shape in {file}, got {shape}, {shapes['image']}"
            )
    return chosen


def stamp_of(hdu: Any, role: str, file: Path) -> np.ndarray:
    """Return the pixels of an extension, two-dimensional.

    Raises:
        ValueError: If they are not.
    """
    data = hdu.data
    shape = () if data is None else data.shape
    while len(shape) > 2 and shape[0] == 1:
        data, shape = data[0], shape[1:]
    if len(shape) != 2 or not all(shape):
        raise ValueError(
            f"{file}: expected a 2-d image for {role} in {hdu.name or 'the primary HDU'}, got {shape}"
        )
    return data


def _named(hdus: Any, name: str) -> list[Any]:
    name, _, version = str(name).partition(":")
    if name.isdigit() and not version:
        return [hdus[int(name)]] if int(name) < len(hdus) else []
    found = [hdu for hdu in hdus if _name(hdu) == name.upper() and hdu.shape]
    return [hdu for hdu in found if not version or str(hdu.ver) == version]


def _name(hdu: Any) -> str:
    return str(hdu.header.get("EXTNAME") or hdu.header.get("EXTTYPE") or hdu.name).strip().upper()


def _role_of(hdu: Any) -> str | None:
    name = _name(hdu)
    if name == "UNCERT":
        return UNCERTAINTIES.get(str(hdu.header.get("UTYPE", "StdDevUncertainty")).strip().upper())
    return next((role for role, names in ROLES.items() if name in names), None)
