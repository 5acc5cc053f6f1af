package state

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sampleFile returns the text of a file with sampleChanges, and the offsets at which its parts end:
// the header, its copy, then each record.
func sampleFile() (text []byte, ends []int, h Header) {
	h = testHeader()
	h.Format, h.Instance, h.Created = format, "0123456789abcdef0123456789abcdef", aTime
	text = appendHeader(nil, h, 3)
	ends = []int{bytes.Index(text, []byte("\n"+copyTable)), len(text)}
	for _, c := range sampleChanges() {
		text = appendChange(text, c)
		ends = append(ends, len(text))
	}
	return text, ends, h
}

// partOf returns which part the byte at i belongs to, and whether it is the
// empty line before it.
func partOf(ends []int, i int) (part int, emptyLine bool) {
	for i >= ends[part] {
		part++
	}
	return part, part > 0 && i == ends[part-1]
}

// foldOf returns the result of changes, by way of a sound file.
func foldOf(t *testing.T, changes []Change) Contents {
	t.Helper()
	_, _, h := sampleFile()
	text := appendHeader(nil, h, 3)
	for _, c := range changes {
		text = appendChange(text, c)
	}
	l, err := load(bytes.NewReader(text), int64(len(text)), false)
	require.NoError(t, err)
	require.Empty(t, l.Damage)
	require.False(t, l.Torn)
	return l.Contents
}

func without(changes []Change, i int) []Change {
	return append(append([]Change(nil), changes[:i]...), changes[i+1:]...)
}

// A file that is cut anywhere says what it said when that much had been written. It never ends inside
// a header, because the headers exist before the file gets its name, nor inside a record, because
// that is written over padding (TestCutInThePadding): both are damage.
func TestCutAtEveryByte(t *testing.T) {
	text, ends, h := sampleFile()
	dir := t.TempDir()
	var folds []Contents
	for n := range len(ends) - 1 {
		folds = append(folds, foldOf(t, sampleChanges()[:n]))
	}
	for cut := range text {
		require.NoError(t, os.WriteFile(stateOf(dir), text[:cut], 0o600))
		f, c, err := Open(dir, testOptions())
		require.NoError(t, err, "cut at %d", cut)
		records := -2 // whole ones
		for _, end := range ends {
			if end <= cut {
				records++
			}
		}
		if records < 0 {
			require.NotEmpty(t, c.Damage, "cut at %d", cut)
			kept, err := os.ReadFile(dir + "/" + c.Quarantined)
			require.NoError(t, err)
			require.Equal(t, text[:cut], kept)
			require.NoError(t, os.Remove(dir+"/"+c.Quarantined))
			require.Empty(t, c.Locks)
		} else {
			// A single empty line looks like padding; without its line break, the last line of a
			// record is incomplete.
			inside := cut > ends[records+1]+1
			require.False(t, c.Torn, "cut at %d", cut)
			require.Equal(t, inside, len(c.Damage) == 1, "cut at %d", cut)
			require.Equal(t, h, f.Header())
			require.Equal(t, folds[records].Locks, c.Locks, "cut at %d", cut)
			require.Equal(t, folds[records].Spaces, c.Spaces, "cut at %d", cut)
			if inside {
				require.Contains(t, c.Damage[0].Reason, "in the middle of a record")
				kept, err := os.ReadFile(dir + "/" + c.Quarantined)
				require.NoError(t, err)
				require.Equal(t, text[:cut], kept)
				require.NoError(t, os.Remove(dir+"/"+c.Quarantined))
				require.NoError(t, f.Close())
				continue
			}
			require.Equal(t, folds[records], c, "cut at %d", cut)
			require.NoError(t, f.Append(sampleChanges()[records:]), "and it goes on from there")
			require.NoError(t, f.Close())
			after, err := os.ReadFile(stateOf(dir))
			require.NoError(t, err)
			require.Equal(t, string(text), string(textOf(after)), "cut at %d", cut)
		}
		require.NoError(t, f.Close())
	}
}

// masks are xored with a byte: single bits, all bits, and those that turn letters and quotes into
// line breaks or brackets.
var masks = []byte{0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff, '"' ^ '\n', 'e' ^ '\n', '0' ^ '\n', '\n' ^ '[',
	'1' ^ '2', ' ' ^ '"', '1' ^ '#'}

