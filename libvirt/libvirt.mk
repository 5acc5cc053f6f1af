# The lock driver for libvirt: make libvirt, make install-libvirt. It needs
# neither libvirt's headers nor its libraries.

LIBDIR ?= $(PREFIX)/lib/$(shell gcc -print-multiarch 2>/dev/null)
DEPS_LIBVIRT_BUILD := gcc libc6-dev pkg-config libsystemd-dev libgnutls28-dev
DEPS_LIBVIRT_TEST := $(DEPS_LIBVIRT_BUILD) dbus iproute2 libvirt-clients libvirt-daemon libvirt-daemon-driver-qemu \
	qemu-system-x86 qemu-utils util-linux

# What is installed; the tests install the one for the sanitizers, too.
PLUGIN ?= bin/dlmlock.so

LIBVIRT_SOURCES := $(wildcard libvirt/*.c)
# Of libsystemd only the headers are needed: bus.c loads the library when it needs it.
LIBVIRT_LIBS = $(shell pkg-config --cflags libsystemd) $(shell pkg-config --cflags --libs gnutls)
CFLAGS ?= -O2 -g
WARNINGS := -std=gnu11 -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes
SANITIZE := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
# libvirtd may end while a thread of it is still in a call: the driver must not be
# unloaded then (nodelete).
SHARED := -shared -fPIC -fvisibility=hidden -Wl,-z,nodelete,-z,relro,-z,now,--no-undefined

.PHONY: libvirt
libvirt: bin/dlmlock.so ## the lock driver for libvirt, bin/dlmlock.so

bin/dlmlock.so: $(LIBVIRT_SOURCES) $(wildcard libvirt/*.h) libvirt/libvirt.mk
	@mkdir -p bin
	$(CC) $(CPPFLAGS) $(CFLAGS) -ffile-prefix-map=$(CURDIR)=. $(WARNINGS) $(SHARED) -o $@ \
		$(LIBVIRT_SOURCES) $(LIBVIRT_LIBS) $(LDFLAGS)

# What plays libvirtd in tests and benchmarks, and the same two for the
# sanitizers.
bin/lockdriver: $(wildcard libvirt/driver/*)
	@mkdir -p bin
	$(CC) $(CFLAGS) $(WARNINGS) -fvisibility=hidden -rdynamic -pthread -o $@ $(filter %.c,$^)

bin/sanitize/dlmlock.so: $(LIBVIRT_SOURCES) $(wildcard libvirt/*.h) libvirt/libvirt.mk
	@mkdir -p bin/sanitize
	$(CC) $(SANITIZE) $(WARNINGS) $(filter-out -Wl%,$(SHARED)) -Wl,-z,nodelete -o $@ $(LIBVIRT_SOURCES) $(LIBVIRT_LIBS)

bin/sanitize/lockdriver: $(wildcard libvirt/driver/*)
	@mkdir -p bin/sanitize
	$(CC) $(SANITIZE) $(WARNINGS) -rdynamic -pthread -o $@ $(filter %.c,$^)

bin/sanitize/naming: libvirt/driver/unit/naming.c libvirt/naming.c libvirt/paths.c libvirt/mounts.c \
		libvirt/process.c libvirt/plugin.h
	@mkdir -p bin/sanitize
	$(CC) $(SANITIZE) $(WARNINGS) -o $@ $(filter %.c,$^) $(shell pkg-config --cflags --libs gnutls)

bin/sanitize/mounts: libvirt/driver/unit/mounts.c libvirt/mounts.c libvirt/plugin.h
	@mkdir -p bin/sanitize
	$(CC) $(SANITIZE) $(WARNINGS) -o $@ $<

bin/sanitize/reply: libvirt/driver/unit/reply.c libvirt/varlink.c libvirt/json.c $(wildcard libvirt/*.h)
	@mkdir -p bin/sanitize
	$(CC) $(SANITIZE) $(WARNINGS) -o $@ $< libvirt/json.c

.PHONY: libvirt-test-programs
libvirt-test-programs: bin/dlmlock.so bin/lockdriver bin/sanitize/dlmlock.so bin/sanitize/lockdriver \
	bin/sanitize/naming bin/sanitize/mounts bin/sanitize/reply

.PHONY: install-libvirt
install-libvirt: $(PLUGIN) ## the lock driver and its configuration; honours DESTDIR, PREFIX, LIBDIR
	install -D -m 755 $(PLUGIN) "$(DESTDIR)$(LIBDIR)/libvirt/lock-driver/dlmlock.so"
	install -D -m 755 libvirt/lost/libvirt-lost "$(DESTDIR)$(PREFIX)/libexec/dlmlockd/libvirt-lost"
	[ -e "$(DESTDIR)$(SYSCONFDIR)/libvirt/qemu-dlmlock.conf" ] || \
		install -D -m 644 libvirt/qemu-dlmlock.conf "$(DESTDIR)$(SYSCONFDIR)/libvirt/qemu-dlmlock.conf"

# With LIBVIRT_SANITIZE=1 the driver in libvirtd is the one for the sanitizers.
.PHONY: test-libvirt
test-libvirt: ## the lock driver with real libvirtd and QEMU guests, emulated; some minutes
	@scripts/deps.sh $(DEPS_LIBVIRT_TEST)
	LIBVIRT=1 $(GO) test -race -count=1 -timeout 15m -tags "$(TAGS)" $(TEST_EXEC) $(TESTFLAGS) ./libvirt/host

# A newer libvirt in a root file system of its own, in which the same tests run; NEWER
# chooses among them, and NEWER=. is all. SUITE may also be "testing".
SUITE ?= trixie
NEWER ?= ^(TestStart|TestStockStart|TestStockSays|TestServiceRestarts)$$
LIBVIRT_ROOTS := $(CURDIR)/bin/libvirt-roots

.PHONY: test-libvirt-newer
test-libvirt-newer: ## the most important of test-libvirt with the libvirt and QEMU of Debian 13
	@scripts/deps.sh $(DEPS_LIBVIRT_TEST)
	@scripts/libvirt-root.sh $(LIBVIRT_ROOTS) $(SUITE)
	LIBVIRT=1 LIBVIRT_ROOT=$(LIBVIRT_ROOTS)/$(SUITE) $(GO) test -count=1 -timeout 15m -tags "$(TAGS)" $(TEST_EXEC) \
		$(TESTFLAGS) -run '$(NEWER)' ./libvirt/host

.PHONY: test-virtqemud
test-virtqemud: ## the same with libvirt's modular daemon virtqemud, which is built for that; half a gigabyte, minutes
	@scripts/deps.sh $(DEPS_LIBVIRT_TEST)
	@scripts/libvirt-root.sh --virtqemud $(LIBVIRT_ROOTS) $(SUITE)
	LIBVIRT=1 LIBVIRT_DAEMON=virtqemud LIBVIRT_ROOT=$(LIBVIRT_ROOTS)/$(SUITE) $(GO) test -count=1 -timeout 15m \
		-tags "$(TAGS)" $(TEST_EXEC) $(TESTFLAGS) -run '$(NEWER)' ./libvirt/host

.PHONY: bench-libvirt
bench-libvirt: ## the lock driver side by side with virtlockd, into docs/benchmarks.md
	@scripts/deps.sh $(DEPS_LIBVIRT_TEST) dbus-broker
	@$(MAKE) --no-print-directory build bin/dlmlock.so bin/lockdriver
	BENCH_REPORT=$(CURDIR)/docs/benchmarks.md \
		$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 30m -tags "$(TAGS)" $(TEST_EXEC) ./libvirt/bench
