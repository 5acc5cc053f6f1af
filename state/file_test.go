package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/dlm"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

var aTime = time.Date(2026, 3, 1, 12, 30, 45, 123456000, time.UTC)

// testHeader returns the header of a run in tests.
func testHeader() Header {
	return Header{BootID: "0c6f2a52-6d5b-4b6e-a4a6-7d1f5a0f8a11", NodeID: 1, Cluster: "vms", Engine: "dlm"}
}

func testOptions() Options {
	return Options{Header: testHeader(), Log: quiet(), Now: func() time.Time { return aTime }}
}

// mustOpen opens dir and closes it when the test ends.
func mustOpen(t testing.TB, dir string, o Options) (*File, Contents) {
	t.Helper()
	f, c, err := Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f, c
}

// reopen closes f and returns what the next run finds.
func reopen(t testing.TB, f *File, o Options) (*File, Contents) {
	t.Helper()
	require.NoError(t, f.Close())
	return mustOpen(t, f.dir.path, o)
}

func stateOf(dir string) string { return filepath.Join(dir, stateName) }

func aLock(id uint64) Lock {
	return Lock{
		ID: id, Lockspace: "vms", Resource: fmt.Sprintf("disk%d", id), LockID: dlm.LockID(id), Mode: dlm.EX,
		Phase: Granted,
		Token: id << 40, Owner: "5f3c1f9e-66f0-4a9b-8f6d-2f8a3f1f0c11", HasOwner: true,
		Label: "/var/lib/libvirt/images/a b.qcow2",
		UID:   107, PID: 4242, PIDStart: 99887766, Session: ":1.42", SessionBus: "0123456789abcdef0123456789abcdef",
		Since: aTime,
	}
}

// sampleChanges is a short life with every kind of record in it.
func sampleChanges() []Change {
	odd := aLock(3)
	odd.Resource, odd.Owner, odd.Label = "a\x00\xff\n", `say "hi" \o/`, "Grüße, 東京 \u202e"
	odd.Mode, odd.Lifetime = dlm.PR, Process
	odd.OnLost, odd.OnLostData = "libvirt", "qemu:///system \"pause\"\n"
	bare := Lock{ID: 4, Lockspace: "other", Resource: "r", LockID: 1<<32 - 1, Mode: dlm.NL, Phase: Held,
		Token: 1<<64 - 1, Lifetime: Connection}
	return []Change{
		Lockspace{Name: "vms", Phase: Creating},
		Lockspace{Name: "vms", Phase: Joined, AnchorID: 1},
		Lockspace{Name: "other", Phase: Joined, AnchorID: 7},
		aLock(1), Mark{ID: 1, Phase: Held},
		aLock(2), Mark{ID: 2, Phase: Held}, Mark{ID: 2, Phase: Releasing}, Mark{ID: 2, Phase: Gone},
		odd, Mark{ID: 3, Phase: Held}, Mark{ID: 3, Mode: dlm.EX, Token: 1 << 63, HasMode: true},
		bare, Mark{ID: 4, Session: ":1.77", SessionBus: "guid"}, lostOf(bare),
	}
}

// lostOf returns the record that is written when l is lost.
func lostOf(l Lock) Lock {
	l.Phase, l.OnLost, l.Reason = Lost, "libvirt", "the lockspace was left"
	return l
}

// sampleContents is the result of sampleChanges.
func sampleContents() (locks []Lock, spaces []Lockspace) {
	ch := sampleChanges()
	one, odd, bare := ch[3].(Lock), ch[9].(Lock), ch[12].(Lock)
	one.Phase, odd.Phase = Held, Held
	odd.Mode, odd.Token = dlm.EX, 1<<63
	bare = lostOf(bare)
	return []Lock{one, odd, bare}, []Lockspace{{Name: "other", Phase: Joined, AnchorID: 7},
		{Name: "vms", Phase: Joined, AnchorID: 1}}
}

func TestRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	f, c := mustOpen(t, dir, testOptions())
	require.Equal(t, Contents{NextID: 1}, c)
	require.Equal(t, stateOf(dir), f.Path())
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	info, err = os.Stat(f.Path())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	require.NoError(t, f.Append(nil))
	for _, ch := range sampleChanges() {
		require.NoError(t, f.Append([]Change{ch}))
	}
	h := f.Header()
	require.Len(t, h.Instance, 32)
	require.Equal(t, aTime, h.Created)
	locks, spaces := sampleContents()
	want := Contents{Header: h, Locks: locks, Spaces: spaces, NextID: 5}
	before, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	o := testOptions()
	o.Now = func() time.Time { return aTime.Add(time.Hour) }
	f, c = reopen(t, f, o)
	require.Equal(t, want, c)
	require.Equal(t, h, f.Header(), "the instance and the time of creation are the file's")
	after, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	require.Equal(t, string(before), string(after), "a sound file stays as it is")
}

func TestFold(t *testing.T) {
	l1, l2 := aLock(1), aLock(2)
	l2.Lockspace = "other"
	again := l1
	again.Resource = "new"
	held := func(l Lock) Lock { l.Phase = Held; return l }
	joined := Lockspace{Name: "vms", Phase: Joined, AnchorID: 3}
	for _, tc := range []struct {
		name    string
		changes []Change
		locks   []Lock
		spaces  []Lockspace
		nextID  uint64
	}{
		{"gone", []Change{l1, Mark{ID: 1, Phase: Gone}}, nil, nil, 2},
		{"marks after gone do nothing", []Change{l1, Mark{ID: 1, Phase: Gone}, Mark{ID: 1, Phase: Held}}, nil, nil, 2},
		{"a later lock of an ID replaces", []Change{l1, Mark{ID: 1, Phase: Held}, again}, []Lock{again}, nil, 2},
		{"a mark of nothing", []Change{Mark{ID: 9, Phase: Held}}, nil, nil, 10},
		{"an empty mark", []Change{l1, Mark{ID: 1}}, []Lock{l1}, nil, 2},
		{"locks in any order", []Change{l2, l1}, []Lock{l1, l2}, nil, 3},
		{"left takes its locks along", []Change{joined, l1, l2, Lockspace{Name: "vms", Phase: Left}}, []Lock{l2}, nil,
			3},
		{"left spares later locks", []Change{l1, Lockspace{Name: "vms", Phase: Left}, joined, aLock(3),
			Mark{ID: 3, Phase: Held}, Mark{ID: 1, Phase: Held}},
			[]Lock{held(aLock(3))}, []Lockspace{joined}, 4},
		{"left spares the lost", []Change{joined, l1, l2, lostOf(l1), Lockspace{Name: "vms", Phase: Left}},
			[]Lock{lostOf(l1), l2}, nil, 3},
		{"lost and gone", []Change{l1, Mark{ID: 1, Phase: Held}, lostOf(l1), Mark{ID: 1, Phase: Gone}}, nil, nil, 2},
		{"left by name only", []Change{l2, Lockspace{Name: "vms", Phase: Left}}, []Lock{l2}, nil, 3},
		{"mode without token", []Change{l1, Mark{ID: 1, Mode: dlm.NL, HasMode: true}},
			[]Lock{func() Lock { l := l1; l.Mode, l.Token = dlm.NL, 0; return l }()}, nil, 2},
		{"mode without HasMode", []Change{l1, Mark{ID: 1, Mode: dlm.NL, Token: 7}}, []Lock{l1}, nil, 2},
		{"owner without HasOwner", []Change{Lock{ID: 1, Mode: dlm.EX, Phase: Held, Owner: "x"}},
			[]Lock{{ID: 1, Mode: dlm.EX, Phase: Held}}, nil, 2},
		{"empty owner", []Change{Lock{ID: 1, Mode: dlm.EX, Phase: Held, HasOwner: true}},
			[]Lock{{ID: 1, Mode: dlm.EX, Phase: Held, HasOwner: true}}, nil, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, _ := mustOpen(t, t.TempDir(), testOptions())
			require.NoError(t, f.Append(tc.changes))
			f, c := reopen(t, f, testOptions())
			require.Equal(t, tc.locks, nilIfEmpty(c.Locks))
			require.Equal(t, tc.spaces, c.Spaces)
			require.Equal(t, tc.nextID, c.NextID)

			require.NoError(t, compactNow(f))
			_, c = reopen(t, f, testOptions())
			require.Equal(t, tc.locks, nilIfEmpty(c.Locks), "after compaction")
			require.Equal(t, tc.spaces, c.Spaces, "after compaction")
			require.Equal(t, tc.nextID, c.NextID, "after compaction")
		})
	}
}