// A changed byte costs the record that contains it, and nothing else. In a header it costs nothing,
// because there are two.
func TestFlipEveryByte(t *testing.T) {
	text, ends, h := sampleFile()
	changes := sampleChanges()
	whole := foldOf(t, changes)
	var folds []Contents
	for i := range changes {
		folds = append(folds, foldOf(t, without(changes, i)))
	}
	for i := range text {
		part, emptyLine := partOf(ends, i)
		want := whole
		if part >= 2 && !emptyLine {
			want = folds[part-2]
		}
		for _, mask := range masks {
			text[i] ^= mask
			l, err := load(bytes.NewReader(text), int64(len(text)), false)
			text[i] ^= mask
			require.NoError(t, err)
			if i == len(text)-2 && mask == '"'^'\n' {
				require.True(t, l.Torn, "what is left looks like a write that was cut off before the quote")
				require.Equal(t, want.Locks, l.Locks)
				continue
			}
			ok := len(l.Damage) == 1 && l.Damage[0].Offset <= int64(i) &&
				int64(i) < l.Damage[0].Offset+l.Damage[0].Length &&
				!l.Torn && l.foreign == 0 && l.Header == h && l.NextID >= damageSkip+4 &&
				slices.Equal(l.Locks, want.Locks) && slices.Equal(l.Spaces, want.Spaces)
			require.True(t, ok, "byte %d of part %d, mask %#x: %+v, not %+v", i, part, mask, l, want)
		}
	}
}

// The same through Open: the damaged file is kept as it is, and the new one is
// sound.
func TestOpenQuarantines(t *testing.T) {
	text, ends, h := sampleFile()
	changes := sampleChanges()
	dir := t.TempDir()
	for i := 0; i < len(text); i += 13 {
		text[i] ^= 0x15
		require.NoError(t, os.WriteFile(stateOf(dir), text, 0o600))
		f, c, err := Open(dir, testOptions())
		require.NoError(t, err, i)
		kept, err := os.ReadFile(dir + "/" + c.Quarantined)
		require.NoError(t, err)
		require.Equal(t, string(text), string(kept))
		text[i] ^= 0x15

		want := foldOf(t, changes)
		if part, emptyLine := partOf(ends, i); part >= 2 && !emptyLine {
			want = foldOf(t, without(changes, part-2))
		}
		require.Equal(t, want.Locks, c.Locks)
		require.Equal(t, h, f.Header())
		require.NoError(t, f.Append([]Change{Mark{ID: 3, Phase: Releasing}}))
		require.NoError(t, f.Close())
		f, again, err := Open(dir, testOptions())
		require.NoError(t, err)
		require.Empty(t, again.Damage)
		require.Empty(t, again.Quarantined)
		require.Len(t, again.Locks, len(want.Locks))
		require.Equal(t, want.Spaces, again.Spaces)
		require.Equal(t, c.NextID, again.NextID)
		require.NoError(t, f.Close())
	}
	names, err := filepath.Glob(filepath.Join(dir, quarantinePrefix+"*"))
	require.NoError(t, err)
	require.Len(t, names, (len(text)+12)/13, "every damaged file is kept under a name of its own")
}

// Longer damage: pieces that were overwritten, removed, or doubled. The records that remain are
// records that were written.
func TestPiecesDamaged(t *testing.T) {
	text, _, _ := sampleFile()
	written := map[string]bool{}
	for _, c := range sampleChanges() {
		written[string(appendChange(nil, c))] = true
	}
	for _, size := range []int{1, 2, 7, 20, 64, 300, 1000} {
		for at := 0; at+size <= len(text); at += 7 {
			for name, spoiled := range map[string][]byte{
				"zeros":   splice(text[:at], make([]byte, size), text[at+size:]),
				"missing": splice(text[:at], nil, text[at+size:]),
				"doubled": splice(text[:at+size], text[at:at+size], text[at+size:]),
			} {
				l, err := load(bytes.NewReader(spoiled), int64(len(spoiled)), false)
				require.NoError(t, err)
				for _, lk := range l.Locks {
					require.LessOrEqual(t, lk.ID, uint64(4), "%s, %d bytes at %d", name, size, at)
				}
				for _, r := range soundRecords(spoiled, l) {
					require.True(t, written[r], "%s, %d bytes at %d: %q", name, size, at, r)
				}
			}
		}
	}
}

