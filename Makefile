# Everything here sets itself up: a fresh clone needs Python 3.11 or newer, nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help install demo test test-fast lint types layers bench clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## Make the virtual environment and install everything into it

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "keepstream needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: install ## Simulate a world, follow it live, report
	$(BIN)/keepstream demo

test: install ## Run every test, the slow ones too
	$(BIN)/python -m tests.everything

test-fast: install ## Run the tests that take seconds
	$(BIN)/python -m pytest -m "not slow and not restart and not chaos"

lint: install ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## Types
	$(BIN)/mypy

layers: install ## Who may import whom
	$(BIN)/lint-imports

bench: install ## The benchmarks, one after another
	for b in join idmap embedding checkpoint pipeline memory kafka_pipeline workers lookup knowledge_pipeline; do $(BIN)/python -m benchmarks.$$b; done

clean: ## Remove what was built, the virtual environment too
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
