# `make` lists what there is. Everything runs from the checkout, in .venv, which `setup` makes from the hashed lock.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
TYPED := app audio tenants loadtest tests scripts
# What .venv is made with: the first of these that is there. For 3.11 and 3.13 every package has a wheel, other versions
# need a C compiler and CMake for PocketSphinx. To choose: make setup PYTHON=/path/to/python
PYTHON ?= python3.11 python3.13 python3 python3.12 python3.14

.PHONY: help setup run demo test test-unit test-long chaos minio check format lock bench clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name words; do printf '  make %-10s %s\n' "$$name" "$$words"; done

setup: .venv/.locked ## make .venv from requirements/dev.txt; done again only when that changes

.venv/.locked: requirements/dev.txt
	@test -x $(BIN)/python || { \
	  for python in $(PYTHON); do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      echo "making .venv with $$python"; exec "$$python" -m venv .venv; \
	    fi; \
	  done; \
	  echo 'needs Python 3.11 or newer with venv (Debian: apt-get install python3 python3-venv)' >&2; exit 1; }
	@echo 'installing $<'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

run: setup ## serve on this machine; prints the page's address and a token
	@exec $(BIN)/python -m app serve

demo: setup ## stream the sample consultation through a server of its own, then verify its archive
	@exec $(BIN)/python scripts/demo.py

test: setup ## the whole suite a developer runs; below ten minutes
	@scripts/system-deps
	@exec $(PYTEST) -m 'not long'

test-unit: setup ## the quick part: no sockets, no programs
	@exec $(PYTEST) tests/unit tests/property -m 'not long'

test-long: setup ## chaos, fuzz and soak in short form
	@scripts/system-deps
	@# 5 is pytest's "nothing collected"; any other trouble is shown by the run itself.
	@$(PYTEST) -m long --collect-only -q >/dev/null 2>&1; \
	if [ $$? -eq 5 ]; then echo 'test-long: no test is marked long yet'; exit 0; fi; \
	exec $(PYTEST) -m long --timeout=900

chaos: setup ## ten minutes of tasks that die behind a balancer, with a seed that it prints; needs `make minio` once
	@scripts/system-deps --require
	@exec $(BIN)/python -m tests.chaos.ward

minio: setup ## build the S3 that tests check signatures and keys against; needs go, ten minutes the first time
	@scripts/system-deps
	@exec $(BIN)/python -m tests.support.minio_server

check: setup ## lint, format, types, import directions, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(TYPED)
	$(BIN)/mypy --strict scripts/make-sample
	$(BIN)/lint-imports --no-logo
	@if [ -f scripts/settings_table.py ]; then $(BIN)/python -m scripts.settings_table --check; fi

format: setup ## put the code into its one format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

# The locks name no registry and no path; UPGRADE=1 takes the newest versions that pyproject.toml allows.
COMPILE = $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade) pyproject.toml
lock: ## write requirements/*.txt from pyproject.toml
	@test -x $(BIN)/uv || { echo 'needs .venv: make setup' >&2; exit 1; }
	$(COMPILE) -o requirements/runtime.txt
	$(COMPILE) --extra dev -c requirements/runtime.txt -o requirements/dev.txt

bench: setup ## measure this machine
	@exec $(BIN)/python -m loadtest.bench

clean: ## remove .venv and every cache; leaves ./data, which holds archives
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
