# `make demo` and `make test` need nothing but Python 3.11 or newer: the first call makes .venv.
PYTHON ?= python3
MODEL ?= micro
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.installed
export PYTHONDONTWRITEBYTECODE =# tests are compiled once, for all processes of all targets
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal
# A process takes whole modules, since their fixtures are expensive; tests/conftest.py puts slow ones first.
MODULES = --dist loadscope --no-loadscope-reorder
# Releases of transformers that `make versions` tests beside the one in requirements.lock. The first is the oldest
# that setup.py admits.
VERSIONS := $(sort $(basename $(notdir $(wildcard tests/versions/*.lock))))
RELEASES := $(VERSIONS:%=.venv/versions/%/.installed)
DECODING := tests/baselines/test_contract.py tests/bench/test_doctor.py tests/compress/attach tests/compress/models

.PHONY: install demo test slow test-all versions test-vllm gpu check lint docs micro clean

install: $(READY)

demo: $(READY)
	$(BIN)/evocomp demo --model busy -n 50 --out demo

test: $(READY)
	$(PYTEST) -m "not slow"

slow: $(READY)
	$(PYTEST) $(MODULES) -m slow

# Test and slow together: tests are collected once, and no process waits for the last of another's.
test-all: $(READY)
	$(PYTEST) $(MODULES)

versions: $(RELEASES)
	for version in $(VERSIONS); do \
		PYTHONPATH=$(CURDIR)/.venv/versions/$$version $(PYTEST) -m "versions and not slow" $(DECODING) || exit; \
	done

# In an environment of its own, with vLLM for CPUs; not a part of `make check`.
test-vllm: .venv/vllm/.installed
	OMP_NUM_THREADS=1 .venv/vllm/bin/python -m pytest tests/serving tests/compress/models/test_pixels.py

# What only a GPU can tell, in at most ten minutes.
gpu: $(READY)
	$(BIN)/python -m bench.speed.gpu --out gpu

check: $(READY)
	$(MAKE) --jobs 3 lint docs test-all $(RELEASES)
	$(MAKE) versions

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
	$(BIN)/python -m pip install --no-compile -r requirements.lock
	$(BIN)/python -m pip install --no-deps -e .
	touch $@

.venv/vllm/.installed: tests/serving/environment.sh setup.py
	tests/serving/environment.sh .venv/vllm $(PYTHON)
	touch $@

.venv/versions/%/.installed: tests/versions/%.lock $(READY)
	rm -rf $(@D)
	$(BIN)/python -m pip install --no-compile --no-deps --target $(@D) -r $<
	touch $@
