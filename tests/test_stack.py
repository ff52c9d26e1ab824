"""The libraries under us: versions that compute wrongly are kept out, and would be noticed if they got in."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest
from conftest import USERS_XLA_FLAGS
from packaging.requirements import Requirement
from packaging.version import Version
from places import ROOT

from hiergal.runtime.extras import EXTRAS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [
    *PROJECT["dependencies"],
    *(line for name in EXTRAS for line in PROJECT["optional-dependencies"][name]),
]
REQUIREMENTS = {r.name: r for r in map(Requirement, LINES) if r.name != PROJECT["name"]}


REPRODUCER = """
import jax, jax.numpy as jnp, numpy as np

def check(n, columns, dtype):
    # Integers whose squares need one rounding at most: nothing may differ in any bit.
    x = np.zeros((n, columns), dtype)
    x[:, 0] = np.arange(n)
    matrix = jnp.eye(columns)
    squared_norm = jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))
    expected = (x.astype(float) ** 2).sum(axis=1).astype(dtype)
    for function in (squared_norm, jax.jit(squared_norm)):
        wrong = np.flatnonzero(np.asarray(function(x)) != expected)
        assert wrong.size == 0, (n, columns, dtype.__name__, "rows", wrong.tolist())

for n in (4_096, 4_097, 16_385, 32_768, 32_769, 32_770, 65_537):
    for columns in (3, 5):
        check(n, columns, np.float32)
jax.config.update("jax_enable_x64", True)
check(16_385, 3, np.float64)
"""


def test_vmapped_product_and_reduction_under_jit():
    """The fault of jax 0.10.2 (issue 39103): the last row of 32,769 comes out wrong, without a warning.

    In a process of its own, compiled as users compile, not with the flags of conftest.py.
    """
    # A build proves itself by compiling: nothing may come from the tests' cache.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XLA_FLAGS": USERS_XLA_FLAGS, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", REPRODUCER], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_installed_version_is_one_that_we_accept(name):
    assert version(name) in REQUIREMENTS[name].specifier


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("jax", ["0.10.0", "0.10.2", "0.11.1"], ["0.10.1", "0.12.0.1"]),
        ("jaxlib", ["0.10.0", "0.10.2", "0.11.1"], ["0.10.1", "0.12.0.1"]),
        ("numpyro", ["0.20.1", "0.21.0"], ["0.22.0"]),
        ("arviz", ["0.22.0"], ["0.23.4", "1.3.0"]),
    ],
)
def test_faulty_versions_are_excluded(name, bad, good):
    accepted = REQUIREMENTS[name].specifier
    assert not any(v in accepted for v in bad)
    assert all(v in accepted for v in good)


def test_constraints_name_a_tested_version_of_every_direct_dependency():
    lines = [
        Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"
    ]
    extras = [Requirement(r) for group in PROJECT["optional-dependencies"].values() for r in group]
    for python in ("3.11", "3.13"):
        applying = [r for r in lines if r.marker is None or r.marker.evaluate({"python_version": python})]
        pins = {r.name: str(r.specifier).removeprefix("==") for r in applying}
        assert len(pins) == len(applying), "a package is pinned twice"
        for requirement in (*REQUIREMENTS.values(), *extras):
            if requirement.name != PROJECT["name"]:
                assert Version(pins[requirement.name]) in requirement.specifier
    assert not any(r.url for r in lines)
