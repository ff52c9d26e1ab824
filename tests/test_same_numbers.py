"""Numbers that earlier versions computed, within what other compilers and processors change.

``tests/digests.py`` compares to the bit, which holds on one machine alone. Here some of the same arrays are compared
with stored values, each relative to the largest of its array. The tests compile without optimisation, which rounds each
operation otherwise, as another processor would: that is what the tolerances are for. A posterior amplifies it most,
where steps to its mode end a little earlier or later. Results that choose (weighted resampling, NUTS, trainings) are
left to the script, since one rounding leads to another choice there.
"""

import numpy as np
import pytest
from digests import REFERENCE, arrays_of, subsample

TOLERANCES = {"survey": 1e-5, "other surveys": 1e-5, "drawing": 1e-3, "amortized": 2e-3, "map": 5e-3}
SLOW = ("amortized", "map")
LEAST = 1e-3  # what differs from zero by rounding alone is not compared with itself


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as file:
        return dict(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("numbers")


def differences(found: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of each array, relative to its largest number; infinity for other texts, sizes or NaNs."""
    return {name: _difference(subsample(found[name]), reference[name]) for name in reference if name in found}


def _difference(found: np.ndarray, reference: np.ndarray) -> float:
    if found.shape != reference.shape or found.dtype.kind != reference.dtype.kind:
        return np.inf
    if found.dtype.kind == "U" or found[0] != reference[0]:
        return 0.0 if np.array_equal(found, reference) else np.inf
    found, reference = found[1:], reference[1:]
    known = np.isfinite(reference)
    same = np.array_equal(found[~known], reference[~known], equal_nan=True)
    if not same or not np.isfinite(found[known]).all():
        return np.inf
    scale = np.abs(reference[known]).max(initial=0)
    return float(np.abs(found - reference)[known].max(initial=0) / max(scale, LEAST))


@pytest.mark.parametrize(
    "group", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TOLERANCES]
)
def test_numbers_are_those_of_earlier_versions(group, reference, folder):
    of_group = {name: values for name, values in reference.items() if name.split("/")[0] == group}
    found = arrays_of(group, folder)
    assert len(of_group) >= 5 and set(of_group) <= set(found)
    wrong = {name: d for name, d in differences(found, of_group).items() if not d <= TOLERANCES[group]}
    assert not wrong


def test_other_numbers_are_noticed():
    rng = np.random.default_rng(2)
    one = {"x": rng.normal(size=(3, 40)), "name": np.array(["a", "b"])}
    reference = {name: subsample(values) for name, values in one.items()}
    assert differences(one, reference) == {"x": 0.0, "name": 0.0}
    assert differences(one | {"x": one["x"] * (1 + 1e-4)}, reference)["x"] == pytest.approx(1e-4, rel=1e-3)
    for other in (one["x"][:2], one["x"].T, np.where(one["x"] > 0, one["x"], np.nan)):
        assert differences({"x": other}, {"x": reference["x"]})["x"] > 1e-2
    assert differences({"name": np.array(["a", "c"])}, reference)["name"] == np.inf
