# The habits of this repository: everything people and CI do goes through these targets. `make` alone prints them.
#
# Each target that compiles does its own set-up first (scripts/setup: a look, and apt only for what is missing), so that
# `make demo` and `make test` work on a fresh Debian 12 with nothing but a Rust toolchain.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup check fix build test sim sweep meta planted demo cluster bench-quick bench-nodes doc deny

# ccache stands in for the C++ compiler by coming first in PATH; where it is not installed the folder is not there and nothing
# changes. CC and CXX stay unset on purpose: cargo would see a change of theirs as a reason to build RocksDB again (docs/adr/0002).
export PATH := /usr/lib/ccache:$(PATH)

# Always the whole workspace and all targets: fewer enable other features of the shared dependencies, and cargo builds them again.
# Only the benchmarks name their packages: they have a profile of their own, and need no tests in it.
CARGO ?= cargo
LOCKED := --locked

# For sim and sweep.
SEED ?= 1
N ?= 200
FROM ?= 1
ARGS ?=

help: ## Print this list
	@echo "Kontiki. Targets:"
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | while IFS=$$'\t' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done
	@echo "The first build takes about 20 minutes on 2 cores, 12 of them for RocksDB, which is compiled once."

setup: ## Look for what the build needs beside Rust; install it with apt where it is missing
	@scripts/setup

check: setup ## Format, clippy, docs, layering: everything that needs no run. Changes no file
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --workspace --no-deps --document-private-items
	$(CARGO) test $(LOCKED) --workspace --test layering

fix: setup ## Format, and apply what clippy can repair by itself
	$(CARGO) fmt --all
	$(CARGO) clippy $(LOCKED) --workspace --all-targets --fix --allow-dirty --allow-staged

build: setup ## Build everything (the dev profile: the one that tests, demo and cluster use)
	$(CARGO) build $(LOCKED) --workspace --all-targets

test: setup ## Every test: units, golden scripts, crash tests, the API suite, three real processes
	$(CARGO) build $(LOCKED) --workspace --all-targets # the end-to-end tests run the real program, which cargo test does not build
	$(CARGO) test $(LOCKED) --workspace

sim: setup ## One simulated cluster from a seed, its story and its verdict: make sim SEED=7 (ARGS="--log kontiki=debug" and more: sim run --help)
	$(CARGO) build $(LOCKED) --workspace --all-targets # as for the tests
	"$${CARGO_TARGET_DIR:-target}/debug/sim" run --seed $(SEED) $(ARGS)

sweep: setup ## Many seeds in parallel, up to the first that fails: make sweep N=200 (FROM=1, ARGS="--all" and more: sim sweep --help)
	$(CARGO) build $(LOCKED) --workspace --all-targets # as for the tests
	"$${CARGO_TARGET_DIR:-target}/debug/sim" sweep --seeds $(N) --from $(FROM) $(ARGS)

meta: setup ## Ten seeds, each twice: the complete traces must be equal
	$(CARGO) build $(LOCKED) --workspace --all-targets # as for the tests
	"$${CARGO_TARGET_DIR:-target}/debug/sim" meta --seeds 10

planted: setup ## Does the simulator find bugs? Each of tests/planted, in a copy, up to the first seed that fails (an hour; ARGS="--seeds 300 03": scripts/planted --help)
	scripts/planted $(ARGS)

demo: setup ## Three nodes, a real import, a killed leader, and proof that nothing was lost
	$(CARGO) build $(LOCKED) --workspace --all-targets # as for the tests: other targets mean other features, and all dependencies built again
	"$${CARGO_TARGET_DIR:-target}/debug/demo"

cluster: setup ## Start three nodes on loopback (scripts/local-cluster says how to stop them)
	scripts/local-cluster up

bench-quick: setup ## Puts and gets per second, latency and CPU per operation, in a few minutes (release profile)
	$(CARGO) build $(LOCKED) --release -p kontiki-cli -p kontiki-bench --bins
	"$${CARGO_TARGET_DIR:-target}/release/bench" quick

bench-nodes: setup ## What it costs that nodes come and go: catch-up, join, decommission, hand-overs, restarts (release profile; 20 minutes, 30 GB)
	$(CARGO) build $(LOCKED) --release -p kontiki-cli -p kontiki-bench --bins
	"$${CARGO_TARGET_DIR:-target}/release/bench" nodes $(ARGS)

doc: setup ## Build the API documentation and say where it is
	$(CARGO) doc $(LOCKED) --workspace --no-deps
	@echo "Open $${CARGO_TARGET_DIR:-target}/doc/kontiki/index.html"

deny: ## Licences, sources and banned packages (needs cargo-deny; the layering test holds the offline part)
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --offline check bans licenses sources; \
	else echo "cargo-deny is not installed: run 'cargo install --locked cargo-deny', then 'make deny' again."; exit 1; fi
