# `make demo` and `make test` set everything up by themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check install benchmarks clean

demo: install  ## train over four hospitals in this process, and show the result
	$(BIN)/polyclinic demo

test: install  ## all tests
	scripts/system-packages
	$(BIN)/pytest -n auto

check: install  ## format, lint, types, import layers
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/pytest tests/test_layers.py

install: .venv/installed

# Bytecode is compiled here, because some machines forbid Python to write it: torch then takes three seconds to import.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	touch $@

benchmarks: install  ## the figures that the documentation quotes
	for program in benchmarks/bench_*.py; do $(BIN)/python $$program || exit 1; done

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
