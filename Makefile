# `make demo` and `make test` each do everything that they need on a machine with Python and make alone.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test bench coverage wheel lint pages docs docs-serve clean

demo: $(VENV)/installed
	$(BIN)/leapcore run quickstart --overwrite

test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

bench: $(VENV)/installed-dev
	$(BIN)/python -m pytest benchmarks/guard.py -rP --benchmark-enable --benchmark-columns=min,median,max,rounds

# Which branches of the core its own tests take.
coverage: $(VENV)/installed-dev
	$(BIN)/coverage run -m pytest tests/core tests/testing
	$(BIN)/coverage report

# Built, installed without the repository, and run from elsewhere.
wheel: $(VENV)/installed-dev
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/hatchling build -t wheel -d build/wheel
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt build/wheel/*.whl
	cd build/wheel && venv/bin/leapcore plugins && venv/bin/leapcore run quickstart --set train.duration=20st

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

pages: $(VENV)/installed-dev
	$(BIN)/python docs/generate.py

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html, or: make docs-serve"

docs-serve: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) -e ".[dev]"
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(INSTALL) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache
