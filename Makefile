# `make` lists the targets. All of them first make a virtual environment with what they need.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN = $(VENV)/bin
UNIT_TESTS = tests/calibration tests/data tests/losses tests/models tests/planning tests/test_config.py tests/test_layout.py

.DEFAULT_GOAL = help
.PHONY: help demo fast test install format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: install ## the whole loop on one simulated arm: collect, train, serve, plan over HTTP, evaluate
	$(BIN)/python -m benchmarks.demo

fast: install ## lint, types and the unit tests, in under a minute: before every commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow' $(UNIT_TESTS)

test: install ## lint, types and all tests: what CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

install: $(VENV)/.installed ## the virtual environment, the package editable in it

# torch comes first and exactly: an open range would pull another build with gigabytes of CUDA libraries.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(shell grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[deepspeed,dev]'
	touch $@

format: install ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment, builds and outputs
	rm -rf $(VENV) build dist *.egg-info outputs
