# Every target does its own set-up: a virtual environment in .venv, and only the packages it needs.
# Give more to a command with ARGS, e.g.  make demo ARGS="--json"  or  make test ARGS="-k wire".

.DEFAULT_GOAL := help
.PHONY: help demo shell test lint soak bench clean

VENV ?= .venv
PYTHON ?=
ARGS ?=
HOURS ?= 0

# Hundreds of processes are started: each would compile the project again where Python is told to keep no bytecode.
export PYTHONDONTWRITEBYTECODE :=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
RUNTIME := $(VENV)/.installed-runtime
DEVELOPMENT := $(VENV)/.installed-development
BENCHMARKS := $(VENV)/.installed-benchmarks

help:
	@echo "make demo    the whole idea on simulated instruments: a scan with both generations, then its query"
	@echo "make shell   an IPython session on simulated instruments"
	@echo "make test    the test suite"
	@echo "make lint    ruff, mypy and the import contracts"
	@echo "make soak    the long-running proofs, too long for the suite; HOURS=8 repeats them for a night"
	@echo "make bench   the benchmarks"
	@echo "make clean   remove the virtual environment and every cache"

$(BIN)/python:
	@for candidate in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    exec "$$candidate" -m venv "$(VENV)"; \
	  fi; \
	done; \
	echo "ophyd-tandem needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11" >&2; exit 1

# The stamps make a second run start at once; a change of what is declared installs again.
$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing ophyd-tandem into $(VENV) (once, one to three minutes) ..."
	@$(PIP) install --editable . --constraint constraints.txt
	@touch $@

$(DEVELOPMENT): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing ophyd-tandem with its test tools into $(VENV) (once, one to three minutes) ..."
	@$(PIP) install --editable ".[dev]" --constraint constraints.txt
	@touch $(RUNTIME) $@

$(BENCHMARKS): $(DEVELOPMENT)
	@echo "Installing the peers that the benchmarks measure beside it ..."
	@$(PIP) install --editable ".[dev,benchmarks]" --constraint constraints.txt
	@touch $@

demo: $(RUNTIME)
	@$(BIN)/tandem demo $(ARGS)

shell: $(RUNTIME)
	@$(BIN)/tandem shell --simulate $(ARGS)

test: $(DEVELOPMENT)
	$(BIN)/python -m pytest -n 5 --dist loadfile $(ARGS)

lint: $(DEVELOPMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict --cache-dir .mypy_cache/strict coexistence catalog devices/protocols
	$(BIN)/lint-imports

soak: $(DEVELOPMENT)
	$(BIN)/python tests/soak/run.py --hours $(HOURS) $(ARGS)

bench: $(BENCHMARKS)
	@for benchmark in wires visa devices camera capture plans session shadow bridge; do echo "== $$benchmark"; $(BIN)/python -m benchmarks.$$benchmark $(ARGS) || exit 1; done

clean:
	rm -rf $(VENV) .venv-lower-bounds .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
