package main

// section is a part of the contents, which are beside each page.
type section struct {
	Title   string
	Entries []entry
}

// entry is a file of the repository with the title that it has in the contents.
type entry struct{ File, Title string }

// contents are what a reader chooses from. Everything else is reached by links.
var contents = []section{
	{"dlmlockd", []entry{
		{"README.md", "What it is for"},
		{"CHANGELOG.md", "What has changed"},
		{"docs/versioning.md", "Versions"},
	}},
	{"For administrators", []entry{
		{"docs/installation.md", "Installation"},
		{"docs/survival.md", "What survives what"},
		{"docs/fencing.md", "Fencing"},
		{"docs/scale.md", "How large a cluster can be"},
		{"docs/troubleshooting.md", "Troubleshooting"},
		{"docs/security.md", "Security"},
		{"docs/libvirt.md", "Guests of libvirt"},
		{"docs/cockpit.md", "Cockpit"},
	}},
	{"For programmers", []entry{
		{"docs/programs.md", "Programs and scripts"},
		{"python/README.md", "Python"},
		{"docs/busctl.md", "D-Bus"},
		{"docs/varlink.md", "Varlink"},
		{"docs/tokens.md", "Fencing tokens"},
		{"docs/semantics.md", "What the locks do"},
	}},
	{"Manual pages", []entry{
		{"man/dlmlockctl.1", "dlmlockctl(1)"},
		{"man/dlmlockd.8", "dlmlockd(8)"},
		{"man/dlmlockd.toml.5", "dlmlockd.toml(5)"},
		{"man/org.example.DlmLock.5", "org.example.DlmLock(5)"},
	}},
	{"Inside", []entry{
		{"ARCHITECTURE.md", "Architecture"},
		{"docs/design.md", "Design"},
		{"docs/decisions", "Decisions"},
		{"docs/state-file.md", "The state file"},
		{"docs/benchmarks.md", "Benchmarks"},
		{"docs/dlm-notes.md", "Notes on the DLM"},
		{"docs/kernel-bugs/README.md", "Bugs of the kernel"},
	}},
	{"The project", []entry{
		{"CONTRIBUTING.md", "Contributing"},
		{"SECURITY.md", "Reporting a vulnerability"},
		{"BUGS.md", "Mended bugs"},
		{"packaging/README.md", "Packages"},
		{"lab/README.md", "The lab"},
	}},
}
