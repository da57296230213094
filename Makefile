# Needs Python 3.11 or newer, make and git. Everything lands in .venv and demo/ of this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The GPU build of onnxruntime only where an NVIDIA driver answers: it is 1.5 GB with its libraries.
RUNTIME := $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
DEMO_FRAMES := 20
FUZZ_TARGETS := config label calibration frame network
FUZZ_SECONDS := 300

WEIGHTS := runs/weights
TRAIN_OPTIONS :=

.PHONY: setup demo test fuzz lint weights clean
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

# The shipped weights anew, in runs/weights: make weights KITTI=FOLDER DRIVE_0005=FOLDER (docs/training.md).
# It goes on where it was stopped. TRAIN_OPTIONS="--steps 2" goes through all of it without learning anything.
# PyTorch takes and frees gigabytes in every step: the C library is to keep them, in huge pages.
MALLOC := GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8000000000
TRAIN := $(MALLOC) $(BIN)/python -m tools.train
NEEDED = $(error make weights needs KITTI=FOLDER and DRIVE_0005=FOLDER)
REAL = --data '$(or $(KITTI),$(NEEDED))@configs/splits/kitti_train.txt' --data '$(or $(DRIVE_0005),$(NEEDED))'
VAL = --val '$(or $(KITTI),$(NEEDED))@configs/splits/kitti_val.txt'
DONE = touch '$@'

weights: $(WEIGHTS)/SHA256SUMS

$(WEIGHTS)/frames/.done: | $(VENV)/.done-train,$(RUNTIME)
	@: $(REAL) # what is missing is told now, not in an hour
	rm -rf '$(@D)'
	$(BIN)/roadblocks sample '$(@D)' --frames 1002 --seed 100 --step 3 --frames-per-world 3
	$(DONE)

$(WEIGHTS)/sweeps/.done: | $(VENV)/.done-train,$(RUNTIME)
	rm -rf '$(@D)'
	$(BIN)/roadblocks sample '$(@D)' --full --frames 900 --seed 200 --step 3 --frames-per-world 3
	$(DONE)

$(WEIGHTS)/simulated/.done: $(WEIGHTS)/frames/.done
	$(TRAIN) run --config train/simulated --simulated $(WEIGHTS)/frames --out '$(@D)' $(TRAIN_OPTIONS)
	$(DONE)

$(WEIGHTS)/recorded/.done: $(WEIGHTS)/simulated/.done
	$(TRAIN) run --config train/recorded --init $(WEIGHTS)/simulated --out '$(@D)' \
	  $(REAL) --simulated $(WEIGHTS)/frames $(VAL) $(TRAIN_OPTIONS)
	$(DONE)

$(WEIGHTS)/kitti/.done: $(WEIGHTS)/recorded/.done
	$(TRAIN) run --config train/fine_tune --init $(WEIGHTS)/recorded --out '$(@D)' \
	  $(REAL) --simulated $(WEIGHTS)/frames $(VAL) $(TRAIN_OPTIONS)
	$(DONE)

$(WEIGHTS)/surround/.done: $(WEIGHTS)/kitti/.done $(WEIGHTS)/sweeps/.done
	$(TRAIN) run --config train/surround --init $(WEIGHTS)/kitti --out '$(@D)' \
	  $(REAL) --simulated $(WEIGHTS)/sweeps $(VAL) $(TRAIN_OPTIONS)
	$(DONE)

$(WEIGHTS)/mask/.done: | $(VENV)/.done-train,$(RUNTIME)
	$(TRAIN) mask $(REAL) --out '$(@D)' $(TRAIN_OPTIONS)
	$(DONE)

$(WEIGHTS)/%.onnx: $(WEIGHTS)/%/.done $(WEIGHTS)/mask/.done
	$(TRAIN) export $(WEIGHTS)/$* '$@' $(VAL)
	$(TRAIN) export-mask $(WEIGHTS)/mask '$@'

$(WEIGHTS)/SHA256SUMS: $(WEIGHTS)/kitti.onnx $(WEIGHTS)/surround.onnx
	cd $(WEIGHTS) && sha256sum *.onnx > SHA256SUMS

clean:
	rm -rf $(VENV) demo
