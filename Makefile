# Everything a person or CI runs on a clone. `make` lists the targets; each one first sets up what it needs.

PYTHON ?= python3
BIN := .venv/bin
TEST_PROCESSES ?= 2

# The prompt goes through the environment, unexpanded, so that quotes, dollars and spaces reach the command as typed.
unexport PROMPT
demo: export DEMO_PROMPT = $(value PROMPT)

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint format stubs check helm promtool pins hooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

setup: .venv/packages.stamp ## virtual environment, pinned packages, embedded model; PYTHON=python3.12 picks another Python
	@$(BIN)/tandem download
	@$(BIN)/tandem quantize smollm2-135m-instruct --mode int4 --if-missing
	@$(BIN)/python -m shard_worker.native.build
	@$(BIN)/tandem screen-draft smollm2-135m-instruct-int4 --if-missing

demo: setup ## start a gateway and two ranks, stream one answer, stop; PROMPT="..." asks something else
	@$(BIN)/tandem demo -- $${DEMO_PROMPT:+"$$DEMO_PROMPT"}

test: setup ## the whole test suite; ARGS="tests/gateway -k name" narrows it, ARGS="-n 0 --pdb" runs it in one process
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: .venv/packages.stamp ## ruff, mypy --strict, buf lint, stubs up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/buf lint
	$(BIN)/python proto/generate.py --check

format: .venv/packages.stamp ## format and sort imports in place
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

stubs: .venv/packages.stamp ## regenerate the Python stubs beside the protos
	$(BIN)/python proto/generate.py

check: lint test ## what CI runs

helm: .venv/packages.stamp ## Helm 3 and 4 and Kubernetes' schemas into .venv: the chart's tests are skipped without
	@$(BIN)/python -m tests.support.fetch_helm $(BIN)
	@$(BIN)/python -m pip install -q -c constraints.txt kubernetes-validate==1.37.0

promtool: .venv/packages.stamp ## Prometheus' promtool (Debian's) into .venv: tests of metrics and rules are skipped without
	@$(BIN)/python -m tests.support.fetch_promtool $(BIN)

# Set-up in two stages; a stage is skipped while its stamp is newer than what it was made from.
.venv/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "make: $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1); Python 3.11 or newer is needed:" \
	    "PYTHON=python3.12 make setup" >&2; exit 1; }
	@command -v c++ g++ clang++ >/dev/null || \
	  echo "make: note: no C++ compiler found (c++, g++, clang++); ranks of one host are slower without: apt install g++" >&2
	@echo "make: virtual environment in .venv ($$($(PYTHON) --version))"
	@$(PYTHON) -m venv .venv
	@touch $@

# A new top-level package needs another editable install, hence the wildcard.
.venv/packages.stamp: .venv/python.stamp pyproject.toml constraints.txt $(wildcard */__init__.py)
	@echo "make: packages as pinned in constraints.txt (some minutes the first time)"
	@$(BIN)/python -m pip install -q -c constraints.txt pip setuptools
	@$(BIN)/python -m pip install --no-build-isolation -c constraints.txt -e '.[worker,convert,dev]'
	@touch $@

# What `make pins` does not take the newest of: grpcio-tools 1.80.0 wants protobuf 6, and these belong to it.
HELD := torch==2.13.0 $(patsubst %,grpcio-%==1.80.0,health-checking reflection status)

pins: ## write constraints.txt anew, with the newest packages that pyproject.toml allows; takes minutes
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(PYTHON) -m venv "$$folder" && \
	"$$folder/bin/python" -m pip install --upgrade pip setuptools && \
	"$$folder/bin/python" -m pip install -e '.[worker,convert,dev]' $(HELD) && \
	{ echo "# Every package of a working set-up, exactly. Written by: make pins"; \
	  echo "# What only some builds of torch need (CUDA, ROCm) is left to the requirements of torch itself."; \
	  "$$folder/bin/python" -m pip freeze --all --exclude-editable | sed 's/+[a-z0-9.]*$$//'; } > "$$folder/pins" && \
	mv "$$folder/pins" constraints.txt

hooks: .venv/packages.stamp ## let git run the linters before each commit
	@$(BIN)/pre-commit install

clean: ## remove .venv, caches and build outputs; fetched models stay where `tandem download` put them
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
