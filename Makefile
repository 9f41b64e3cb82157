# The two set-up commands are `make demo` and `make test`; each makes .venv when it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Set PIP_EXTRA_INDEX_URL to a CPU index to get the CPU build of torch where pip would take CUDA's.

.DELETE_ON_ERROR:
.PHONY: demo test test-full lint docs check bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cpu,demo,images,dev]'
	touch $@

demo: $(READY)  ## dense LeNet -> SSL -> prune -> fine-tune -> ONNX -> bench, on real digits
	$(BIN)/sslcli run recipes/demo.yaml

test: $(READY)  ## the default tests, under 15 minutes on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-full: $(READY)  ## every test, the long ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --timeout 7200

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)  ## regenerate what is generated in docs/ and fail if it had drifted
	$(BIN)/python docs/generate.py --check

check: lint test docs

bench: $(READY)
	$(BIN)/python benchmarks/regularize_cost.py

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache
