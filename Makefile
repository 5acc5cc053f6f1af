# make help lists the targets. The commands in README.md stay the same, because
# scripts and people rely on them.

PREFIX ?= /usr
SYSCONFDIR ?= /etc
DATADIR ?= $(PREFIX)/share
DESTDIR ?=
GO ?= go

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null)
# Everything has the date of the commit, so two builds of it are identical.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
BUILD_DATE := $(shell date --utc --date=@$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ)
# The kernel engine needs cgo and libdlm; without them everything else is built,
# and --engine=dlm says what is missing.
LIBDLM := $(shell pkg-config --exists libdlm_lt 2>/dev/null && [ "$$($(GO) env CGO_ENABLED)" = 1 ] && echo libdlm)
TAGS := godbus_no_tcp $(LIBDLM)
GOFLAGS_BUILD := -trimpath -buildvcs=false -buildmode=pie -tags "$(TAGS)" \
	-ldflags "-buildid= -bindnow -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(BUILD_DATE)"

# Debian packages: to build, to try it out, to test everything, to boot nodes.
DEPS_BUILD := gcc libc6-dev pkg-config libdlm-dev
DEPS_DEMO := dbus systemd
DEPS_TEST := apparmor corosync curl dbus-broker git groff-base iproute2 jq libgnutls28-dev libsystemd-dev mypy polkitd \
	procps python3 bash-completion prometheus shellcheck socat spin systemd util-linux
DEPS_LAB := $(shell sed 's/\#.*//' lab/packages.txt)

# What only root may do (own the bus name, act as another user) runs through sudo
# if this is not root; compiling never does.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env)
TEST_EXEC := $(if $(SUDO),-exec "$(SUDO) env PATH=$$PATH")
TESTFLAGS ?=