func nilIfEmpty(l []Lock) []Lock {
	if len(l) == 0 {
		return nil
	}
	return l
}

func TestAppendRefusesWhatHasNoWords(t *testing.T) {
	f, _ := mustOpen(t, t.TempDir(), testOptions())
	with := func(edit func(*Lock)) Lock { l := aLock(1); edit(&l); return l }
	for i, ch := range []Change{
		with(func(l *Lock) { l.ID = 0 }),
		with(func(l *Lock) { l.ID = 1<<63 - 1 }),
		with(func(l *Lock) { l.Mode = dlm.None }),
		with(func(l *Lock) { l.Mode = 6 }),
		with(func(l *Lock) { l.Phase = 0 }),
		with(func(l *Lock) { l.Phase = Gone }),
		with(func(l *Lock) { l.Lifetime = 3 }),
		with(func(l *Lock) { l.PIDStart = 1 << 63 }),
		with(func(l *Lock) { l.Since = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }),
		Mark{}, Mark{ID: 1, Phase: 5}, Mark{ID: 1, HasMode: true, Mode: dlm.None},
		Lockspace{Name: "x"}, Lockspace{Name: "x", Phase: 5}, nil,
	} {
		err := f.Append([]Change{aLock(1), ch})
		require.ErrorIs(t, err, ErrRecord, "change %d", i)
	}
	_, c := reopen(t, f, testOptions())
	require.Empty(t, c.Locks, "all or nothing")
}

func TestOtherBoot(t *testing.T) {
	dir := t.TempDir()
	f, _ := mustOpen(t, dir, testOptions())
	require.NoError(t, f.Append(sampleChanges()))
	old := f.Header()
	oldText, err := os.ReadFile(f.Path())
	require.NoError(t, err)

	o := testOptions()
	o.Header.BootID = "another"
	o.Header.Engine = "local" // locks of another boot don't prevent that
	f, c := reopen(t, f, o)
	locks, spaces := sampleContents()
	require.Equal(t, Contents{Header: old, Locks: locks, Spaces: spaces, NextID: 5}, c)
	require.NotEqual(t, old.Instance, f.Header().Instance)
	aside, err := os.ReadFile(filepath.Join(dir, previousBootName))
	require.NoError(t, err)
	require.Equal(t, string(oldText), string(aside))

	f, c = reopen(t, f, o)
	require.Empty(t, c.Locks)
	require.Empty(t, c.Spaces)
	require.Equal(t, uint64(5), c.NextID, "IDs go on")

	o.Header.BootID = "a third"
	_, c = reopen(t, f, o)
	require.Equal(t, "another", c.Header.BootID)
	aside, err = os.ReadFile(filepath.Join(dir, previousBootName))
	require.NoError(t, err)
	require.NotEqual(t, string(oldText), string(aside), "one file is kept aside")
}

func TestOtherEngine(t *testing.T) {
	f, _ := mustOpen(t, t.TempDir(), testOptions())
	require.NoError(t, f.Append([]Change{aLock(1)}))
	before, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	require.NoError(t, f.Close())

	o := testOptions()
	o.Header.Engine = "local"
	_, _, err = Open(f.dir.path, o)
	require.ErrorIs(t, err, ErrEngine)
	require.ErrorContains(t, err, "--engine=dlm")
	after, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))

	f, _ = mustOpen(t, f.dir.path, testOptions())
	require.NoError(t, f.Append([]Change{Mark{ID: 1, Phase: Gone}}))
	f, c := reopen(t, f, o)
	require.Equal(t, "dlm", c.Header.Engine)
	require.Equal(t, "local", f.Header().Engine, "with nothing held, the engine may change")
	_, c = reopen(t, f, o)
	require.Equal(t, "local", c.Header.Engine)
}

