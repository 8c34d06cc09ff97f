# The two commands of the README are `make run` and `make test`; `make help` lists the others.
.DEFAULT_GOAL := help
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help run cluster test check fmt e2e chaos chaos-mutants fuzz deny attacks bench bench-quick instructions conformance bench-cluster bench-cluster-quick

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## Build the server and start it for development
	$(CARGO) run --release --locked --bin slop-studios -- dev

cluster: ## Build the server and start Redis, three nodes and a proxy for development (needs Node; installs redis-server on Debian)
	$(CARGO) build --release --locked --bin slop-studios
	e2e/debian redis-server
	SLOP_STUDIOS_BIN="$(abspath $(TARGET))/release/slop-studios" node e2e/node/playground.js

test: ## Run all tests: unit, integration, and the real clients
	e2e/install
	$(CARGO) test --workspace --locked
	REDIS_SERVER="$$(find $(abspath e2e/python/.venv) -name valkey-server)" $(CARGO) test --locked -p slop-studios --lib store::redis
	$(MAKE) --no-print-directory e2e

e2e: ## Run the real clients against the server
	$(CARGO) build --locked --bin slop-studios
	SLOP_STUDIOS_BIN="$(abspath $(TARGET))/debug/slop-studios" e2e/run

SUITES ?=
conformance: ## Run the reference's own suites against the engine; SUITES is a copy of the repository socketio/socket.io
	e2e/conformance "$(SUITES)"

CHAOS_SECONDS ?= 3600
chaos: ## Random faults against real clients and a model of what they must have, CHAOS_SECONDS long or one CHAOS_SEED
	$(CARGO) build --locked --bin slop-studios
	test -d e2e/node/node_modules || (cd e2e/node && npm ci --no-audit --no-fund --loglevel=error)
	SLOP_STUDIOS_BIN="$(abspath $(TARGET))/debug/slop-studios" CHAOS_SECONDS=$(CHAOS_SECONDS) node e2e/node/chaos/chaos.js

chaos-mutants: ## Show that the chaos test notices a server that drops, doubles, swaps or leaks an event
	test -d e2e/node/node_modules || (cd e2e/node && npm ci --no-audit --no-fund --loglevel=error)
	node e2e/node/chaos/mutants.js

check: ## Formatting, imports, lints and documentation, warnings denied
	$(CARGO) fmt --all --check
	bench/house
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

fmt: ## Format the code
	$(CARGO) fmt --all

FUZZ_SECONDS ?= 60
fuzz: ## Fuzz every parser that a peer reaches, FUZZ_SECONDS each
	fuzz/run $(FUZZ_SECONDS)

deny: ## Licences, sources and duplicates of the dependencies (needs cargo-deny)
	$(CARGO) deny check licenses sources bans

bench: bench-build ## Measure against other Socket.IO servers for an hour and write docs/benchmarks.md (needs Node)
	$(TARGET)/release/loadgen bench --markdown docs/benchmarks.md --json $(TARGET)/bench.json

bench-quick: bench-build ## The same as a look of two minutes; writes nothing
	$(TARGET)/release/loadgen bench --quick

bench-cluster: bench-cluster-build ## Measure two nodes over Redis against others for 20 minutes and write docs/benchmarks-cluster.md
	$(TARGET)/release/loadgen bench-cluster --markdown docs/benchmarks-cluster.md

bench-cluster-quick: bench-cluster-build ## The same as a look of three minutes; writes nothing
	$(TARGET)/release/loadgen bench-cluster --quick

ATTACK_SECONDS ?= 5
attacks: ## Measure every attack beside bystanders, ATTACK_SECONDS each, and write docs/security.md's tables; fails past a limit
	bench/attacks $(ATTACK_SECONDS)

instructions: ## Count the instructions of the engine's hot paths (needs valgrind; installs it on Debian)
	bench/instructions

.PHONY: bench-build bench-cluster-build
bench-build:
	bench/setup
	$(CARGO) build --release --locked -p loadgen -p slop-studios --bins

bench-cluster-build:
	bench/setup cluster
	$(CARGO) build --release --locked -p loadgen -p slop-studios --bins
