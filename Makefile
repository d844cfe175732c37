# Everything a fresh machine needs is Python 3.11 or newer and make; each target installs into .venv what is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest

# Sets of strings are iterated in the order of their hashes: a fixed seed makes a failing test fail again.
unit integration coverage: export PYTHONHASHSEED := 0

# Isolated tests share the cores; tests that start real servers run one after another, so that bounds on time hold.
# Pages of the documentation take minutes and mind no neighbour: first, so that nobody waits for the last of them.
ISOLATED := $(wildcard tests/docs tests/unit tests/property tests/interaction tests/conformance tests/simulation tests/api tests/fuzz tests/typing tests/meta)
SERIAL := $(wildcard tests/integration/test_*.py tests/chaos/test_*.py)
SECONDS ?= 60
PURE := $(wildcard tests/unit tests/property tests/interaction tests/simulation)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test check unit integration coverage bench mutants soak fuzz fix clean

help: ## show this list
	@echo "usage: make TARGET"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  \1\t\2/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edge-consistency needs Python 3.11 or newer; try  make PYTHON=python3.12 ...")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV) (first time: a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[service,testbed,demo,dev]' -c constraints.txt
	@touch $@

install: $(STAMP) ## create .venv with everything in it (the others do so by themselves)

demo: $(STAMP) ## start a region here, move five running edges to a better model, show it; ends by itself
	$(BIN)/ccs demo

test: check unit integration ## all checks and all tests

check: $(STAMP) ## formatting, lint, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

unit: $(STAMP) ## tests without a region: pure parts, adapters, API
	$(PYTEST) -n 2 --dist loadgroup $(ISOLATED)

integration: $(STAMP) ## tests on real processes, one after another
	$(if $(SERIAL),$(PYTEST) $(SERIAL))

coverage: $(STAMP) ## branches of cores and protocol that no test without servers takes
	$(PYTEST) -q -n 2 --cov=edge_client/core --cov=edge_client/protocol --cov=consistency_service/core --cov-branch $(PURE)

docs: $(STAMP) ## the documentation as a site, in build/site; needs no network, neither now nor to be read
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

bench: $(STAMP) ## measure the promises beside dict, cachebox, Redis, NATS KV and, where installed, etcd
	$(BIN)/python -m ops.bench

mutants: $(STAMP) ## switch off one rule of the protocol at a time; the simulation must notice each
	$(BIN)/python -m tests.simulation mutants

soak: $(STAMP) ## simulate fresh seeds on all cores; SECONDS=60
	$(BIN)/python -m tests.simulation soak --seconds $(SECONDS)

fuzz: $(STAMP) ## damage what nodes, edges and ccs read, and see that they refuse it; SECONDS=60 for each reader
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

fix: $(STAMP) ## format, and mend what the linter can mend
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

clean: ## remove .venv and everything generated
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage build dist *.egg-info
	find edge_client consistency_service tests ops -name __pycache__ -type d -prune -exec rm -rf {} +
