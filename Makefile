# `make demo` and `make test` set up all they need; everything lives in .venv.
SHELL := /bin/bash
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { command -v $$name; break; }; done)
BIN := .venv/bin
export HAMILTON_AUTOLOAD_EXTENSIONS := 0

.PHONY: help venv demo test test-slow test-nightly check bench lock clean

help:
	@echo "make demo       one turn of the flywheel on a generated sample region"
	@echo "make test       checks and tests"
	@echo "make test-slow  the heavy tests"
	@echo "make test-nightly  runs killed at 200 points and times; KILLS, KILL_SEED and KILL_ARGS say how"
	@echo "make check      formatting, lint, types, import rules"
	@echo "make bench      benchmarks, side by side with peers"
	@echo "make venv       the environment for development"
	@echo "make lock       compile requirements.txt and requirements-dev.txt from pyproject.toml"
	@echo "make clean      remove what the demo generated and the caches"

define install
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.13 with venv is needed; name one with make PYTHON=/path/to/python"; exit 1; }
	@if command -v uv >/dev/null; then \
		uv=uv; uv venv --quiet --allow-existing --python $(PYTHON) .venv; \
	else \
		uv=$(BIN)/uv; $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv; \
	fi && \
	echo "installing $(1) into .venv" && \
	$$uv pip install --quiet --python $(BIN)/python -r $(1) && \
	$$uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@
endef

.venv/.run: requirements.txt pyproject.toml
	$(call install,requirements.txt)

.venv/.dev: requirements-dev.txt pyproject.toml
	$(call install,requirements-dev.txt)
	@touch .venv/.run

venv: .venv/.dev

demo: .venv/.run
	@$(BIN)/python -m dataflows demo

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile -m "not slow"

test-slow: .venv/.dev
	$(BIN)/python -m pytest -m slow

test-nightly: .venv/.dev
	KILLS=$${KILLS:-200} $(BIN)/python -m pytest tests/integration/test_kills.py -m slow -s

bench: .venv/.dev
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

lock: .venv/.dev
	@uv=$$(command -v uv || echo $(BIN)/uv); test -x "$$uv" || $(BIN)/python -m pip install --quiet uv; \
	options="--quiet --universal --no-header --python-version 3.11 --upgrade --prerelease disallow"; \
	$$uv pip compile $$options pyproject.toml --group dev --extra sam --extra sam2 --extra sam_hf --extra ray -o requirements-dev.txt >/dev/null && \
	$$uv pip compile $$options pyproject.toml -c requirements-dev.txt -o requirements.txt >/dev/null

clean:
	rm -rf data/sample data/lancedb data/demo runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
