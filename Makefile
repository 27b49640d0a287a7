.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install up demo test check format lock schema bench chaos clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

install: .venv/.installed .venv/.page ## the environment in .venv, every package pinned by hash

.venv/.page: realtime/api/package-lock.json .venv/.installed
	@if command -v npm >/dev/null; then \
	  npm ci --prefix realtime/api --no-audit --no-fund --silent; \
	else echo 'npm is missing: the live page will have no charts and no colours in code' >&2; fi
	@touch $@

.venv/.installed: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or 3.12 is needed: install it, or run make PYTHON=/path/to/python' >&2; exit 1; }
	@echo "Installing into .venv with $(PYTHON) (about a minute the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --require-hashes --requirement requirements.txt
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

up: install ## servers, schema, worker, sample traffic and a live view; Ctrl-C stops everything
	@$(BIN)/slate up

demo: install ## as up, but events come of demo sessions through the real Unity MCP server
	@$(BIN)/slate demo

test: install ## the whole test suite, in two processes
	$(BIN)/python -m pytest -m "not chaos" -n 2 --dist loadfile

check: install ## format, lint, types, SQL
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint --disable-progress-bar sql

format: install ## put code and SQL in the house's form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: install ## compile the requirements again from pyproject.toml
	$(BIN)/uv pip compile --universal --python-version 3.11 --all-extras --generate-hashes \
	  --no-header --quiet pyproject.toml --output-file requirements.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet \
	  --constraints requirements.txt pyproject.toml --output-file deploy/container/requirements.txt

schema: install ## record the schema that the migrations make, in sql/schema.sql
	$(BIN)/python -m tests.migration.recorded

bench: install ## the benchmarks (about 25 minutes)
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench.realtime
	$(BIN)/python -m tests.bench.reads --rows 1000000
	$(BIN)/python -m tests.bench.api

chaos: install ## long fault and soak runs
	$(BIN)/python -m pytest -m chaos

clean: ## remove the environment, the local servers' data and all caches
	rm -rf .venv .slate realtime/api/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
