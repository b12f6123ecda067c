# Every verb makes what it needs first: the environment in .venv, from locked requirements. `make help` lists them.

.DEFAULT_GOAL := help
.PHONY: help setup demo smoke story-onboarding story-topup story-payout serve test check bench profile torture sim schema openapi lock clean

BIN := .venv/bin
PY := $(BIN)/python
# The first Python that is new enough. PYTHON=… names another one.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; exit; fi; done; echo python3)

# An account without a home keeps what the demo makes in the checkout, and what is downloaded in .venv.
ifneq ($(shell test -w "$${HOME:-/nonexistent}" && echo yes),yes)
ifeq ($(FAUCET_DATA),)
export FAUCET_DATA := $(CURDIR)/.data
endif
ifeq ($(XDG_CACHE_HOME),)
export XDG_CACHE_HOME := $(CURDIR)/.venv/.cache
endif
endif

help: ## this list
	@echo "make …"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo
	@echo "ARGS=… goes to the command: make demo ARGS=--once, make test ARGS='-k wallet'"

setup:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "setup: Python 3.11 or newer is needed; there is none here" >&2; exit 1; }
	@$(PYTHON) requirements/sync.py

demo: setup ## run everything here and show what an answer costs and who gets what of it
	@exec $(BIN)/faucet demo $(ARGS)

smoke: setup ## check over HTTP that whole requests add up
	@exec $(BIN)/faucet smoke $(ARGS)

story-onboarding: setup ## onboard a developer on a fresh stack, from nothing to revenue
	@exec $(BIN)/faucet story $(ARGS)

story-topup: setup ## pay in by a real browser on a fresh stack; refund, dispute, and compare every figure
	@exec $(PY) tests/top_up_story.py

story-payout: setup ## earn, wait, and be paid out; and a payout that fails, is cancelled, or whose sender dies
	@exec $(PY) tests/payout_story.py

serve: setup ## run everything here, without the show
	@exec $(BIN)/faucet up $(ARGS)

test: setup ## all tests but the long ones
	@exec $(PY) -m pytest -n auto --maxprocesses 4 $(ARGS)

check: setup ## format, lint, types, imports, tidy tests, migrations, generated files
	@echo "format" && $(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@echo "lint" && $(BIN)/ruff check --quiet .
	@echo "types" && $(BIN)/mypy
	@echo "imports" && $(BIN)/lint-imports --no-cache >.venv/imports.log 2>&1 || { cat .venv/imports.log; exit 1; }
	@echo "migrations" && $(BIN)/squawk migrations/[0-9]*.sql >.venv/squawk.log 2>&1 || { cat .venv/squawk.log; exit 1; }
	@echo "generated files" && $(PY) -m faucet openapi --check openapi.json && $(PY) -m faucet schema --check migrations/schema.sql
	@echo "tidy" && $(PY) -m pytest -q -n auto --maxprocesses 4 tests/tidy

bench: setup ## speed, beside others: SECONDS ROUNDS CLIENTS USERS WORKERS PEERS ONLY ROWS DELAY_MS
	@exec env $(foreach name,SECONDS ROUNDS CLIENTS USERS WORKERS PEERS ONLY ROWS DELAY_MS CONNECTIONS HANG LOAD BENCH_DIR,$(if $($(name)),$(name)='$($(name))')) $(PY) -m bench $(ARGS)

profile: setup ## a flame graph of the gateway under load
	@exec $(PY) -m bench profile $(ARGS)

torture: setup ## kill gateways, API, jobs and the database under load for SECONDS=60, then look at the books
	@exec $(PY) -m bench.torture --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED)) $(ARGS)

sim: setup ## the simulation with SEEDS=20 seeds, or the one SEED
	@exec $(PY) -m tests.simulation --seeds $(or $(SEEDS),20) $(if $(SEED),--seed $(SEED)) $(ARGS)

schema: setup ## write migrations/schema.sql
	@exec $(PY) -m faucet.kit.schema

openapi: setup ## write openapi.json
	@$(PY) -m faucet openapi >.venv/openapi.json && mv .venv/openapi.json openapi.json

lock: setup ## choose versions anew and write requirements/*.txt
	@for name in uv server dev peers moto; do \
	  UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url requirements/$$name.in -o requirements/$$name.txt || exit 1; \
	done

clean: ## forget the environment
	@rm -rf .venv
