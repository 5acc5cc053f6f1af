package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
)

// hostOf is a host with these files.
func hostOf(t *testing.T, files map[string]string) host {
	h := host{t.TempDir()}
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(h.path(name)), 0o755))
		require.NoError(t, os.WriteFile(h.path(name), []byte(text), 0o644))
	}
	return h
}

// results are the results by check.
func results(x *examination) map[string]string {
	all := map[string]string{}
	for _, c := range x.checks {
		all[c.Name] = c.Result
	}
	delete(all, "clock") // that of the machine that runs the test
	return all
}

const (
	miscOfDLM   = "124 dlm-monitor\n125 dlm-control\n"
	socketOfDLM = "0000: 00000002 00000000 00010000 0001 01 12 @dlmc_query_sock\n"
	debugfs     = "debugfs /sys/kernel/debug debugfs rw,nosuid 0 0\n"
)

func TestDoctorOnNodes(t *testing.T) {
	healthy := map[string]string{"proc/misc": miscOfDLM, "proc/net/unix": socketOfDLM, "proc/self/mounts": debugfs,
		"sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
		"etc/dlm/dlm.conf":             "# enable_fencing=0\nlog_debug=1\n"}
	with := func(name, text string) map[string]string {
		all := map[string]string{}
		for k, v := range healthy {
			all[k] = v
		}
		if all[name] = text; text == "" {
			delete(all, name)
		}
		return all
	}
	for name, tc := range map[string]struct {
		files  map[string]string
		quorum string
		want   map[string]string // results that are not ok
	}{
		"healthy":        {healthy, "quorate", nil},
		"default config": {with("etc/dlm/dlm.conf", ""), "quorate", nil},
		"no quorum":      {healthy, "inquorate", map[string]string{"quorum": checkFailed}},
		"quorum unknown": {healthy, "unknown", map[string]string{"quorum": checkUnknown}},
		"no module": {with("proc/misc", "1 x\n"), "quorate", map[string]string{"dlm_controld": checkFailed,
			"fencing": checkUnknown, "debugfs": checkUnknown}},
		"no dlm_controld": {with("proc/net/unix", "x\n"), "quorate", map[string]string{"dlm_controld": checkFailed,
			"fencing": checkUnknown}},
		"not seen": {with("proc/net/unix", ""), "quorate", map[string]string{"dlm_controld": checkUnknown,
			"fencing": checkUnknown}},
		"no fencing": {with("etc/dlm/dlm.conf", "enable_fencing = 0 # for now\n"), "quorate",
			map[string]string{"fencing": checkFailed}},
		"no debugfs": {with("proc/self/mounts", "proc /proc proc rw 0 0\n"), "quorate",
			map[string]string{"debugfs": checkWarning}},
		"nothing at all": {map[string]string{"proc/misc": "1 x\n", "proc/self/mounts": debugfs}, "", map[string]string{
			"quorum": checkUnknown, "dlm_controld": checkFailed, "fencing": checkUnknown, "debugfs": checkUnknown}},
		"off, and no dlm_controld": {map[string]string{"proc/misc": "1 x\n", "proc/self/mounts": debugfs,
			"etc/dlm/dlm.conf": "enable_fencing=0\n"}, "quorate", map[string]string{
			"dlm_controld": checkFailed, "fencing": checkFailed, "debugfs": checkUnknown}},
		"locked down": {with("sys/kernel/security/lockdown", "none [integrity] confidentiality"), "quorate",
			map[string]string{"debugfs": checkWarning}},
	} {
		x := examination{host: hostOf(t, tc.files), status: map[string]any{"QuorumState": tc.quorum}}
		x.cluster()
		want := map[string]string{"quorum": checkOK, "dlm_controld": checkOK, "fencing": checkOK, "debugfs": checkOK}
		for check, result := range tc.want {
			want[check] = result
		}
		require.Equal(t, want, results(&x), name)
		for _, c := range x.checks {
			require.Equal(t, c.Result == checkFailed || c.Result == checkWarning, c.Advice != "" && c.Result != checkUnknown,
				"%s: %s", name, c.Name)
		}
	}
}

func TestDoctorOnLockspaces(t *testing.T) {
	yes, no := true, false
	x := examination{}
	x.lockspaces([]client.Lockspace{
		{Name: "good", State: "ready", Locks: 1},
		{Name: "stopped", State: "ready", Health: client.Health{Stopped: &yes, Reason: "fencing node 2"}},
		{Name: "alone", State: "ready", Health: client.Health{Stopped: &yes, Quorate: &no, Reason: "no quorum"}},
		{Name: "broken", State: "failed", Error: "no device"},
		{Name: "joining", State: "joining", Orphans: -1},
		{Name: "orphans", State: "ready", Orphans: 2},
	})
	require.Equal(t, map[string]string{
		"lockspace good": checkOK, "lockspace stopped": checkFailed, "lockspace alone": checkFailed,
		"lockspace broken":  checkFailed,
		"lockspace joining": checkWarning, "lockspace orphans": checkWarning,
	}, results(&x))
	var b bytes.Buffer
	a := &app{printer: printer{out: &output{to: &b}}}
	a.showChecks(x.checks)
	require.Contains(t, b.String(),
		"failed   lockspace stopped: it is stopped: fencing node 2\n         -> it goes on by itself")
	require.Contains(t, b.String(), `bring nodes back until there is a majority`)
	require.True(t, strings.HasSuffix(b.String(), "3 failed, 2 warnings\n"), b.String())

	x = examination{}
	x.lockspaces(nil)
	x.polkit(client.BusView{})
	x.activation(client.BusView{})
	require.Equal(t, map[string]string{"lockspaces": checkWarning, "polkit": checkWarning, "activation": checkWarning},
		results(&x))
}

func TestDoctorOnOtherNodes(t *testing.T) {
	x := examination{status: map[string]any{"Version": "1.2"}}
	x.nodes([]client.Node{
		{ID: 1, Name: "alpha", Self: true, Answers: true, Version: "1.2"},
		{ID: 2, Name: "beta", Answers: true, Version: "1.2"},
		{ID: 3, Answers: true, Version: "1.1"},
		{ID: 4, Name: "delta", Missing: "it is not a member of the cluster now"},
		{ID: 5, Answers: true},
	}, nil)
	require.Equal(t, []check{
		{"node 2 (beta)", checkOK, "dlmlockd 1.2 runs there, as here", ""},
		{"node 3", checkWarning, "dlmlockd 1.1 runs there, and 1.2 here",
			"install the same version on all nodes; an upgrade loses no lock"},
		{"node 4 (delta)", checkUnknown, "could not look: it is not a member of the cluster now", ""},
		{"node 5", checkUnknown, "could not look: its service does not tell its version", ""},
	}, x.checks)

	for name, tc := range map[string]struct {
		x    examination
		err  error
		want check
	}{
		"an older service": {err: errors.New("no such method"), want: check{"nodes", checkUnknown,
			"could not look at the services of the other nodes: no such method", ""}},
		"embedded": {x: examination{local: true}, want: check{"nodes", checkSkipped,
			"the embedded engine has no other nodes", ""}},
		"alone": {want: check{"nodes", checkUnknown, "the service knows of no other node", ""}},
	} {
		tc.x.nodes(nil, tc.err)
		require.Equal(t, []check{tc.want}, tc.x.checks, name)
	}
}
