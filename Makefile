# make serve   set up what is needed, start a development server, say what to try
# make test    set up what is needed, run every test
# make help    the rest

.DEFAULT_GOAL := help
SHELL := /bin/bash
ARGS ?=
BIN := .venv/bin

# Hundreds of processes are started from the same modules, so these are compiled once; a hash of its
# own for each would put sets into another order each time. "auto" is a process for each core.
PYTEST := PYTHONDONTWRITEBYTECODE= PYTHONHASHSEED=0 $(BIN)/python -m pytest \
    --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: help serve demo test chaos check format lint types lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.server: deploy/requirements.txt pyproject.toml clients/python/pyproject.toml .ci/venv
	@.ci/venv deploy/requirements.txt
	@touch $@

.venv/.tools: tests/requirements.txt pyproject.toml clients/python/pyproject.toml .ci/venv
	@.ci/venv tests/requirements.txt
	@touch .venv/.server $@

serve: .venv/.server ## start a server; options in ARGS="--port 9000"
	@exec $(BIN)/clarion serve $(ARGS)

demo: .venv/.server ## replay real flights into a running server; options in ARGS="--speed 600"
	@exec $(BIN)/clarion demo $(ARGS)

test: .venv/.tools ## run every test; options in ARGS="-k session -n0"
	@.ci/redis
	@$(PYTEST) $(ARGS)

chaos: .venv/.tools ## let everything fail at random; options in ARGS="--seeds 5 --shards 3"
	@.ci/redis
	@PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

check: format lint types ## format, lint and types; changes nothing

format: .venv/.tools
	@$(BIN)/ruff format --check .

lint: .venv/.tools
	@$(BIN)/ruff check .

types: .venv/.tools
	@$(BIN)/mypy
	@$(BIN)/mypy --python-version 3.10 clients/python
	@$(BIN)/pyright

lock: .venv/.tools ## write the lock files anew from pyproject.toml
	@$(BIN)/python -m pip install --quiet uv && .ci/lock

clean: ## remove the environment and what tools left behind
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov dist build clients/js/node_modules
