# Every target says what it does: `make help`. Nothing here is needed by cargo itself.
#
# Everything is built with --release: see agent/doc/adr/0001-one-build-profile.md.

PREFIX ?= /usr/local
SECONDS ?= 60
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
SALVOR := $(TARGET_DIR)/release/salvor

.PHONY: help build demo test test-soak lint bench bench-quick fuzz install clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the program: target/release/salvor (the first time compiles RocksDB, 10 minutes or more)
	@.ci/setup build
	cargo build --release --package salvor

demo: ## Back up, change, verify and restore a real disk image and a real tree, and compare (2 minutes, 4 GB in TMPDIR)
	@.ci/setup build demo
	cargo build --release --package salvor --package tests
	@$(TARGET_DIR)/release/salvor-demo $(SALVOR)

test: ## Run all tests (as root: also those that mount file systems and make devices)
	@.ci/setup build test
	@.ci/test

test-soak: ## Run all tests, the long ones at full length (hours)
	@.ci/setup build test
	@SALVOR_SOAK=1 .ci/test

lint: ## Check format, clippy, documentation, licences and duplicates of dependencies, shell scripts
	@.ci/setup build lint
	@.ci/lint

bench: ## Run all benchmarks, and salvor side by side with restic, kopia, rustic and borg (root; an hour, 40 GB)
	@.ci/setup build
	cargo bench --package benches
	benches/peers/run

bench-quick: ## The same in some minutes: rough figures, small data, only those other tools that are installed
	@.ci/setup build
	cargo bench --package benches -- --quick
	benches/peers/run --scale 0.05 --no-install

fuzz: ## Run each fuzz target for SECONDS=60
	@.ci/setup build
	repo-format/fuzz/run $(SECONDS)

# Does not build what is there: root need not have Rust.
$(SALVOR):
	@$(MAKE) build

install: $(SALVOR) ## Install program, manual page and completions below PREFIX=/usr/local (DESTDIR is honoured)
	install -D -m 755 $(SALVOR) $(DESTDIR)$(PREFIX)/bin/salvor
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(SALVOR) man --out $(DESTDIR)$(PREFIX)/share/man/man1
	$(SALVOR) completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/salvor
	$(SALVOR) completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_salvor
	$(SALVOR) completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/salvor.fish

clean: ## Remove everything that was built
	cargo clean
