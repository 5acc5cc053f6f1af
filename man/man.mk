# The manual pages: "make man" puts them into bin/man. Included by the Makefile.
MAN_XML := $(wildcard data/org.example.DlmLock*.xml) data/org.example.DlmLock.varlink
MANPAGES := dlmlockctl.1 dlmlockd.8 dlmlockd.toml.5 org.example.DlmLock.5

.PHONY: man
man: $(MANPAGES:%=bin/man/%) ## the manual pages, in bin/man

bin/man/%: man/%
	install -D -m 644 $< $@

bin/man/org.example.DlmLock.5: man/org.example.DlmLock.5.in $(MAN_XML) $(wildcard man/*.go man/gen/*.go)
	@mkdir -p $(@D)
	$(GO) run ./man/gen $(MAN_XML) > $@.new && mv $@.new $@

.PHONY: install-man
install-man: man ## the manual pages; honours DESTDIR and PREFIX
	for page in $(MANPAGES); do \
		install -D -m 644 bin/man/$$page "$(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$$page" || exit 1; \
	done
