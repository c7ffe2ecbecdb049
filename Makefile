# The only interface of this repository. Each target builds .venv itself when it is missing or stale.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SIZE ?= default
FAMILY ?= climate
TASK ?= downscaling
SECONDS ?= 60
WORKERS ?= 2
DATA ?= generated
KEEP ?=

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

.PHONY: help setup demo test fuzz soak image lint bench docs clean

help: ## Show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (a few minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "kfm-mlflow needs Python 3.11 or newer; set PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --no-warn-script-location -c constraints.txt -e '.[dev]' 2>&1 | { grep -vE '^WARNING: Location .* is ignored' || true; }
	@$(BIN)/python -c 'import kfm_mlflow, kfm_serving, mlflow, torch, ray'
	@touch $(STAMP)

setup: $(STAMP) ## Build .venv

demo: $(STAMP) ## One governed release, from training to production and back (DATA=file.nc, KEEP=1, SIZE=small, TASK=hazard, FAMILY=focus-mode)
	@$(BIN)/python projects/demo/demo.py --family $(FAMILY) --task $(TASK) --data '$(DATA)' --size $(SIZE) $(if $(KEEP),--keep)

test: $(STAMP) ## Run all tests (WORKERS=2 processes, each with servers of its own)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope

fuzz: $(STAMP) ## Feed broken input to every parser for a while (SECONDS=60)
	@$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS)

image: $(STAMP) ## Check exports in a fresh Debian with public tools (root)
	@$(BIN)/python tests/image/second_image.py

soak: $(STAMP) ## Drive random failures against the rollout controller, and kill a real Ray head under it (SIZE=small: the first only)
	@$(BIN)/python tests/soak/run.py --size $(if $(filter small,$(SIZE)),small,full)
	@$(BIN)/python tests/soak/fleet.py --size $(if $(filter small,$(SIZE)),small,full)
	@$(if $(filter small,$(SIZE)),,KFM_SOAK=1 $(BIN)/python -m pytest -q tests/serving/test_head_restart.py)

lint: $(STAMP) ## Check style, types and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(STAMP) ## Measure against peers in the same run
	@$(BIN)/python tests/bench/run.py --size $(if $(filter small,$(SIZE)),small,full)

docs: $(STAMP) ## Check that every format has its page and every link in the docs leads somewhere
	@$(BIN)/python docs/check.py

clean: ## Remove what the targets built
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
