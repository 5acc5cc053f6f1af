# The packages: "make deb" and "make rpm" put them into bin/packages. What is in
# them is what "make install", "make install-libvirt", "make install-cockpit" and
# "make install-python" install, and the documents. debian/ and packaging/dlmlockd.spec are what the
# tools of Debian and of rpm read. Included by the Makefile.

DEPS_DEB := debhelper dh-python dpkg-dev git python3
DEPS_RPM := git python3 rpm
DEPS_PACKAGES := $(DEPS_DEB) $(DEPS_RPM)
DEPS_PACKAGES_CHECK := busybox-static cpio lintian rpm rpmlint util-linux

PACKAGES := bin/packages
PACKAGE_ROOT := bin/package-root
# The version of the packages: a tag v1.2.3 is 1.2.3; 1.2.3+4.gabc is four commits
# later; without a tag it begins with 0~ and grows with the date of the commit.
PACKAGE_VERSION ?= $(shell packaging/version.sh "$(VERSION)" "$(SOURCE_DATE_EPOCH)")
PACKAGE_RELEASE ?= 1
PACKAGE_ENV = VERSION="$(VERSION)" COMMIT="$(COMMIT)"
PACKAGE_ARGS = $(PACKAGE_VERSION)-$(PACKAGE_RELEASE) $(PACKAGES)

.PHONY: packages
packages: deb rpm ## the Debian and the rpm packages, in bin/packages

.PHONY: deb
deb: ## the Debian packages, in bin/packages
	@scripts/deps.sh $(DEPS_BUILD) $(DEPS_LIBVIRT_BUILD) $(DEPS_DEB)
	@$(MAKE) --no-print-directory build-deb

.PHONY: rpm
rpm: ## the rpm packages, in bin/packages
	@scripts/deps.sh $(DEPS_BUILD) $(DEPS_LIBVIRT_BUILD) $(DEPS_RPM)
	@$(MAKE) --no-print-directory build-rpm

.PHONY: build-deb build-rpm
build-deb build-rpm:
	@mkdir -p $(PACKAGES)
	$(PACKAGE_ENV) packaging/$(@:build-%=%)/build.sh binary $(PACKAGE_ROOT)/$(@:build-%=%) $(PACKAGE_ARGS)

.PHONY: source-packages
source-packages: ## a Debian source package and a source rpm, which build without a network
	@scripts/deps.sh $(DEPS_BUILD) $(DEPS_LIBVIRT_BUILD) $(DEPS_PACKAGES)
	@mkdir -p $(PACKAGES)
	$(PACKAGE_ENV) packaging/deb/build.sh source $(PACKAGE_ROOT)/dsc $(PACKAGE_ARGS)
	$(PACKAGE_ENV) packaging/rpm/build.sh source $(PACKAGE_ROOT)/srpm $(PACKAGE_ARGS)

# The documents as they are installed, in bin/doc/PACKAGE; packaging/documents lists them.
DOCS_CHANGELOG ?= CHANGELOG.md
.PHONY: stage-docs
stage-docs:
	rm -rf bin/doc
	$(GO) run ./packaging/docs -changelog $(DOCS_CHANGELOG) bin/doc

# Nothing but files: a web server, or a browser that opens bin/site/index.html, needs no more.
.PHONY: site
site: ## the documents and manual pages as a web site, in bin/site
	@scripts/deps.sh groff-base
	rm -rf bin/site
	$(GO) run ./packaging/site -version "$(VERSION)" bin/site

.PHONY: check-packages
check-packages: ## lintian, rpmlint, dead links, the files, and the life of the packages
	@scripts/deps.sh $(DEPS_BUILD) $(DEPS_LIBVIRT_BUILD) $(DEPS_PACKAGES) $(DEPS_PACKAGES_CHECK)
	rm -rf bin/check
	@$(MAKE) --no-print-directory build-deb build-rpm PACKAGES=bin/check/packages PACKAGE_ROOT=bin/check/root
	@$(MAKE) --no-print-directory build-deb build-rpm PACKAGES=bin/check/older PACKAGE_ROOT=bin/check/root \
		PACKAGE_VERSION=0~0
	packaging/check.sh bin/check/packages bin/check/older

.PHONY: check-reproducible
check-reproducible: ## builds the packages twice, in two directories, and compares the bytes
	@scripts/deps.sh $(DEPS_BUILD) $(DEPS_LIBVIRT_BUILD) $(DEPS_PACKAGES)
	packaging/reproducible.sh
