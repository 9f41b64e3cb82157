# The two set-up commands are `make demo` and `make test`; each makes .venv when it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
DIST_VENV ?= build/dist-venv
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Set PIP_EXTRA_INDEX_URL to a CPU index to get the CPU build of torch where pip would take CUDA's.

.DELETE_ON_ERROR:
.PHONY: demo test test-full lint docs links screenshots check bench dist clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cpu,demo,images,report,dev]'
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

$(DOCS_READY): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

docs: $(DOCS_READY)  ## the site in docs/_build/html; fails on a warning, a dead link or a drifted reference
	$(BIN)/python docs/generate.py --check
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

links: $(DOCS_READY)  ## asks the network whether the links to other sites still lead somewhere
	$(BIN)/sphinx-build --quiet --builder linkcheck docs docs/_build/links

screenshots: $(READY)  ## docs/images from real runs; needs chromium
	$(BIN)/python docs/screenshots.py

dist: $(READY)  ## a wheel, installed and tried in an environment of its own
	rm -rf dist $(DIST_VENV)
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv $(DIST_VENV)
	$(DIST_VENV)/bin/pip install --quiet --constraint constraints.txt "$$(ls dist/sslcli-*.whl)[cpu,report]"
	cd $(DIST_VENV) && bin/sslcli --help > /dev/null && bin/python -m sslcli --version
	cd $(DIST_VENV) && bin/sslcli doctor && bin/sslcli prune arch:lenet --target macs=0.5 --force -o small.pt2

check: lint test docs

bench: $(READY)
	$(BIN)/python benchmarks/regularize_cost.py

clean:
	rm -rf $(VENV) runs build dist docs/_build .mypy_cache .ruff_cache .pytest_cache
