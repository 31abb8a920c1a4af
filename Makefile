# make repro      on a fresh machine with Python 3.11 to 3.13: the run that params.yaml describes
# make test       the tests                make check     lint, types and tests
# make preset NAME=gpt2-124m               make plots     dvc_plots/index.html
# make report     report.html              make bench     side-by-side speed
# make test-faults  every fault of tests/faults, an hour; writes docs/reliability.md (AREA=network)
# make plan       what the run will take: parameters, memory, disk, hours (PRESET= MEASURE= RATE=)
# make exercise N=1                        a function to write, judged: exercises/README.md
# make setup      only the environment
# Each target first sets up what it needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: setup repro test test-faults lint audit check preset plan exercise bench plots report constraints

# dvc starts `python` by name.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# Where it is set, as in many containers, every process compiles all modules again: importing torch
# takes twice as long, dvc three times.
unexport PYTHONDONTWRITEBYTECODE

# Byte-compiling all packages at installation takes a minute. Python compiles a module on first use.
PIP := .venv/bin/python -m pip --disable-pip-version-check --retries 10 --timeout 60
INSTALL := $(PIP) install --quiet --no-compile --constraint constraints.txt

setup: .venv/.dev

.venv/bin/python:
	@PATH="$${PATH#*:}"; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
	  then echo "environment: .venv ($$($$python --version))"; exec $$python -m venv .venv; fi; \
	done; echo "no Python 3.11, 3.12 or 3.13 found: install one, or say make PYTHON=/path/to/it" >&2; exit 1

.venv/.runtime: pyproject.toml constraints.txt | .venv/bin/python
	@echo "environment: what a run needs"
	@$(INSTALL) --editable . || { sleep 5; $(INSTALL) --editable .; }
	@touch $@

.venv/.dev: .venv/.runtime
	@echo "environment: what the tests need"
	@$(INSTALL) --editable '.[dev]' || { sleep 5; $(INSTALL) --editable '.[dev]'; }
	@touch $@

# All sections of params.yaml are checked first, because DVC deletes a stage's outs before it runs.
# After Ctrl-C the recipe succeeds, so that make, which the signal ends, adds no error of its own.
repro: .venv/.runtime
	@python -m pipeline.check
	@dvc status -q --with-deps train || python -m pipeline.plan --short
	@stopped=; trap 'stopped=1' INT; dvc repro || [ "$$stopped" ]
	@python -m pipeline.summary

# Two processes. Each file (or class) runs in one of them, since its tests share what they train; in
# order of names, so that the long ones do not come last.
test: .venv/.dev
	python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

# All that tests/faults breaks on purpose, also what takes long: one process, since much of it
# measures what is left running. The page's table is made from what this run saw.
test-faults: .venv/.dev
	@rm -f .venv/faults
	@status=0; FAULTS_NOTES=$(CURDIR)/.venv/faults python -m pytest -m "faults or not faults" \
	  tests/faults$(if $(AREA),/test_$(AREA).py) || status=$$?; \
	  python -m tests.faults.page .venv/faults; exit $$status

lint: .venv/.dev
	ruff check .
	mypy

# Known vulnerabilities of what constraints.txt pins, as far as an advisory service can be reached.
audit: .venv/.dev
	@python -m pipeline.checks.audit

check: lint audit test

preset: .venv/.runtime
	@python -m pipeline.preset $(NAME)

plan: .venv/.runtime
	@python -m pipeline.plan $(if $(PRESET),--preset $(PRESET)) $(if $(MEASURE),--measure) \
	  $(if $(RATE),--rate $(RATE))

# N: a number, a name or all (exercises/README.md).
exercise: .venv/.dev
	@python -m exercises.check $(N)

# With PARQUET=file.parquet (column `text`) also tokenizing.
bench: .venv/.dev
	@for name in train_step processes hellaswag sampling; do \
	  echo "== benchmarks/$$name.py"; python -m benchmarks.$$name; done
	@$(if $(PARQUET),python -m benchmarks.tokenizing $(PARQUET))

plots: .venv/.runtime
	dvc plots show

# REV=a,b: revisions side by side. PROMPT="some text", LAYER, HEAD: attention weights over it. RATE=2:
# what the stages cost at two dollars an hour.
report: .venv/.runtime
	@python -m pipeline.report $(if $(REV),--rev "$(REV)") $(if $(PROMPT),--prompt "$$PROMPT") \
	  $(if $(LAYER),--layer $(LAYER)) $(if $(HEAD),--head $(HEAD)) $(if $(RATE),--rate $(RATE))

# After a change of pins in pyproject.toml: writes every pin of this environment to constraints.txt.
constraints: .venv/.dev
	@sed -n '/^#/p' constraints.txt > .venv/constraints
	@$(PIP) freeze --exclude-editable | sed 's/+cpu$$//' >> .venv/constraints
	@cp .venv/constraints constraints.txt
