# SPDX-License-Identifier: GPL-2.0-only
#
# The one door to this project: make -f build.mk help
#
# What is made is below out/, what is downloaded in out/cache, the trees of Xen in
# out/build, logs in out/logs.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
# Each target's parts run in order; they use all CPUs themselves.
.NOTPARALLEL:

OUT := $(CURDIR)/out
CACHE := $(OUT)/cache
DESTDIR ?= $(OUT)/install

ifneq ($(XEN_SRC),)
override XEN_SRC := $(abspath $(XEN_SRC))
export XEN_SRC
endif

# What cargo tests with: nextest where it is installed, which leaves out doctests.
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo y)

.PHONY: help
help: ## This list
	@echo 'make -f build.mk TARGET [XEN_SRC=DIR] [V=1] [JOBS=N]'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' build.mk | expand -t 16
	@echo
	@echo '  XEN_SRC=DIR   builds on a copy of the Xen tree in DIR instead of on Debian'"'"'s Xen 4.20'
	@echo '  V=1           shows each command'
	@echo '  JOBS=N        at most N compilers at once'

.PHONY: deps
deps: ## Installs what is needed (Debian 12 and 13; says first what it is)
	@sh scripts/deps.sh

.PHONY: tree
tree:
	@sh scripts/tree.sh '$(CACHE)' '$(OUT)/build'

.PHONY: release debug
release debug: tree
	@sh scripts/xen.sh '$(OUT)' $@

.PHONY: xen
xen: release debug ## Xen with the series, release and debug: out/{release,debug}/xen.gz, xen-syms, xen.efi
	@for f in xen.gz xen-syms; do cmp -s '$(OUT)'/release/$$f '$(OUT)'/$$f || cp '$(OUT)'/release/$$f '$(OUT)'/; done

.PHONY: stock
stock: tree ## The same Xen without the series: out/stock-release/
	@sh scripts/xen.sh '$(OUT)' stock-release

.PHONY: guests
guests: ## The test guests: out/xtf/
	@echo '  GUESTS  out/xtf'
	@mkdir -p '$(OUT)/logs'
	@$(MAKE) -C tests/xtf OUT='$(OUT)/xtf' >'$(OUT)/logs/guests.log' 2>&1 || \
	  { tail -n 20 '$(OUT)/logs/guests.log' >&2; echo 'guests: did not build, see out/logs/guests.log' >&2; exit 1; }

.PHONY: lab-program
lab-program: ## The program that boots Xen on emulators and judges: target/release/lab
	@echo '  LAB     target/release/lab'
	@cargo build -q --locked --release -p lab -p inside -p passthrough -p core-cost

# A Linux control domain, Xen's toolstack and Linux guests, of packages of Debian 13.
.PHONY: linux
linux:
	@sh scripts/fetch-linux.sh '$(CACHE)' '$(OUT)/linux'
	@sh scripts/guest-module.sh '$(CACHE)' '$(OUT)/linux'

SCENARIO ?=
.PHONY: lab
lab: xen stock guests linux lab-program ## A Linux scenario, unpatched Xen beside ours: SCENARIO=balloon, or a script
	@target/release/lab linux run $(or $(SCENARIO),$(error SCENARIO= names none: see make -f build.mk lab-list)) $(LAB_ARGS)

.PHONY: lab-list
lab-list: lab-program ## The Linux scenarios
	@target/release/lab linux list

.PHONY: results
results: xen stock guests linux lab-program ## Runs the Linux scenarios that are not known to pass, and writes docs/RESULTS.md
	@target/release/lab linux results docs/RESULTS.md $(LAB_ARGS)

MINUTES ?= 60
.PHONY: soak
soak: xen guests linux lab-program ## Guests balloon, restore, exchange and die for an hour, or for MINUTES=
	@target/release/lab linux run soak --flavour debug --long --set MINUTES=$(MINUTES) \
	  --limit $$(($(MINUTES) * 60 + 600)) $(LAB_ARGS)

.PHONY: tools
tools: ## The program that reads traces: target/release/xen-coalesce; manual pages and completions: out/tools
	@echo '  TOOLS   target/release/xen-coalesce'
	@cargo build -q --locked --release -p xen-coalesce
	@target/release/xen-coalesce generate '$(OUT)/tools'

.PHONY: run
run: release guests lab-program tools ## Boots Xen on an emulator and shows a guest's memory break up and heal
	@target/release/lab demo $(LAB_ARGS)

# Tests that try so much that they are built with optimization.
APART := schedules model simulation fuzz

.PHONY: unit
unit: ## The tests that run on the host
	@sh scripts/test-audit.sh '$(OUT)/build'
	@echo '  UNIT    cargo $(if $(NEXTEST),nextest,test)'
ifeq ($(NEXTEST),y)
	@cargo nextest run --locked --workspace $(APART:%=--exclude %) --no-fail-fast
else
	@cargo test -q --locked --workspace $(APART:%=--exclude %) --no-fail-fast
endif

.PHONY: adversaries
adversaries: mutations ## The core under every order of events, and broken in known ways
	@echo '  ORDERS  cargo $(if $(NEXTEST),nextest,test) --release $(APART:%=-p %)'
ifeq ($(NEXTEST),y)
	@cargo nextest run --locked --release $(APART:%=-p %) --no-fail-fast --success-output immediate
else
	@cargo test -q --locked --release $(APART:%=-p %) -- --nocapture
endif

.PHONY: verify
verify: ## The long form of the tests on the host: one table of properties and what was tried, in docs/verify.md
	@cargo run -q --locked -p verify -- $(or $(VERIFY_ARGS),--write docs/verify.md)

