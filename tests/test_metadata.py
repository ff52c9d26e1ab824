"""What is written in several files agrees: version, licence, authors, requirements, the revision of ruff.

``pyproject.toml`` is what counts; citation, codemeta, the conda recipe and the configuration of pre-commit follow it.
"""

import json
import re
import tomllib

import pytest
import yaml
from places import ROOT

from hiergal.runtime.extras import EXTRAS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {
    "lazy-loader": "lazy_loader",
    "matplotlib": "matplotlib-base",
}  # others have the same name there


def requirement(text: str) -> tuple[str, str]:
    """Split a requirement into its name, as conda-forge has it, and its versions."""
    name, versions = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?\s*([^;]*?)\s*(?:;.*)?", text).groups()
    return CONDA_NAMES.get(name, name), versions


@pytest.fixture(scope="module")
def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


@pytest.fixture(scope="module")
def codemeta() -> dict:
    return json.loads((ROOT / "codemeta.json").read_text())


@pytest.fixture(scope="module")
def conda() -> dict:
    return yaml.safe_load((ROOT / "conda/recipe.yaml").read_text())


def test_version_is_the_same_everywhere(citation, codemeta, conda):
    versions = [citation["version"], codemeta["version"], conda["context"]["version"]]
    assert versions == [PROJECT["version"]] * 3


def test_licence_is_the_same_everywhere(citation, codemeta, conda):
    licences = [citation["license"], codemeta["license"].rsplit("/", 1)[-1], conda["about"]["license"]]
    assert licences == [PROJECT["license"]] * 3


def test_authors_are_the_same_everywhere(citation, codemeta):
    names = [author["name"] for author in PROJECT["authors"]]
    assert [author["name"] for author in citation["authors"]] == names
    assert [author["name"] for author in codemeta["author"]] == names


def test_citation_and_codemeta_describe_one_program(citation, codemeta):
    assert codemeta["name"] == citation["title"] == PROJECT["name"]
    assert codemeta["description"] == citation["abstract"]
    assert codemeta["keywords"] == citation["keywords"]
    assert codemeta["referencePublication"]["identifier"].endswith(citation["references"][0]["doi"])


def test_conda_recipe_requires_what_the_package_requires(conda):
    run = dict(requirement(text) for text in conda["requirements"]["run"])
    assert run.pop("python") == PROJECT["requires-python"]
    assert run == dict(requirement(text) for text in PROJECT["dependencies"])
    limits = dict(requirement(text) for text in conda["requirements"]["run_constraints"])
    extras = {name: PROJECT["optional-dependencies"][name] for name in EXTRAS}
    wanted = dict(requirement(text) for texts in extras.values() for text in texts)
    assert limits == {name: versions for name, versions in wanted.items() if name != "hiergal"}


def test_extras_are_those_that_errors_name():
    """``all`` is each of them; every package that an error names is installed by the extra that it names."""
    extras = PROJECT["optional-dependencies"]
    own = re.fullmatch(r"hiergal\[([\w,]+)\]", extras["all"][0])[1].split(",")
    with_survey = {name for name in EXTRAS if "hiergal[survey]" in extras[name]}
    assert set(own) | {"survey"} == set(EXTRAS) and with_survey & set(own)
    for name, modules in EXTRAS.items():
        packages = {requirement(text)[0] for text in extras[name]}
        assert {package or module for module, package in modules.items()} <= packages, name
    once = [requirement(text)[0] for text in PROJECT["dependencies"]]
    assert not set(once) & {
        package or module for modules in EXTRAS.values() for module, package in modules.items()
    }


def test_the_conda_recipe_has_the_same_commands(conda):
    written = [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    assert conda["build"]["python"]["entry_points"] == written


def test_pre_commit_runs_the_ruff_of_the_constraints():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    revision = next(repo["rev"] for repo in hooks if repo["repo"].endswith("ruff-pre-commit"))
    pins = re.findall(r"^ruff==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert [revision.removeprefix("v")] == pins
