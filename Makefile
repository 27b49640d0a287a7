.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

FUZZ_SECONDS ?= 60
# Acceptance tests on the servers of the session; the others bring servers of their own.
SHARED_SERVERS := $(addprefix tests/acceptance/test_,airflow.py alertmanager.py alerts.py chaos.py contract_npm.py page.py rollups.py)

.PHONY: help install up demo test secured check audit sbom fuzz format lock schema bench chaos clean secured

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

.venv/tools/.installed: tests/supply/tools.txt | .venv/.installed
	@echo 'Installing semgrep, pip-audit and cyclonedx-py into an environment of their own (once, about a minute)'
	@$(BIN)/python -m venv .venv/tools
	@.venv/tools/bin/pip install --quiet --require-hashes --requirement tests/supply/tools.txt
	@touch $@

check: install .venv/tools/.installed ## format, lint, types, SQL, house rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint --disable-progress-bar sql
	.venv/tools/bin/semgrep scan --metrics=off --disable-version-check --quiet --error \
	  --config tests/supply/rules.yml connectors flows realtime deploy

audit: install .venv/tools/.installed ## known vulnerabilities of pinned packages; asks services, or ADVISORIES=directory
ifdef ADVISORIES
	$(BIN)/python -m tests.supply.advisories $(ADVISORIES)
else
	for lock in requirements.txt deploy/unity-mcp.txt tests/supply/tools.txt; do \
	  .venv/tools/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off --requirement $$lock \
	  || exit 1; \
	done
	npm audit --prefix realtime/api
endif

sbom: install .venv/tools/.installed ## the bill of materials: dist/sbom.cdx.json
	$(BIN)/python -m tests.supply.sbom dist/sbom.cdx.json

fuzz: install ## every reader of foreign bytes, FUZZ_SECONDS (60) each
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

format: install ## put code and SQL in the house's form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: install ## compile the requirements again from pyproject.toml
	$(BIN)/uv pip compile --universal --python-version 3.11 --all-extras --generate-hashes \
	  --no-header --quiet pyproject.toml --output-file requirements.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet \
	  --constraints requirements.txt pyproject.toml --output-file deploy/container/requirements.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --no-strip-extras --generate-hashes --no-header --quiet \
	  tests/supply/tools.in --output-file tests/supply/tools.txt

schema: install ## record the schema that the migrations make, in sql/schema.sql
	$(BIN)/python -m tests.migration.recorded

bench: install ## the benchmarks (about 25 minutes)
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench.realtime
	$(BIN)/python -m tests.bench.reads --rows 1000000
	$(BIN)/python -m tests.bench.api

secured: install ## the acceptance tests on secured servers: TLS, least privilege, PgBouncer, a replica
	$(BIN)/python -m pytest --secured -m "not chaos" -n 2 --dist loadfile $(SHARED_SERVERS)

chaos: install ## long fault and soak runs (about two hours)
	$(BIN)/python -m pytest -m chaos
	$(MAKE) secured
	$(BIN)/python -m tests.bench.soak

clean: ## remove the environment, the local servers' data and all caches
	rm -rf .venv .slate .fuzz realtime/api/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
