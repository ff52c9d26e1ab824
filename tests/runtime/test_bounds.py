"""Lower bounds of pyproject.toml: what constraints.txt pins satisfies them, and no unsafe version does."""

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from places import ROOT

from hiergal.runtime.extras import EXTRAS

PROJECT = ROOT / "pyproject.toml"
PYTHONS = ("3.11", "3.12", "3.13")
# Versions that have a known hole, or that compute wrongly.
REFUSED = {
    "numcodecs": "0.16.5",  # a pickle codec executes code in a Zarr file
    "jinja2": "3.1.5",  # CVE-2025-27516
    "requests": "2.32.3",  # CVE-2024-47081
    "urllib3": "2.6.2",  # CVE-2026-21441
    "filelock": "3.20.2",  # CVE-2026-22701
    "distributed": "2025.12.0",  # CVE-2026-23528
    "jax": "0.10.2",  # computes wrongly on CPUs
    "jaxlib": "0.10.2",
}


def bounds() -> dict[str, Requirement]:
    """Requirements of the package and of its extras for users, by name."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in EXTRAS for line in extras[name])]
    found = [Requirement(line) for line in lines]
    return {one.name: one for one in found if one.name != project["name"]}


def pins(python: str) -> dict[str, Version]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    wanted = [Requirement(line) for line in lines if line]
    return {
        one.name: Version(next(iter(one.specifier)).version)
        for one in wanted
        if one.marker is None or one.marker.evaluate({"python_version": python})
    }


@pytest.mark.parametrize("python", PYTHONS)
def test_the_pinned_versions_satisfy_the_bounds(python):
    pinned = pins(python)
    for name, requirement in bounds().items():
        assert any(one.operator == ">=" for one in requirement.specifier), f"{name} has no lower bound"
        assert name in pinned and pinned[name] in requirement.specifier, name


@pytest.mark.parametrize("name", REFUSED)
def test_unsafe_and_wrong_versions_are_refused(name):
    assert Version(REFUSED[name]) not in bounds()[name].specifier
