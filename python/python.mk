# The Python package. Its tests are those of package client: go test -run Python ./client.

# Where Debian's Python 3 looks, whichever version it is. Others: make install-python
# PYTHONDIR="$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')".
PYTHONDIR ?= $(PREFIX)/lib/python3/dist-packages

.PHONY: install-python
install-python: ## the Python package dlmlock; honours DESTDIR and PYTHONDIR
	install -d "$(DESTDIR)$(PYTHONDIR)/dlmlock"
	install -m 644 python/dlmlock/*.py python/dlmlock/py.typed "$(DESTDIR)$(PYTHONDIR)/dlmlock/"
