# `make` alone explains itself. Everything lands in .venv/ and build/; nothing else is touched.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

HOST_PYTHON ?= python3.11
PYTHON := .venv/bin/python
UV := build/bootstrap/bin/uv
LOCKS := deploy/locks

# What `make demo` replays: ml-100k, synthetic or a file; at most EVENTS of it; SPEED max or a factor.
DATA ?= ml-100k
EVENTS ?=
SPEED ?= max
# How many kills `make chaos-features` takes.
KILLS ?= 100

# A wheel of the model stack is larger than the default of 30 s allows on a slow line.
export UV_HTTP_TIMEOUT ?= 600
export UV_PYTHON_DOWNLOADS := never
# The machine's own certificates, as pip, git and Maven use them: companies have theirs.
export UV_SYSTEM_CERTS ?= true
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Without compiled bytecode every process would parse torch, TorchRec and PyFlink again: 15 s each.
unexport PYTHONDONTWRITEBYTECODE

##@ Start here
.PHONY: help setup doctor demo
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.synced build/jars/kafka/.copied build/jars/flink/.copied build/kernels/.built ## Install everything, by the locks, into .venv/ and build/

doctor: ## Check this machine and what is installed; say how to mend it
	@$(if $(wildcard $(PYTHON)),$(PYTHON),$(HOST_PYTHON)) -m deploy.doctor

demo: setup ## The whole loop on real events [DATA=ml-100k|synthetic|FILE] [EVENTS=n] [SPEED=max|x]
	$(PYTHON) -m deploy demo --data '$(DATA)' $(if $(EVENTS),--events '$(EVENTS)') --speed '$(SPEED)'

##@ Test
.PHONY: test test-unit test-e2e chaos-features check-features fuzz lint typecheck
test: setup lint typecheck ## Everything: lint, types, unit, property and end-to-end tests
	$(PYTHON) -m pytest

test-unit: setup ## Tests that start no JVM
	$(PYTHON) -m pytest -m "not e2e"

test-e2e: setup ## Tests with a real broker and real Flink
	$(PYTHON) -m pytest -m e2e

chaos-features: setup ## Random kills of job and broker, output against offline [KILLS=100]
	$(PYTHON) -m tests.chaos.chaos_features --kills '$(KILLS)'

check-features: setup ## The job against offline on every real log at hand, at parallelism 1, 2, 4
	$(PYTHON) -m tests.chaos.check_features

fuzz: setup ## A million broken records through the parser, 100,000 through the assembler
	$(PYTHON) -m tests.ingest.fuzz

lint: setup ## Style, formatting and the direction of imports
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	.venv/bin/lint-imports --no-logo

typecheck: setup ## Strict types of every room
	$(PYTHON) -m mypy

##@ Develop
.PHONY: format settings lock kernels bench-kernels bench-features bench-ingest bench-idmap bench-quality clean clean-all
format: setup ## Rewrite the sources in the house format
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

settings: setup ## Rewrite deploy/SETTINGS.md from the settings classes
	$(PYTHON) -m deploy.settings_table

kernels: .venv/.synced ## Compile the C++ of the kernels for this machine (CXX names the compiler)
	$(PYTHON) -m kernels.library

bench-kernels: setup ## Kernels against their targets on this machine, into build/bench/kernels.json
	$(PYTHON) -m tests.benchmarks.bench_kernels

bench-features: setup ## Sequence building against its targets, into build/bench/features.json
	$(PYTHON) -m tests.benchmarks.bench_features

bench-ingest: setup ## The replay producer and the readers against their targets, into build/bench/ingest.json
	$(PYTHON) -m tests.benchmarks.bench_ingest

bench-idmap: setup ## The id map's look-ups against their target, into build/bench/idmap.json
	$(PYTHON) -m tests.benchmarks.bench_idmap

bench-quality: setup ## Prequential click NE and GAUC on real impressions, into build/bench/quality.json
	$(PYTHON) -m tests.benchmarks.bench_quality

LOCK := $(UV) pip compile --quiet --generate-hashes --no-header --python-version 3.11 \
  --python-platform x86_64-unknown-linux-gnu $(UPGRADE)
lock: build/bootstrap/.installed ## Rewrite the locks from pyproject.toml [UPGRADE=--upgrade]
	$(LOCK) $(LOCKS)/bootstrap.in --output-file $(LOCKS)/bootstrap.txt
	$(LOCK) pyproject.toml --override $(LOCKS)/overrides.txt --all-extras --output-file $(LOCKS)/all.txt
	for extra in ingest features trainer publisher; do \
	  $(LOCK) pyproject.toml --override $(LOCKS)/overrides.txt --extra $$extra \
	    --constraint $(LOCKS)/all.txt --output-file $(LOCKS)/$$extra.txt; \
	done

clean: ## Delete caches and the outputs of demos
	rm -rf build/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

clean-all: clean ## Delete what `make setup` installed, too
	rm -rf .venv build

.PHONY: kernels-aot bench-kernels-gpu
kernels-aot: setup ## Compile every Triton kernel for GPUs that are not here; rewrite kernels/AOT.md
	$(PYTHON) -m kernels.aot

bench-kernels-gpu: setup ## Attention's MFU on this machine's GPU, into build/bench/kernels-gpu.json
	$(PYTHON) -m tests.benchmarks.bench_kernels_gpu

.PHONY: requirements
requirements:
	@deploy/bootstrap.sh '$(HOST_PYTHON)'

build/bootstrap/.installed: $(LOCKS)/bootstrap.txt | requirements
	rm -rf build/bootstrap
	$(HOST_PYTHON) -m venv build/bootstrap
	build/bootstrap/bin/pip install --quiet --require-hashes --requirement $(LOCKS)/bootstrap.txt
	touch $@

.venv/.synced: $(LOCKS)/all.txt pyproject.toml build/bootstrap/.installed
	test -x $(PYTHON) || $(UV) venv --quiet --python '$(HOST_PYTHON)' .venv
	$(UV) pip sync --python $(PYTHON) --require-hashes $(LOCKS)/all.txt
	$(UV) pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation --editable .
	touch $@

build/kernels/.built: .venv/.synced kernels/library.py $(wildcard kernels/*/cpu/*.cpp kernels/*/cpu/*.h)
	$(PYTHON) -m kernels.library
	touch $@

build/jars/%/.copied: deploy/pom.xml | requirements
	rm -rf $(@D)
	mvn --quiet --batch-mode --strict-checksums --file deploy/pom.xml --activate-profiles $* \
	  dependency:copy-dependencies -DoutputDirectory='$(abspath $(@D))'
	touch $@
