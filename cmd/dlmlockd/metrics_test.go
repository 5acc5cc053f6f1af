package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/internal/buildinfo"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// families reads metrics as node_exporter's textfile collector does, after promtool has found nothing
// wrong with them.
func families(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "apt-get install prometheus\n%s\n%s", out, text)
	require.Empty(t, string(out))
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(text))
	require.NoError(t, err, text)
	return all
}

// sampleSpaces are lockspaces in different states.
var sampleSpaces = []api.LockspaceInfo{
	{Name: "vms", State: api.SpaceReady, Locks: 3, Waiting: 2, HasHealth: true},
	{Name: "unseen", State: api.SpaceReady, Orphans: -1},
	{Name: "images", State: api.SpaceFailed, Orphans: 4},
	{Name: "stopped", State: api.SpaceReady, HasHealth: true, Health: dlm.Health{Stopped: true}},
}

// byLabel are the values of a gauge by one label; where another label is named, only those with the
// value 1, by its value.
func byLabel(f *dto.MetricFamily, label, where string) map[string]any {
	all := map[string]any{}
	for _, m := range f.GetMetric() {
		var key, state string
		for _, l := range m.Label {
			switch l.GetName() {
			case label:
				key = l.GetValue()
			case where:
				state = l.GetValue()
			}
		}
		if where == "" {
			all[key] = m.GetGauge().GetValue()
		} else if m.GetGauge().GetValue() == 1 {
			all[key] = state
		}
	}
	return all
}

func TestMetrics(t *testing.T) {
	st := api.Status{Quorum: api.Quorate, Locks: 3, Waiting: 2, Degraded: "no space"}
	st.Counters = api.Counters{Granted: 7, Refused: 1 << 53, Lost: 1}
	st.Counters.Latency.Buckets[0], st.Counters.Latency.Buckets[16], st.Counters.Latency.Buckets[17] = 4, 2, 1
	st.Counters.Latency.Sum = 90 * time.Minute
	var b bytes.Buffer
	require.NoError(t, encodeMetrics(&b, st, sampleSpaces, buildinfo.Build{Version: `1"2\3` + "\n", Commit: "ff"}))
	read := families(t, b.String())
	require.Equal(t, dto.MetricType_COUNTER, read["dlmlockd_locks_granted_total"].GetType(), "for node_exporter")
	require.InDelta(t, 7, read["dlmlockd_locks_granted_total"].Metric[0].GetCounter().GetValue(), 0)
	require.InDelta(t, float64(1<<53), read["dlmlockd_requests_refused_total"].Metric[0].GetCounter().GetValue(), 0)
	require.InDelta(t, 1, read["dlmlockd_degraded"].Metric[0].GetGauge().GetValue(), 0)
	started := read["dlmlockd_start_time_seconds"].Metric[0].GetGauge().GetValue()
	require.InDelta(t, time.Now().Unix(), started, 3600)
	require.Contains(t, b.String(), `version="1\"2\\3\n"`)
	h := read["dlmlockd_grant_latency_seconds"].Metric[0].Histogram
	require.Equal(t, uint64(7), h.GetSampleCount())
	require.InDelta(t, 5400, h.GetSampleSum(), 0)
	require.Equal(t, uint64(6), h.Bucket[16].GetCumulativeCount())
	require.InDelta(t, 3600, h.Bucket[16].GetUpperBound(), 0)

	require.Equal(t, map[string]any{"vms": 1.0, "images": 0.0, "stopped": 0.0},
		byLabel(read["dlmlockd_lockspace_ready"], "lockspace", ""))
	require.Equal(t, map[string]any{"vms": 0.0, "images": 4.0, "stopped": 0.0},
		byLabel(read["dlmlockd_lockspace_orphans"], "lockspace", ""))
	require.Equal(t, map[string]any{"vms": 2.0, "unseen": 0.0, "images": 0.0, "stopped": 0.0},
		byLabel(read["dlmlockd_lockspace_requests_waiting"], "lockspace", ""))
	require.Equal(t, map[string]any{"vms": "ready", "unseen": "ready", "images": "failed", "stopped": "stopped"},
		byLabel(read["dlmlockd_lockspace_state"], "lockspace", "state"))

	b.Reset()
	require.NoError(t, encodeMetrics(&b, api.Status{}, nil, buildinfo.Build{}))
	families(t, b.String())
}

// Nobody who reads the metrics takes an unknown value for a healthy node, nor for a sick one.
func TestQuorumInMetrics(t *testing.T) {
	for q, want := range map[api.Quorum]string{
		api.QuorumUnknown: "known 0", api.Quorate: "known 1, quorate 1", api.Inquorate: "known 1, quorate 0",
	} {
		var b bytes.Buffer
		require.NoError(t, encodeMetrics(&b, api.Status{Quorum: q}, nil, buildinfo.Build{}))
		read := families(t, b.String())
		got := fmt.Sprintf("known %v", read["dlmlockd_quorum_known"].Metric[0].GetGauge().GetValue())
		if f := read["dlmlockd_quorate"]; f != nil {
			got += fmt.Sprintf(", quorate %v", f.Metric[0].GetGauge().GetValue())
		}
		require.Equal(t, want, got)
	}
}

