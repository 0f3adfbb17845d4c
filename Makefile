# make demo    simulate two small surveys and run the whole paper on them
# make test    the tests;  make lint, make bench, make real, make help
#
# Everything is installed into .venv and written under build/; nothing else is touched.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.installed
# Survey data beside the checkout, for `make real` and some tests; they skip without it.
SHARED ?= ../shared
# make demo COMPONENTS=1: the same with misfit components, into a directory of its own.
RUN ?= build/demo$(if $(COMPONENTS),_components)
SCALE ?= 1
TESTS ?= tests
WORKERS ?= 2

export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install venv demo paper check-demo test faults slurm man lint bench bench-full peers real clean

help: ## this list
	@sed -n 's/^\([a-z-]*\)[a-z -]*:.*## /\1\t/p' Makefile | expand -t 12

install venv: $(INSTALLED) ## build .venv with cannonkit and what its tests need

$(INSTALLED): setup.cfg pyproject.toml constraints.txt $(wildcard bin/cc-*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "make: $(PYTHON) is older than 3.11; use make PYTHON=python3.12" >&2; exit 69; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test,report,lint]'
	touch $@

# Hundreds of training stars, not thousands: the restricted likelihood.
DEMO := RUN=$(RUN) TRAIN_OPTIONS='--scatter reml' OPTIONS=--quiet \
    $(if $(COMPONENTS),CONFIG=configs/cannon_components.yaml)

demo: $(INSTALLED) $(RUN)/mock/truth.fits ## two simulated surveys through the whole pipeline, into build/demo
	$(MAKE) --no-print-directory --file configs/pipeline.mk $(DEMO)

$(RUN)/mock/truth.fits: | $(INSTALLED)
	mkdir -p $(RUN)
	cc-mock -o $(RUN)/mock --overwrite

paper: $(INSTALLED) ## the paper at its own scale on a mock, into build/paper (hours; SCALE=0.01 for a hundredth)
	python tests/paper.py build/paper --scale $(SCALE)

check-demo: $(INSTALLED) ## what a finished demo must show: biases, scales, referees (fails where it does not)
	python tests/check_demo.py $(RUN)

test: $(INSTALLED) ## all tests (TESTS=tests/stages for some of them, WORKERS=4 processes)
	python -m pytest -q -n $(WORKERS) --dist loadfile $(TESTS)

faults: $(INSTALLED) ## the fault table at its full counts, and how it went
	CANNONKIT_FAULTS=full CANNONKIT_SLURM=1 python -m pytest -q tests/faults tests/test_stream.py tests/test_cli.py tests/test_config.py \
	    tests/test_cache.py tests/stages/test_crossmatch.py tests/test_slurm.py

slurm: $(INSTALLED) ## the pipeline as array jobs on a real Slurm of two virtual nodes
	CANNONKIT_SLURM=1 python -m pytest -q -s tests/test_slurm.py

man: $(INSTALLED) ## man pages and shell completion, into build/man and build/completion
	python -m cannonkit.manual build/man
	python -m cannonkit.manual --completion build/completion

lint: $(INSTALLED) ## ruff
	ruff check .

bench: $(INSTALLED) $(if $(PEERS),peers) ## benchmarks, into build/bench.json (PEERS=1: with other codes)
	python tests/bench/run.py

real: $(INSTALLED) ## real survey data from ../shared/data, into build/real
	@if test -d $(SHARED)/data; then $(MAKE) --file tests/real.mk RUN=build/real DATA=$(SHARED)/data; \
	else echo "make real: skipped, $(SHARED)/data is not there"; fi

bench-full: $(INSTALLED) ## 437,445 made-up spectra piped into cc-infer: time, rate, memory (minutes)
	python tests/bench/bench_infer.py

# Other codes, for comparison only, each in a virtual environment of its own.
peers: build/peers/annieslasso/.installed build/peers/specutils/.installed ## install the other codes

build/peers/annieslasso/.installed: PACKAGES = 'annieslasso==0.2.96' 'numpy<2.3' setuptools
build/peers/specutils/.installed: PACKAGES = specutils
build/peers/%/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet $(PACKAGES)
	touch $@

clean: ## remove build/ (.venv stays)
	rm -rf build
