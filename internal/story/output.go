package story

import (
	"bytes"
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/state"
)

// Output is where a command prints.
type Output struct {
	buf   bytes.Buffer
	names *names
	place Place
	who   string // "n1", "bob@n1"
	node  int
}

// Say prints a line that begins with who was asked.
func (o *Output) Say(format string, a ...any) { fmt.Fprintf(&o.buf, o.who+": "+format+"\n", a...) }

// Line prints a line.
func (o *Output) Line(format string, a ...any) { fmt.Fprintf(&o.buf, format+"\n", a...) }

// Write prints text as it is.
func (o *Output) Write(text []byte) (int, error) { return o.buf.Write(text) }

// Orphan is how the lockid of a lock is printed that is not known to be one of
// the service: a letter.
func (o *Output) Orphan(id uint32) string { return o.names.orphan(o.node, id) }

// NewOrphan is how the lockid of a lock is printed that nobody had before.
func (o *Output) NewOrphan(id uint32) string {
	o.names.purged(o.node, []uint32{id})
	return o.names.orphan(o.node, id)
}

// Lock is how the lockid of a lock of the service is printed.
func (o *Output) Lock(number uint64, id uint32) string {
	return o.names.lock(o.node, godbus.ObjectPath(fmt.Sprintf("/%d", number)), id)
}

// LockID returns the lockid that a letter stands for.
func (o *Output) LockID(letter string) (uint32, error) {
	id, ok := o.names.ids[letter]
	if !ok {
		return 0, fmt.Errorf("no lock has been printed as %q", letter)
	}
	return id, nil
}

func (o *Output) describe(l *client.Lock) string {
	text := fmt.Sprintf("%s/%s %s", l.Lockspace, l.Resource, orDash(l.Mode))
	if l.LockID != 0 {
		text += " lkid=" + o.names.lock(o.node, l.Lock, l.LockID)
	}
	text += " " + l.State
	if l.Owner != "" {
		text += " owner=" + l.Owner
	}
	if l.UID != 0 {
		text += fmt.Sprintf(" uid=%d", l.UID)
	}
	return text
}

func orDash(mode string) string {
	if mode == "" {
		return "--"
	}
	return mode
}

// Locks prints a list of locks.
func (o *Output) Locks(locks []client.Lock) {
	o.Say("%d locks", len(locks))
	for i := range locks {
		o.Line("  %s", o.describe(&locks[i]))
	}
}

// Candidates are the locks of which a call meant one and did not say which. An
// error that wraps them is printed with them.
type Candidates struct{ Locks []client.Lock }

func (c *Candidates) Error() string { return "several locks match" }

// State prints what a state file says. dir is an empty directory in which it may
// be opened, and h is of the run that wrote it.
func (o *Output) State(dir string, text []byte, h state.Header) error {
	if err := os.WriteFile(filepath.Join(dir, "state.toml"), text, 0o600); err != nil {
		return err
	}
	f, contents, err := state.Open(dir, state.Options{Header: h, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer f.Close()
	o.Say("%d locks, %d lockspaces recorded", len(contents.Locks), len(contents.Spaces))
	for _, l := range contents.Locks {
		owner := ""
		if l.HasOwner {
			owner = " owner=" + l.Owner
		}
		o.Line("  %s/%s %s lkid=%s %s%s", l.Lockspace, l.Resource, l.Mode, o.Lock(l.ID, uint32(l.LockID)), l.Phase, owner)
	}
	for _, sp := range contents.Spaces {
		o.Line("  %s %s", sp.Name, sp.Phase)
	}
	return nil
}

func (o *Output) lockspaces(spaces []client.Lockspace) {
	if len(spaces) == 0 {
		o.Say("no lockspaces")
	}
	for _, sp := range spaces {
		text := fmt.Sprintf("%s %s, %d locks, %d orphans%s", sp.Name, sp.State, sp.Locks, sp.Orphans, healthText(sp.Health))
		if sp.Error != "" {
			text += ": " + sp.Error
		}
		o.Say("%s", text)
	}
}

func healthText(h client.Health) string {
	text := ""
	if h.Stopped != nil && *h.Stopped {
		text += " stopped: " + h.Reason
	}
	if h.Quorate != nil && !*h.Quorate {
		text += " inquorate"
	}
	return text
}

func (o *Output) inspection(name string, in *client.Inspection) {
	o.Say("%s%s", name, healthText(in.Health))
	for i := range in.Locks {
		o.Line("  here %s", o.describe(&in.Locks[i]))
	}
	for _, l := range in.Lost {
		o.Line("  lost %s/%s %s (%s)", l.Lockspace, l.Resource, l.Mode, l.Reason)
	}
	o.queue("granted", in.Granted, in.Locks)
	o.queue("converting", in.Converting, in.Locks)
	o.queue("waiting", in.Waiting, in.Locks)
	for _, w := range in.Waits {
		o.Line("  %q of node %d for %s waits for %q of node %d in %s",
			w.Who, w.Node, w.Mode, w.ForWho, w.ForNode, w.ForMode)
	}
	text := strings.TrimRight(string(in.Value), "\x00")
	if in.Holder == nil && text != "" && !strings.ContainsRune(text, 0) {
		o.Line("  value: %q valid=%v", text, in.ValueInvalid == nil || !*in.ValueInvalid)
	}
	if h := in.Holder; h != nil && h.Node != 0 {
		o.Line("  value: node %d %s %q", h.Node, h.Mode, h.Who)
	}
	for _, m := range in.Missing {
		o.Line("  missing: %s", m)
	}
}

// queue prints the locks of a queue; on nodes without null locks that are none of
// the service's: the kernel shows the one that reads the value block.
func (o *Output) queue(name string, held []client.Queued, here []client.Lock) {
	if name == "granted" { // its order means nothing
		held = slices.Clone(held)
		slices.SortStableFunc(held, func(a, b client.Queued) int {
			return cmp.Or(cmp.Compare(a.Node, b.Node), strings.Compare(a.Mode, b.Mode))
		})
	}
	for _, h := range held {
		ours := slices.ContainsFunc(here, func(l client.Lock) bool { return l.LockID == h.LockID })
		if o.place == Nodes && !ours && (h.Mode == "NL" || h.Mode == "" && h.Wanted == "NL") {
			continue
		}
		o.Line("  %s %s", name, strings.Join(strings.Fields(fmt.Sprintf("node %d %s %s", h.Node, h.Mode, h.Wanted)), " "))
	}
}

func (o *Output) orphans(found []client.Orphan) {
	o.Say("%d orphans", len(found))
	for _, orphan := range found {
		text := fmt.Sprintf("  %s %s lkid=%s", orphan.Resource, orphan.Mode, o.Orphan(orphan.LockID))
		if orphan.Who != "" {
			text += " who=" + orphan.Who
		}
		o.Line("%s", text)
	}
}

// event prints what the service said unasked, but changes of its properties,
// which status shows.
func (o *Output) event(e *client.Event) {
	if e.Kind == client.StatusChanged {
		return
	}
	line := string(e.Kind)
	for _, word := range []string{e.Lockspace, e.Resource, e.Mode, e.State} {
		if word != "" {
			line += " " + word
		}
	}
	if e.Node != 0 {
		line += fmt.Sprintf(" node %d", e.Node)
	}
	if e.Reason != "" {
		line += " (" + e.Reason + ")"
	}
	o.Line("%s", line)
}
