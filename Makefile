# `make demo` and `make test` need nothing but Python 3.11 or newer: the first call makes .venv.
PYTHON ?= python3
MODEL ?= micro
BIN := .venv/bin
READY := .venv/.installed

.PHONY: demo test check lint docs micro clean

demo: $(READY)
	$(BIN)/evocomp demo --out demo

test: $(READY)
	$(BIN)/python -m pytest

check: lint docs test

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy evocomp.py evosearch compress baselines bench

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

micro: $(READY)
	$(BIN)/python -m compress.micro.recipe.build --model $(MODEL)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements.lock setup.py
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, e.g. make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -r requirements.lock
	$(BIN)/python -m pip install --no-deps -e .
	touch $@
