# Needs Python 3.11 or newer, make and git. Everything lands in .venv and demo/ of this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The GPU build of onnxruntime only where an NVIDIA driver answers: it is 1.5 GB with its libraries.
RUNTIME := $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
DEMO_FRAMES := 20
FUZZ_TARGETS := config label calibration frame network
FUZZ_SECONDS := 300

.PHONY: setup demo test fuzz lint clean
setup: $(VENV)/.done-$(RUNTIME)

# What stands after ".done-" is the list of extras.
$(VENV)/.done-%: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "roadblocks needs Python 3.11 or newer: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch '$@'

demo: setup
	$(BIN)/python -m tools.demo demo --frames $(DEMO_FRAMES)

test: $(VENV)/.done-test,$(RUNTIME)
	$(BIN)/python -m pytest

# Found inputs land in build/fuzz/found-*; what widens the coverage, beside them, and is gone on from.
fuzz: $(VENV)/.done-fuzz,$(RUNTIME)
	for target in $(FUZZ_TARGETS); do \
	  mkdir -p build/fuzz/$$target && \
	  $(BIN)/python -m tests.fuzz.run $$target -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 -timeout=25 \
	    -artifact_prefix=build/fuzz/found-$$target- build/fuzz/$$target tests/fuzz/corpus/$$target || exit 1; \
	done

lint: $(VENV)/.done-test,$(RUNTIME)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo
