# The words people and CI share. Each target sets up what it needs: a virtual environment in .venv and one pip install.
#
#   make demo      a video from a prompt, and its contact sheet, in out/
#   make test      everything that is checked: style, types, walls, golden replay, all tests
#   make check     the quick half of it: style, types, house rules, generated docs
#   make prove     ten thousand wrong frames, planted divergences; a mesh on this machine: every rank killed and stopped
#                  in every phase, 50 clean runs, 200 random strikes; three quarters of an hour
#   make evaluate  the shipped model against its bars: about an hour on two cores; stopped, it goes on where it was
#   make pictures  the README's pictures, drawn by the shipped model: six minutes
#
# PIP_ARGS is passed to that one install, PYTHON chooses the interpreter, VENV another place for the environment.

VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin

# The newest Python that runs, is 3.11 or later and can make virtual environments. Each candidate is run, because a
# version manager leaves commands of that name behind that only print an error.
find_python = $(shell for name in python3.13 python3.12 python3.11 python3; do \
	if $$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	echo $$name; break; fi; done)
PYTHON ?= $(find_python)

.DEFAULT_GOAL := help
.PHONY: help setup lint types rules check test demo golden bench prove evaluate pictures docs clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(VENV)/.installed-dev

$(VENV)/.installed-dev: EXTRAS := [dev]
$(VENV)/.installed-dev $(VENV)/.installed: pyproject.toml constraints.txt
	@python="$(PYTHON)"; if test -z "$$python"; then \
	echo "genlock needs Python 3.11 or later with its venv module; install one, or name it: make PYTHON=/path/to/python" >&2; \
	exit 2; fi; echo "setting up $(VENV) with $$python"; "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --no-input -c constraints.txt $(PIP_ARGS) -e ".$(EXTRAS)"
	@touch $@

# What runs the package without its development tools: either environment will do.
RUNTIME = $(or $(wildcard $(VENV)/.installed-dev),$(VENV)/.installed)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

rules: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q tests/test_walls.py tests/test_tidy.py tests/test_docs.py

check: lint types rules

# The whole suite holds the rules and the golden replay too, so `test` is `check` and more. One thread a process:
# the thread pools of two test processes would only wait for each other.
test: export OMP_NUM_THREADS := 1
test: lint types
	$(BIN)/python -m pytest -n 2 --dist worksteal

golden: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m golden

docs: $(VENV)/.installed-dev
	$(BIN)/python tools/docs.py

# One run at a time, and nothing beside it: bounds in seconds are held against the clock. PROVE_ARGS: see its --help.
prove: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.fuzz_wire
	$(BIN)/python -m benchmarks.first_divergence
	$(BIN)/python -m benchmarks.prove $(PROVE_ARGS)

bench: $(RUNTIME)
	$(BIN)/genlock bench

# For example: make evaluate EVALUATE_ARGS="--prompts 24 --minute 4"
EVALUATE_ARGS ?=

evaluate: $(RUNTIME)
	$(BIN)/python -m tools.world.evaluate $(EVALUATE_ARGS)

pictures: $(RUNTIME)
	$(BIN)/python -m tools.world.show --out docs/pictures

DEMO_PROMPT ?= a red balloon floats over the sea at noon
DEMO_CHANGE ?= a yellow balloon floats over the sea at sunset

demo: $(RUNTIME)
	@mkdir -p out
	@echo "two ranks on this machine share the generator and work in lockstep; rank 0 alone knows words and pixels"
	@$(BIN)/genlock generate --topology tp --mesh 2 \
		--prompt "$(DEMO_PROMPT)" \
		--prompt "$(DEMO_CHANGE)" --at 6 --transition 1 \
		--seconds 12 --out out/demo.mp4 --sheet out/demo.png
	@echo "look at: out/demo.mp4 (video), out/demo.png (contact sheet)"

clean:
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
