# make demo                     real photographs -> one .beton file -> augmented batches -> a small training
# make demo DATA=folder         the same with your own image folder (one sub-folder per class)
# make test                     lint, types, tests: everything a change must pass
# make test-long                the tests, with the long ones too
# make lint                     ruff and mypy alone
# make notebooks                execute the notebooks and store their outputs
# make bench [ARGS=...]         python -m benchmarks
# make gpu [ARGS=...]           on a machine with a GPU: correctness, experiments, throughput
# make wheels WHEELS=dir        collect what `make gpu WHEELS=dir` needs there, for Python TARGET=3.12
#
# Each makes .venv on its first run. PY=python3.12 chooses the Python, VENV=.venv-3.12 the environment;
# WHEELS=dir installs from that folder, with no package index and no isolated build; EXTRAS=torch leaves
# out the driver's CUDA extra.
# VENV_ARGS=--system-site-packages uses what PY has installed (torch, CUDA), in the versions that it has.

PY ?= python3
VENV ?= .venv
VENV_ARGS ?=
WHEELS ?=
# non-empty if the environment shows PY's own packages: then their versions are what they are
SHARED := $(findstring --system-site-packages,$(VENV_ARGS))
CONSTRAINTS ?= $(if $(SHARED),,constraints.txt)
# processes of `make test`: one more than two cores, because many tests wait for processes of their own
WORKERS ?= 3
DATA ?=
OUT ?= demo-output
ARGS ?=

# Many of the tests are processes of their own: without compiled files each would compile all that it imports.
export PYTHONDONTWRITEBYTECODE :=

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
EXTRAS ?= $(if $(SHARED),,torch $(CUDA_EXTRA))
NVJPEG = $(if $(filter cuda13,$(CUDA_EXTRA)),'nvidia-nvjpeg>=13.2.3') \
	$(if $(filter cuda12,$(CUDA_EXTRA)),'nvidia-nvjpeg-cu12>=12.4.0.76')
# what the tests that need a GPU are run with
GPU_TOOLS := hypothesis pytest pytest-timeout
# `make wheels`: for an image that has torch, CUDA's packages and the usual ones
TARGET ?= 3.12
CARRY ?= simplejpeg google-crc32c nvidia-nvjpeg
PLATFORMS := $(foreach n,39 35 34 31 28 27 24 17,--platform manylinux_2_$(n)_x86_64) --platform manylinux2014_x86_64

# $(call list,words): the words with commas. $(call install,extra): the package in place, with EXTRAS and
# that one, at the pinned versions. The index's torch is built for CUDA 13, which a driver of CUDA 12
# cannot run and cuda12's packages exclude: then go on without, and say so.
list = $(subst $(SPACE),$(COMMA),$(strip $(1)))
# --no-compile: Python compiles what it imports; pip would compile 15,000 files, 25 s.
into = $(PIP) install -q --no-compile $(FROM) $(PINS) --no-build-isolation -e ".[$(call list,$(1))]"
define install
	@echo "installing ffcv-gpu[$(call list,$(EXTRAS) $(1))] into $(VENV)"
	$(call into,$(EXTRAS) $(1)) $(if $(filter cuda12,$(EXTRAS)),|| { \
		echo "No torch for CUDA 12 found (PIP_EXTRA_INDEX_URL may name PyTorch's index of them): CPU only."; \
		$(call into,$(filter-out cuda12,$(EXTRAS)) $(1)); })
endef

# PY may live in an environment itself, whose packages --system-site-packages would not show. Through
# `addsitedir`, because their own .pth files are wanted, too (numba-cuda puts itself in numba's place by one).
define show_packages_of_py
	@$(PY) -c 'import sys, sysconfig; sys.prefix == sys.base_prefix or \
		print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_packages_of_py.pth"
endef

.PHONY: demo test test-long lint bench gpu wheels notebooks same-python
# Two pips at once would spoil the environment.
.NOTPARALLEL:

demo: same-python $(VENV)/.demo
	$(BIN)/python examples/demo.py --out "$(OUT)" $(if $(DATA),--data "$(DATA)")

test: lint
	$(BIN)/pytest -n $(WORKERS)

test-long: same-python $(VENV)/.test
	$(BIN)/pytest -m "long or not long"

lint: same-python $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: same-python $(VENV)/.test
	$(BIN)/python notebooks/run.py

bench: same-python $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

# A rehearsal on the fake GPU needs the compiler and nvJPEG's wheels, which nothing brings without a driver.
gpu: same-python $(VENV)/$(if $(findstring --rehearse,$(ARGS)),.test,.gpu)
	$(BIN)/python -m benchmarks gpu $(ARGS)

wheels:
	@test -n "$(WHEELS)" || { echo "make wheels WHEELS=folder"; exit 1; }
	$(PY) -m pip download -q --no-deps --only-binary=:all: -c constraints.txt -d "$(WHEELS)" \
		--implementation cp --python-version $(TARGET) $(PLATFORMS) $(CARRY)
	@ls -l "$(WHEELS)"

# An environment keeps the Python that it was made with: PY=python3.12 would silently be another one.
same-python:
	@test ! -x $(BIN)/python || test "$(origin PY)" = file || test "$$($(BIN)/python -V)" = "$$($(PY) -V)" || \
		{ echo "$(VENV) has $$($(BIN)/python -V), PY is $$($(PY) -V): remove it, or add VENV=.venv-other"; exit 1; }

# pip is asked to build in this environment (--no-build-isolation): one way with and without an index.
$(VENV)/.base: $(FRAME)
	@$(PY) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "Python 3.11 or newer is needed: make ... PY=python3.12"; exit 1; }
	@$(PY) -m venv $(VENV_ARGS) $(VENV) || \
		{ echo "python -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(if $(SHARED),$(show_packages_of_py))
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

# torchvision for the training step of one experiment: the one of the pinned torch, where that was installed.
$(VENV)/.gpu: $(VENV)/.base
	$(call install,bench)
	$(PIP) install -q $(FROM) $(PINS) $(GPU_TOOLS) $(NVJPEG)
	$(if $(SHARED)$(WHEELS),,$(PIP) install -q $(PINS) --no-deps torchvision)
	@touch $@
