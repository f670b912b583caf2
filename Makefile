# Every target sets up what it needs: uv is bootstrapped into .venv, the locked dependencies are synced into it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
# The machine's own certificates: behind a proxy that inspects TLS, its authority is among them.
UV := UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true UV_PROJECT_ENVIRONMENT=$(VENV) $(BIN)/uv
STAMP := $(VENV)/.synced
WORKERS ?= auto
# pytest keeps the tests as it has rewritten them: to do so anew takes every worker some ten seconds.
unexport PYTHONDONTWRITEBYTECODE
# The suite syncs tens of thousands of small files: it runs in memory where there is room for it. TMPDIR=DIR chooses.
ROOM_GIB := $(shell df --output=avail -BG /dev/shm 2>/dev/null | tail -1 | tr -dc 0-9)
TESTS_TMPDIR := $(or $(TMPDIR),$(if $(filter-out 0 1 2 3 4 5,$(ROOM_GIB)),/dev/shm))

# What has no wheel: servers and clients for a few tests (which skip without, and say so), and the peers of `make bench`.
DEBIAN_TESTS := mariadb-server rpm sqlite3 softhsm2 gnutls-bin nginx-light lego
DEBIAN_PEERS := restic borgbackup pgbackrest

.PHONY: help setup demo test lint format bench soak clean debian peers

help:  ## show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "jinshi needs Python 3.11 or newer; $(PYTHON) is older. Name another: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"

$(STAMP): $(BIN)/uv pyproject.toml uv.lock
	$(UV) sync --locked --inexact --quiet --python $(BIN)/python
	@touch $(STAMP)

setup: $(STAMP)  ## bootstrap uv into .venv and install the locked dependencies

demo: setup  ## the main job end to end on real data, in under two minutes
	$(BIN)/python docs/demo/demo.py

test: setup  ## the whole suite, in parallel, against real servers
	$(if $(TESTS_TMPDIR),TMPDIR=$(TESTS_TMPDIR)) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: setup  ## ruff format, ruff check, mypy --strict, import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## paired benchmarks; prints ratios, never a test
	$(BIN)/python -m tests.bench

soak: setup  ## the long form of the fault loops (SEED=n KILLS=n SECONDS=n to choose)
	$(BIN)/python -m pytest -n 0 -m soak -s tests

debian:  ## Debian packages that a few tests need, as root; without them these skip
	apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(DEBIAN_TESTS)

peers:  ## Debian packages that `make bench` measures against, as root
	apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(DEBIAN_PEERS)

clean:  ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
