package state

import (
	"bytes"
	"encoding/hex"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/dlm"
)

// anyName draws arbitrary bytes, with a preference for what is hard to write.
var anyName = rapid.OneOf(
	rapid.StringMatching(`[a-z0-9/_.-]{0,20}`),
	rapid.String(),
	rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 64), func(b []byte) string { return string(b) }),
	rapid.SampledFrom([]string{"", "\"", "\\", "a\\\"b", "\x00", "\n", "\ncheck = \"00000000\"\n",
		"\n[[lock]]\nid = 1\n", "#", "'''", "\ufeff", "\u202e", "é", "\xff"}),
)

var anyID = rapid.Uint64Range(1, 12)

var anyLock = rapid.Custom(func(t *rapid.T) Lock {
	l := Lock{
		ID:         rapid.OneOf(anyID, rapid.Uint64Range(1, 1<<63-2)).Draw(t, "id"),
		Lockspace:  rapid.OneOf(rapid.SampledFrom([]string{"a", "b"}), anyName).Draw(t, "lockspace"),
		Resource:   anyName.Draw(t, "resource"),
		LockID:     dlm.LockID(rapid.Uint32().Draw(t, "lockid")),
		Mode:       rapid.SampledFrom(dlm.Modes[:]).Draw(t, "mode"),
		Phase:      rapid.SampledFrom([]Phase{Granted, Held, Releasing}).Draw(t, "phase"),
		Token:      rapid.Uint64().Draw(t, "token"),
		HasOwner:   rapid.Bool().Draw(t, "has owner"),
		Label:      anyName.Draw(t, "label"),
		Lifetime:   rapid.SampledFrom([]Lifetime{Persistent, Connection, Process}).Draw(t, "lifetime"),
		UID:        rapid.Uint32().Draw(t, "uid"),
		PID:        rapid.Uint32().Draw(t, "pid"),
		PIDStart:   rapid.Uint64Range(0, 1<<63-1).Draw(t, "pid start"),
		Session:    anyName.Draw(t, "sender"),
		SessionBus: anyName.Draw(t, "bus id"),
	}
	if l.HasOwner {
		l.Owner = anyName.Draw(t, "owner")
	}
	if rapid.Bool().Draw(t, "has since") {
		l.Since = time.Unix(rapid.Int64Range(-62135596799, 253402300799).Draw(t, "s"),
			rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC()
	}
	return l
})

var anyMark = rapid.Custom(func(t *rapid.T) Mark {
	m := Mark{ID: anyID.Draw(t, "id"), Phase: Phase(rapid.IntRange(0, int(Gone)).Draw(t, "phase"))}
	if m.HasMode = rapid.Bool().Draw(t, "has mode"); m.HasMode {
		m.Mode, m.Token = rapid.SampledFrom(dlm.Modes[:]).Draw(t, "mode"), rapid.Uint64().Draw(t, "token")
	}
	if m.Session = anyName.Draw(t, "sender"); m.Session != "" {
		m.SessionBus = anyName.Draw(t, "bus id")
	}
	return m
})

var anySpace = rapid.Custom(func(t *rapid.T) Lockspace {
	return Lockspace{
		Name:     rapid.OneOf(rapid.SampledFrom([]string{"a", "b"}), anyName).Draw(t, "name"),
		Phase:    SpacePhase(rapid.IntRange(int(Creating), int(Left)).Draw(t, "phase")),
		AnchorID: dlm.LockID(rapid.Uint32().Draw(t, "anchor")),
	}
})

var anyChange = rapid.OneOf(rapid.Map(anyLock, asChange[Lock]), rapid.Map(anyMark, asChange[Mark]),
	rapid.Map(anySpace, asChange[Lockspace]))

func asChange[T Change](c T) Change { return c }

// model is what a file should say, kept in the simplest way.
type model struct {
	locks  map[uint64]Lock
	spaces map[string]Lockspace
	nextID uint64
}

func (m *model) apply(c Change) {
	switch c := c.(type) {
	case Lock:
		m.locks[c.ID] = c
		m.nextID = max(m.nextID, c.ID+1)
	case Mark:
		m.nextID = max(m.nextID, c.ID+1)
		l, ok := m.locks[c.ID]
		if !ok {
			return
		}
		if c.Phase != 0 {
			l.Phase = c.Phase
		}
		if c.HasMode {
			l.Mode, l.Token = c.Mode, c.Token
		}
		if c.Session != "" {
			l.Session, l.SessionBus = c.Session, c.SessionBus
		}
		m.locks[c.ID] = l
		if l.Phase == Gone {
			delete(m.locks, c.ID)
		}
	case Lockspace:
		m.spaces[c.Name] = c
		if c.Phase != Left {
			return
		}
		delete(m.spaces, c.Name)
		for id, l := range m.locks {
			if l.Lockspace == c.Name {
				delete(m.locks, id)
			}
		}
	}
}

func (m *model) check(t *rapid.T, c Contents) {
	locks := []Lock{}
	for _, l := range m.locks {
		locks = append(locks, l)
	}
	slices.SortFunc(locks, func(a, b Lock) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	require.Equal(t, locks, append([]Lock{}, c.Locks...))
	require.Len(t, c.Spaces, len(m.spaces))
	for i, s := range c.Spaces {
		require.Equal(t, m.spaces[s.Name], s)
		require.True(t, i == 0 || c.Spaces[i-1].Name < s.Name)
	}
	require.Equal(t, m.nextID, c.NextID)
	require.Empty(t, c.Damage)
}

// Whatever is appended, and whenever the file is compacted, reopened or cut off in the middle of a
// write, it says what the model says, and it is TOML.
func TestFileIsTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		require.NoError(rt, err)
		f, _, err := Open(dir, testOptions())
		require.NoError(rt, err)
		defer func() { f.Close() }()
		m := model{locks: map[uint64]Lock{}, spaces: map[string]Lockspace{}, nextID: 1}
		again := func(rt *rapid.T, torn bool) {
			require.NoError(rt, f.Close())
			var c Contents
			f, c, err = Open(dir, testOptions())
			require.NoError(rt, err)
			require.Equal(rt, torn, c.Torn)
			m.check(rt, c)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				changes := rapid.SliceOfN(anyChange, 0, 4).Draw(rt, "changes")
				require.NoError(rt, f.Append(changes))
				for _, c := range changes {
					m.apply(c)
				}
			},
			"compact": func(rt *rapid.T) { require.NoError(rt, compactNow(f)) },
			"reopen":  func(rt *rapid.T) { again(rt, false) },
			"crash in a write": func(rt *rapid.T) {
				c := anyChange.Draw(rt, "change")
				text := appendChange(nil, c)
				cut := rapid.IntRange(1, len(text)-1).Draw(rt, "cut")
				_, err := f.fd.WriteAt(text[:cut], f.size)
				require.NoError(rt, err)
				if cut == len(text)-1 {
					m.apply(c) // the padding ends its last line
				}
				again(rt, cut > 1 && cut < len(text)-1)
			},
			"": func(rt *rapid.T) {
				text, err := os.ReadFile(f.Path())
				require.NoError(rt, err)
				var any map[string]any
				require.NoError(rt, toml.Unmarshal(text, &any))
			},
		})
	})
}

