# Every target sets up what it needs in .venv; it takes Python 3.11 to 3.13 and make.
#   make mnist ARGS="--method ff-ad --seeds 3"    passes flags on to the experiment

FITS := import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
	$(shell $(p) -c '$(FITS)' 2>/dev/null && echo $(p))))
BIN := .venv/bin
READY := .venv/ready

.PHONY: mnist digital figures test test-long test-browser bench notebooks docs lint format clean help
.DEFAULT_GOAL := help

help:
	@echo "make mnist       train a photonic network on MNIST from forward passes alone"
	@echo "make test        run the tests (three to five minutes on 2 cores)"
	@echo "make test-long   run the long ones: fuzzing, kills, many seeds"
	@echo "make test-browser  show notebooks, pages and report in Chromium (skipped without it)"
	@echo "make digital     train a digital MLP (or CNN) with the same core"
	@echo "make figures     run small versions of the paper's experiments; one HTML report"
	@echo "make bench       time the mesh engines against Neurophox, digital steps against TensorFlow"
	@echo "make notebooks   open the notebooks in JupyterLab"
	@echo "make docs        build the documentation in build/docs"
	@echo "make lint        check style and types"
	@echo "make clean       remove the environment and all caches"

$(READY): requirements.txt setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 (with venv) is needed and none\
	was found; name one: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation -e .
	@touch $@

mnist: $(READY)
	@$(BIN)/python experiments/mnist_photonic.py $(ARGS)

digital: $(READY)
	@$(BIN)/python experiments/mnist_digital.py $(ARGS)

figures: $(READY)
	@$(BIN)/python experiments/figures.py $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -m "not long" $(ARGS)

test-long: $(READY)
	$(BIN)/python -m pytest -m "long and not browser" $(ARGS)

test-browser: $(READY)
	$(BIN)/python -m pytest -n 0 -m browser tests/test_browser.py $(ARGS)

bench: $(READY)
	@$(BIN)/python benchmarks/engines.py $(ARGS)
	@$(BIN)/python benchmarks/digital.py
	@$(BIN)/python benchmarks/imperfections.py

notebooks: $(READY)
	$(BIN)/python -m jupyterlab notebooks $(ARGS)

docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs
	@echo "build/docs/index.html"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
