package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// How a period ended.
const (
	endHeld      = "held"      // it has not ended
	endReleased  = "released"  // by a release, or with the lifetime of the lock
	endConverted = "converted" // it goes on in another mode
	endLost      = "lost"
	endWaited    = "waited"  // the request was not granted
	endUnknown   = "unknown" // the journal does not tell, for example because the node crashed
)

// period is a time in which one lock was held in one mode, or in which a request
// waited in vain.
type period struct {
	Host      string     `json:"host,omitempty"`
	Lockspace string     `json:"lockspace"`
	Resource  string     `json:"resource"`
	LockID    uint32     `json:"lockid,omitempty"`
	Mode      string     `json:"mode,omitempty"`
	Owner     string     `json:"owner,omitempty"`
	Label     string     `json:"label,omitempty"`
	UID       *uint32    `json:"uid,omitempty"`
	From      *time.Time `json:"from,omitempty"` // nil: before the journal begins
	Until     *time.Time `json:"until,omitempty"`
	Held      *int64     `json:"held_usec,omitempty"`   // nil: one of the two ends is not known
	Waited    *int64     `json:"waited_usec,omitempty"` // for the grant, or in vain
	End       string     `json:"end"`                   // one of those above
	Reason    string     `json:"reason,omitempty"`

	boot string // of the host, at the beginning: no lock survives a boot
}

// chronicle makes periods of the entries of the journal.
type chronicle struct {
	done   []*period
	open   map[string]*period // by host, lockspace and lockid
	boots  map[string]string  // the last boot of each host in the journal
	missed int                // lines that the service left out
}

func newChronicle() *chronicle {
	return &chronicle{open: map[string]*period{}, boots: map[string]string{}}
}

// begin makes the period that begins with an entry, or has been going on.
func begin(e entry) *period {
	f := e.fields
	p := &period{Host: f["_HOSTNAME"], Lockspace: f["DLM_LOCKSPACE"], Resource: f["DLM_RESOURCE"], Owner: f["DLM_OWNER"],
		Label: f["DLMLOCKD_LABEL"], End: endHeld, boot: f["_BOOT_ID"]}
	if m := f["DLM_MODE"]; m != "--" {
		p.Mode = m
	}
	if n, err := strconv.ParseUint(f["DLM_LKID"], 10, 32); err == nil {
		p.LockID = uint32(n)
	}
	if n, err := strconv.ParseUint(f["CALLER_UID"], 10, 32); err == nil {
		uid := uint32(n)
		p.UID = &uid
	}
	if d, err := time.ParseDuration(f["DLMLOCKD_WAITED"]); err == nil {
		usec := d.Microseconds()
		p.Waited = &usec
	}
	return p
}

// finish ends a period. The times are those of the journal's entries, so they are a little later than the
// events.
func (p *period) finish(at time.Time, end, reason string) {
	p.Until, p.End, p.Reason = &at, end, reason
	if p.From != nil {
		usec := at.Sub(*p.From).Microseconds()
		p.Held = &usec
	}
}

// add takes the next entry. The entries of one host come in their order; a key (host, lockspace, lockid) means
// one lock at a time, since the kernel uses a lockid again only after its lock has ended.
func (c *chronicle) add(e entry) {
	p := begin(e)
	id := e.fields["MESSAGE_ID"]
	if id == msgIncomplete {
		n, _ := strconv.Atoi(e.fields["DLMLOCKD_LINES"])
		c.missed += n
		return
	}
	c.rebooted(p.Host, p.boot)
	key := fmt.Sprintf("%s\x00%s\x00%d", p.Host, p.Lockspace, p.LockID)
	old := c.open[key]
	if old != nil && old.Resource != p.Resource { // the lockid belongs to another lock now
		c.lapse(key)
		old = nil
	}
	switch id {
	case msgWaited:
		c.waited(p, e)
	case msgAcquired, msgAdopted:
		c.lapse(key)
		p.From = &e.at
		c.open[key] = p
	case msgConverted:
		if old == nil {
			old = begun(p)
		}
		c.close(key, old, e.at, endConverted, "to "+p.Mode)
		p.From, p.Label = &e.at, old.Label
		c.open[key] = p
	case msgReleased, msgLost:
		if old == nil {
			old = begun(p)
		}
		if id == msgLost {
			c.close(key, old, e.at, endLost, e.fields["DLM_ERROR"])
		} else {
			c.close(key, old, e.at, endReleased, "")
		}
	}
}

