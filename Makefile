# make book and make test each do all the set-up they need. PROFILE=quick makes a small book in seconds per page, and
# SEEDS=1,2 with two runs per row; DATASET=iqiyi, or 'iqiyi mine', adds the pages of datasets that you imported.
# OPTIONS go to JupyterLab: make lab OPTIONS='--no-browser --port 9999'. make videos installs what the commands for
# videos need. make bench measures speed and memory and records them in results/: some ten minutes on an idle machine;
# DEVICE=cpu leaves a graphics card alone. make gpu records in MINUTES what a GPU is there for; it uses PYTHON as it is.
PROFILE ?= standard
SEEDS ?=
DATASET ?=
DEVICE ?= auto
MINUTES ?= 10
ROUNDS ?= 30
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --disable-pip-version-check --quiet
BENCHMARKS = aggregation_kernels cluster_memory metric batched_seeds precision import_iqiyi

# Images for containers set this. Every process would then compile PyTorch's modules again, which takes it 12 s.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: book pdf test torture lab videos bench gpu clean

book: $(VENV)/.ready
	$(BIN)/famf book --profile $(PROFILE) $(if $(SEEDS),--seeds $(SEEDS)) $(foreach name,$(DATASET),--dataset $(name))

# The whole book in one file, _build/famf.pdf. It is printed by the Chromium, Chrome or Edge that is there.
pdf: book
	$(BIN)/famf pdf

test: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/famf test

# Kills, races, full disks, damaged files and bombs, more than in make test. ROUNDS=4 takes a quarter of an hour.
torture: $(VENV)/.ready-dev
	FAMF_TORTURE=$(ROUNDS) FAMF_TORTURE_RECORD=results/torture.json $(BIN)/python -m pytest tests/torture

lab: $(VENV)/.ready
	$(BIN)/famf lab $(OPTIONS)

videos: $(VENV)/.ready
	$(PIP) --constraint requirements-dev.txt --no-build-isolation --editable ".[extract]"

bench: $(VENV)/.ready-dev
	set -e; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py --device $(DEVICE) --record; done

# Tests, speed and Table 1 at full size; the next call goes on. It needs no network and no environment of its own.
gpu:
	$(PYTHON) benchmarks/gpu.py --minutes $(MINUTES)

clean:
	rm -rf _build

# The environment of a reader, and with -dev that of the tests and benchmarks. Each is made again when its requirements
# change. The stamp comes last: an interrupted install is repeated.
$(VENV)/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python {v[0]}.{v[1]} found, expected 3.11 to 3.13: say make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile --requirement requirements.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(PIP) --requirement requirements-dev.txt
	touch $@
