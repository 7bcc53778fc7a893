# Two commands for a newcomer:
#   make demo   makes .venv, installs fewsight and runs it on bundled data, offline
#   make test   everything that must hold: format, lint, types, architecture, tests
# Others: make quick (tests under three minutes), make docs, make bench, make clean.

PYTHON ?= python3
BIN := .venv/bin
RUN := OMP_NUM_THREADS=1 $(BIN)/python
PYTEST_ARGS ?=

.PHONY: demo test quick lint docs bench clean

demo: .venv/.installed
	$(BIN)/fewsight demo

test: lint
	$(RUN) -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

quick: .venv/.installed-dev
	$(RUN) -m pytest -n 2 --dist worksteal -m "not slow and not browser" $(PYTEST_ARGS)

lint: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: .venv/.installed-dev
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

bench: .venv/.installed-dev
	$(RUN) -m benchmarks

.venv/.installed: pyproject.toml scripts/install.sh
	PYTHON=$(PYTHON) sh scripts/install.sh .
	touch $@

.venv/.installed-dev: pyproject.toml scripts/install.sh
	PYTHON=$(PYTHON) sh scripts/install.sh '.[dev]'
	touch $@ .venv/.installed

clean:
	rm -rf .venv build docs/_build