// waited adds a request that was not granted. Its entry is written when the wait ends, and says
// how long the wait was.
func (c *chronicle) waited(p *period, e entry) {
	from := e.at
	if p.Waited != nil {
		from = from.Add(-time.Duration(*p.Waited) * time.Microsecond)
	}
	p.From, p.Until, p.End, p.Reason = &from, &e.at, endWaited, e.fields["DLM_ERROR"]
	c.done = append(c.done, p)
}

// begun is the period that a later entry is the end of, and whose begin is not in
// the journal. Its mode is not known.
func begun(p *period) *period {
	old := *p
	old.Mode, old.Waited = "", nil
	return &old
}

func (c *chronicle) close(key string, p *period, at time.Time, end, reason string) {
	p.finish(at, end, reason)
	c.done = append(c.done, p)
	delete(c.open, key)
}

// lapse ends a period whose end is not in the journal.
func (c *chronicle) lapse(key string) {
	if p := c.open[key]; p != nil {
		p.End = endUnknown
		c.done = append(c.done, p)
		delete(c.open, key)
	}
}

// rebooted ends what was held before a host was booted again: locks end with the
// node.
func (c *chronicle) rebooted(host, boot string) {
	if c.boots[host] == boot {
		return
	}
	c.boots[host] = boot
	for key, p := range c.open {
		if p.Host == host && p.boot != boot {
			c.lapse(key)
		}
	}
}

// periods returns all of them, in the order in which they began.
func (c *chronicle) periods() []*period {
	for _, p := range c.open {
		c.done = append(c.done, p)
	}
	clear(c.open)
	start := func(p *period) time.Time {
		if p.From != nil {
			return *p.From
		}
		return *p.Until
	}
	slices.SortStableFunc(c.done, func(a, b *period) int { return start(a).Compare(start(b)) })
	return c.done
}

func (a *app) historyCmd() *cobra.Command {
	var q journalQuery
	var owner string
	var limit int
	var noLegend bool
	cmd := &cobra.Command{
		Use:   "history [LOCKSPACE [RESOURCE]] [--owner=OWNER] [--since=TIME] [--until=TIME]",
		Short: "Show who held, waited for and lost locks, from the journal",
		Long: `Shows who held locks, since when and for how long, who waited in vain, and what
was lost, from the journal of this node. It needs the right to read the journal of
the system (root, or the group systemd-journal), and not the service. With
--directory it reads the journal of another host, or those that
systemd-journal-remote has collected from all nodes.

END says how the lock ended: released, converted, lost, held (it has not ended),
waited (the request was not granted), or unknown, if the journal does not say.`,
		Example: `  dlmlockctl history vms disk1 --since=-2h
  dlmlockctl history --owner=$uuid --json`,
		SuggestFor:        []string{"log", "journal", "audit", "last"},
		Args:              needs(0, "LOCKSPACE", "RESOURCE"),
		ValidArgsFunction: a.complete(lockspaces, resources),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.lockspace, q.resource = scope(args)
			if cmd.Flags().Changed("limit") && limit < 1 {
				return wrongUsage("--limit=%d: use 1 or more", limit)
			}
			return a.history(cmd.Context(), &q, owner, limit, noLegend)
		},
	}
	f := cmd.Flags()
	f.StringVar(&owner, "owner", "", "only of this owner")
	f.StringVar(&q.since, "since", "", "from this `TIME` on, as journalctl(1) reads it: today, -2h, \"2026-01-02 03:04\"")
	f.StringVar(&q.until, "until", "", "up to this `TIME`")
	f.IntVar(&limit, "limit", 0, "at most this many, the latest (default: all)")
	f.StringVar(&q.directory, "directory", "", "read the journal in this `DIRECTORY`")
	f.BoolVar(&noLegend, "no-legend", false, "without the heading")
	a.completeFlag(cmd, "owner", owners)
	if err := cmd.MarkFlagDirname("directory"); err != nil {
		panic(err)
	}
	return cmd
}

