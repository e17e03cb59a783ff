# make demo                     real photographs -> one .beton file -> augmented batches -> a small training
# make demo DATA=folder         the same with your own image folder (one sub-folder per class)
# make test                     lint, types, tests: everything a change must pass
# make test-long                the tests, with the long ones too
# make lint                     ruff and mypy alone
# make notebooks                execute the notebooks and store their outputs
# make bench [ARGS=...]         python -m benchmarks
#
# Each makes .venv on its first run. PY=python3.12 chooses the Python; WHEELS=dir installs from that
# folder, with no package index and no isolated build; EXTRAS=torch leaves out the driver's CUDA extra.

PY ?= python3
VENV ?= .venv
VENV_ARGS ?=
WHEELS ?=
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2
DATA ?=
OUT ?= demo-output
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
# --no-index also silences every index of pip's own settings.
FROM := $(if $(WHEELS),--no-index --find-links $(WHEELS))
PINS := $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
FRAME := setup.cfg pyproject.toml $(CONSTRAINTS) Makefile

EMPTY :=
SPACE := $(EMPTY) $(EMPTY)
COMMA := ,
# Deferred, so that the driver is asked only when something is installed.
CUDA_EXTRA = $(shell $(PY) ffcv_gpu/native/driver.py)
EXTRAS ?= torch $(CUDA_EXTRA)

# $(call list,words): the words with commas. $(call install,extra): the package in place, with EXTRAS and
# that one, at the pinned versions. The index's torch is built for CUDA 13, which a driver of CUDA 12
# cannot run and cuda12's packages exclude: then go on without, and say so.
list = $(subst $(SPACE),$(COMMA),$(strip $(1)))
into = $(PIP) install -q $(FROM) $(PINS) --no-build-isolation -e ".[$(call list,$(1))]"
define install
	@echo "installing ffcv-gpu[$(call list,$(EXTRAS) $(1))] into $(VENV)"
	$(call into,$(EXTRAS) $(1)) $(if $(filter cuda12,$(EXTRAS)),|| { \
		echo "No torch for CUDA 12 found (PIP_EXTRA_INDEX_URL may name PyTorch's index of them): CPU only."; \
		$(call into,$(filter-out cuda12,$(EXTRAS)) $(1)); })
endef

.PHONY: demo test test-long lint bench notebooks

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py --out "$(OUT)" $(if $(DATA),--data "$(DATA)")

test: lint
	$(BIN)/pytest -n $(WORKERS)

test-long: $(VENV)/.test
	$(BIN)/pytest -m "long or not long"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(VENV)/.test
	$(BIN)/python notebooks/run.py

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

# pip is asked to build in this environment (--no-build-isolation): one way with and without an index.
$(VENV)/.base: $(FRAME)
	@$(PY) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "Python 3.11 or newer is needed: make ... PY=python3.12"; exit 1; }
	@$(PY) -m venv $(VENV_ARGS) $(VENV) || \
		{ echo "python -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PIP) install -q $(FROM) $(PINS) setuptools wheel
	@touch $@

$(VENV)/.demo: $(VENV)/.base
	$(call install,demo)
	@touch $@

# torchvision would insist on the index's build of torch, hence --no-deps (all it needs is here).
$(VENV)/.test: $(VENV)/.base
	$(call install,test)
	$(PIP) install -q $(FROM) $(PINS) --no-deps torchvision
	@touch $@

$(VENV)/.bench: $(VENV)/.base
	$(call install,bench)
	@touch $@