PROGRAMS := $(notdir $(wildcard cmd/*))
BINS := $(PROGRAMS:%=bin/%)
SOURCES := $(shell find . -name '*.go' -not -name '*_test.go' -not -path './lab/*' -not -path './bin/*') go.mod go.sum $(wildcard data/*)

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

.PHONY: build
build: note-libdlm $(BINS) ## bin/dlmlockd and the other programs

bin/%: $(SOURCES) bin/build-flags
	$(GO) build $(GOFLAGS_BUILD) -o $@ ./cmd/$*

# Changes when the flags change, which contain the commit.
bin/build-flags: always
	@mkdir -p $(@D)
	@echo '$(GOFLAGS_BUILD)' | cmp --silent - $@ || echo '$(GOFLAGS_BUILD)' > $@

.PHONY: always
always:

.PHONY: note-libdlm
note-libdlm:
	@[ -n "$(LIBDLM)" ] || echo "Building without libdlm: --engine=dlm will not work (make deps installs libdlm-dev)."

.PHONY: deps
deps: ## install the Debian packages that building and testing needs
	@scripts/deps.sh $(DEPS_BUILD) $(DEPS_DEMO) $(DEPS_TEST)

.PHONY: deps-demo
deps-demo:
	@scripts/deps.sh $(DEPS_BUILD) $(DEPS_DEMO)

.PHONY: deps-lab
deps-lab:
	@scripts/deps.sh $(DEPS_BUILD) $(DEPS_DEMO) $(DEPS_LIBVIRT_BUILD) $(DEPS_PACKAGES) $(DEPS_LAB)

.PHONY: varlink-clients
varlink-clients: ## unpack foreign Varlink clients for the tests
	@scripts/varlink-clients.sh bin/varlink-clients

# Each of these calls make again once the packages are there, because what is
# built depends on them.
.PHONY: test
test: deps varlink-clients ## all tests on this machine, with the race detector
	@$(MAKE) --no-print-directory run-test

.PHONY: run-test
run-test:
	$(GO) test -race -shuffle=on -timeout 20m -tags "$(TAGS)" $(TEST_EXEC) $(TESTFLAGS) ./...
	$(GO) test -C lab -race -shuffle=on -timeout 20m -tags "$(TAGS)" $(TEST_EXEC) $(TESTFLAGS) ./...

.PHONY: check-model
check-model: ## the order of events as a model, every interleaving of it, by spin; make test includes it
	@scripts/deps.sh gcc spin
	$(GO) test -count=1 -v ./model

.PHONY: demo
demo: deps-demo ## the main job on a real bus, told step by step
	@$(MAKE) --no-print-directory build
	@$(SUDO) scripts/demo.sh

.PHONY: demo-cluster
demo-cluster: deps-lab ## the same on two real DLM nodes, booted in QEMU
	@$(MAKE) --no-print-directory build
	@$(GO) run -C lab ./cmd/demo-cluster --daemon="$(CURDIR)/bin/dlmlockd"

# The lab is a module of its own: building and testing the service needs none of it.
# The time limits include the time spent waiting for another lab on this machine.
# Clusters run beside each other.
.PHONY: test-lab
test-lab: deps-lab varlink-clients ## the tests on real kernels, booted in QEMU, but those of whole hosts
	@$(MAKE) --no-print-directory build
	LAB=1 $(GO) test -C lab -count=1 -timeout 60m -parallel 4 -tags "$(TAGS)" $(TESTFLAGS) -skip '$(HOSTS)|^TestCockpit$$' ./...

.PHONY: test-lab-debian13
test-lab-debian13: deps-lab lab/cache/trixie varlink-clients ## the same on nodes with Debian 13
	@LAB_ROOT=$(TRIXIE) $(MAKE) --no-print-directory test-lab

.PHONY: test-engine
test-engine: deps-lab ## of test-lab: the engine and the crash test, on both kernels
	@$(MAKE) --no-print-directory build
	LAB=1 $(GO) test -C lab -count=1 -timeout 60m -parallel 2 -tags "$(TAGS)" $(TESTFLAGS) -run '$(ENGINE)' .

ENGINE = ^TestTwoNodes$$/./^(lab|without_a_cluster|cluster|engine|crash)$$

# Debian 13, with its systemd, libvirt, corosync, dlm_controld and polkit, as the root of nodes, and with what make
# test needs. There virtlockd and its lock driver are in separate packages.
TRIXIE := $(CURDIR)/lab/cache/trixie

lab/cache/trixie: Makefile lab/packages.txt scripts/lab-root.sh
	@scripts/deps.sh mmdebstrap
	scripts/lab-root.sh $(TRIXIE) trixie make ca-certificates $(DEPS_BUILD) $(DEPS_DEMO) $(DEPS_TEST) \
		$$(sed '1,/^# run inside/d; s/\#.*//' lab/packages.txt) libvirt-daemon-lock libvirt-daemon-plugin-lockd

# make test there is the same command, with the compiler, message buses, polkit and systemd of that release. Go and its
# caches are this machine's.
.PHONY: test-debian13 test-in-debian13 test-libvirt-debian13 test-nodes-debian13
test-debian13: test-in-debian13 test-libvirt-debian13 test-nodes-debian13 ## the tests with Debian 13: the next three

test-in-debian13: deps varlink-clients lab/cache/trixie ## make test inside Debian 13, as root
	scripts/in-root.sh $(TRIXIE) $(MAKE) --no-print-directory test TESTFLAGS="$(TESTFLAGS)"

test-libvirt-debian13: NEWER = .
test-libvirt-debian13: test-libvirt-newer ## make test-libvirt with the libvirt and QEMU of Debian 13

test-nodes-debian13: deps-lab lab/cache/trixie varlink-clients ## make test-engine and test-hosts on nodes with Debian 13
	@LAB_ROOT=$(TRIXIE) $(MAKE) --no-print-directory test-engine test-hosts

.PHONY: test-kernel-bugs
test-kernel-bugs: deps-lab ## which of the DLM's known faults Debian's kernels have, up to that of testing
	LAB=1 LAB_KERNELS="6.1 6.12 testing" $(GO) test -C lab -count=1 -timeout 30m -v -run '^TestKernelBugs$$' .

.PHONY: soak
soak: deps-lab ## clients and faults of all kinds for SOAK=1h, or until SOAK_OPS calls were made; see lab/SOAK.md
	@$(MAKE) --no-print-directory build bin/dlmlock.so bin/lockdriver
	LAB=1 SOAK="$(SOAK)" SOAK_OPS="$(SOAK_OPS)" SOAK_OTHER="$(SOAK_OTHER)" LAB_KERNELS="$(or $(LAB_KERNELS),6.12)" $(GO) test -C lab -count=1 \
		-timeout 0 -tags "$(TAGS)" $(TESTFLAGS) -v -run '^TestSoak$$' .

# etcd, unpacked and not installed: only this compares with it.
ETCD := bin/etcd

$(ETCD)/usr/bin/etcd:
	mkdir -p $(ETCD)
	cd $(ETCD) && apt-get download etcd-server etcd-client && for file in *.deb; do dpkg --extract "$$file" . || exit; done
	@touch $@

.PHONY: test-held-set
test-held-set: deps-lab $(ETCD)/usr/bin/etcd ## the updates that are lost under a lock, with dlmlockd and with etcd; see docs/tokens.md
	LAB=1 ETCD=$(CURDIR)/$(ETCD) HELDSET_REPORT=$(CURDIR)/bin/held-set.md $(GO) test -C lab -count=1 -timeout 90m \
		-tags "$(TAGS)" $(TESTFLAGS) -v -run '^TestHeldSet$$' .

HOSTS = ^(TestFailover|TestLibvirt|TestLibvirtBothDrivers|TestLibvirtUnits|TestUnit|TestWalk)$$

.PHONY: test-hosts
test-hosts: deps-lab varlink-clients ## units, package and libvirt on real nodes with systemd, as administrators use them
	@$(MAKE) --no-print-directory build
	LAB=1 $(GO) test -C lab -count=1 -timeout 60m -parallel 2 -tags "$(TAGS)" $(TESTFLAGS) -run '$(HOSTS)' -skip '$(UNITS)' .

.PHONY: test-units
test-units: deps-lab varlink-clients ## the units of docs/programs.md and docs/varlink.md on nodes; they want a quiet machine
	@$(MAKE) --no-print-directory build
	LAB=1 $(GO) test -C lab -count=1 -timeout 60m -parallel 2 -tags "$(TAGS)" $(TESTFLAGS) \
		-run '^TestFailover$$|^TestUnit$$/^(systemd|activation|varlink)$$' .

UNITS = ^TestFailover$$/^a_(timer|socket)_|^TestUnit$$/^varlink$$

.PHONY: bench
bench: deps ## costs as ratios to their floors, into docs/benchmarks.md
	@$(MAKE) --no-print-directory build
	BENCH_REPORT=$(CURDIR)/docs/benchmarks.md $(GO) test -run '^$$' -bench . -benchtime 1x -timeout 30m -tags "$(TAGS)" $(TEST_EXEC) ./bench

.PHONY: bench-floods
bench-floods: deps ## what a flood of one user does to another, into docs/benchmarks.md
	@$(MAKE) --no-print-directory build
	BENCH_REPORT=$(CURDIR)/docs/benchmarks.md $(GO) test -run '^$$' -bench Floods -benchtime 1x -timeout 30m -tags "$(TAGS)" $(TEST_EXEC) ./bench

.PHONY: bench-lab
bench-lab: deps-lab ## the service on the kernel's DLM against bare libdlm, into docs/benchmarks.md
	LAB=1 BENCH_REPORT=$(CURDIR)/docs/benchmarks.md $(GO) test -C lab -count=1 -run '^$$' -bench . -benchtime 1x -timeout 30m ./bench

.PHONY: bench-scale
bench-scale: deps-lab ## what recovery, memory and waiting cost on nodes, into lab/scale/data; see docs/scale.md
	LAB=1 SCALE_DATA=$(CURDIR)/lab/scale/data $(GO) test -C lab -count=1 -run '^$$' -bench '^BenchmarkScale$$$(if $(SCALE),/^($(SCALE))$$)' \
		-benchtime 1x -timeout 30m -tags "$(TAGS)" $(TESTFLAGS) ./scale
	@$(MAKE) --no-print-directory scale-plots

.PHONY: scale-model
scale-model: ## compute larger clusters, into lab/scale/data/model.csv; takes minutes
	$(GO) run -C lab ./cmd/scale model $(CURDIR)/lab/scale/data
	@$(MAKE) --no-print-directory scale-plots

.PHONY: scale-plots
scale-plots: ## draw the plots of docs/scale.md again from lab/scale/data
	$(GO) run -C lab ./cmd/scale plots $(CURDIR)/lab/scale/data $(CURDIR)/docs/pictures

.PHONY: lint
lint: deps ## format, vet, staticcheck, module file, conventions, scripts
	@$(MAKE) --no-print-directory run-lint

.PHONY: run-lint
run-lint:
	@bad=$$(gofmt -l $$($(GO) list -f '{{.Dir}}' ./... && $(GO) list -C lab -f '{{.Dir}}' ./...)); \
		[ -z "$$bad" ] || { echo "not gofmt'ed:"; echo "$$bad"; exit 1; }
	$(GO) vet -tags "$(TAGS)" ./...
	$(GO) vet -C lab -tags "$(TAGS)" ./...
	$(GO) vet -tags "$(TAGS) crashtest" ./cmd/dlmlockd
	$(GO) tool staticcheck -tags "$(TAGS)" ./...
	staticcheck=$$($(GO) tool -n staticcheck) && cd lab && "$$staticcheck" -tags "$(TAGS)" ./...
	$(GO) mod tidy -diff
	$(GO) mod tidy -C lab -diff
	$(GO) test ./internal/conventions
	shellcheck .ci/run scripts/*.sh packaging/*.sh packaging/deb/* packaging/rpm/* packaging/before-removal \
		debian/*.p* debian/tests/locks libvirt/lost/libvirt-lost virtlockd/virtlockd-socket

.PHONY: vulncheck
vulncheck: deps ## govulncheck: known vulnerabilities in what is called; GOVULNDB=file:///DIRECTORY: with a copy of the database
	@scripts/vulncheck.sh "$(TAGS)"

.PHONY: install
install: $(BINS) install-files install-man install-completions ## everything; honours DESTDIR and PREFIX
	install -D -m 755 bin/dlmlockd "$(DESTDIR)$(PREFIX)/sbin/dlmlockd"
	install -D -m 755 bin/dlmlockctl "$(DESTDIR)$(PREFIX)/bin/dlmlockctl"

# The scripts ask the program itself for completions.
BASH_COMPLETIONS ?= $(DATADIR)/bash-completion/completions
ZSH_COMPLETIONS ?= $(DATADIR)/zsh/vendor-completions
FISH_COMPLETIONS ?= $(DATADIR)/fish/vendor_completions.d

.PHONY: install-completions
install-completions: bin/dlmlockctl
	install -d "$(DESTDIR)$(BASH_COMPLETIONS)" "$(DESTDIR)$(ZSH_COMPLETIONS)" "$(DESTDIR)$(FISH_COMPLETIONS)"
	bin/dlmlockctl completion bash > "$(DESTDIR)$(BASH_COMPLETIONS)/dlmlockctl"
	bin/dlmlockctl completion zsh > "$(DESTDIR)$(ZSH_COMPLETIONS)/_dlmlockctl"
	bin/dlmlockctl completion fish > "$(DESTDIR)$(FISH_COMPLETIONS)/dlmlockctl.fish"

# With a PREFIX other than /usr set DATADIR=/usr/share, because D-Bus and polkit
# read their policies only there (and in /etc).
#
# What is installed unchanged, except for the directory of the program in it: a file
# or a pattern, ":", and its directory. The packages contain whatever is installed.
INSTALLED := \
	systemd/*:$(PREFIX)/lib/systemd/system \
	data/*.catalog:$(PREFIX)/lib/systemd/catalog \
	data/org.example.DlmLock.service:$(DATADIR)/dbus-1/system-services \
	data/org.example.DlmLock.conf:$(DATADIR)/dbus-1/system.d \
	data/org.example.DlmLock*.xml:$(DATADIR)/dbus-1/interfaces \
	data/org.example.DlmLock.policy:$(DATADIR)/polkit-1/actions \
	data/*.schema.json:$(DATADIR)/dlmlockd \
	data/monitoring/*:$(DATADIR)/dlmlockd/monitoring \
	data/org.example.DlmLock.varlink:$(DATADIR)/dlmlockd \
	data/apparmor/*:$(DATADIR)/apparmor/extra-profiles \
	data/examples/*:$(DATADIR)/doc/dlmlockd/examples

.PHONY: install-files
install-files:
	@set -e; umask 022; for pair in $(foreach p,$(INSTALLED),'$(p)'); do \
		dir="$(DESTDIR)$${pair#*:}"; install -d "$$dir"; \
		for file in $${pair%%:*}; do \
			sed 's#/usr/sbin/dlmlockd#$(PREFIX)/sbin/dlmlockd#; s#/usr/bin/dlmlockctl#$(PREFIX)/bin/dlmlockctl#' \
				"$$file" > "$$dir/$$(basename "$$file")"; \
			chmod 644 "$$dir/$$(basename "$$file")"; \
		done; \
	done
	install -D -m 755 -t "$(DESTDIR)$(PREFIX)/libexec/dlmlockd" virtlockd/virtlockd-socket
	install -d "$(DESTDIR)$(SYSCONFDIR)"
	[ -e "$(DESTDIR)$(SYSCONFDIR)/dlmlockd.toml" ] || install -m 644 data/dlmlockd.toml "$(DESTDIR)$(SYSCONFDIR)/dlmlockd.toml"

.PHONY: uninstall uninstall-libvirt uninstall-cockpit uninstall-python
uninstall: ## removes what install has installed, with the same variables; a changed configuration stays
uninstall-libvirt: ## the same for install-libvirt
uninstall-cockpit: ## the same for install-cockpit
uninstall-python: ## the same for install-python
uninstall uninstall-libvirt uninstall-cockpit uninstall-python:
	@DESTDIR="$(DESTDIR)" SYSCONFDIR="$(SYSCONFDIR)" scripts/uninstall.sh $(@:un%=%)

include man/man.mk
include libvirt/libvirt.mk
include cockpit/cockpit.mk
include python/python.mk
include packaging/packaging.mk

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
