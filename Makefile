# Every target sets up what it needs: one virtual environment in .venv, made once and used again.

PYTHON  ?= python3
WORKERS ?= 2
VENV    := .venv
BIN     := $(VENV)/bin
ARGS    ?=

# Reference data for the tests marked `realdata`; they skip with a reason where there is none.
ifeq ($(origin KINETOGRAPH_DATA),undefined)
ifneq ($(wildcard ../shared/data/.),)
export KINETOGRAPH_DATA := $(abspath ../shared/data)
endif
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-all lint types imports docs clean venv kernels chromium

help:
	@echo "make demo      the whole story on argon, into ./demo-argon (options: make demo ARGS='--help')"
	@echo "make test      lint, types, imports and the fast tests"
	@echo "make test-all  the same with the slow tests and the docs"
	@echo "make lint      ruff, check and format"
	@echo "make types     mypy, strict"
	@echo "make docs      the documentation, into docs/_build/html"
	@echo "make kernels   the compiled kernels, after a change of their C++ sources"
	@echo "make venv      only the virtual environment, for development"
	@echo "make clean     remove what was built; .venv stays"
	@echo
	@echo "PYTHON=python3.12 picks the interpreter of a new virtual environment (3.11 or newer)."
	@echo "WORKERS=4 runs the tests in so many processes (2)."

# ------------------------------------------------------------------------------------------- the virtual environment

# On a root Debian shell a missing venv module is installed; anywhere else the message says what to do.
define make_venv
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
		&& $(BIN)/python -m pip --version >/dev/null 2>&1; then exit 0; fi; \
	if ! command -v "$(PYTHON)" >/dev/null 2>&1; then \
		echo "No '$(PYTHON)' found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3 ..." >&2; \
		exit 1; \
	fi; \
	if ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "Kinetograph needs Python 3.11 or newer; '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1)." >&2; \
		echo "Name another one: make PYTHON=/path/to/python3 ..." >&2; \
		exit 1; \
	fi; \
	if ! "$(PYTHON)" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
			echo "Installing Python's venv module (python3-venv) ..."; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null || true; \
		fi; \
		if ! "$(PYTHON)" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
			echo "'$(PYTHON)' has no venv module. On Debian or Ubuntu: apt-get install python3-venv" >&2; \
			exit 1; \
		fi; \
	fi; \
	echo "Making the virtual environment $(VENV) with $$("$(PYTHON)" --version) ..."; \
	"$(PYTHON)" -m venv --clear $(VENV)
endef

PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# What a run needs, and what development needs beside it. The second makes the first, so that neither repeats the other.
$(VENV)/.ready-run: pyproject.toml constraints.txt
	$(make_venv)
	@echo "Installing Kinetograph into $(VENV) (minutes, the first time) ..."
	@$(PIP_INSTALL) -e '.[all]'
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt
	$(make_venv)
	@echo "Installing Kinetograph and its development tools into $(VENV) (minutes, the first time) ..."
	@$(PIP_INSTALL) -e '.[all,dev,docs]'
	@touch $(VENV)/.ready-run $@

venv: $(VENV)/.ready-dev

# The compiled kernels, made again when their sources have changed since they were installed.
KERNELS := src/kinetograph/kernels
$(KERNELS)/compiled/.ready: $(wildcard $(KERNELS)/csrc/*) $(KERNELS)/build.py
	@mkdir -p $(@D)
	@if "$(PYTHON)" $(KERNELS)/build.py; then touch $@; \
	else echo "Without them the package runs its plain forms, slower."; fi

kernels: $(KERNELS)/compiled/.ready

# The browser tests open a page in Chromium, driven through chromedriver; without the two they skip with a reason.
chromium:
	@if command -v chromium >/dev/null 2>&1 && command -v chromedriver >/dev/null 2>&1; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && grep -qx 'ID=debian' /etc/os-release 2>/dev/null && command -v apt-get >/dev/null 2>&1; then \
		echo "Installing Chromium for the browser tests ..."; \
		apt-get update -qq >/dev/null 2>&1 \
			&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null 2>&1 \
			|| echo "Chromium could not be installed: the browser tests will skip."; \
	else \
		echo "No chromium and chromedriver on PATH: the browser tests will skip."; \
	fi

# -------------------------------------------------------------------------------------------------------------- run

demo: $(VENV)/.ready-run kernels
	@$(BIN)/kinetograph demo $(ARGS)

# ------------------------------------------------------------------------------------------------------------ check

lint: $(VENV)/.ready-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.ready-dev
	@$(BIN)/mypy

imports: $(VENV)/.ready-dev
	@$(BIN)/lint-imports --no-logo

# Two OpenMP threads on a shared core are far slower than one: tests run on one, in WORKERS processes.
test test-all: export OMP_NUM_THREADS = 1

test: $(VENV)/.ready-dev kernels chromium lint types imports
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' $(ARGS)

test-all: $(VENV)/.ready-dev kernels chromium lint types imports docs
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --timeout 1800 $(ARGS)

docs: $(VENV)/.ready-dev
	@$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
