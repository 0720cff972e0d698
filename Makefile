# Creates a virtual environment next to this file; needs only Python, a C++ compiler and the package registry.
# PYTHON selects the interpreter (3.11 to 3.13) of a new environment: make clean test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV)/bin)
# The tests of a file share what they have created, so each file runs in one worker.
PYTEST := python -m pytest --dist loadfile --no-loadscope-reorder
# Tests that wait for processes, disks or unresponsive servers leave a core idle: one worker more than a small
# machine has cores.
WORKERS ?= 3
# The launcher starts its ranks with what is on PATH.
export PATH := $(BIN):$(PATH)
# Write bytecode: tests start hundreds of processes, which should not each compile the package.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup quickstart check test check-tests all-tests lint types bench docs clean

help:
	@echo "make quickstart   synthetic scenes -> import -> cache -> train -> evaluate -> predict"
	@echo "make check        ruff, mypy and the tests that start no process: two minutes"
	@echo "make test         ruff, mypy and all tests"
	@echo "make bench        microbenchmarks, results under bench/results/"
	@echo "make docs         the documents as a site, in build/site"
	@echo "make setup        only the virtual environment"

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  f"Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is {v[0]}.{v[1]}; name another with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

setup: $(VENV)/.installed

quickstart: setup
	maris-fast quickstart
	@echo "before it, in each new shell:  . $(VENV)/bin/activate"

lint: setup
	ruff check .
	ruff format --check .

types: setup
	mypy

# mypy takes one core for 20 seconds, so it runs alongside the tests instead of before them.
check: setup
	@$(MAKE) --no-print-directory --jobs 2 lint types check-tests

test: setup
	@$(MAKE) --no-print-directory --jobs 2 lint types all-tests

check-tests: setup
	$(PYTEST) -n $(WORKERS) -m "not process and not interpreter and not slow"

all-tests: setup
	$(PYTEST) -n $(WORKERS)

bench: setup
	maris-fast bench run

$(VENV)/.docs: $(VENV)/.installed
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

# Any warning, such as a broken link, is an error.
docs: $(VENV)/.docs
	mkdocs build --strict

clean:
	rm -rf $(VENV) build *.egg-info
