# All tasks of people and CI. `make` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?=
UV_VERSION := 0.13.9
LOCKS := requirements.lock requirements-build.lock requirements-demo.lock requirements-runtime.lock

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DEMO_READY := $(VENV)/.demo-ready
DEV_READY := $(VENV)/.dev-ready
BENCH_READY := $(VENV)/.bench-ready
FUZZ_READY := $(VENV)/.fuzz-ready
COMPILED := build/compiled
COMPILED_READY := $(COMPILED)/.ready
COMPILED_TESTS := tests/core tests/config tests/gate tests/proxy tests/decide tests/stores tests/metering tests/jobs tests/waiting tests/clients tests/e2e
CODE := sidecar tests loadtests helm image plugins hatch_build.py

FAST_TESTS := tests/core tests/config tests/bodies tests/gate tests/backtest tests/settings

.PHONY: help demo test nightly fast compiled cost check fmt bench load scripts slow hostile soak faults crash mutants fuzz audit capacity rehearse cluster dashboards traces image pin rootfs sbom plugins litellm lock clean

help: ## List the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

# Ctrl-C reaches only the demo, which then stops cleanly. The end of this shell ends the demo, too.
demo: $(DEMO_READY) ## Run the sidecar, a sample API and a Valkey here (ARGS="--listen 127.0.0.1:8181")
	@set -m; trap 'kill $$(jobs -p) 2>/dev/null || true' EXIT; $(BIN)/sidecar demo $(ARGS); exit $$?

test: $(DEV_READY) ## Run all tests against a real Valkey
	@$(BIN)/pytest -n 4 --dist worksteal tests

nightly: $(DEV_READY) ## Run all tests with new random examples (the other targets repeat theirs)
	@$(BIN)/pytest -n 4 --dist worksteal --hypothesis-profile=free tests

fast: $(DEV_READY) ## Run the tests that need no server, in under a minute
	@$(BIN)/pytest -q -n 2 $(wildcard $(FAST_TESTS))

compiled: $(COMPILED_READY) ## Compile the data path and test the result (needs a C compiler)
	@cd $(COMPILED) && PYTHONPATH=$$PWD $(CURDIR)/$(BIN)/pytest -n 4 --dist worksteal $(or $(ARGS),$(COMPILED_TESTS))

check: $(DEV_READY) ## Lint, format, types, import rules, words, Dockerfile
	@echo "ruff check";   $(BIN)/ruff check $(CODE)
	@echo "ruff format";  $(BIN)/ruff format --check $(CODE)
	@echo "mypy";         $(BIN)/mypy
	@echo "lint-imports"; $(BIN)/lint-imports
	@echo "words";        $(BIN)/python .ci/words
	@echo "hadolint";     $(BIN)/hadolint Dockerfile && echo "Dockerfile: no problems"

fmt: $(DEV_READY) ## Format the code and apply the fixes of ruff
	@$(BIN)/ruff check --fix $(CODE)
	@$(BIN)/ruff format $(CODE)

bench: $(BENCH_READY) ## Compare with nginx, Envoy and Traefik on one core (ARGS="--rounds 1")
	@$(MAKE) --no-print-directory $(COMPILED_READY) || echo "Not compiled; make bench skips that row."
	@$(BIN)/python -m loadtests.compare $(ARGS)

cost: $(DEV_READY) ## Measure CPU time per request of this tree and others (ARGS="build/compiled")
	@$(BIN)/python -m loadtests.compare.cost $(ARGS)

load: $(DEV_READY) ## Check the guarantees under load (ARGS="--scenario crowd")
	@$(BIN)/python -m loadtests.run $(ARGS)

plugins: $(DEV_READY) ## Run every gateway with its plugin, and write the table in plugins/README.md
	@PLUGINS_TABLE=write $(BIN)/pytest -q -rs tests/plugins

LITELLM := build/litellm
litellm: $(DEV_READY) ## Install LiteLLM into an environment of its own, and test its callback there
	@[[ -x $(LITELLM)/bin/litellm ]] || { $(BIN)/python -m venv $(LITELLM) && $(LITELLM)/bin/pip install -q 'litellm[proxy]>=1.80'; }
	@LITELLM=$(CURDIR)/$(LITELLM)/bin/litellm $(BIN)/pytest -q tests/plugins/test_litellm.py

scripts: $(DEV_READY) ## Measure the cost of each Lua script in Valkey, with five limits
	@$(BIN)/python -m loadtests.scripts $(ARGS)

slow: $(DEV_READY) ## Measure a normal client next to 1,000 slow connections (needs slowhttptest)
	@$(BIN)/python -m loadtests.slow $(ARGS)

hostile: $(DEV_READY) ## Attack the sidecar next to two normal clients (ARGS="--only slow-heads")
	@$(BIN)/python -m loadtests.hostile $(ARGS)

soak: $(DEV_READY) ## Run ten minutes of mixed traffic with faults (ARGS="--seconds 60")
	@$(BIN)/python -m loadtests.soak $(ARGS)

faults: $(DEV_READY) ## Break Redis under load and check what is allowed and counted (ARGS="--only killed")
	@$(BIN)/python -m loadtests.faults $(ARGS)

