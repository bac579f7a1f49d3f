# make install   create .venv with everything in it (done once, again when its inputs change)
# make test      the test suite          make lint   formatting, lint, spelling, types
# make docs      the documentation site in outputs/site, every link checked
# make wheel-check   the wheel works in an environment of its own
# make exported-check   exported models run in an environment without PyTorch
# make fuzz      wrong input of every kind, made up anew with FUZZ_ARGS="--seed 7"
# make demo      train, evaluate and search on real footage; results in outputs/demo
# make web       the demo's video in a browser, after make demo
# make starter   train the starter weights; results in outputs/starter (docs/starter.md)
# make gpu-check   test and measure on this machine's GPU; results in docs/gpu.md
# make experiment-pets   what pre-training adds, measured; results in outputs/experiment_pets
# make experiment-strangers   the same for people never seen (docs/pretraining.md)
#
# PYTHON=python3.12  another interpreter        VENV=DIR  another (or your own) environment
# VENV_ARGS=--system-site-packages  let the environment see Detectron2 or PyTorch of the system

PYTHON ?= python3
VENV ?= .venv
VENV_ARGS ?=
# One process per core; the tests use one thread each. `PYTEST_ARGS=-x` and the like come on top.
PYTEST_PROCESSES ?= auto
PYTEST_ARGS ?=
DEMO_ARGS ?=
WEB_ARGS ?=
STARTER_ARGS ?=
FUZZ_ARGS ?=
GPU_CHECK_ARGS ?=
EXPERIMENT_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.spnet_d2_installed
PINS := $(VENV)/.spnet_d2_constraints.txt
INPUTS := setup.py constraints.txt Makefile tools/install_detectron2.py

DOCS_STAMP := $(VENV)/.spnet_d2_docs_installed

.PHONY: install docs-install test fuzz lint format docs wheel-check exported-check demo web starter experiment-pets experiment-strangers gpu-check clean

install: $(STAMP)

$(STAMP): $(INPUTS)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV_ARGS) $(VENV) || { echo \
	  "Could not create $(VENV) with $(PYTHON). It takes Python 3.10 or newer with venv and pip" \
	  "(Debian, Ubuntu: apt-get install python3-venv), or make PYTHON=/path/to/python." >&2; exit 1; }
# PyTorch that is there stays: a GPU's driver, or a compiled Detectron2, may need just that one.
	@$(BIN)/python -m pip list --format=freeze --disable-pip-version-check | grep -E '^torch(vision)?==' > $(PINS); \
	  if [ -s $(PINS) ]; then grep -Ev '^torch(vision)?==' constraints.txt; \
	  else cat constraints.txt; fi >> $(PINS)
	$(BIN)/python -m pip install --disable-pip-version-check -c $(PINS) -e ".[dev,demo]"
	$(BIN)/python tools/install_detectron2.py --constraint $(PINS)
	@touch $@

# The order is that of tests/fixtures/order.py.
test: $(STAMP)
	$(BIN)/python -m pytest -n $(PYTEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -c $(PINS) -e ".[docs]"
	@touch $@

docs-install: $(DOCS_STAMP)

docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "outputs/site/index.html"

wheel-check: $(STAMP)
	PYTHON=$(BIN)/python .ci/check_wheel

exported-check: $(STAMP)
	PYTHON=$(BIN)/python .ci/check_exported

gpu-check: $(STAMP)
	$(BIN)/python tools/gpu_check.py $(GPU_CHECK_ARGS)

demo: $(STAMP)
	$(BIN)/python tools/demo.py $(DEMO_ARGS)

web: $(STAMP)
	$(BIN)/python tools/gallery.py index --gallery outputs/gallery --source yard=datasets/pets09/vtest.avi --fps 2
	$(BIN)/python tools/gallery.py serve --gallery outputs/gallery --footage datasets $(WEB_ARGS)

starter: $(STAMP)
	$(BIN)/python tools/make_starter.py $(STARTER_ARGS)

experiment-pets: $(STAMP)
	$(BIN)/python tools/experiment_pets.py $(EXPERIMENT_ARGS)

experiment-strangers: $(STAMP)
	$(BIN)/python tools/experiment_strangers.py $(EXPERIMENT_ARGS)

clean:
	rm -rf .venv outputs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