func splice(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

var aRecord = regexp.MustCompile(`(?s)\[\[.*?\ncheck = "[0-9a-f]{8}"\n`)

// soundRecords cuts the part of a file that was used into records, without the headers.
func soundRecords(text []byte, l *loaded) (records []string) {
	sound := bytes.Clone(text[:l.end])
	for _, d := range l.Damage {
		clear(sound[d.Offset : d.Offset+d.Length])
	}
	for _, r := range aRecord.FindAll(sound, -1) {
		records = append(records, "\n"+string(r))
	}
	return records
}

// It makes no difference where the reader's buffer ends, be it in the middle of a check line or of
// a string that is longer than the buffer.
func TestBufferBoundaries(t *testing.T) {
	h := testHeader()
	h.Format = format
	for _, label := range []int{readSize - 1100, readSize - 800, readSize, 3 * readSize} {
		for shift := range 40 {
			l := aLock(1)
			l.Label = strings.Repeat("x", label+shift*7)
			text := appendChange(appendHeader(nil, h, 1), l)
			text = appendChange(text, aLock(2))
			got, err := load(bytes.NewReader(text), int64(len(text)), false)
			require.NoError(t, err)
			require.Empty(t, got.Damage)
			require.True(t, slices.Equal([]Lock{l, aLock(2)}, got.Locks))
		}
	}
}

// A record whose check is right, but which the encoder would not write, was written by somebody
// else: it is damage, however sensible it looks.
func TestSealedByOthers(t *testing.T) {
	good := "[[mark]]\nid = 1\nphase = \"held\"\n"
	lock := string(appendLock(nil, &Lock{ID: 2, Mode: 5, Phase: Held, Lockspace: "l", Resource: "r"}))
	lock = lock[:len(lock)-checkLen]
	edit := func(from, to string) string {
		require.Contains(t, lock, from)
		return strings.Replace(lock, from, to, 1)
	}
	for name, record := range map[string]string{
		"another table":          "[[thing]]\nid = 1\n",
		"nothing":                "",
		"unknown key":            good + "colour = \"red\"\n",
		"other order":            "[[mark]]\nphase = \"held\"\nid = 1\n",
		"missing key":            edit("mode = \"EX\"\n", ""),
		"twice the same key":     edit("uid = 0\n", "uid = 0\nuid = 0\n"),
		"ID 0":                   edit("id = 2", "id = 0"),
		"ID too large":           edit("id = 2", "id = 9223372036854775807"),
		"lockid too large":       edit("lockid = 0", "lockid = 4294967296"),
		"leading zero":           edit("id = 2", "id = 02"),
		"sign":                   edit("id = 2", "id = +2"),
		"string for integer":     edit("id = 2", "id = \"2\""),
		"integer for string":     edit("resource = \"r\"", "resource = 7"),
		"unknown mode":           edit("\"EX\"", "\"XX\""),
		"mode in lower case":     edit("\"EX\"", "\"ex\""),
		"phase gone in a lock":   edit("\"held\"", "\"gone\""),
		"unknown phase":          edit("\"held\"", "\"hold\""),
		"empty word":             edit("\"held\"", "\"\""),
		"comment":                edit("uid = 0\n", "uid = 0 # root\n"),
		"needless hexadecimal":   edit("resource = \"r\"", "resource-hex = \"72\""),
		"capital hexadecimal":    edit("resource = \"r\"", "resource-hex = \"FF\""),
		"odd hexadecimal":        edit("resource = \"r\"", "resource-hex = \"fff\""),
		"control character":      edit("\"r\"", "\"\x01\""),
		"other escape":           edit("\"r\"", "\"\\u0072\""),
		"invalid UTF-8":          edit("\"r\"", "\"\xff\""),
		"what is left out":       edit("uid = 0\n", "uid = 0\npid = 0\n"),
		"token 0":                edit("phase = \"held\"\n", "phase = \"held\"\ntoken = \"0\"\n"),
		"token too large":        edit("phase = \"held\"\n", "phase = \"held\"\ntoken = \"18446744073709551616\"\n"),
		"time with a zone":       lock + "since = 2026-01-01T00:00:00+01:00\n",
		"time with needless 0":   lock + "since = 2026-01-01T00:00:00.10Z\n",
		"no time":                lock + "since = soon\n",
		"left space of no phase": "[[lockspace]]\nname = \"x\"\nphase = \"\"\n",
		"header again":           string(appendHeader(nil, testHeader(), 1)[len(banner):]),
	} {
		t.Run(name, func(t *testing.T) {
			h := testHeader()
			h.Format = format
			text := append(appendChange(appendHeader(nil, h, 1), aLock(1)), '\n')
			start := len(text)
			text = appendCheck(append(text, record...), start)
			text = appendChange(text, aLock(3))
			l, err := load(bytes.NewReader(text), int64(len(text)), false)
			require.NoError(t, err)
			require.NotEmpty(t, l.Damage)
			require.Equal(t, []Lock{aLock(1), aLock(3)}, l.Locks)
		})
	}
}
