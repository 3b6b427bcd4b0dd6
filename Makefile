# One verb each. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= gatehouse-data
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test clients check bench docs lock clean

help: ## list the verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(VENV)/.run: requirements/run.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt -r requirements/build.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

setup: $(VENV)/.dev ## a virtual environment with everything development needs

run: $(VENV)/.run ## serve the built-in model through the gateway (ARGS="--port 9000" to change how)
	$(BIN)/gatehouse serve --data-dir $(DATA) $(ARGS)

test: $(VENV)/.dev ## run the tests (ARGS="tests/pipeline -k limit" for some of them)
	$(BIN)/python -m pytest -n auto $(ARGS)

clients: $(VENV)/.dev ## the Vercel AI SDK against a server of ours; needs Node and npm
	cd tests/clients/vercel && npm install --no-package-lock --no-audit --no-fund --silent
	$(BIN)/python -m pytest tests/clients $(ARGS)

check: $(VENV)/.dev ## linters, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/.dev ## measure ourselves beside a bare relay and the peers that install here
	$(BIN)/python -m bench $(ARGS)

docs: $(VENV)/.dev ## make the reference from the code again
	$(BIN)/python docs/generate.py

lock: $(VENV)/.dev ## pin every dependency again, with hashes
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml -o requirements/run.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header -c requirements/run.txt requirements/build.in -o requirements/build.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header -c requirements/run.txt -c requirements/build.txt requirements/dev.in -o requirements/dev.txt

clean: ## remove everything that was made here, the data directory excepted
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
