# The ways to build, show and test Bulkhead. Each target does its own set-up on a Debian machine
# with cargo; a second run finds nothing to do.

export PATH := $(PATH):$(HOME)/.cargo/bin
PREFIX ?= /usr/local
TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/x86_64-unknown-linux-gnu/release
UNITS := bulkhead-autostart.service bulkhead-network.service bulkhead-serve.service bulkhead-snapshots.service bulkhead-snapshots.timer
COMPLETIONS := bash-completion/completions/bulkhead zsh/site-functions/_bulkhead fish/vendor_completions.d/bulkhead.fish
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: run build test test-here test-vm bench bench-launch lint man install uninstall

# Slices this machine into guests, measures them, removes them. Make waits for the program when
# Ctrl-C comes, so it can remove what it made.
run: build
	@$(SUDO) $(RELEASE)/bulkhead demo

build:
	@scripts/setup
	@cargo build --release --locked --bin bulkhead
# Not position-independent: it starts anew for every command of a client, and 16,000 relocations
# are most of what a start costs (docs/performance.md). Put together as one, so that functions keep
# the names by which they are put in order.
	@cargo rustc --release --locked --bin bulkhead-oci -- -C relocation-model=static -C lto=fat $$(scripts/ordered)

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

# What a launch costs, beside the floor of the kernel and, where installed, crun and LXC.
bench: build
	@$(SUDO) bench/launch --bulkhead $(RELEASE)/bulkhead $(BENCH)

# What an OCI runtime costs: ours, crun and runc beside the floor, on one bundle (bench/oci --help).
bench-launch: build
	@$(SUDO) env CARGO_TARGET_DIR=$(abspath $(TARGET)) bench/oci $(BENCH)

lint:
	@scripts/setup
	@cargo fmt --check
	@cargo clippy --locked --all-targets -- -D warnings

# The man pages, one a command, without installing anything: `man -l target/man/bulkhead.1`.
man: build
	$(RELEASE)/bulkhead --quiet man $(TARGET)/man
	$(RELEASE)/bulkhead-oci man $(TARGET)/man

install: build
	install -D -m 755 $(RELEASE)/bulkhead $(DESTDIR)$(PREFIX)/bin/bulkhead
	ln -sf bulkhead $(DESTDIR)$(PREFIX)/bin/bh
	install -D -m 755 $(RELEASE)/bulkhead-oci $(DESTDIR)$(PREFIX)/bin/bulkhead-oci
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	for unit in $(UNITS); do sed 's|/usr/local|$(PREFIX)|' dist/$$unit >$(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit || exit 1; done
	$(RELEASE)/bulkhead --quiet man $(DESTDIR)$(PREFIX)/share/man/man1
	$(RELEASE)/bulkhead-oci man $(DESTDIR)$(PREFIX)/share/man/man1
	ln -sf bulkhead.1 $(DESTDIR)$(PREFIX)/share/man/man1/bh.1
	install -d $(addprefix $(DESTDIR)$(PREFIX)/share/,$(dir $(COMPLETIONS)))
	$(RELEASE)/bulkhead completions bash >$(DESTDIR)$(PREFIX)/share/$(word 1,$(COMPLETIONS))
	$(RELEASE)/bulkhead completions zsh >$(DESTDIR)$(PREFIX)/share/$(word 2,$(COMPLETIONS))
	$(RELEASE)/bulkhead completions fish >$(DESTDIR)$(PREFIX)/share/$(word 3,$(COMPLETIONS))
	ln -sf bulkhead $(DESTDIR)$(PREFIX)/share/$(dir $(word 1,$(COMPLETIONS)))bh
	ln -sf bulkhead.fish $(DESTDIR)$(PREFIX)/share/$(dir $(word 3,$(COMPLETIONS)))bh.fish

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/bulkhead $(DESTDIR)$(PREFIX)/bin/bh $(DESTDIR)$(PREFIX)/bin/bulkhead-oci
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/lib/systemd/system/,$(UNITS))
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/bulkhead.1 $(DESTDIR)$(PREFIX)/share/man/man1/bulkhead-*.1 $(DESTDIR)$(PREFIX)/share/man/man1/bh.1
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/,$(COMPLETIONS))
	rm -f $(DESTDIR)$(PREFIX)/share/$(dir $(word 1,$(COMPLETIONS)))bh $(DESTDIR)$(PREFIX)/share/$(dir $(word 3,$(COMPLETIONS)))bh.fish