func TestHeaderOfThisRun(t *testing.T) {
	f, _ := mustOpen(t, t.TempDir(), testOptions())
	require.NoError(t, f.Append([]Change{aLock(1)}))
	instance := f.Header().Instance
	o := testOptions()
	o.Header.NodeID, o.Header.Cluster = 7, "renamed"
	f, c := reopen(t, f, o)
	require.Equal(t, uint32(1), c.Header.NodeID, "as found")
	require.Equal(t, uint32(7), f.Header().NodeID)
	require.Equal(t, instance, f.Header().Instance)
	f, c = reopen(t, f, o)
	require.Equal(t, f.Header(), c.Header)
	require.Equal(t, []Lock{aLock(1)}, c.Locks)

	o.Header.Instance = "mine"
	f, c = reopen(t, f, o)
	require.Equal(t, "mine", f.Header().Instance)
	require.Equal(t, []Lock{aLock(1)}, c.Locks)

	for _, h := range []Header{{Engine: "dlm"}, {BootID: "b"}} {
		_, _, err := Open(t.TempDir(), Options{Header: h})
		require.ErrorIs(t, err, ErrRecord)
	}
}

func TestSecondDaemonRefused(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, pidName), []byte("1\n"), 0o600), "of one that was killed")
	f, _ := mustOpen(t, dir, testOptions())
	require.NoError(t, f.Append([]Change{aLock(1)}))
	_, _, err := Open(f.dir.path, testOptions())
	require.ErrorIs(t, err, ErrInUse)
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, os.Getpid(), e.PID)
	require.Contains(t, e.Error(), "process "+strconv.Itoa(os.Getpid()))
	require.NotEmpty(t, e.Advice)

	require.NoError(t, f.Append([]Change{aLock(2)}), "the first one goes on")
	require.NoError(t, f.Close())
	require.NoError(t, f.Close(), "again")
	err = f.Append([]Change{aLock(3)})
	require.ErrorIs(t, err, os.ErrClosed)
	require.NoFileExists(t, filepath.Join(f.dir.path, pidName))
	_, c := mustOpen(t, f.dir.path, testOptions())
	require.Len(t, c.Locks, 2)
}

func TestNewerFormatRefused(t *testing.T) {
	header := testHeader()
	header.Format = format + 1
	for name, text := range map[string]string{
		"sealed like ours": string(appendHeader(nil, header, 1)),
		"with other checks": "# a comment\n\nformat = 17\nnew-key = true\nsum = \"sha256:00\"\n\n[[lock]]\nid = 1\n" +
			"sum = \"sha256:11\"\n",
		"with our word for check": banner +
			"format = 3\nx = 1\ncheck = \"sha256:0011\"\n\n[[lock]]\ncheck = \"sha256:0011\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(stateOf(dir), []byte(text), 0o600))
			_, _, err := Open(dir, testOptions())
			require.ErrorIs(t, err, ErrFormat)
			after, err := os.ReadFile(stateOf(dir))
			require.NoError(t, err)
			require.Equal(t, text, string(after))
			names, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, names, 1, "nothing else is left")
		})
	}
}

func TestUnsafeFilesRefused(t *testing.T) {
	sound := func(t *testing.T, dir string) {
		f, _ := mustOpen(t, dir, testOptions())
		require.NoError(t, f.Append([]Change{aLock(1)}))
		require.NoError(t, f.Close())
	}
	for _, tc := range []struct {
		name string
		make func(t *testing.T, dir string) error
		says string
	}{
		{"symlink to a sound file", func(t *testing.T, dir string) error {
			sound(t, dir)
			require.NoError(t, os.Rename(stateOf(dir), filepath.Join(dir, "elsewhere")))
			return os.Symlink("elsewhere", stateOf(dir))
		}, "symbolic link"},
		{"symlink out of the directory", func(t *testing.T, dir string) error {
			return os.Symlink("/etc/passwd", stateOf(dir))
		}, "symbolic link"},
		{"dangling symlink", func(t *testing.T, dir string) error { return os.Symlink("nowhere", stateOf(dir)) },
			"symbolic link"},
		{"fifo", func(t *testing.T, dir string) error { return unix.Mkfifo(stateOf(dir), 0o600) }, "fifo"},
		{"directory", func(t *testing.T, dir string) error { return os.Mkdir(stateOf(dir), 0o700) }, "directory"},
		{"group can write", func(t *testing.T, dir string) error {
			sound(t, dir)
			return os.Chmod(stateOf(dir), 0o620)
		}, "0620"},
		{"world can write", func(t *testing.T, dir string) error {
			sound(t, dir)
			return os.Chmod(stateOf(dir), 0o602)
		}, "0602"},
		{"directory that others can write to", func(t *testing.T, dir string) error { return os.Chmod(dir, 0o777) },
			"0777"},
		{"file of another user", func(t *testing.T, dir string) error {
			needRoot(t)
			sound(t, dir)
			return os.Chown(stateOf(dir), 65534, 65534)
		}, "uid 65534"},
		{"directory of another user", func(t *testing.T, dir string) error {
			needRoot(t)
			return os.Chown(dir, 65534, 65534)
		}, "uid 65534"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, tc.make(t, dir))
			_, _, err := Open(dir, testOptions())
			require.ErrorIs(t, err, ErrUnsafe)
			require.ErrorContains(t, err, tc.says)
		})
	}
}

