# make pretrain and make test each work alone on a fresh clone: they make .venv and install what they need.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=

.PHONY: help pretrain finetune test minkowski lint types check clean
help:            ## this list
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## */\1\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fcmae needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

pretrain: $(VENV)/.installed       ## pretrain on the bundled photos (ARGS="--seed 1" adds options)
	$(BIN)/python -m fcmae.pretrain $(ARGS)

finetune: $(VENV)/.installed       ## is pretraining worth it? fine-tune the demo's weights and random ones, and compare (ARGS="--seed 1")
	$(BIN)/python examples/pretraining_pays.py $(ARGS)

test: $(VENV)/.installed-dev       ## run the tests
	$(BIN)/python -m pytest $(ARGS)

# MinkowskiEngine 0.5.4 for the CPU, from source, about five minutes; it needs a C++ compiler and OpenBLAS's headers.
minkowski: $(VENV)/.installed-dev  ## install MinkowskiEngine, for --model.backend minkowski (optional)
	@echo '#include <cblas.h>' | $${CXX:-c++} -E -x c++ - > /dev/null 2>&1 \
		|| { echo 'MinkowskiEngine needs a C++ compiler and OpenBLAS (Debian: apt-get install g++ libopenblas-dev)'; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check setuptools wheel ninja
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --no-deps --no-build-isolation \
		--config-settings=--global-option=--cpu_only --config-settings=--global-option=--blas=openblas MinkowskiEngine==0.5.4
	$(BIN)/python -W ignore -c 'import fcmae.sparse.backends.minkowski'

lint: $(VENV)/.installed-dev       ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The type checker sees the package as installed: it cannot follow the mapping of sparse/ to fcmae.sparse.
types: $(VENV)/.installed-dev      ## mypy
	rm -rf build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target build/typecheck .
	cd build/typecheck && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p fcmae
	rm -rf build

check: test lint types             ## all that CI runs

clean:           ## remove the environment and build outputs
	rm -rf $(VENV) build dist *.egg-info
