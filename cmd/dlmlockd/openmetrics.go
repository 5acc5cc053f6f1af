package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/internal/buildinfo"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// writeOpenMetrics writes the counters as OpenMetrics text 1.0, in a form that readers of
// Prometheus's older text format understand as well, such as node_exporter's textfile collector: no
// timestamps, no exemplars.
func writeOpenMetrics(w io.Writer, st api.Status, spaces []api.LockspaceInfo, b buildinfo.Build) error {
	var m metrics
	m.family("dlmlockd_build_info", "gauge", "", "Which build of the service runs.")
	m.sample("dlmlockd_build_info", 1, "version", b.Version, "commit", b.Commit)
	// A value that is not known has no sample: neither 0 nor 1 would be true.
	m.gauge("dlmlockd_quorum_known", "Whether the cluster could be asked about its quorum.",
		number(st.Quorum != api.QuorumUnknown))
	m.family("dlmlockd_quorate", "gauge", "", "Whether the cluster has quorum; no sample while that is not known.")
	if st.Quorum != api.QuorumUnknown {
		m.sample("dlmlockd_quorate", number(st.Quorum == api.Quorate))
	}
	m.gauge("dlmlockd_degraded",
		"Whether new locks are refused because the state file can't be written, or it is not known "+
			"whether a process that locks are tied to is alive.", number(st.Degraded != ""))
	m.gauge("dlmlockd_requests_waiting", "Requests that wait for a lock.", float64(st.Waiting))

	m.family("dlmlockd_locks", "gauge", "", "Locks of the service, by lockspace.")
	for _, s := range spaces {
		m.sample("dlmlockd_locks", float64(s.Locks), "lockspace", s.Name)
	}
	m.family("dlmlockd_lockspace_ready", "gauge", "",
		"Whether a lockspace is joined and grants locks; no sample while that is not known.")
	for _, s := range spaces {
		if s.State != api.SpaceReady || s.HasHealth {
			m.sample("dlmlockd_lockspace_ready", number(s.State == api.SpaceReady && !s.Health.Stopped), "lockspace",
				s.Name)
		}
	}
	c := st.Counters
	m.counter("dlmlockd_locks_granted", "Locks granted.", c.Granted)
	m.counter("dlmlockd_locks_released", "Locks released.", c.Released)
	m.counter("dlmlockd_locks_converted", "Locks whose mode was converted.", c.Converted)
	m.counter("dlmlockd_locks_lost", "Locks lost.", c.Lost)
	m.counter("dlmlockd_requests_refused", "Calls about locks that were answered with an error.", c.Refused)
	m.counter("dlmlockd_requests_canceled", "Calls about locks that were canceled by, or with, the caller.", c.Canceled)
	m.histogram("dlmlockd_grant_latency_seconds", "How long calls took that ended in a grant, waiting included.",
		&c.Latency)
	m.text.WriteString("# EOF\n")
	_, err := io.WriteString(w, m.text.String())
	return err
}

// metrics is a text that is being written (OpenMetrics 1.0, "Text Format").
type metrics struct{ text strings.Builder }

func (m *metrics) family(name, kind, unit, help string) {
	fmt.Fprintf(&m.text, "# TYPE %s %s\n", name, kind)
	if unit != "" {
		fmt.Fprintf(&m.text, "# UNIT %s %s\n", name, unit)
	}
	fmt.Fprintf(&m.text, "# HELP %s %s\n", name, help)
}

// sample writes one line; labels are pairs of name and value.
func (m *metrics) sample(name string, value float64, labels ...string) {
	m.text.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		m.text.WriteByte(sep)
		fmt.Fprintf(&m.text, `%s="%s"`, labels[i], labelEscapes.Replace(strings.ToValidUTF8(labels[i+1], "?")))
	}
	if len(labels) > 0 {
		m.text.WriteByte('}')
	}
	m.text.WriteString(" " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func (m *metrics) gauge(name, help string, value float64) {
	m.family(name, "gauge", "", help)
	m.sample(name, value)
}

func (m *metrics) counter(name, help string, value uint64) {
	m.family(name, "counter", "", help)
	m.sample(name+"_total", float64(value))
}

func (m *metrics) histogram(name, help string, l *api.Latency) {
	m.family(name, "histogram", "seconds", help)
	var n uint64
	for i, count := range l.Buckets {
		n += count
		bound := "+Inf"
		if i < len(api.LatencyBounds) {
			bound = decimal(api.LatencyBounds[i])
		}
		m.sample(name+"_bucket", float64(n), "le", bound)
	}
	m.sample(name+"_sum", l.Sum.Seconds())
	m.sample(name+"_count", float64(n))
}

// decimal formats a bound as OpenMetrics requires: always with a point.
func decimal(d time.Duration) string {
	s := strconv.FormatFloat(d.Seconds(), 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
