# The page for Cockpit: make cockpit builds cockpit/dist, which is committed, so that
# make install-cockpit and the packages need neither node nor a network.

DEPS_COCKPIT := nodejs
DEPS_COCKPIT_TEST := $(DEPS_COCKPIT) appstream chromium cockpit-bridge cockpit-ws dbus fonts-dejavu-core \
	openssl python3 sudo systemd util-linux

COCKPIT_FILES = index.html manifest.json index.js.LEGAL.txt
COCKPIT_DIR ?= $(DATADIR)/cockpit/dlmlock
COCKPIT_METAINFO := org.example.DlmLock.cockpit.metainfo.xml
# Cockpit of Debian's backports, unpacked; the tests run with it too.
COCKPIT_BACKPORT := bin/cockpit-backport
COCKPIT_TESTS = $(wildcard cockpit/test/browser/*.test.mjs)

cockpit/node_modules/.package-lock.json: cockpit/package-lock.json cockpit/package.json
	@command -v npm >/dev/null || { echo "npm is missing: it comes with nodejs or is the package npm" >&2; exit 1; }
	cd cockpit && npm ci --no-progress
	@touch $@

.PHONY: cockpit-deps
cockpit-deps:
	@scripts/deps.sh $(DEPS_COCKPIT_TEST)
	@$(MAKE) --no-print-directory cockpit/node_modules/.package-lock.json

.PHONY: cockpit
cockpit: cockpit/node_modules/.package-lock.json ## the page for Cockpit, into cockpit/dist
	cd cockpit && node build.mjs

# What the shell and the tests of Cockpit's own pages have, gzip without name and date.
.PHONY: install-cockpit
install-cockpit: ## the page for Cockpit; honours DESTDIR and DATADIR
	install -d "$(DESTDIR)$(COCKPIT_DIR)"
	install -m 644 $(COCKPIT_FILES:%=cockpit/dist/%) "$(DESTDIR)$(COCKPIT_DIR)/"
	for file in index.js index.css $(notdir $(wildcard cockpit/dist/po.*.js)); do \
		gzip -9 --no-name --stdout "cockpit/dist/$$file" > "$(DESTDIR)$(COCKPIT_DIR)/$$file.gz" && \
		chmod 644 "$(DESTDIR)$(COCKPIT_DIR)/$$file.gz" || exit; \
	done
	install -D -m 644 cockpit/$(COCKPIT_METAINFO) "$(DESTDIR)$(DATADIR)/metainfo/$(COCKPIT_METAINFO)"

.PHONY: check-cockpit
check-cockpit: cockpit-deps ## the page's types, unit tests, translations, size; that dist/ is what src/ builds to
	cd cockpit && npx tsc --noEmit && node po.mjs --check && node test/unit/run.mjs && \
		node build.mjs --check && node test/size.mjs
	appstreamcli validate --no-net cockpit/$(COCKPIT_METAINFO)

# The page as it is installed: with the Cockpit of Debian, and with the one of
# backports all but the pictures.
COCKPIT_INSTALLED := bin/cockpit-root
COCKPIT_RUN = $(SUDO) env COCKPIT_PAGE=$(CURDIR)/$(COCKPIT_INSTALLED)/usr/share/cockpit/dlmlock

# Cockpit's shell, unpacked: the way in for a user who logs in, and the picture's frame.
COCKPIT_SHELL := bin/cockpit-shell

$(COCKPIT_SHELL)/usr/share/cockpit/shell/index.html:
	mkdir -p $(COCKPIT_SHELL)
	cd $(COCKPIT_SHELL) && apt-get download cockpit-system && dpkg --extract cockpit-system_*.deb .
	@touch $@

.PHONY: test-cockpit
test-cockpit: test-cockpit-debian12 test-cockpit-debian13 ## the page in a real browser, against real Cockpit and bus

.PHONY: prepare-test-cockpit test-cockpit-debian12 test-cockpit-debian13
prepare-test-cockpit: $(COCKPIT_SHELL)/usr/share/cockpit/shell/index.html check-cockpit
	@$(MAKE) --no-print-directory build
	rm -rf $(COCKPIT_INSTALLED)
	@$(MAKE) --no-print-directory install-cockpit DESTDIR=$(CURDIR)/$(COCKPIT_INSTALLED) DATADIR=/usr/share

test-cockpit-debian12: prepare-test-cockpit ## of test-cockpit: with the Cockpit that is installed, that of Debian 12
	$(COCKPIT_RUN) node --test --test-concurrency=1 $(COCKPIT_TESTS)

# All but the pictures, which are the same.
test-cockpit-debian13: prepare-test-cockpit ## of test-cockpit: with the Cockpit of Debian 13
	scripts/cockpit-backport.sh $(COCKPIT_BACKPORT)
	$(COCKPIT_RUN) COCKPIT_ROOT=$(CURDIR)/$(COCKPIT_BACKPORT) node --test --test-concurrency=1 \
		$(filter-out %/pictures.test.mjs,$(COCKPIT_TESTS))

.PHONY: test-cockpit-lab
test-cockpit-lab: $(COCKPIT_SHELL)/usr/share/cockpit/shell/index.html
test-cockpit-lab: deps-lab cockpit-deps ## the page on a node of a real cluster, while another node is fenced
	scripts/cockpit-backport.sh $(COCKPIT_BACKPORT)
	LAB=1 COCKPIT_SHELL=$(CURDIR)/$(COCKPIT_SHELL) COCKPIT_BACKPORT=$(CURDIR)/$(COCKPIT_BACKPORT) \
		$(GO) test -C lab -count=1 -timeout 20m -v \
		-tags "$(TAGS)" -run '^TestCockpit$$' .

.PHONY: bench-cockpit
bench-cockpit: cockpit-deps ## how fast the page is, into docs/benchmarks.md
	@$(MAKE) --no-print-directory build
	scripts/cockpit-backport.sh $(COCKPIT_BACKPORT)
	$(SUDO) node cockpit/test/bench.mjs docs/benchmarks.md $(CURDIR)/$(COCKPIT_BACKPORT)

.PHONY: bench-cockpit-hour
bench-cockpit-hour: cockpit-deps ## what the page needs after an hour of changes, into docs/benchmarks.md
	@$(MAKE) --no-print-directory build
	$(SUDO) node cockpit/test/churn.mjs docs/benchmarks.md
