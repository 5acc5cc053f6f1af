package conventions

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	root   = "../.."
	module = "github.com/dlmlock/dlmlockd"
)

// pkg is a package of one of the repository's modules with the imports of all its files, whatever
// their build tags. Paths are relative to the repository; foreign ones are complete.
type pkg struct {
	Dir     string
	doc     string
	imports map[string]string // path to the file that imports it; not those of tests
}

// packages lists the packages that are built, without those in testdata.
var packages = sync.OnceValues(func() (map[string]*pkg, error) {
	all := map[string]*pkg{}
	for _, dir := range modules {
		if err := listPackages(dir, all); err != nil {
			return nil, err
		}
	}
	return all, nil
})

// modules are the directories of the repository's modules.
var modules = []string{root, root + "/lab"}

func listPackages(module string, all map[string]*pkg) error {
	text, err := goListIn(module, "-json=Dir,ImportPath", "./...")
	if err != nil {
		return err
	}
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var l struct{ Dir, ImportPath string }
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		p := &pkg{Dir: l.Dir, imports: map[string]string{}}
		if err := p.read(); err != nil {
			return err
		}
		all[short(l.ImportPath)] = p
	}
}

// goList runs go list in the main module.
func goList(args ...string) ([]byte, error) { return goListIn(root, args...) }

// goListIn runs go list in a module. Under sudo it leaves none of root's files in the user's cache.
func goListIn(module string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = module
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if os.Getenv("SUDO_UID") != "" {
		cache, err := os.MkdirTemp("", "go-list")
		if err != nil {
			return nil, err
		}
		defer func() { _ = os.RemoveAll(cache) }()
		cmd.Env = append(cmd.Env, "GOCACHE="+cache)
	}
	return cmd.Output()
}

// read parses every file of the package, those for other systems and build
// tags included: go list would not see them.
func (p *pkg) read() error {
	files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
	if err != nil {
		return err
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.ImportsOnly)
		if err != nil {
			return err
		}
		if f.Doc != nil && len(f.Doc.Text()) > len(p.doc) {
			p.doc = f.Doc.Text()
		}
		for _, i := range f.Imports {
			p.imports[short(strings.Trim(i.Path.Value, `"`))] = filepath.Base(name)
		}
	}
	return nil
}

func short(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, module), "/") }

func load(t *testing.T) map[string]*pkg {
	t.Helper()
	all, err := packages()
	require.NoError(t, err)
	require.Contains(t, all, "lockd", "go list found nothing")
	return all
}

// arrows are the import directions of docs/design.md section 3: a package may import only the
// listed packages of this module.
var arrows = map[string][]string{
	"dlm":                  {},
	"dlm/local":            {"dlm"},
	"dlm/cluster":          {"dlm"},
	"dlm/libdlm":           {"dlm", "dlm/cluster", "internal/queue", "internal/message"},
	"dlm/dlmtest":          {"dlm"},
	"process":              {},
	"state":                {"dlm", "internal/filetype", "internal/message"},
	"config":               {"dlm", "internal/filetype"},
	"lockd/api":            {"dlm", "state"},
	"lockd/table":          {"dlm", "state", "process", "lockd/api", "internal/message"},
	"lockd/journal":        {"state", "internal/queue"},
	"lockd":                {"dlm", "state", "process", "lockd/api", "lockd/table", "lockd/journal", "internal/queue"},
	"onlost":               {"dlm", "state", "lockd/api", "internal/message"},
	"data":                 {},
	"client":               {"dlm", "process"},
	"frontend":             {"dlm", "state", "lockd/api", "internal/boottime"},
	"dbus":                 {"dlm", "lockd/api", "frontend", "data", "internal/queue"},
	"polkit":               {"dlm", "process", "lockd/api", "data", "internal/message"},
	"peers":                {"dlm", "state", "lockd/api"},
	"peers/cpg":            {},
	"varlink/wire":         {"internal/boottime"},
	"varlink":              {"dlm", "lockd/api", "frontend", "data", "internal/queue", "varlink/wire"},
	"virtlockd":            {"dlm", "state", "process", "lockd/api", "virtlockd/disknames", "internal/boottime"},
	"virtlockd/disknames":  {},
	"internal/benchreport": {},
	"internal/boottime":    {},
	"internal/buildinfo":   {},
	"internal/filetype":    {},
	"internal/queue":       {},
	"internal/message":     {},
	// Tools and tests, which nothing that ships imports.
	"internal/conventions": {},
	"internal/testbus":     {"data"},
	"internal/teststate":   {"state"},
	"internal/testpolkit":  {"internal/testbus", "internal/testprocess"},
	"internal/testprocess": {},
	"internal/story":       {"client", "state"},
	"internal/story/embedded": {
		"dlm", "dlm/local", "process", "state", "lockd", "lockd/api", "client", "internal/story"},
	"examples/fencedstore": {},
}

