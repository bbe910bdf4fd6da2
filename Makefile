# Everything here runs in .venv, which is made from any Python 3.10-3.12 that has venv.
#   make            what can be made
#   make test       PYTHON=/path/to/python3.12 chooses the interpreter the environment is made with

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo learn test test-fast lint format docs docs-serve pins clean
# Containers often set it; torch would then be compiled to bytecode at every start, which takes as long as importing it.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
UNFINISHED := $(VENV)/.unfinished
UV_PIP := VIRTUAL_ENV=$(VENV) $(BIN)/uv pip
# Processes that share the tests, a file at a time.
JOBS ?= 2
# Interpreters tried in this order. A name on PATH may be a shim that fails, so each is run, not just looked up.
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python3.12 python3.11 python3.10)
SUITABLE := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
# BasicSR 1.4.2 comes as source only, and its setup.py wants these already installed.
BUILD_NEEDS := torch torchvision numpy cython setuptools wheel
# torch 2.14.1 is the last for Python 3.10; torchvision 0.29.1 is the last built against it, which its metadata hides.
PAIR_ON_310 := torchvision<0.29.2; python_version < "3.11"

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## the environment alone, in .venv

demo: $(STAMP)  ## learn a look from photographs that ship with it, test it, show it; options: make demo ARGS="..."
	$(BIN)/basicsr demo $(ARGS)

learn: $(STAMP)  ## learn your look: make learn ARGS="--pairs DIR --photos DIR --out look"
	$(BIN)/basicsr learn $(ARGS)

test: lint  ## static checks, then the test suite; options for pytest: make test ARGS="..."; JOBS=4 processes
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(STAMP)  ## the tests that are neither slow nor need a GPU
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not slow and not gpu' $(ARGS)

lint: $(STAMP)  ## ruff, formatting and types; changes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP)  ## repair what ruff can repair, and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(STAMP)  ## build the documentation's site into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(STAMP)  ## show the site, and follow changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

pins: $(STAMP)  ## re-resolve constraints.txt; newest versions: make pins ARGS=--upgrade
	printf '%s\n' uv tensorboard $(BUILD_NEEDS) '$(PAIR_ON_310)' | $(UV_PIP) compile setup.py - --extra test --quiet $(ARGS) \
	    --universal --python-version 3.10 --no-build-isolation --override overrides.txt \
	    --no-annotate --custom-compile-command 'make pins' --output-file constraints.txt

clean:  ## remove the environment and caches; what training wrote stays
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find semiisp_plugin tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.py constraints.txt overrides.txt
	@for candidate in $(CANDIDATES); do \
	    $$candidate -c '$(SUITABLE)' 2>/dev/null || continue; \
	    found=$$candidate; \
	    $$candidate -c 'import ensurepip, venv' 2>/dev/null || continue; \
	    usable=$$candidate; break; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "make: no Python 3.10-3.12 among: $(CANDIDATES). Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; \
	elif [ -z "$$usable" ]; then \
	    echo "make: $$found has no venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	fi; \
	if [ -e $(UNFINISHED) ] || ! $(BIN)/python -c '$(SUITABLE)' 2>/dev/null; then \
	    echo "Making $(VENV) with $$($$usable --version) ($$usable)"; \
	    $$usable -m venv --clear $(VENV); \
	fi
	@touch $(UNFINISHED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(UV_PIP) install --constraint constraints.txt $(BUILD_NEEDS)
	$(UV_PIP) install --constraint constraints.txt --override overrides.txt --no-build-isolation \
	    tensorboard --editable '.[test]'
	@rm $(UNFINISHED)
	@touch $@