func (a *app) history(ctx context.Context, q *journalQuery, owner string, limit int, noLegend bool) error {
	c := newChronicle()
	if err := q.read(ctx, c.add); err != nil {
		return q.why(ctx, err)
	}
	if q.directory == "" { // what was held before this boot has ended, even if nothing was logged since
		c.rebooted(thisBoot())
	}
	all := c.periods()
	if owner != "" {
		all = slices.DeleteFunc(all, func(p *period) bool { return p.Owner != owner })
	}
	if limit > 0 && len(all) > limit {
		all = all[len(all)-limit:]
	}
	if c.missed > 0 && !a.quiet {
		fmt.Fprintf(a.err, "dlmlockctl: the history is not complete: the service left out %s, because there were too many\n",
			plural(c.missed, "line"))
	}
	if all == nil {
		all = []*period{}
	}
	return a.show(all, func() {
		switch {
		case len(all) > 0:
			a.historyTable(all, noLegend).write(a.out)
		case q.knowsLocks(ctx):
			a.none("history")
		default:
			a.none("history: the journal has no entry of dlmlockd about any lock; it may log elsewhere")
		}
	})
}

// thisBoot returns the name of this host and its boot, as the journal has them.
func thisBoot() (host, boot string) {
	host, _ = os.Hostname()
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return host, strings.ReplaceAll(strings.TrimSpace(string(id)), "-", "")
}

// historyTable shows periods to people.
func (p *printer) historyTable(all []*period, noLegend bool) *table {
	t := &table{heading: []string{"RESOURCE", "MODE", "OWNER", "FROM", "HELD", "END"}, noLegend: noLegend,
		elastic: []string{"RESOURCE", "OWNER", "END"}}
	several := slices.ContainsFunc(all, func(one *period) bool { return one.Host != all[0].Host })
	if p.wide {
		t.heading = []string{"RESOURCE", "MODE", "LOCKID", "UID", "OWNER", "FROM", "UNTIL", "HELD", "WAITED", "HOST",
			"LABEL", "END"}
		t.elastic = nil
	} else if several {
		t.heading = slices.Insert(t.heading, 1, "HOST")
	}
	for _, one := range all {
		row := one.cells(p.wide)
		cells := make([]cell, len(t.heading))
		for i, h := range t.heading {
			cells[i] = row[h]
		}
		t.add(cells...)
	}
	return t
}

// cells returns the fields of a period by heading.
func (p *period) cells(long bool) map[string]cell {
	who := p.Owner
	if who == "" && !long {
		who = p.Label
	}
	row := map[string]cell{
		"RESOURCE": text(p.Lockspace + "/" + p.Resource), "MODE": text(p.Mode), "OWNER": text(who), "HOST": text(p.Host),
		"LABEL": text(p.Label), "END": p.ending(),
	}
	if p.LockID != 0 {
		row["LOCKID"] = number(p.LockID)
	}
	if p.UID != nil {
		row["UID"] = number(*p.UID)
	}
	if p.From != nil {
		row["FROM"] = since(*p.From, long)
	}
	if p.Until != nil {
		row["UNTIL"] = since(*p.Until, long)
	}
	if p.Held != nil {
		row["HELD"] = span(*p.Held)
	} else if p.End == endHeld && p.From != nil {
		row["HELD"] = span(time.Since(*p.From).Microseconds())
	}
	if p.Waited != nil {
		row["WAITED"] = span(*p.Waited)
	}
	return row
}

// ending describes how a period ended, or says that it has not ended.
func (p *period) ending() cell {
	switch p.End {
	case endLost:
		return cell{"LOST: " + visible(p.Reason), red}
	case endConverted:
		return text("converted " + p.Reason)
	case endWaited:
		return cell{"waited in vain for " + span(p.Until.Sub(*p.From).Microseconds()).text, yellow}
	case endHeld:
		return cell{endHeld, green}
	}
	return text(p.End)
}

// span shows how long something took, in two units at most.
func span(usec int64) cell {
	d := time.Duration(usec) * time.Microsecond
	switch {
	case d >= 48*time.Hour:
		return text(fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour))
	case d >= time.Hour:
		return text(fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute))
	case d >= time.Minute:
		return text(fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second))
	case d >= time.Second:
		return text(d.Round(100 * time.Millisecond).String())
	}
	return text(d.Round(time.Millisecond / 10).String())
}