// foreign* are the schema as a user of a TOML library would write it.
type (
	foreignFile struct {
		foreignHeader
		Copy   foreignHeader  `toml:"header-copy"`
		Locks  []foreignTable `toml:"lock"`
		Marks  []foreignTable `toml:"mark"`
		Spaces []foreignTable `toml:"lockspace"`
	}
	foreignHeader struct {
		Format      int       `toml:"format"`
		BootID      string    `toml:"boot-id"`
		NodeID      uint32    `toml:"node-id"`
		Cluster     *string   `toml:"cluster"`
		ClusterHex  string    `toml:"cluster-hex"`
		Engine      string    `toml:"engine"`
		Instance    string    `toml:"instance"`
		Created     time.Time `toml:"created"`
		NextID      int64     `toml:"next-id"`
		CheckString string    `toml:"check"`
	}
	foreignTable struct {
		ID            int64     `toml:"id"`
		Lockspace     string    `toml:"lockspace"`
		LockspaceHex  string    `toml:"lockspace-hex"`
		Name          string    `toml:"name"`
		NameHex       string    `toml:"name-hex"`
		Resource      string    `toml:"resource"`
		ResourceHex   string    `toml:"resource-hex"`
		LockID        uint32    `toml:"lockid"`
		AnchorID      uint32    `toml:"anchor-lockid"`
		Mode          string    `toml:"mode"`
		Phase         string    `toml:"phase"`
		Token         string    `toml:"token"`
		Owner         *string   `toml:"owner"`
		OwnerHex      string    `toml:"owner-hex"`
		Label         string    `toml:"label"`
		LabelHex      string    `toml:"label-hex"`
		Lifetime      string    `toml:"lifetime"`
		UID           uint32    `toml:"uid"`
		PID           uint32    `toml:"pid"`
		PIDStart      int64     `toml:"pid-start"`
		Session       string    `toml:"sender"`
		SessionHex    string    `toml:"sender-hex"`
		SessionBus    string    `toml:"bus-id"`
		SessionBusHex string    `toml:"bus-id-hex"`
		Since         time.Time `toml:"since"`
		CheckString   string    `toml:"check"`
	}
)

