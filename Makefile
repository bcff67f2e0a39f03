# Everything sets itself up in .venv; `make` alone lists what there is.

IS_NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,\
	$(if $(shell $(name) $(IS_NEW_ENOUGH) 2>/dev/null && echo yes),$(name))) python3)
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
# Until tasks.py is read, Ctrl-C would end in a traceback of what Python imports.
QUIET_CTRL_C := cp quiet-ctrl-c.pth "$$($(BIN)/python -c \
	'import sysconfig; print(sysconfig.get_path("purelib"))')"
SOURCES := backup_tasks tests bench $(wildcard tasks.py demo.py)
BENCH_FOLDER ?= bench/work
SIZE ?= full
ROUNDS ?= 3
COMPILE := pip-compile --quiet --generate-hashes --strip-extras --no-header --no-config \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint mutants docs schema bench bench-report bench-scale requirements clean
.DELETE_ON_ERROR:

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: .venv/.installed ## Make .venv with what the tasks need to run

demo: .venv/.installed-dev ## Back up, list and restore on a real S3 server, in a temporary folder
	@$(BIN)/python demo.py

test: .venv/.installed-dev ## Run all tests
	$(BIN)/python -m pytest -n 2

lint: .venv/.installed-dev ## Check style and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

mutants: .venv/.installed-dev ## Break modules that can lose data: do the tests notice? (ONLY=part of a name)
	@$(BIN)/python -m tests.mutants --only '$(ONLY)'

docs: .venv/.installed-dev ## Write the page of modules anew from their docstrings
	$(BIN)/python -m tests.project.module_table

schema: .venv/.installed-dev ## Write the JSON Schema of a profile, for editors
	$(BIN)/python -m backup_tasks.profile.json_schema

bench: .venv/.installed-dev $(BENCH_FOLDER)/venv/.installed ## Measure beside restic, borg and tar (SIZE=small for a look)
	@$(BIN)/python -m bench.install
	@$(BIN)/python -m bench.side_by_side --size $(SIZE) --rounds $(ROUNDS) --folder $(BENCH_FOLDER)

bench-report: .venv/.installed-dev $(BENCH_FOLDER)/venv/.installed ## Write that report anew, measure nothing
	@$(BIN)/python -m bench.side_by_side --render --size $(SIZE) --folder $(BENCH_FOLDER)

bench-scale: .venv/.installed-dev ## Measure how time and memory grow (SIZE=small for a look)
	@$(BIN)/python -m bench.install
	@$(BIN)/python -m bench.scale --size $(SIZE) --folder $(BENCH_FOLDER)

requirements: .venv/bin/python ## Pin the newest dependencies anew, with hashes
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	$(BIN)/python -m venv "$$tools" && "$$tools/bin/pip" install --quiet 'pip-tools>=7.5' && \
	"$$tools/bin/$(firstword $(COMPILE))" $(wordlist 2,99,$(COMPILE)) --upgrade \
		--output-file requirements.txt pyproject.toml && \
	"$$tools/bin/$(firstword $(COMPILE))" $(wordlist 2,99,$(COMPILE)) --upgrade --extra dev \
		--constraint requirements.txt --output-file requirements-dev.txt pyproject.toml && \
	"$$tools/bin/$(firstword $(COMPILE))" $(wordlist 2,99,$(COMPILE)) --upgrade \
		--output-file bench/requirements.txt bench/requirements.in

clean: ## Remove .venv and everything that tools left behind
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis bench/work
	find backup_tasks tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: requirements.txt quiet-ctrl-c.pth .venv/bin/python
	$(PIP_INSTALL) -r requirements.txt
	@$(QUIET_CTRL_C)
	@touch $@

.venv/.installed-dev: requirements-dev.txt quiet-ctrl-c.pth .venv/bin/python
	$(PIP_INSTALL) -r requirements-dev.txt
	@$(QUIET_CTRL_C)
	@touch $@ .venv/.installed

# What the benches need besides the development dependencies never mixes with these.
$(BENCH_FOLDER)/venv/.installed: bench/requirements.txt .venv/bin/python
	@mkdir -p $(BENCH_FOLDER)
	$(BIN)/python -m venv $(BENCH_FOLDER)/venv
	$(BENCH_FOLDER)/venv/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes -r bench/requirements.txt
	@touch $@

# Without python3-venv the command leaves a half-made folder behind, so it is removed again.
.venv/bin/python:
	@$(PYTHON) $(IS_NEW_ENOUGH) 2>/dev/null || { \
		echo '$(PYTHON) is missing or older than Python 3.11.' \
		'Name a newer one: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo 'Python cannot make a virtual environment here.' \
		'On Debian and Ubuntu: sudo apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
