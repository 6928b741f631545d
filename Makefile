# The commands that the README names. Everything that takes time to make lies in $(FLOTILLA_CACHE) and can be made again.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export FLOTILLA_CACHE ?= $(HOME)/.cache/flotilla
export CARGO_TARGET_DIR ?= $(FLOTILLA_CACHE)/target
export CARGO_INCREMENTAL ?= 0

# A step of `make test` says its name and, at the end, how long it took.
step = @printf '\n=== %s\n' "$(1)"; started=$$SECONDS; $(2); printf '=== %s: %d s\n' "$(1)" "$$((SECONDS - started))"

# One set of features for all of the workspace, or dependencies would be compiled once for each package that is named.
SERVER_TESTS = $(patsubst inference-server/tests/%.rs,--test %,$(wildcard inference-server/tests/*.rs))

.PHONY: help demo test lint unit python charts e2e e2e-full bench bench-scale bench-fleet bench-sweep bench-servers bench-hpa bench-steps fuzz generate up down
help: ## What there is
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

demo: ## A cluster, the operator, a model; photos sent and the answers printed
	@demo/run

test: lint unit python charts e2e ## Everything that has to hold: format, lints, unit, property, chart and cluster tests
	@printf '\nall tests passed\n'

lint: ## Format, clippy, dependencies, shell scripts
	$(call step,rustfmt,cargo fmt --all --check)
	$(call step,clippy,cargo clippy --quiet --workspace --all-targets -- -D warnings)
	$(call step,dependencies,scripts/deny)
	$(call step,shell scripts,kind/test --static)
	$(call step,generated files,charts/sync-crds --check)

unit: ## Unit and property tests, and the server on real ONNX Runtime
	$(call step,unit tests,FLOTILLA_REQUIRE_ORT=1 FLOTILLA_ORT_LIBRARY="$$(inference-server/tests/ort-library.sh)" cargo test --quiet --workspace --lib --bins $(SERVER_TESTS))

python: ## Models, demo, the server against the real tritonclient and perf_analyzer, the fetcher against a real S3 server
	$(call step,models,models/build)
	$(call step,python tests,"$$FLOTILLA_CACHE/venv/bin/python" -m pytest -q models demo bench)
	$(call step,tritonclient,inference-server/tests/tritonclient)
	$(call step,perf_analyzer,inference-server/tests/perf_analyzer)
	$(call step,fetching from S3,inference-server/tests/fetch)

up: ## The local cluster
	@kind/up

down: ## Removes the local cluster
	@kind/down

charts: ## Charts against the cluster's own schemas
	$(call step,cluster,kind/test)
	$(call step,charts,charts/test)

e2e: ## The product on a real cluster
	$(call step,end to end,e2e/run)

e2e-full: ## The same with the long runs
	$(call step,end to end (long),e2e/run --full)

bench: bench-scale bench-fleet ## Measurements; results go to docs/benchmarks.md by hand

bench-scale: ## 1,000 services against kube-apiserver and etcd alone
	@kind/tools --api-server
	@cargo build --quiet --release --bin flotilla-operator
	@cargo run --quiet --release -p flotilla-e2e --bin scale_bench

# ARGS="--interval 2 --operator A --operator B --data DIR": see fleet_bench measure --help.
bench-fleet: ## 1,000 services of 10 replicas that a single process pretends to be, in a network of its own
	@kind/tools --api-server
	@cargo build --quiet --release --workspace --bin flotilla-operator --bin fleet_bench
	@e2e/private-network "$$CARGO_TARGET_DIR/release/fleet_bench" measure \
	  --operator "$$CARGO_TARGET_DIR/release/flotilla-operator" $(ARGS)

bench-hpa: ## The study's step 8 on the local cluster, with a CPU autoscaler and with Flotilla
	@e2e/bench study --svg docs/images/study-step-8.svg

bench-steps: ## Twenty steps of load for Flotilla, five for a CPU autoscaler at the same time
	@e2e/bench steps

# TRACES="a.csv b.csv" adds recorded loads to the generated ones.
bench-sweep: ## Each peer's best target on every load in the simulator: sweep.md and sweep.csv in $(FLOTILLA_CACHE)
	@cargo run --quiet --release --bin flotilla -- sweep $(foreach trace,$(TRACES),--trace $(trace)) \
	  --markdown "$$FLOTILLA_CACHE/sweep.md" --csv "$$FLOTILLA_CACHE/sweep.csv"

# FLAGS="--quick", "--essential --docs", "--only 'clip/jpeg/*/HTTP/8'"; bench/servers --help has the rest.
bench-servers: ## The model server beside seven others and bare ONNX Runtime: tables, CSV and SVG in $(FLOTILLA_CACHE)/bench-servers
	@bench/servers $(FLAGS)

fuzz: ## The server's parsers under coverage-guided fuzzing, a minute each
	@inference-server/fuzz/run 60

generate: ## CRDs and their copy in the chart
	@cargo run --quiet --bin crdgen > crds/inferenceservices.flotilla.dev.yaml.new
	@mv crds/inferenceservices.flotilla.dev.yaml.new crds/inferenceservices.flotilla.dev.yaml
	@charts/sync-crds
