package main

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/data"
	"github.com/dlmlock/dlmlockd/dbus"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink"
)

// onlyVarlink are the fields of calls that have no counterpart on the bus.
var onlyVarlink = []string{"allowInteractiveAuthentication", "progress"}

// fieldsOf are the fields that a method of the Varlink interface takes.
func fieldsOf(t testing.TB, method string) (names []string) {
	t.Helper()
	block := regexp.MustCompile(`(?ms)^method ` + method + `\((.*?)\) -> \(`).FindStringSubmatch(data.Varlink)
	require.NotNil(t, block, method)
	for _, f := range regexp.MustCompile(`(?m)^  (\w+): `).FindAllStringSubmatch(block[1], -1) {
		names = append(names, f[1])
	}
	return names
}

// given gathers the fields that a call has, those of Selectors, Wants and Names included.
func given(into map[string]bool, args fields) {
	for name, v := range args {
		into[name] = true
		switch v := v.(type) {
		case fields:
			given(into, v)
		case []fields:
			for _, e := range v {
				given(into, e)
			}
		}
	}
}

// The suite that is played through both doors has every method, and every field of every method.
func TestDoorsAgreeOnEverything(t *testing.T) {
	played := map[string]map[string]bool{}
	for _, s := range doorSteps {
		if played[s.method] == nil {
			// The lockspace is put in by the suite.
			played[s.method] = map[string]bool{"lockspace": true}
		}
		given(played[s.method], s.args)
	}
	for _, m := range regexp.MustCompile(`(?m)^method (\w+)\(`).FindAllStringSubmatch(data.Varlink, -1) {
		if m[1] == "Monitor" || m[1] == "Describe" {
			continue // signals and properties on the bus
		}
		require.NotNil(t, played[m[1]], m[1])
		for _, f := range fieldsOf(t, m[1]) {
			if f != onlyVarlink[0] && f != onlyVarlink[1] {
				require.True(t, played[m[1]][f], "%s with %s", m[1], f)
			}
		}
	}
	// What the bus has under another name, or what is something else there.
	for _, m := range regexp.MustCompile(`(?m)<method name="(\w+)"`).FindAllStringSubmatch(data.Introspection, -1) {
		switch m[1] {
		case "InspectNode", "Subscribe", "Unsubscribe", "Cancel":
		default:
			if !strings.Contains("Introspect GetManagedObjects Ping GetMachineId Get Set GetAll", m[1]) {
				require.NotNil(t, played[m[1]], m[1])
			}
		}
	}
}

// requireWords checks that an error speaks of what the Varlink interface has.
func requireWords(t testing.TB, what, method string, r varlinkReply) {
	t.Helper()
	message, _ := r.Parameters["message"].(string)
	require.NotEmpty(t, message, what)
	require.NotRegexp(t, `\boption\b|wait-usec|start-time|on-lost-data|on-lost:|\blockids?:|\bpid:|\buid:|`+
		`request:|release-owner|subscribe|list-\w+|D-Bus|signal`, message, what)
	if r.Error != "org.varlink.service.InvalidParameter" {
		return
	}
	parameter, _, _ := strings.Cut(r.Parameters["parameter"].(string), "[")
	parameter, _, _ = strings.Cut(parameter, ".")
	if strings.HasSuffix(message, "there is no such field") {
		return
	}
	require.Contains(t, fieldsOf(t, method), parameter, what)
}

// failing is a service that answers Inspect with an error.
type failing struct {
	api.Service
	err error
}

func (f *failing) Inspect(_, _ string, done func(api.Inspection, error)) {
	done(api.Inspection{}, f.err)
}
func (f *failing) Watch(bool)                                       {}
func (f *failing) Lockspaces(done func([]api.LockspaceInfo, error)) { done(nil, nil) }
func (f *failing) Sessions(done func([]api.Session))                { done(nil) }
func (f *failing) SessionGone(api.Session)                          {}
func (f *failing) Status() api.Status                               { return api.Status{} }

// Whatever the service can answer with has the same name at both doors.
func TestDoorsAgreeOnErrors(t *testing.T) {
	bus, log := testbus.Start(t, testbus.Daemon), slog.New(slog.DiscardHandler)
	conn, err := dbus.Connect(t.Context(), bus.Address)
	require.NoError(t, err)
	core := frontend.New(frontend.Config{Authorizer: api.GroupAuthorizer{}, Log: log})
	overBus := dbus.New(dbus.Config{Core: core, Bus: conn, Log: log})
	overSocket := varlink.New(varlink.Config{Core: core, Log: log})
	service := &failing{}
	core.Start(service)
	require.NoError(t, overBus.Start(t.Context()))
	require.NoError(t, overBus.RequestName())
	path := filepath.Join(t.TempDir(), "varlink")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- overSocket.Serve(l) }()
	t.Cleanup(func() {
		end, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		done := make(chan error)
		go func() { done <- overSocket.Shutdown(end) }()
		require.NoError(t, overBus.Shutdown(end))
		require.NoError(t, <-done)
		require.NoError(t, <-served)
		core.Close()
	})

	b, v := newClient(bus.Dial(t)), dialVarlink(t, path)
	for _, kind := range []api.Kind{
		api.WouldBlock, api.Timeout, api.Canceled, api.Deadlock, api.NotHeld, api.Ambiguous, api.AlreadyHeld,
		api.NoSuchLockspace, api.InvalidMode, api.InvalidName, api.InvalidArgs, api.LimitExceeded, api.NotQuorate,
		api.LockspaceStopped, api.LockspaceInUse, api.LockspaceForeign, api.ClusterUnavailable, api.StateWriteFailed,
		api.KernelError, api.ShuttingDown, api.NotSupported, api.AccessDenied, api.InteractionRequired,
		api.TooManyCalls, api.Internal, "",
	} {
		service.err = &api.Error{Op: "inspect", Lockspace: "vms", Resource: "r", Mode: dlm.None, Kind: kind,
			Text: "the reason", Errno: syscall.EIO, Candidates: make([]api.LockInfo, 2)}
		call := b.call("Inspect", "vms", "r")
		reply := v.call("Inspect", fields{"lockspace": "vms", "resource": "r"})
		require.Error(t, call.Err, kind)
		require.Equal(t, dbusErrorOf(dbusKind(call.Err)), varlinkErrorOf(reply.Error), kind)
		require.Contains(t, call.Err.Error(), "inspect vms/r: the reason", kind)
		require.Contains(t, reply.Parameters["message"], "inspect vms/r: the reason", kind)
	}
}

// dbusErrorOf and varlinkErrorOf make the names of the standard errors of both one.
func dbusErrorOf(name string) string {
	switch name {
	case "Failed":
		return "Internal"
	case "LimitsExceeded":
		return "LimitExceeded"
	}
	return name
}

func varlinkErrorOf(name string) string {
	if name == "io.systemd.InteractiveAuthenticationRequired" {
		return "InteractiveAuthorizationRequired"
	}
	return varlinkKind(name)
}
