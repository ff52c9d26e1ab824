"""Every example in a docstring runs, and every module is written as the others are."""

import ast
import contextlib
import doctest
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import tempfile
from pathlib import Path

import pytest

import hiergal

MODULES = ["hiergal", *(m.name for m in pkgutil.walk_packages(hiergal.__path__, "hiergal."))]
PROVIDED = ("jax", "np", "model", "observation", "posterior", "catalog", "survey")
SLOW = {  # whose examples take more than some seconds
    f"hiergal.{name}"
    for name in (
        "posterior.fit_checks",
        "posterior.infer",
        "posterior.posterior",
        "posterior.samplers.randomize_then_optimize",
        "posterior.scenes.deblend",
        "posterior.scenes.table",
        "reports.calibration",
        "reports.figures.deblending",
        "reports.figures.fits",
        "reports.figures.one_galaxy",
        "reports.validation",
        "training.posterior_flow",
        "training.train",
        "validation.calibration.study",
        "validation.pixel_tests",
        "validation.run",
        "validation.samples",
    )
}
LONGEST = 400  # lines: four hundred of one idea are better than two halves of two hundred


@functools.cache
def documented():
    """What the lines in the docstring of the package make: other examples start with it."""
    made = {}
    with contextlib.chdir(tempfile.mkdtemp()):
        exec(doctest.script_from_examples(hiergal.__doc__), made)
        made["survey"] = hiergal.open_survey(Path("survey.zarr").absolute())  # others run in other folders
    return {name: made[name] for name in PROVIDED}


def given(test):
    """What an example takes from the docstring of the package: names that it uses and does not make."""
    tree = ast.parse("".join(example.source for example in test.examples))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return {name: documented()[name] for name in PROVIDED if name in names}


def own(module):
    """Yield what a module exports and defines itself, by name."""
    for name in getattr(module, "__all__", []):
        if getattr(getattr(module, name), "__module__", None) == module.__name__:
            yield name, getattr(module, name)


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in MODULES]
)
def test_examples_run(name, tmp_path, monkeypatch):
    """In an empty folder.

    They are looked up by their public name: the shape checks wrap functions, and doctest does not look behind that.
    """
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    places = [(name, module.__doc__ or ""), *((f"{name}.{short}", obj) for short, obj in own(module))]
    for place, obj in places:
        for test in finder.find(obj, place, module=False, globs=dict(vars(module))):
            test.globs |= {"hiergal": hiergal} | given(test)
            runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_only_an_example_that_needs_files_of_others_is_skipped():
    skipped = {name for name in MODULES if "+SKIP" in Path(importlib.util.find_spec(name).origin).read_text()}
    assert skipped == {"hiergal.survey.noise.choice"}  # a catalogue of COSMOS


@pytest.mark.parametrize("name", MODULES)
def test_module_states_what_it_is(name):
    module = importlib.import_module(name)
    assert module.__doc__, "expected a docstring that says what the module is"
    lines = len(Path(module.__file__).read_text().splitlines())
    assert lines <= LONGEST, f"expected at most {LONGEST} lines, got {lines}"
    if not name.endswith(".__main__"):
        assert hasattr(module, "__all__"), "expected __all__"
    for exported, obj in own(module):
        assert inspect.getdoc(obj), f"{exported}: expected a docstring"


def test_every_function_that_a_package_exports_has_an_example():
    packages = [m for m in map(importlib.import_module, MODULES) if hasattr(m, "__path__")]
    missing = {
        f"{obj.__module__}.{exported}"
        for package in packages
        for exported, obj in ((n, getattr(package, n)) for n in getattr(package, "__all__", []))
        if inspect.isfunction(obj) and ">>>" not in (obj.__doc__ or "")
    }
    assert not missing, f"expected an example in the docstrings of {', '.join(sorted(missing))}"


def test_every_public_name_has_an_example():
    public = {name: getattr(hiergal, name) for name in hiergal.__all__}
    missing = [
        name for name, one in public.items() if not inspect.ismodule(one) and ">>>" not in (one.__doc__ or "")
    ]
    assert not missing
