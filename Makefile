# Each verb makes what it needs from nothing: a Python of 3.11 or later on the PATH is enough.
#
#   make quickstart   the whole path on a mock survey; the report is runs/quickstart/report.html
#   make test         the tests
#   make lint         style, docstrings and types
#   make docs         the documentation, without network: docs/_build/html/index.html
#   make tutorials    execute its notebooks, whose outputs are committed (some ten minutes)
#   make wheel        wheel and source distribution, and tests of the wheel in an environment of its own
#   make check        all of it with line coverage, the wheel and as many slow tests as an hour allows (what .ci/run calls)
#   make clean        remove what these made; runs/ is yours and stays
#
# PYTHON=/path/to/python3.12 picks the interpreter, ARGS="..." adds arguments to the program that a verb runs.

VENV := .venv
BIN := $(VENV)/bin
# Byte code is compiled on all cores afterwards; pip would do it on one.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
# Two workers, and a file of tests stays on one of them, so that what its tests share is made once. Long files come
# first (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test lint docs tutorials check wheel clean

help:
	@sed -n 's/^#   //p' Makefile

quickstart: $(VENV)/.runtime
	$(BIN)/hiergal quickstart $(ARGS)

test: $(VENV)/.dev
	$(PYTEST) $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python $(VENV)

# Warnings are errors: broken links, names that no page documents, formulae that cannot be translated.
docs: $(VENV)/.docs
	rm -rf docs/_build
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

tutorials: $(VENV)/.docs
	$(BIN)/python docs/execute_tutorials.py $(ARGS)

check: lint wheel docs
	$(PYTEST) -m "" --slow-minutes 60 --cov --cov-fail-under 95 $(ARGS)

# The source distribution is built, the wheel from it, and that is installed in an environment of its own, where every
# module that it ships has to load and the tests of hub and GalSim to pass, outside the sources.
WHEEL_TESTS := conftest places signature_checks toys registry_server hub/test_hub hub/test_bundle \
  hub/test_published_model galsim/test_galsim_model galsim/test_galsim_config simulate/test_renderer \
  simulate/test_catalog_sampling

wheel: $(VENV)/.dev
	rm -rf dist build
	$(BIN)/python -m build --outdir dist . >/dev/null
	$(BIN)/python -m venv build/environment
	build/environment/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  "$$(echo dist/hiergal-*.whl)[all]" pytest beartype
	mkdir -p build/outside/tests
	cp pyproject.toml build/outside
	cp $(WHEEL_TESTS:%=tests/%.py) build/outside/tests
	cd build/outside && ../environment/bin/python -c "import hiergal as h, importlib, pathlib, pkgutil, sys; \
	  names = [m.name for m in pkgutil.walk_packages(h.__path__, 'hiergal.')]; \
	  [importlib.import_module(n) for n in names]; \
	  assert pathlib.Path(h.__file__).is_relative_to(sys.prefix), h.__file__; \
	  print(f'wheel: {len(names)} modules load')"
	cd build/outside && PYTHONPATH= ../environment/bin/python -m pytest --quiet tests

# Stamps: .python says that the environment is whole, .runtime and .dev that their packages are those of the files
# named. .dev comes after .runtime, and .docs after it, so that two installs never run at once, whatever is asked of make.
$(VENV)/.python:
	@set -eu; \
	for python in $(PYTHON) $(if $(PYTHON),,python3 python3.13 python3.12 python3.11); do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv --clear $(VENV); \
	    touch $@; \
	    exit 0; \
	  fi; \
	done; \
	echo "expected Python 3.11 or later with venv and pip on the PATH (or PYTHON=/path/to/it), got" \
	  "$$($(or $(PYTHON),python3) --version 2>&1 || true); install one (on Debian also its python3-venv)" >&2; \
	exit 1

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/.python
	$(INSTALL) --editable ".[all]"
	@$(COMPILE)
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(INSTALL) --editable ".[dev]"
	@$(COMPILE)
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(INSTALL) --editable ".[docs]"
	@$(COMPILE)
	@touch $@

clean:
	rm -rf $(VENV) build dist docs/_build .coverage .coverage.* .pytest_cache .ruff_cache .jax_cache
	find hiergal tests inference -name __pycache__ -type d -prune -exec rm -rf {} +