func TestImportDirections(t *testing.T) {
	for name, p := range load(t) {
		if strings.HasPrefix(name, "cmd/") {
			for i, file := range p.imports {
				require.Falsef(t, strings.HasPrefix(i, "internal/test"), "%s/%s imports %s, which is for tests", name,
					file, i)
			}
			continue
		}
		if isTool(name) {
			continue
		}
		allowed, known := arrows[name]
		require.Truef(t, known,
			"package %s has no place in the import directions yet: add it to arrows and to docs/design.md section 3",
			name)
		for i, file := range p.imports {
			if mine(load(t), i) {
				require.Containsf(t, allowed, i, "%s/%s imports %s", name, file, i)
			}
		}
	}
}

// isTool reports whether a package is a program or harness at the top of the arrows, which may
// import everything.
func isTool(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	return top == "lab" || top == "bench" || top == "man" || top == "libvirt" || top == "packaging" || top == "model"
}

func mine(all map[string]*pkg, path string) bool { return all[path] != nil }

// only lists who may import a foreign package (by prefix).
var only = map[string][]string{
	"C": {"dlm/libdlm", "peers/cpg"},
	"github.com/godbus/dbus": {"dbus", "polkit", "client", "cmd/dlmlockctl", "internal/story",
		"internal/story/embedded",
		"internal/testbus", "internal/testpolkit"},
	"github.com/pelletier/go-toml":  {"state", "config"},
	"github.com/BurntSushi/toml":    {},
	"github.com/coreos/go-systemd":  {"cmd/dlmlockd", "cmd/dlmlockctl", "varlink"},
	"github.com/spf13/cobra":        {"cmd/dlmlockctl"},
	"github.com/stretchr/testify":   {"dlm/dlmtest"},
	"pgregory.net/rapid":            {"dlm/dlmtest"},
	"github.com/anishathalye/porcu": {"dlm/dlmtest"},
}

func TestForeignImports(t *testing.T) {
	for name, p := range load(t) {
		if isTool(name) {
			continue
		}
		for i, file := range p.imports {
			for prefix, who := range only {
				if i == prefix || strings.HasPrefix(i, prefix) && prefix != "C" {
					require.Containsf(t, who, name, "%s/%s imports %s", name, file, i)
				}
			}
		}
	}
}

// A front end can be deleted without the service noticing, and the service does not need cgo.
func TestLockdStandsAlone(t *testing.T) {
	out, err := goList("-deps", "./lockd")
	require.NoError(t, err)
	deps := strings.Fields(string(out))
	for _, bad := range []string{"runtime/cgo", module + "/dbus", module + "/polkit", "github.com/godbus/dbus/v5"} {
		require.False(t, slices.Contains(deps, bad), bad)
	}
}

// The lab is a module of its own, so packagers need neither it nor its dependencies. Nothing of the
// main module may import it, and a change of the main module must not break it.
func TestLabIsAModuleOfItsOwn(t *testing.T) {
	out, err := goList("./...")
	require.NoError(t, err)
	require.NotContains(t, string(out), module+"/lab")
	text, err := os.ReadFile(root + "/go.mod")
	require.NoError(t, err)
	require.NotContains(t, string(text), "yamux", "only the lab needs it")
	vet := exec.Command("go", "vet", "-tags", "godbus_no_tcp", "./...")
	vet.Dir = root + "/lab"
	vet.Env = append(os.Environ(), "CGO_ENABLED=0")
	said, err := vet.CombinedOutput()
	require.NoError(t, err, "go vet in lab:\n%s", said)
}

// Every package has a package comment.
func TestPackageDocuments(t *testing.T) {
	for name, p := range load(t) {
		require.NotEmptyf(t, p.doc, "the package comment of %s", name)
	}
}
