package main

import (
	"io"
	"math"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/dlmlock/dlmlockd/internal/buildinfo"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// processStart is when this program began.
var processStart = time.Now()

// encodeMetrics writes the counters in the text format of Prometheus, version 0.0.4, which is what
// node_exporter's textfile collector reads. data/monitoring has alert rules and a dashboard for them.
func encodeMetrics(w io.Writer, st api.Status, spaces []api.LockspaceInfo, b buildinfo.Build) error {
	var m metrics
	m.add("dlmlockd_build_info", dto.MetricType_GAUGE, "Which build of the service runs.",
		sample(1, "version", b.Version, "commit", b.Commit))
	m.gauge("dlmlockd_start_time_seconds", "When the service started, in seconds since 1970.",
		float64(processStart.UnixMilli())/1000)
	// What is not known has no sample: neither 0 nor 1 would be true.
	m.gauge("dlmlockd_quorum_known", "Whether the cluster could be asked about its quorum.",
		number(st.Quorum != api.QuorumUnknown))
	if st.Quorum != api.QuorumUnknown {
		m.gauge("dlmlockd_quorate", "Whether the cluster has quorum; no sample while that is not known.",
			number(st.Quorum == api.Quorate))
	}
	m.gauge("dlmlockd_degraded", "Whether new locks are refused because the state file can't be written, or it is "+
		"not known whether a process that locks are tied to is alive.", number(st.Degraded != ""))
	m.gauge("dlmlockd_requests_waiting", "Requests that wait for a lock.", float64(st.Waiting))
	m.lockspaces(spaces)
	c := st.Counters
	m.counter("dlmlockd_locks_granted_total", "Locks granted.", c.Granted)
	m.counter("dlmlockd_locks_released_total", "Locks released.", c.Released)
	m.counter("dlmlockd_locks_converted_total", "Locks whose mode was converted.", c.Converted)
	m.counter("dlmlockd_locks_lost_total", "Locks lost.", c.Lost)
	m.counter("dlmlockd_requests_refused_total", "Calls about locks that were answered with an error.", c.Refused)
	m.counter("dlmlockd_requests_canceled_total",
		"Calls about locks that were canceled by the caller, or that ended with it.", c.Canceled)
	m.add("dlmlockd_grant_latency_seconds", dto.MetricType_HISTOGRAM,
		"How long the calls took that ended in a grant, waiting included.", &dto.Metric{Histogram: histogram(&c.Latency)})
	return m.write(w)
}

// spaceStates are the values of the label "state", in the order of a lockspace's life. A lockspace that is
// ready for the service, and stands still for the cluster, is stopped.
var spaceStates = []string{"joining", "ready", "stopped", "leaving", "failed"}

// lockspaces adds what is known of each lockspace.
func (m *metrics) lockspaces(spaces []api.LockspaceInfo) {
	var locks, waiting, orphans, ready, states []*dto.Metric
	for _, s := range spaces {
		locks = append(locks, sample(float64(s.Locks), "lockspace", s.Name))
		waiting = append(waiting, sample(float64(s.Waiting), "lockspace", s.Name))
		if s.Orphans >= 0 { // -1: debugfs can't be read, which must not look like "none"
			orphans = append(orphans, sample(float64(s.Orphans), "lockspace", s.Name))
		}
		stopped := s.HasHealth && s.Health.Stopped
		if s.State != api.SpaceReady || s.HasHealth {
			ready = append(ready, sample(number(s.State == api.SpaceReady && !stopped), "lockspace", s.Name))
		}
		now := s.State.String()
		if now == "ready" && stopped {
			now = "stopped"
		}
		for _, state := range spaceStates {
			states = append(states, sample(number(state == now), "lockspace", s.Name, "state", state))
		}
	}
	m.add("dlmlockd_locks", dto.MetricType_GAUGE, "Locks of the service, by lockspace.", locks...)
	m.add("dlmlockd_lockspace_requests_waiting", dto.MetricType_GAUGE,
		"Requests that wait for a lock, by lockspace.", waiting...)
	m.add("dlmlockd_lockspace_orphans", dto.MetricType_GAUGE,
		"Locks on this node that no record explains; no sample if they can't be seen.", orphans...)
	m.add("dlmlockd_lockspace_ready", dto.MetricType_GAUGE,
		"Whether a lockspace is joined and grants locks; no sample while that is not known.", ready...)
	m.add("dlmlockd_lockspace_state", dto.MetricType_GAUGE,
		"1 for the state that a lockspace is in, 0 for the others.", states...)
}

// metrics is a list of metric families that are to be written.
type metrics struct{ families []*dto.MetricFamily }

// add adds a family, unless it has no sample.
func (m *metrics) add(name string, kind dto.MetricType, help string, samples ...*dto.Metric) {
	if len(samples) > 0 {
		m.families = append(m.families, &dto.MetricFamily{Name: &name, Help: &help, Type: &kind, Metric: samples})
	}
}

func (m *metrics) gauge(name, help string, value float64) {
	m.add(name, dto.MetricType_GAUGE, help, sample(value))
}

func (m *metrics) counter(name, help string, value uint64) {
	v := float64(value)
	m.add(name, dto.MetricType_COUNTER, help, &dto.Metric{Counter: &dto.Counter{Value: &v}})
}

// write encodes the families.
func (m *metrics) write(w io.Writer) error {
	enc := expfmt.NewEncoder(w, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range m.families {
		if err := enc.Encode(f); err != nil {
			return err
		}
	}
	return nil
}

// sample is one value of a gauge; labels are pairs of name and value. The format requires UTF-8,
// but the name of a lockspace may be any bytes.
func sample(value float64, labels ...string) *dto.Metric {
	s := &dto.Metric{Gauge: &dto.Gauge{Value: &value}}
	for i := 0; i < len(labels); i += 2 {
		text := strings.ToValidUTF8(labels[i+1], "?")
		s.Label = append(s.Label, &dto.LabelPair{Name: &labels[i], Value: &text})
	}
	return s
}

func histogram(l *api.Latency) *dto.Histogram {
	h := new(dto.Histogram)
	for i, total := range l.Cumulative() {
		bound := math.Inf(1)
		if i < len(api.LatencyBounds) {
			bound = api.LatencyBounds[i].Seconds()
		}
		h.Bucket = append(h.Bucket, &dto.Bucket{CumulativeCount: &total, UpperBound: &bound})
	}
	count, sum := l.Count(), l.Sum.Seconds()
	h.SampleCount, h.SampleSum = &count, &sum
	return h
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
