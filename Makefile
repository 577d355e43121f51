# Everything runs in the project's own .venv; `make demo` and `make test` need nothing set up first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.complete
PYTEST := $(BIN)/python -m pytest
# Whole services on real trainers, killed in turn, and what torch's compiler takes its time over: too long for `make test`.
SERVICE_TESTS := $(wildcard tests/acceptance/test_must_hold_*.py) tests/acceptance/test_rivals_failures.py \
    tests/training/test_trainer_compiled.py
BENCHES := bench-cli bench-trace bench-start bench-idle bench-train bench-hostmem bench-memory bench-weights \
    bench-footprint bench-virtual bench-cycle bench-simulate bench-makespan

.PHONY: help setup demo test test-service test-faults chaos fuzz test-postgres test-gpu check format ci bench pins clean $(BENCHES)
BENCH := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m benchmarks

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 16

setup: $(STAMP) ## make .venv with .venv/bin/mmq

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	    f"mmq needs Python 3.11 or newer, and $(PYTHON) is {sys.version.split()[0]}; name one: make PYTHON=python3.11")'
	@echo "Setting up .venv (torch is large: this can take some minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --config-settings editable_mode=compat --editable '.[dev]'
	@touch $@

demo: setup ## the whole of mmq at work on two virtual devices, on real text
	$(BIN)/python -m examples.demo

test: setup ## all that needs no GPU, but for the slower test-service and test-faults
	$(PYTEST) -m 'not gpu and not faults' -n 2 --dist worksteal $(addprefix --ignore=,$(SERVICE_TESTS))

test-service: setup ## whole services on real trainers, killed in turn; some minutes more
	$(PYTEST) -n 2 --dist worksteal $(SERVICE_TESTS)

test-faults: setup ## kills at every step, full disks, jumping clocks: real processes, a scripted trainer
	$(PYTEST) -m faults -n 2 --dist worksteal tests/faults

chaos: setup ## a random walk of 1,000 faults over a queue of small jobs; an hour; SEED=N walks the same again
	$(BIN)/python -m tests.faults.chaos --faults $(or $(FAULTS),1000) $(if $(SEED),--seed $(SEED))

fuzz: setup ## hostile input: each property on 2,000 inputs, then a walk guided by coverage; FUZZ_SECONDS=300
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	MMQ_FUZZ_EXAMPLES=2000 $(PYTEST) -n 2 --timeout 1800 tests/fuzz
	$(BIN)/python -m tests.fuzz.guided $(or $(FUZZ_SECONDS),300)

test-postgres: setup ## the store's suite on a PostgreSQL server of its own, and the commands
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --editable '.[postgres,test-postgres]'
	$(BIN)/python -m tests.postgres $(PYTEST) tests/store -k postgres
	$(PYTEST) tests/acceptance/test_cli_postgres.py

test-gpu: setup ## the tests that need a CUDA device
	$(PYTEST) -m gpu tests/gpu

check: setup ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ci: check test demo test-service test-faults ## all that CI runs: half an hour on two cores

bench: ## every benchmark
	@short=0; for one in $(BENCHES); do $(MAKE) --no-print-directory $$one || short=1; done; exit $$short

bench-cli: setup ## latency of submit and status against a bare interpreter
	$(BENCH).cli

bench-trace: setup ## time and memory of a footprint against importing torch
	$(BENCH).trace

bench-start: setup ## from submit to the first step, stage by stage
	$(BENCH).start

bench-idle: setup ## memory and CPU time of a service without work
	$(BENCH).idle

bench-train: setup ## the trainer against a loop like MiniMind's: speed, memory, loss
	$(BENCH).train

bench-hostmem: setup ## host memory of a run on 2 GB of rows, and how soon a second one begins; slow, 5 GB of disk
	$(BENCH).hostmem

bench-memory: setup ## what each means against memory saves and costs
	$(BENCH).memory

bench-weights: setup ## the loss with bfloat16 weights and 8-bit moments, by the way they are updated
	$(BENCH).weights

bench-footprint: setup ## the footprint against peaks measured on GPUs and published, and against two baselines
	$(BENCH).footprint

bench-virtual: setup ## the footprint against 200 runs of the trainer, and 100 limits, on virtual devices
	$(BENCH).virtual

bench-cycle: setup ## what an admission cycle costs, with up to 100,000 jobs and 1,000 devices
	$(BENCH).cycle

bench-simulate: setup ## the admission cycle in simulation against other rules; WORKLOADS=DIR adds files
	$(BENCH).simulate $(WORKLOADS)

bench-makespan: setup ## a queue of real trainers on two virtual devices, packed, against one job a device
	$(BENCH).makespan

pins: setup ## write constraints.txt anew from what is installed
	$(BIN)/python -m pip freeze --exclude-editable > installed.new
	{ head -1 constraints.txt; sed 's/+cpu//' installed.new | sort -f; } > constraints.txt.new
	mv constraints.txt.new constraints.txt
	rm installed.new

clean: ## remove .venv and caches
	rm -rf .venv .*_cache .hypothesis .demo build *.egg-info