# The lock with the most packages comes first; the others take their versions from it.
lock: $(BIN)/python ## Write the lock files (UPGRADE=1: newest version of everything)
	@echo "Resolving pyproject.toml into $(LOCKS)"
	@$(PIP) install uv==$(UV_VERSION)
	@compile() { $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-annotate --no-header pyproject.toml "$$@" >/dev/null; }; \
	  compile --all-extras $(if $(UPGRADE),--upgrade) --output-file requirements.lock; \
	  compile --extra build --extra compile --constraints requirements.lock --output-file requirements-build.lock; \
	  compile --extra embedded --extra build --constraints requirements.lock --output-file requirements-demo.lock; \
	  compile --extra otel --constraints requirements.lock --output-file requirements-runtime.lock

image: ## Build the container image (needs Docker)
	@docker build --build-arg PYTHON_IMAGE=$$(cat image/python-image) \
	  --tag quota-sidecar:$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' sidecar/__init__.py) $(ARGS) .

pin: ## Write the digest of the base image to image/python-image (needs Docker and its registry)
	@name=$$(cut -d@ -f1 image/python-image); \
	  digest=$$(docker buildx imagetools inspect "$$name" --format '{{.Manifest.Digest}}'); \
	  echo "$$name@$$digest" | tee image/python-image

rootfs: $(DEV_READY) ## Run the steps of the Dockerfile without Docker, and start the result (needs root)
	@$(BIN)/python image/steps.py $(ARGS)

sbom: $(DEV_READY) ## List the packages of the image and their licences in build/sbom
	@rm -rf build/sbom && $(BIN)/python -m venv build/sbom/venv
	@build/sbom/venv/bin/pip --disable-pip-version-check --quiet install --require-hashes -r requirements-runtime.lock
	@$(BIN)/python image/sbom.py build/sbom/venv/bin/python build/sbom

rehearse: $(DEV_READY) ## Roll the pods of the Helm chart under load, without a cluster (ARGS="--replicas 4")
	@$(BIN)/python -m loadtests.rehearse $(ARGS)

crash: $(DEV_READY) ## Kill a sidecar 50 times and check that no event is lost (ARGS="--kills 8")
	@$(BIN)/python -m loadtests.crash $(ARGS)

dashboards: $(DEV_READY) ## Draw the dashboards with data of a sidecar under load (needs prometheus)
	@$(BIN)/python -m loadtests.dashboards $(ARGS)

traces: $(DEV_READY) ## Check the traces with the OpenTelemetry Collector (needs Go)
	@$(BIN)/python -m loadtests.tracing $(ARGS)

mutants: $(DEV_READY) ## Put real-life bugs into a copy, and count what the tests find (ARGS="--only gate")
	@$(BIN)/python -m tests.mutants $(ARGS)

fuzz: $(FUZZ_READY) ## Fuzz the plan loader and the control port (ARGS="--seconds 600")
	@$(BIN)/python -m tests.fuzz $(ARGS)

# It asks a public database about each locked package, so it needs the network, and CI does not run it.
audit: $(DEV_READY) ## Look for known vulnerabilities in the locked packages (needs the network)
	@$(BIN)/pip-audit --require-hashes --disable-pip -r requirements-runtime.lock $(ARGS)

capacity: $(DEV_READY) ## Compute what a fleet needs (ARGS="--pods 20 --accounts 5000")
	@$(BIN)/python -m loadtests.capacity $(ARGS)

cluster: $(DEV_READY) ## Check injection on a real Kubernetes API server (needs Go, etcd, kubectl)
	@$(BIN)/python -m loadtests.cluster $(ARGS)

clean: ## Remove the virtual environment and everything generated
	@rm -rf $(VENV) .demo dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment, filled in two steps, so that the demo does not wait for the developers' tools.
# Order-only on python: the age of the link does not show what is installed.
$(BIN)/python:
	@.ci/venv $(VENV) $(PYTHON)

$(DEMO_READY): requirements-demo.lock pyproject.toml | $(BIN)/python
	@echo "Installing what the demo needs into $(VENV)"
	@$(PIP) install --require-hashes -r requirements-demo.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV_READY): requirements.lock $(DEMO_READY)
	@echo "Installing the developers' tools into $(VENV) (a minute, the first time)"
	@$(PIP) install --require-hashes -r requirements.lock
	@touch $@

# A separate tree, where the tests import the compiled modules instead of the sources.
$(COMPILED_READY): $(DEV_READY) hatch_build.py $(shell find sidecar tests -name '*.py' -o -name '*.lua')
	@echo "Compiling the data path into $(COMPILED) (a minute or two)"
	@rm -rf $(COMPILED) && mkdir -p $(COMPILED)
	@SIDECAR_COMPILE=1 $(BIN)/python -m hatchling build -t wheel -d $(COMPILED) > $(COMPILED)/log 2>&1 \
	  || { tail -n 20 $(COMPILED)/log; exit 1; }
	@$(BIN)/python -m zipfile -e $(COMPILED)/*.whl $(COMPILED)
	@cp -r tests loadtests docs examples plugins pyproject.toml README.md $(COMPILED)/
	@touch $@

$(BENCH_READY): loadtests/compare/requirements.txt $(DEV_READY)
	@echo "Installing the gateways to compare with into $(VENV)"
	@$(PIP) install -r loadtests/compare/requirements.txt || echo "Not all could be installed; make bench names what it skips."
	@touch $@

$(FUZZ_READY): tests/fuzz/requirements.txt $(DEV_READY)
	@echo "Installing the fuzzer into $(VENV)"
	@$(PIP) install -r tests/fuzz/requirements.txt
	@touch $@
