# Every target works on a fresh clone: it makes .venv itself and installs what it needs. Run `make help` for the list.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO := demo_output

.DEFAULT_GOAL := help
.PHONY: help demo pictures test test-slow lint format docs docs-serve bench bench-quality bench-trust bench-runs cards sample-data wheel clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

# torch goes first and alone, so that nothing else can choose another torch.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@echo "Making $(VENV) (the first time this takes a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

$(VENV)/.checks: $(VENV)/.runtime
	$(PIP) --editable '.[train,cluster,test,dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.runtime
	$(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.runtime
	$(PIP) --editable '.[baselines,cluster]'
	@touch $@

demo: $(VENV)/.runtime  ## denoise, refine and fill the shipped sample scans into demo_output/ and draw before and after
	$(BIN)/medidiff denoise sample_data/phantom_t1w.nii.gz sample_data/dicom_mr -o $(DEMO)
	$(BIN)/python examples/before_after.py $(DEMO)
	$(BIN)/python examples/superres.py $(DEMO)
	$(BIN)/python examples/inpaint.py $(DEMO)

pictures: demo  ## draw the documentation's pictures again
	cp $(DEMO)/before_after.png $(DEMO)/superres.png $(DEMO)/inpaint.png docs/images/

test: $(VENV)/.checks  ## run the tests (not the slow ones), a process on each core, four at most
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.checks  ## run the slow tests
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.checks  ## check style, types and which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.checks  ## mend the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## build the documentation into site/
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation is in site/index.html"

docs-serve: $(VENV)/.docs  ## show the documentation while it is written
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# QUICK=1 takes small images. BM4D=1 adds BM4D, whose licence is non-commercial: $(BIN)/pip install bm4d first.
bench: $(VENV)/.bench  ## measure time, memory, how they grow, and independence of tiles (BM4D=1: also BM4D)
	$(BIN)/python -m benchmarks.bench $(if $(QUICK),--quick) $(if $(BM4D),--with-bm4d)
	$(BIN)/python -m benchmarks.scaling $(if $(QUICK),--quick)
	$(BIN)/python -m benchmarks.independence

bench-quality: $(VENV)/.bench  ## measure denoising, super-resolution, inpainting, CT and 2-D images next to what else there is
	$(BIN)/python -m benchmarks.quality $(if $(BM4D),--with-bm4d)
	$(BIN)/python -m benchmarks.repeats $(if $(BM4D),--with-bm4d)
	$(BIN)/python -m benchmarks.superres
	$(BIN)/python -m benchmarks.inpaint
	$(BIN)/python -m benchmarks.ct
	$(BIN)/python -m benchmarks.slices

bench-trust: $(VENV)/.bench  ## measure uncertainty, what becomes of lesions, and what the guard notices
	$(BIN)/python -m benchmarks.coverage
	$(BIN)/python -m benchmarks.lesions
	$(BIN)/python -m benchmarks.guard

bench-runs: $(VENV)/.bench  ## inject every fault into runs, and watch the memory of a long one
	$(BIN)/python -m benchmarks.faults --docs
	$(BIN)/python -m benchmarks.soak --docs

cards: $(VENV)/.checks  ## write the model cards of the pipelines out of what the benchmarks found
	$(BIN)/python -m benchmarks.cards
	$(BIN)/python docs/generate.py

sample-data: $(VENV)/.checks  ## make sample_data/ again; the result is the same bit for bit
	$(BIN)/python sample_data/make.py

wheel: $(VENV)/.checks  ## build the source archive and the wheel into dist/
	$(BIN)/python -m build

clean:  ## remove everything that the targets above made
	rm -rf $(VENV) $(DEMO) site dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