func either(text, hexText string) string {
	if hexText == "" {
		return text
	}
	b, err := hex.DecodeString(hexText)
	if err != nil {
		return "not hexadecimal: " + hexText
	}
	return string(b)
}

func (r foreignTable) token() uint64 {
	n, _ := strconv.ParseUint(r.Token, 10, 64)
	return n
}

func (r foreignTable) mode() dlm.Mode {
	m, _ := dlm.ParseMode(r.Mode)
	return m
}

func (r foreignTable) lock() Change {
	l := Lock{
		ID: uint64(r.ID), Lockspace: either(r.Lockspace, r.LockspaceHex), Resource: either(r.Resource, r.ResourceHex),
		LockID: dlm.LockID(r.LockID), Mode: r.mode(), Phase: Phase(slices.Index(phaseNames[:], r.Phase)),
		Token: r.token(),
		Label: either(r.Label, r.LabelHex), UID: r.UID, PID: r.PID, PIDStart: uint64(r.PIDStart),
		Session: either(r.Session, r.SessionHex), SessionBus: either(r.SessionBus, r.SessionBusHex), Since: r.Since,
	}
	l.Lifetime, _ = ParseLifetime(r.Lifetime)
	if r.Owner != nil || r.OwnerHex != "" {
		l.HasOwner, l.Owner = true, either(deref(r.Owner), r.OwnerHex)
	}
	return l
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (r foreignTable) mark() Change {
	m := Mark{ID: uint64(r.ID), Session: either(r.Session, r.SessionHex),
		SessionBus: either(r.SessionBus, r.SessionBusHex)}
	if r.Phase != "" {
		m.Phase = Phase(slices.Index(phaseNames[:], r.Phase))
	}
	if r.Mode != "" {
		m.HasMode, m.Mode, m.Token = true, r.mode(), r.token()
	}
	return m
}

func (r foreignTable) space() Change {
	return Lockspace{Name: either(r.Name, r.NameHex), Phase: SpacePhase(slices.Index(spacePhaseNames[:], r.Phase)),
		AnchorID: dlm.LockID(r.AnchorID)}
}

// A general TOML parser reads from every record exactly what was put into it.
func TestOthersReadWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := testHeader()
		h.Format, h.Cluster, h.Created = format, anyName.Draw(rt, "cluster"), aTime
		changes := rapid.SliceOfN(anyChange, 1, 5).Draw(rt, "changes")
		text := appendHeader(nil, h, 77)
		for _, c := range changes {
			require.NoError(rt, validate(c))
			text = appendChange(text, c)
		}
		var file foreignFile
		dec := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
		require.NoError(rt, dec.Decode(&file), "%s", text)
		require.Equal(rt, file.foreignHeader.BootID, file.Copy.BootID)
		require.Equal(rt, h.Cluster, either(deref(file.Copy.Cluster), file.Copy.ClusterHex))
		require.Equal(rt, int64(77), file.NextID)
		require.True(rt, h.Created.Equal(file.Created))
		var locks, marks, spaces, gotLocks, gotMarks, gotSpaces []Change
		for _, c := range changes {
			switch c.(type) {
			case Lock:
				locks = append(locks, c)
			case Mark:
				marks = append(marks, c)
			case Lockspace:
				spaces = append(spaces, c)
			}
		}
		for _, r := range file.Locks {
			gotLocks = append(gotLocks, r.lock())
		}
		for _, r := range file.Marks {
			gotMarks = append(gotMarks, r.mark())
		}
		for _, r := range file.Spaces {
			gotSpaces = append(gotSpaces, r.space())
		}
		require.Equal(rt, locks, gotLocks)
		require.Equal(rt, marks, gotMarks)
		require.Equal(rt, spaces, gotSpaces)
		require.False(rt, strings.ContainsFunc(string(text),
			func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }))
	})
}
