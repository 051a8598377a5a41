# Everything runs in .venv, which the first target that needs it creates. `make help` lists the targets.
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
SUITE  ?= quantize

BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip --disable-pip-version-check --quiet
READY := $(VENV)/.ready
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)
# Tests are spread over the cores; torch keeps to one thread in each worker (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses=8 --dist=worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check lint types layers wheel format bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-17s %s\n", $$1, $$2 }'
	@echo "Variables: PYTHON=$(PYTHON)  VENV=$(VENV)  ARGS='further arguments of the command'  SUITE=$(SUITE)"

setup: $(READY)  ## create .venv with everything in it (the other targets do this by themselves)

demo: $(READY)  ## train a small model in fp32 and in 8 bits, and compare (ARGS=--json for machines)
	@$(BIN)/narrowgauge demo $(ARGS)

test: $(READY)  ## run the tests, without the slow ones (ARGS="-k encode" to choose)
	@$(PYTEST) $(ARGS)

test-slow: $(READY)  ## run the slow tests only
	@$(PYTEST) -m slow $(ARGS)

check: lint types layers wheel  ## everything but the tests: format, lint, types, layers, wheel

lint: $(READY)  ## formatting and lint
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(READY)  ## mypy over the package
	@$(BIN)/python -m mypy

layers: $(READY)  ## imports point down the layers
	@$(BIN)/lint-imports --no-logo

wheel: $(READY)  ## build sdist and wheel, install the wheel aside, import every module of it
	@$(BIN)/python tests/wheel_check.py

format: $(READY)  ## format the code and repair what lint can repair
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY)  ## time one suite against its roof and its peers (SUITE=quantize)
	@$(BIN)/narrowgauge bench $(SUITE) $(ARGS)

clean:  ## remove .venv, caches and build products
	@rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# torch is named with its pin and goes first, so that nothing else chooses a build of it; setuptools comes along
# because the package is then built with it in place, with no second download.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	    echo "make: no '$(PYTHON)' here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: '$(PYTHON)' is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed:" \
	         "make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version), once."
	@$(PYTHON) -m venv $(VENV) || { \
	    echo "make: '$(PYTHON) -m venv $(VENV)' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "  1/2  $(TORCH) (the large download; minutes on a slow line)"
	@$(PIP) install -c constraints.txt setuptools "$(TORCH)"
	@echo "  2/2  narrowgauge, editable, and its tools"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@
	@echo "Ready."
