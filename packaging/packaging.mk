# The packages: "make deb" and "make rpm" put them into bin/packages. What is in
# them is what "make install", "make install-libvirt" and "make install-cockpit"
# put into a root of their own. Included by the Makefile.

DEPS_PACKAGES := gzip
DEPS_PACKAGES_CHECK := lintian rpm

PACKAGES := bin/packages
PACKAGE_NAMES := dlmlockd dlmlockd-libvirt cockpit-dlmlock
PACKAGE_ROOT := bin/package-root
PACKAGE_ARCH := $(shell $(GO) env GOARCH)
# The version of the packages: a tag v1.2.3 is 1.2.3; 1.2.3+4.gabc is four commits
# later; without a tag it begins with 0~ and grows with the date of the commit.
PACKAGE_VERSION ?= $(shell packaging/version.sh "$(VERSION)" "$(SOURCE_DATE_EPOCH)")
PACKAGE_RELEASE ?= 1

# nfpm has a module file of its own: what it needs is not what dlmlockd needs.
NFPM = $(GO) tool -modfile=packaging/tools/go.mod nfpm
NFPM_ENV = PACKAGE_VERSION="$(PACKAGE_VERSION)" PACKAGE_RELEASE="$(PACKAGE_RELEASE)" PACKAGE_ARCH="$(PACKAGE_ARCH)" \
	PACKAGE_ROOT="$(PACKAGE_ROOT)" SOURCE_DATE_EPOCH="$(SOURCE_DATE_EPOCH)"

.PHONY: packages
packages: deb rpm ## the Debian and the rpm packages, in bin/packages

.PHONY: deb
deb: package-deps ## the Debian packages, in bin/packages
	@$(MAKE) --no-print-directory build-deb

.PHONY: rpm
rpm: package-deps ## the rpm packages, in bin/packages
	@$(MAKE) --no-print-directory build-rpm

.PHONY: package-deps
package-deps:
	@scripts/deps.sh $(DEPS_BUILD) $(DEPS_LIBVIRT_BUILD) $(DEPS_PACKAGES)

.PHONY: build-deb
build-deb: LIBDIR = $(PREFIX)/lib/$(shell gcc -print-multiarch)
build-deb: $(BINS) bin/dlmlock.so
	packaging/stage.sh $(PACKAGE_ROOT)/deb deb "$(LIBDIR)" "$(PACKAGE_VERSION)-$(PACKAGE_RELEASE)" "$(SOURCE_DATE_EPOCH)"
	@mkdir -p $(PACKAGES)
	for p in $(PACKAGE_NAMES); do \
		$(NFPM_ENV) LIBDIR="$(LIBDIR)" PACKAGE_ROOT=$(PACKAGE_ROOT)/deb/$$p \
			$(NFPM) package --config packaging/$$p.yaml --packager deb --target $(PACKAGES)/ || exit 1; \
	done

.PHONY: build-rpm
build-rpm: LIBDIR = $(PREFIX)/lib64
build-rpm: $(BINS) bin/dlmlock.so
	packaging/stage.sh $(PACKAGE_ROOT)/rpm rpm "$(LIBDIR)" "$(PACKAGE_VERSION)-$(PACKAGE_RELEASE)" "$(SOURCE_DATE_EPOCH)"
	@mkdir -p $(PACKAGES)
	for p in $(PACKAGE_NAMES); do \
		$(NFPM_ENV) LIBDIR="$(LIBDIR)" PACKAGE_ROOT=$(PACKAGE_ROOT)/rpm/$$p \
			$(NFPM) package --config packaging/$$p.yaml --packager rpm --target $(PACKAGES)/ || exit 1; \
	done

.PHONY: check-packages
check-packages: packages ## lintian, and what rpm says of the packages
	@scripts/deps.sh $(DEPS_PACKAGES_CHECK)
	packaging/check.sh $(PACKAGES)

.PHONY: check-reproducible
check-reproducible: package-deps ## builds the packages twice, in two directories, and compares the bytes
	packaging/reproducible.sh
