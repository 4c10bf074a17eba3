# Every task of the project. `make` alone lists them.
#
# `scripts/setup` installs the Debian packages that a task needs: as root by itself, otherwise it prints the one command.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build demo test test-kernel test-system-openssl lint deny fmt bench compare compare-kernel clean
# The steps of a task are in order, whatever -j says; cargo uses every CPU by itself.
.NOTPARALLEL:

CARGO := cargo --locked
# Lint, tests and the kernel tests select the whole workspace alike: another selection unites other features, and every
# dependency would be built again.
EVERYTHING := --workspace --all-targets
SLUICE := target/release/sluice
WITH_SYSTEM_OPENSSL := --package sluice --no-default-features --features system-openssl
# Where tests name themselves that cannot run here (tests/skip_support).
SKIPPED := $${CARGO_TARGET_DIR:-target}/tmp/skipped.txt

help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build target/release/sluice, OpenSSL included
	scripts/setup build
	$(CARGO) build --release

demo: ## Build, then send data through the proxy and compare every byte
	scripts/setup demo
	$(CARGO) build --release
	$(SLUICE) demo --listen 127.0.0.1:0 --once
	@printf '\nTo keep it running, with a curl line to try:\n  %s demo\n' '$(SLUICE)'

test: ## Everything that a change must pass, the tests on real kernels included
	scripts/setup test
	@rm -f "$(SKIPPED)"
	@$(MAKE) --no-print-directory lint
	@# nextest has no doc tests, cargo test runs them itself.
	@if command -v cargo-nextest >/dev/null; then \
		set -x; $(CARGO) nextest run --workspace --no-fail-fast; $(CARGO) test --workspace --doc; \
	else \
		set -x; $(CARGO) test --workspace --no-fail-fast; \
	fi
	@$(MAKE) --no-print-directory test-kernel
	@# Those that need root, or what this machine has not; told here, since a test that passes is not heard.
	@if [ -s "$(SKIPPED)" ]; then sort -u "$(SKIPPED)"; fi
	@echo 'make test: everything passed'

test-kernel: ## The kernel TLS tests on the kernels of scripts/kernels.conf, emulated
	scripts/test-kernel

# In a folder of its own: another OpenSSL is another build of nearly everything. Not a part of `test` for that reason.
test-system-openssl: ## Handshakes and the demo with the system's OpenSSL in the place of ours
	scripts/setup system
	set -x; export CARGO_TARGET_DIR=$${CARGO_TARGET_DIR:-target}/system-openssl; \
		$(CARGO) test $(WITH_SYSTEM_OPENSSL) --lib --test handshake_negotiation --test handshake_bad_input \
			--test interop_programs --test interop_rustls --test certificate_compression \
			--test ticket_hooks --test ticket_vectors; \
		$(CARGO) run $(WITH_SYSTEM_OPENSSL) -- demo --listen 127.0.0.1:0 --once

lint: ## Format, clippy and documentation, without a warning
	cargo fmt --all --check
	$(CARGO) clippy $(EVERYTHING) -- -D warnings
	@# The programs have no outside readers: a link to a private item is fine.
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' \
		$(CARGO) doc --workspace --no-deps --document-private-items

deny: ## Licences, advisories and sources of every dependency (needs cargo-deny, fetches the advisories)
	@command -v cargo-deny >/dev/null || { echo 'make deny: install cargo-deny first: cargo install cargo-deny' >&2; exit 1; }
	$(CARGO) deny check

fmt: ## Format the sources
	cargo fmt --all

bench: ## Benchmarks of handshakes, the record layer and tickets
	scripts/setup build
	$(CARGO) bench --package sluice --benches

compare: ## Load Sluice and its peers in turn; tables and plots in target/compare
	scripts/setup compare
	$(CARGO) build --release --package sluice --package sluice-loadtest
	target/release/sluice-load compare --out target/compare

compare-kernel: ## The same where instructions are counted, kernel TLS included (emulated, about half an hour)
	scripts/setup compare
	scripts/kernel-compare

clean: ## Remove what was built; fetched kernels in .cache stay
	cargo clean
