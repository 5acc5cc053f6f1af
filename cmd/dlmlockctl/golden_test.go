package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
)

// rowOnBus is a lock in the answer of ListLocks.
type rowOnBus struct {
	Lock                godbus.ObjectPath
	Lockspace, Resource string
	LockID              uint32
	Mode, Wanted, State string
	Token               uint64
	Owner, Label        string
	Lifetime            string
	UID, PID            uint32
	Since               uint64
	Details             map[string]godbus.Variant
}

// sampleRows are locks whose names are short and long, of this year and of years
// ago.
func sampleRows() []rowOnBus {
	at := uint64(time.Date(2025, 3, 14, 15, 9, 26, 0, time.UTC).UnixMicro())
	const uuid = "4d4b8f3c-6f0e-4b0a-9d52-1f1f6a3c2b11"
	return []rowOnBus{
		{"/org/example/DlmLock/lock/1", "vms", "disk1", 2, "EX", "", "held", 1741964966000000, uuid,
			"/var/lib/libvirt/images/web.qcow2", "persistent", 0, 0, at, nil},
		{"/org/example/DlmLock/lock/2", "vms", "a-resource-whose-name-takes-almost-all-of-the-64-bytes-there-are", 3,
			"PR", "EX", "converting", 1741964966000001, "backup", "nightly backup of the mail store", "persistent", 1000, 0, at,
			nil},
		{"/org/example/DlmLock/lock/3", "images", "größe", 4, "", "PR", "acquiring", 0, "", "", "connection", 1000, 0,
			0, nil},
	}
}

// listed answers ListLocks with the sample rows.
type listed struct{ fake }

func (*listed) ListLocks(o map[string]godbus.Variant) ([]rowOnBus, *godbus.Error) {
	if _, more := o["after"]; more {
		return []rowOnBus{}, nil
	}
	return sampleRows(), nil
}

// spaceOnBus is a lockspace in the answer of ListLockspaces.
type spaceOnBus struct {
	Name, State string
	Locks       uint32
	Orphans     int32
	Details     map[string]godbus.Variant
}

// ListLockspaces answers with lockspaces of many nodes, stopped, and of which little is known.
func (*listed) ListLockspaces() ([]spaceOnBus, *godbus.Error) {
	v := godbus.MakeVariant
	return []spaceOnBus{
		{"vms", "ready", 12, 0, map[string]godbus.Variant{"members": v([]uint32{1, 2, 3}), "stopped": v(false)}},
		{"images", "ready", 3, 2, map[string]godbus.Variant{"members": v([]uint32{1, 3}), "stopped": v(true),
			"reason": v("node 2 is being fenced")}},
		{"backup", "joining", 0, -1, nil},
	}, nil
}

// GetAll answers with the names of two of the nodes.
func (*listed) GetAll(string) (map[string]godbus.Variant, *godbus.Error) {
	return map[string]godbus.Variant{"Nodes": godbus.MakeVariant(map[uint32]string{1: "alpha", 2: "beta"})}, nil
}

// golden compares a text with a file in testdata/golden, or writes it there with
// UPDATE_SCRIPTS set.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata/golden", name)
	if os.Getenv("UPDATE_SCRIPTS") != "" {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), text)
}

// A list fits the terminal, whatever is in it; what does not fit even so, and
// what goes into a pipe, is complete.
func TestListOnTerminals(t *testing.T) {
	bus := startService(t, new(listed))
	t.Setenv("NO_COLOR", "1")
	t.Setenv("TZ", "UTC")
	for _, args := range [][]string{{"list"}, {"list", "-o", "wide"}, {"list", "--columns=name,mode,token",
		"--no-legend"}, {"lockspaces"}, {"lockspaces", "-o", "wide"}} {
		for _, width := range []int{60, 80, 200} {
			tty := onTerminalOf(t, bus, width, args...)
			require.Zero(t, tty.exit(), tty.text())
			text := strings.ReplaceAll(tty.text(), "\r\n", "\n")
			golden(t, fmt.Sprintf("%s-%d.txt", strings.NewReplacer(" ", "", "--", "-", ",", "-", "=",
				"-").Replace(strings.Join(args, "")), width), text)
			for line := range strings.Lines(text) {
				if args[len(args)-1] != "wide" {
					require.LessOrEqual(t, len([]rune(strings.TrimSuffix(line, "\n"))), width, line)
				}
			}
		}
	}
	code, out, errs := program(t, bus, "list")
	require.Zero(t, code, errs)
	require.Contains(t, out, sampleRows()[1].Resource)
	golden(t, "list-pipe.txt", out)
}

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"list", "lsit", 1}, {"acquire", "aquire", 1}, {"monitor", "moniter", 1}, {"run",
		"join", 3}} {
		require.Equal(t, tc.want, distance(tc.a, tc.b), tc)
		require.Equal(t, tc.want, distance(tc.b, tc.a), tc)
	}
	words := []string{"acquire", "release", "release-owner", "list", "leave", "run"}
	for word, want := range map[string]string{"aqcuire": "acquire", "lst": "list", "rel": "release", "nun": "run",
		"x": "", "frobnicate": ""} {
		require.Equal(t, want, closest(word, words), word)
	}
}

// A pid is shown while it says something: not when the process has ended, nor when
// another one has its number.
func TestPIDsThatSayNothing(t *testing.T) {
	bus := startService(t, new(fake))
	c, err := client.Dial(t.Context(), bus.Address)
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	me := uint32(os.Getpid())
	locks := []client.Lock{
		{PID: me, Since: time.Now(), Lifetime: client.Persistent},
		{PID: me, Since: time.Now().Add(-365 * 24 * time.Hour), Lifetime: client.Persistent}, // the number was another's
		{PID: 1 << 30, Since: time.Now(), Lifetime: client.Persistent},
		{PID: 1 << 30, Since: time.Now(), Lifetime: client.Process},
		{PID: me, Lifetime: client.Connection}, // it waits
	}
	forgetPIDs(t.Context(), c, locks)
	var pids []uint32
	for _, l := range locks {
		pids = append(pids, l.PID)
	}
	require.Equal(t, []uint32{me, 0, 0, 1 << 30, me}, pids)
}
