# make train   train the default network on this machine (or at RAY_ADDRESS), from nothing
# make test    run the tests, from nothing, several files at a time (ARGS=-n0: one after the other)
# make faults  kill processes, nodes and servers of real runs; some minutes
# make browser drive the pages in headless Chromium, which must be installed (Debian: apt install chromium)
# ARGS         passed on: make train ARGS="train.steps=200 run.name=mine"

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
CONFIG ?= jobs/configs/photos.yaml

.PHONY: train test faults browser check install clean

train: install
	@exec $(BIN)/python jobs/submit.py --config $(CONFIG) $(ARGS)

test: install
	@exec $(BIN)/python -m pytest -n logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder $(ARGS)

faults: install
	@exec $(BIN)/python -m pytest tests/faults $(ARGS)

browser: install
	@exec $(BIN)/python -m pytest tests/browser $(ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) runs mlflow.db mlartifacts
