# Everything runs in an environment of its own, .venv, made on first use (with uv where there is one).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
RUNS ?= 20000

.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## make the environment and install Oncecast with its embedded servers

# The stamp is younger than pyproject.toml only when the whole installation went through.
$(VENV)/.ready: pyproject.toml
	@echo 'Installing Oncecast and its embedded servers into $(VENV): once, a minute or two …'
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
	  uv pip install --quiet --python $(BIN)/python --group dev -e '.[embedded,fast,rabbitmq,sqs]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' && \
	  $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --group dev -e '.[embedded,fast,rabbitmq,sqs]'; \
	fi
	@touch $@

demo: setup ## watch 1,707 real earthquakes travel; ARGS=--exit leaves at the end
	@$(BIN)/oncecast demo examples/earthquakes.ndjson $(ARGS)

lint: setup ## ruff, mypy strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PYTHONPATH=src $(BIN)/lint-imports --no-logo

test: lint ## lint and all tests, against a real PostgreSQL and Valkey; without ARGS, coverage has a floor
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(or $(ARGS),--cov --cov-report=)

compat: setup ## unit and conformance tests alone, on another Python: PYTHON=python3.13 VENV=.venv-3.13
	@$(BIN)/python --version
	@$(BIN)/python -m pytest -n 2 --dist worksteal tests/unit tests/conformance $(ARGS)

dist: setup ## the wheel and the source archive, in dist/
	@rm -rf dist && $(BIN)/python -m build --outdir dist . >/dev/null && ls dist

chaos: setup ## a minute of real faults on a whole system, and a verdict; ARGS=--seconds\ 300 for longer
	@$(BIN)/oncecast chaos $(ARGS)

simulate: setup ## RUNS=20000 schedules in virtual time, on all cores; SEED=87 tells one of them step by step
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--runs $(RUNS))

mutants: setup ## plant a fault for each rule, and see the simulation find it
	@$(BIN)/python -m tests.simulation.mutants $(ARGS)

bench: setup ## 200,000 events through a producer and two listeners: events/s and µs per process
	@$(BIN)/python benchmarks/end_to_end.py $(ARGS)

bench-handlers: setup ## events/s of handlers of one SQL statement: each, sharing transactions, in batches
	@$(BIN)/python benchmarks/handlers.py $(ARGS)

$(VENV)/.docs-ready: $(VENV)/.ready
	@if command -v uv >/dev/null 2>&1; then uv pip install --quiet --python $(BIN)/python --group docs; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs; fi
	@touch $@

docs: $(VENV)/.docs-ready ## build the documentation into site/; a broken link or anchor is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

reference: setup ## write the reference pages of docs/reference from the code
	@$(BIN)/python tools/reference.py

pictures: setup ## draw docs/pictures anew; needs a chromium
	@$(BIN)/python tools/pictures.py

format: setup ## let ruff lay out the code
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

clean: ## remove what the targets made
	rm -rf $(VENV) dist site .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .schemathesis

.PHONY: help setup demo lint test compat dist chaos simulate mutants bench bench-handlers docs reference pictures format clean