const monitoring = "../../data/monitoring/"

// The alert rules are valid, come when they should, and not on a healthy node.
func TestAlertRules(t *testing.T) {
	out, err := exec.Command("promtool", "check", "rules", monitoring+"dlmlockd.rules.yml").CombinedOutput()
	require.NoError(t, err, "apt-get install prometheus\n%s", out)
	text, err := os.ReadFile("testdata/rules.test.yml")
	require.NoError(t, err)
	rules, err := filepath.Abs(monitoring + "dlmlockd.rules.yml")
	require.NoError(t, err)
	test := filepath.Join(t.TempDir(), "test.yml")
	require.NoError(t, os.WriteFile(test, bytes.ReplaceAll(text, []byte("RULES"), []byte(rules)), 0o600))
	out, err = exec.Command("promtool", "test", "rules", test).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// The rules and the dashboard use metrics that the service writes, and no others.
func TestMonitoringKnowsTheMetrics(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, encodeMetrics(&b, api.Status{Quorum: api.Quorate}, sampleSpaces, buildinfo.Build{}))
	written := families(t, b.String())
	used := map[string]bool{}
	for _, name := range []string{"dlmlockd.rules.yml", "dlmlockd-dashboard.json"} {
		text, err := os.ReadFile(monitoring + name)
		require.NoError(t, err)
		for _, metric := range regexp.MustCompile(`\bdlmlockd_[a-z_]+`).FindAllString(string(text), -1) {
			metric = strings.TrimSuffix(metric, "_bucket")
			require.Contains(t, written, metric, name)
			used[metric] = true
		}
	}
	require.Greater(t, len(used), 12)
	text, err := os.ReadFile(monitoring + "dlmlockd-dashboard.json")
	require.NoError(t, err)
	require.True(t, json.Valid(text))
}

// The file exists while the service runs, complete at every moment and readable by everybody. A
// place that can't be written to is reported once, and has no other effect.
func TestMetricsFile(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	metrics := filepath.Join(dir, "dlmlockd.prom")
	file := configured(t, "lockspaces = [\"vms\"]\nmetrics-file = \""+metrics+"\"\n")
	p := launch(t, program(t), bus.Address, t.TempDir(), nil, "--config="+file)
	p.awaitTold(t, "READY=1")
	c := newClient(bus.Dial(t))
	_, err := c.acquire("vms", "a", "EX")
	require.NoError(t, err)
	reload := func(text string) {
		t.Helper()
		p.forget()
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		require.NoError(t, p.cmd.Process.Signal(unix.SIGHUP))
		p.awaitTold(t, "READY=1")
	}
	// Each reload writes it, too.
	require.Eventually(t, func() bool {
		reload("lockspaces = [\"vms\"]\nmetrics-file = \"" + metrics + "\"\n")
		text, err := os.ReadFile(metrics)
		return err == nil && strings.Contains(string(text), "dlmlockd_locks_granted_total 1\n")
	}, patience, 20*time.Millisecond)
	text, err := os.ReadFile(metrics)
	require.NoError(t, err)
	families(t, string(text))
	info, err := os.Stat(metrics)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), info.Mode().Perm())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "nothing else is left")

	absent := filepath.Join(dir, "absent", "dlmlockd.prom")
	reload("metrics-file = \"" + absent + "\"\n")
	p.await(t, "the complaint", logs("the metrics file can't be written"))
	require.NoFileExists(t, metrics)
	require.NoError(t, os.Mkdir(filepath.Dir(absent), 0o700))
	reload("metrics-file = \"" + absent + "\"\n")
	p.await(t, "that it can again", logs("can be written again"))
	require.FileExists(t, absent)

	// Something else in its place: a fifo is replaced, without waiting for a reader, and a
	// directory stays.
	require.NoError(t, os.Remove(absent))
	require.NoError(t, unix.Mkfifo(absent, 0o600))
	reload("metrics-file = \"" + absent + "\"\n")
	require.Eventually(t, func() bool { info, err := os.Lstat(absent); return err == nil && info.Mode().IsRegular() },
		patience, 5*time.Millisecond)
	taken := filepath.Join(dir, "taken.prom")
	require.NoError(t, os.Mkdir(taken, 0o700))
	p.forget()
	reload("metrics-file = \"" + taken + "\"\n")
	p.await(t, "the complaint", logs("the metrics file can't be written"))
	reload("metrics-file = \"" + absent + "\"\n")
	p.await(t, "that it can again", logs("can be written again"))
	require.DirExists(t, taken)
	require.Equal(t, exitOK, p.stop(t))
	require.NoFileExists(t, absent, "the last numbers are not those of now")
}