.PHONY: simulation
simulation: ## 12 TiB and 1,000 domains in memory: tables, and plots in out/simulation
	@cargo run -q --locked --release -p simulation -- --out '$(OUT)/simulation'

.PHONY: mutations
mutations: ## Breaks the core in the ways of docs/xsa.md; each has to be noticed by the test named there
	@echo '  BREAK   tests/mutations'
	@cargo run -q --locked -p mutations -- --out '$(OUT)/mutations'

CARGO_MUTANTS ?= $(OUT)/cargo/bin/cargo-mutants

$(OUT)/cargo/bin/cargo-mutants:
	@echo '  TOOL    cargo-mutants'
	@cargo install -q --locked --root '$(OUT)/cargo' cargo-mutants@26.0.0

.PHONY: mutants
mutants: $(CARGO_MUTANTS) ## Tries all that cargo-mutants changes in p2m/ and arch/: an hour; writes docs/mutants.md
	@echo '  BREAK   cargo-mutants'
	@CARGO_MUTANTS='$(CARGO_MUTANTS)' cargo run -q --locked -p mutations -- --out '$(OUT)/mutations' \
	  generated --write docs/mutants.md $(MUTANTS_ARGS)

.PHONY: lint
lint: release ## rustfmt, clippy, shellcheck, licence lines
	@sh scripts/lint.sh '$(OUT)/build/release/rust/abi.rs'

.PHONY: fmt
fmt: ## Formats the Rust sources
	@cargo fmt --all

.PHONY: series
series: tree ## The patches for git am onto plain Xen 4.20, in out/series; proves that they give what is built
	@sh scripts/series.sh '$(OUT)'

.PHONY: check-off
check-off: tree ## Proves that Xen with CONFIG_COALESCE=n is what it is without the series
	@sh scripts/check-off.sh '$(OUT)'

.PHONY: check-bisect
check-bisect: tree ## Proves that each prefix of the series compiles
	@sh scripts/check-bisect.sh '$(OUT)'

.PHONY: check-debian
check-debian: ## Proves that deps, xen and linux work in a fresh Debian 12 and 13 (root, mmdebstrap)
	@sh scripts/check-debian.sh '$(OUT)' bookworm xen linux
	@sh scripts/check-debian.sh '$(OUT)' trixie xen linux

.PHONY: check-lab
check-lab: xen stock guests lab-program ## The tests on emulators
	@target/release/lab test $(LAB_ARGS)

.PHONY: spec
spec: xen stock guests lab-program ## Measures, and compares with what SPEC.md promises
	@target/release/lab spec $(LAB_ARGS)

.PHONY: baseline
baseline: stock guests lab-program ## Measures an unpatched Xen again, and compares it with tests/lab/baseline.json
	@target/release/lab baseline $(LAB_ARGS)

.PHONY: bench
bench: xen stock guests lab-program ## What everything costs, beside an unpatched Xen, and of the core by itself: tables, and out/bench.json
	@target/release/lab bench $(LAB_ARGS)

.PHONY: stress
stress: xen guests lab-program ## What takes longer than 'test' may: 10,000 regions are moved while vCPUs write to them; 512 MB shattered on each kind of machine
	@target/release/lab test --filter '^stress-' $(LAB_ARGS)

.PHONY: check-page
check-page: release guests lab-program tools ## The page of a fresh trace in a browser; pictures of it in out/plot-{light,dark}.png
	@echo '  PAGE    lab demo, chromium'
	@mkdir -p '$(OUT)/logs'
	@target/release/lab demo >'$(OUT)/logs/demo.log' 2>&1 || { cat '$(OUT)/logs/demo.log' >&2; exit 1; }
	@XEN_COALESCE_TRACE='$(OUT)/logs/demo@qemu-npt-smp2@release/trace.bin' \
	  cargo test -q --locked -p xen-coalesce --test browser >'$(OUT)/logs/page.log' 2>&1 || \
	  { cat '$(OUT)/logs/page.log' >&2; exit 1; }

# The short forms, on the builds that find most in little time.
.PHONY: check-linux
check-linux: xen guests linux lab-program ## Linux guests balloon, are restored, pinned, and die
	@target/release/lab linux run balloon restore pins death --ci $(LAB_ARGS)

.PHONY: test
test: lint unit adversaries series check-off check-lab check-page ## Everything that has to hold

.PHONY: install
install: release tools ## Installs Xen below DESTDIR (out/install unless given), as Xen's own 'make install' does, and xen-coalesce
	@sh scripts/xen.sh '$(OUT)' release install DESTDIR='$(abspath $(DESTDIR))'
	@install -D -t '$(abspath $(DESTDIR))/usr/bin' target/release/xen-coalesce
	@install -D -m 644 -t '$(abspath $(DESTDIR))/usr/share/man/man1' '$(OUT)'/tools/man1/*.1
	@for dir in bash-completion/completions zsh/site-functions fish/vendor_completions.d; do \
	  install -D -m 644 -t '$(abspath $(DESTDIR))/usr/share/'$$dir '$(OUT)'/tools/$$dir/* || exit 1; done
	@echo '  INSTALL $(abspath $(DESTDIR))'

.PHONY: clean
clean: ## Removes what was made; out/cache stays
	@if [ -d '$(OUT)' ]; then find '$(OUT)' -mindepth 1 -maxdepth 1 ! -name cache -exec rm -rf {} +; fi
	@rm -rf target
