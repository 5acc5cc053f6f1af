package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dlmlock/dlmlockd/lab/console"
	"github.com/dlmlock/dlmlockd/lab/image"
)

// Require skips the test unless LAB=1 is in the environment. With LAB=1 a
// missing package is a failure, because the lab was asked for.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv("LAB") != "1" {
		t.Skip("set LAB=1 or run make test-lab")
	}
	err := CheckPackages()
	if missing, ok := errors.AsType[*image.MissingError](err); ok {
		t.Fatalf("the lab is not complete: %v", missing)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Start boots a cluster for a test and its subtests and switches it off at
// their end. A complaint of any node's kernel fails the test at once, unless
// it is expected (Node.Expect). Consoles are kept in LAB_ARTEFACTS/TEST.
func Start(t testing.TB, config Config) *Cluster {
	t.Helper()
	Require(t)
	if config.Artefacts == "" {
		dir, err := artefactDir()
		if err != nil {
			t.Fatal(err)
		}
		config.Artefacts = filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "."))
	}
	if config.Log == nil {
		config.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	found := config.Found
	config.Found = func(n *Node, f console.Finding) {
		t.Errorf("the kernel of %s complains: %s", n.Name, f.Line)
		if found != nil {
			found(n, f)
		}
	}
	c, err := Boot(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if findings := c.Findings(); findings != "" {
			t.Error(findings)
		}
		if t.Failed() {
			t.Log("consoles and logs are in " + config.Artefacts)
		}
	})
	return c
}

// Context returns a context for one step of a test: its end, which is an
// error that names the step, fails whoever waits.
func Context(t testing.TB, step string, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, fmt.Errorf("%s: not done after %v", step, limit))
	t.Cleanup(cancel)
	return ctx
}
