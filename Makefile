# The ways to build, show and test Bulkhead. Each target does its own set-up on a Debian machine
# with cargo; a second run finds nothing to do.

export PATH := $(PATH):$(HOME)/.cargo/bin
PREFIX ?= /usr/local
TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/x86_64-unknown-linux-gnu/release
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: run build test test-here test-vm lint install uninstall

# Slices this machine into guests, measures them, removes them. Make waits for the program when
# Ctrl-C comes, so it can remove what it made.
run: build
	@$(SUDO) $(RELEASE)/bulkhead demo

build:
	@scripts/setup
	@cargo build --release --locked

# All tests on this machine, and the root tier again in a VM (cgroup v2, systemd).
test: build
	@scripts/setup --tests
	@scripts/test vm here

test-here: build
	@scripts/setup --tests
	@scripts/test here

test-vm: build
	@scripts/setup --tests
	@scripts/test vm

lint:
	@scripts/setup
	@cargo fmt --check
	@cargo clippy --locked --all-targets -- -D warnings

install: build
	install -D -m 755 $(RELEASE)/bulkhead $(DESTDIR)$(PREFIX)/bin/bulkhead
	ln -sf bulkhead $(DESTDIR)$(PREFIX)/bin/bh
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local|$(PREFIX)|' dist/bulkhead-autostart.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/bulkhead-autostart.service

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/bulkhead $(DESTDIR)$(PREFIX)/bin/bh
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/bulkhead-autostart.service
