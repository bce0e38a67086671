# Common tasks; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
WORKERS ?= auto
DATA ?=
MOSAIC := $(wildcard packages/fragrecon-mosaic/src/fragrecon_mosaic/model.safetensors)
# Two photographs that scikit-learn brings along.
PHOTOGRAPHS = "$$($(BIN)/python -c 'from importlib.util import find_spec as f; print(f("sklearn").submodule_search_locations[0])')/datasets/images"

.DEFAULT_GOAL := help
.PHONY: help install run test test-fast faults lint type format check docs bench bench-training gpu ablations baselines tables clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing the packages, 1.5 GB on disk, which takes a minute or more"
	$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(MOSAIC) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]' $(if $(MOSAIC),--editable packages/fragrecon-mosaic)
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed-dev  ## make .venv with everything the tests need, and the trained weights that are here

run: $(VENV)/.installed  ## train and evaluate a model on synthetic images; ARGS="model=pca" adds overrides
	$(BIN)/python -m fragrecon.run $(ARGS)
	$(if $(MOSAIC),$(BIN)/python -m fragrecon.run mode=reassemble run=$(dir $(MOSAIC)) input=$(PHOTOGRAPHS))

test: $(VENV)/.installed-dev  ## the whole test suite
	$(BIN)/python -m pytest --numprocesses $(WORKERS) $(ARGS)

test-fast: $(VENV)/.installed-dev  ## all tests except slow ones
	$(BIN)/python -m pytest --numprocesses $(WORKERS) -m 'not slow' $(ARGS)

faults: $(VENV)/.installed-dev  ## test the faults that users meet, and print a table of the outcomes, which docs/ shows
	$(BIN)/python -m pytest --numprocesses $(WORKERS) -m fault -q --faults docs/faults.json $(ARGS)

lint: $(VENV)/.installed-dev  ## ruff: rules and format; codespell: spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

type: $(VENV)/.installed-dev  ## mypy
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## fix and format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint type test  ## all of the above checks

docs: $(VENV)/.installed-dev  ## build the site in docs/_build/html, with its tutorials; a warning is an error
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --jobs auto $(ARGS) docs docs/_build/html

bench: $(VENV)/.installed  ## time the clustering engine against a loop over the libraries; ARGS="data=imagenet64 data.root=FOLDER"
	$(BIN)/python benchmarks/clustering.py $(ARGS)

bench-training: $(VENV)/.installed  ## time training steps, and the time to exceed the best published score; DATA=FOLDER
	@test -n "$(DATA)" || { echo 'usage: make bench-training DATA=FOLDER   (ImageNet-64, with train_data/ and dev_data/)'; exit 2; }
	$(BIN)/python benchmarks/training.py data=imagenet64 data.root="$(DATA)" $(ARGS)

gpu: $(VENV)/.installed  ## measure all that needs a GPU, in parts that the next call resumes; ARGS="data=imagenet64 data.root=FOLDER"
	$(BIN)/python benchmarks/gpu.py $(ARGS)

ablations: $(VENV)/.installed  ## train models with and without some of their parts; DATA=FOLDER
	@test -n "$(DATA)" || { echo 'usage: make ablations DATA=FOLDER   (ImageNet-64, with train_data/ and dev_data/)'; exit 2; }
	$(BIN)/python experiments/ablations.py mosaic data.root="$(DATA)"
	$(BIN)/python experiments/ablations.py mixed data.root="$(DATA)"

baselines: $(VENV)/.installed  ## train the four models and the case study; DATA=FOLDER holds ImageNet-64
	@test -n "$(DATA)" || { echo 'usage: make baselines DATA=FOLDER   (ImageNet-64, with train_data/ and dev_data/)'; exit 2; }
	$(BIN)/python -m fragrecon.run -m experiment=baselines model=conv,linear,pca,supervised data.root="$(DATA)" sweep.name=baselines
	$(BIN)/python -m fragrecon.run experiment=case_study data.root="$(DATA)"

tables: $(VENV)/.installed  ## write the tables of experiments/ and README.md from experiments/results/; ARGS=--check only compares
	$(BIN)/python experiments/tables.py $(ARGS)

clean:  ## remove caches and built files, but neither results nor .venv
	rm -rf build dist docs/_build docs/generated docs/results docs/api/fragrecon*.md .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -exec rm -rf {} +