// needRoot skips a test that only root can set up.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives files away or mounts a file system")
	}
}

func TestSymlinksAreNotWrittenThrough(t *testing.T) {
	dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o600))
	for _, name := range []string{temporaryName, pidName, previousBootName} {
		require.NoError(t, os.Symlink(victim, filepath.Join(dir, name)))
	}
	f, _ := mustOpen(t, dir, testOptions())
	o := testOptions()
	o.Header.BootID = "another"
	f, _ = reopen(t, f, o)
	require.NoError(t, f.Append([]Change{aLock(1)}))
	require.NoError(t, compactNow(f))
	require.NoError(t, f.Close())
	text, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "precious", string(text))
}

func TestRemovedUnderneath(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"removed":    os.Remove,
		"moved away": func(p string) error { return os.Rename(p, p+".bak") },
		"edited": func(p string) error {
			return errors.Join(os.WriteFile(p+"~", []byte("x"), 0o600), os.Rename(p+"~", p))
		},
		"a symlink to it": func(p string) error { return errors.Join(os.Rename(p, p+".bak"), os.Symlink(p+".bak", p)) },
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := mustOpen(t, t.TempDir(), testOptions())
			require.NoError(t, f.Append(sampleChanges()))
			require.NoError(t, spoil(f.Path()))
			require.NoError(t, f.Append([]Change{aLock(9)}))
			locks, spaces := sampleContents()
			f, c := reopen(t, f, testOptions())
			require.Equal(t, append(locks, aLock(9)), c.Locks)
			require.Equal(t, spaces, c.Spaces)
			require.Equal(t, f.Header(), c.Header)
			require.Empty(t, c.Damage)
		})
	}
}

func TestChangedUnderneath(t *testing.T) {
	f, _ := mustOpen(t, t.TempDir(), testOptions())
	require.NoError(t, f.Append([]Change{aLock(1)}))
	junk, err := os.OpenFile(f.Path(), os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	_, err = junk.WriteString("junk")
	require.NoError(t, errors.Join(err, junk.Close()))
	require.NoError(t, f.Append([]Change{aLock(2)}), "what somebody appended is cut off")

	_, c := reopen(t, f, testOptions())
	require.Equal(t, []Lock{aLock(1), aLock(2)}, c.Locks)
}

func TestLeftoversAreRemoved(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, temporaryName), []byte("half"), 0o600))
	mustOpen(t, dir, testOptions())
	require.NoFileExists(t, filepath.Join(dir, temporaryName))
}

func TestLogSaysWhatWasDropped(t *testing.T) {
	var log bytes.Buffer
	o := testOptions()
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	f, _ := mustOpen(t, t.TempDir(), o)
	require.NoError(t, f.Append([]Change{aLock(1)}))
	require.NoError(t, f.Append([]Change{aLock(2)}))
	require.NoError(t, f.Close())
	text, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	require.Empty(t, log.String())

	text = textOf(text)
	require.NoError(t, os.WriteFile(f.Path(), append(bytes.Clone(text[:len(text)-3]), "\n\n\n\n"...), 0o600))
	f, c := mustOpen(t, f.dir.path, o)
	require.True(t, c.Torn)
	require.Contains(t, log.String(), "unfinished")
	require.NoError(t, f.Close())

	log.Reset()
	i := strings.Index(string(text), "disk1")
	text[i] ^= 1
	require.NoError(t, os.WriteFile(f.Path(), text, 0o600))
	_, c = mustOpen(t, f.dir.path, o)
	require.Len(t, c.Damage, 1)
	require.Equal(t, "state.toml.corrupt-20260301T123045Z", c.Quarantined)
	require.Contains(t, log.String(), c.Quarantined)
	require.Contains(t, log.String(), fmt.Sprintf("offset %d", c.Damage[0].Offset))
}
