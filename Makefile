# make book, make test: each does all the set-up it needs. PROFILE=quick makes a small book in seconds a page, and
# SEEDS=1,2 with two runs a row; DATASET=iqiyi, or 'iqiyi mine', adds the pages of datasets that were imported.
# OPTIONS go to JupyterLab: make lab OPTIONS='--no-browser --port 9999'. make bench measures how fast it is, and records
# it in results/: some ten minutes on a machine that does nothing else; DEVICE=cpu leaves a graphics card alone.
PROFILE ?= standard
SEEDS ?=
DATASET ?=
DEVICE ?= auto
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
BENCHMARKS = aggregation_kernels cluster_memory metric batched_seeds precision import_iqiyi

.PHONY: book pdf test lab bench clean

book: $(VENV)/.ready
	$(BIN)/famf book --profile $(PROFILE) $(if $(SEEDS),--seeds $(SEEDS)) $(foreach name,$(DATASET),--dataset $(name))

# The whole book in one file, _build/famf.pdf. It is printed by the Chromium, Chrome or Edge that is there.
pdf: book
	$(BIN)/famf pdf

test: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/famf test

lab: $(VENV)/.ready
	$(BIN)/famf lab $(OPTIONS)

bench: $(VENV)/.ready
	set -e; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py --device $(DEVICE) --record; done

clean:
	rm -rf _build

# The environment is made again when a requirement changes. The stamp comes last: an interrupted install is repeated.
$(VENV)/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python {v[0]}.{v[1]} found, expected 3.11 to 3.13: say make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	touch $@
