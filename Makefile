# Everything happens in this folder: packages go to .venv, results to results/.
# Stamps in .venv say what is installed; an edit of pyproject.toml or constraints.txt makes them
# stale, and an installation that fails or is interrupted leaves none.

PYTHON ?= python3
BIN := .venv/bin

# Idle OpenMP threads sleep instead of spinning: on shared cores, spinning made two threads up to
# 15 times slower than one.
export OMP_WAIT_POLICY := PASSIVE
# The same for OpenBLAS, which numpy and scipy bring along: 2^4 clock ticks instead of 2^26.
export OPENBLAS_THREAD_TIMEOUT := 4

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two pips at once would trip over each other in .venv.
.NOTPARALLEL:
.PHONY: help run test lint bench mutants clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s  %s\n", $$1, $$2 }' Makefile
	@echo "A first run makes .venv with $(PYTHON); choose another with PYTHON=python3.12, say."

run: .venv/.core ## check every bound, measure Theorem 1, print the tables, write results/bounds.json
	@mkdir -p results
	$(BIN)/python -m cpi.bounds --json results/bounds.json

test: .venv/.dev ## run the tests
	$(BIN)/python -m pytest

lint: .venv/.dev ## check style, format, types and the import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.bench ## time the solvers beside quantecon and pymdptoolbox
	$(BIN)/python -m tests.bench

mutants: .venv/.dev ## plant faults in a copy and show that the tests catch each
	$(BIN)/python -m tests.mutants

clean: ## remove .venv and caches (the cure for a broken .venv); results stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.core: EXTRA :=
.venv/.dev: EXTRA := [dev]
.venv/.bench: EXTRA := [bench]

.venv/.core .venv/.dev .venv/.bench: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing credit-resets$(EXTRA) into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.$(EXTRA)'
	@touch $@

# pip is the last thing that venv installs, so its presence says that the environment is whole.
$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) not found: install Python 3.11 to 3.13, or name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit( \
	  "$(PYTHON) is Python %d.%d, but 3.11 to 3.13 is needed: name one with PYTHON=..." % v)'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	@echo "Making .venv with $(PYTHON)"
	@$(PYTHON) -m venv --clear .venv
