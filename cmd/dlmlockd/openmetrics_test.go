package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// strict reads OpenMetrics text with the parser of the format's own project, which refuses
// everything that the specification does not allow.
const strict = `
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    print(family.type, family.name, len(family.samples))
`

func openMetrics(t *testing.T, text string) string {
	t.Helper()
	cmd := exec.Command("/usr/bin/python3", "-c", strict)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "apt-get install python3-prometheus-client\n%s\n%s", out, text)
	return string(out)
}

// textFormat reads it as node_exporter's textfile collector does.
func textFormat(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	require.NoError(t, err, text)
	return families
}

func TestOpenMetrics(t *testing.T) {
	st := api.Status{Quorum: api.Quorate, Locks: 3, Waiting: 2, Degraded: "no space"}
	st.Counters = api.Counters{Granted: 7, Refused: 1 << 53, Lost: 1}
	st.Counters.Latency.Buckets[0], st.Counters.Latency.Buckets[16], st.Counters.Latency.Buckets[17] = 4, 2, 1
	st.Counters.Latency.Sum = 90 * time.Minute
	spaces := []api.LockspaceInfo{
		{Name: "vms", State: api.SpaceReady, Locks: 3, HasHealth: true},
		{Name: "unseen", State: api.SpaceReady},
		{Name: "images", State: api.SpaceFailed},
		{Name: "stopped", State: api.SpaceReady, HasHealth: true, Health: dlm.Health{Stopped: true}},
	}
	var b bytes.Buffer
	require.NoError(t, writeOpenMetrics(&b, st, spaces, buildinfo.Build{Version: `1"2\3` + "\n", Commit: "ff"}))
	families := openMetrics(t, b.String())
	for _, want := range []string{
		"gauge dlmlockd_build_info 1\n", "gauge dlmlockd_locks 4\n", "counter dlmlockd_locks_granted 1\n",
		"histogram dlmlockd_grant_latency_seconds 20\n",
	} {
		require.Contains(t, families, want)
	}
	read := textFormat(t, b.String())
	require.InDelta(t, 7, read["dlmlockd_locks_granted_total"].Metric[0].GetUntyped().GetValue(), 0)
	require.InDelta(t, float64(1<<53), read["dlmlockd_requests_refused_total"].Metric[0].GetUntyped().GetValue(), 0)
	require.InDelta(t, 1, read["dlmlockd_degraded"].Metric[0].GetGauge().GetValue(), 0)
	require.Equal(t, "1\"2\\3\n", read["dlmlockd_build_info"].Metric[0].Label[0].GetValue())
	h := read["dlmlockd_grant_latency_seconds"].Metric[0].Histogram
	require.Equal(t, uint64(7), h.GetSampleCount())
	require.InDelta(t, 5400, h.GetSampleSum(), 0)
	require.Equal(t, uint64(6), h.Bucket[16].GetCumulativeCount())
	require.InDelta(t, 3600, h.Bucket[16].GetUpperBound(), 0)
	ready := map[string]float64{}
	for _, m := range read["dlmlockd_lockspace_ready"].Metric {
		ready[m.Label[0].GetValue()] = m.GetGauge().GetValue()
	}
	require.Equal(t, map[string]float64{"vms": 1, "images": 0, "stopped": 0}, ready)

	b.Reset()
	require.NoError(t, writeOpenMetrics(&b, api.Status{}, nil, buildinfo.Build{}))
	openMetrics(t, b.String())
}

// Nobody who reads the metrics takes an unknown value for a healthy node, nor for a sick one.
func TestQuorumInMetrics(t *testing.T) {
	for q, want := range map[api.Quorum]string{api.QuorumUnknown: "known 0", api.Quorate: "known 1, quorate 1",
		api.Inquorate: "known 1, quorate 0"} {
		var b bytes.Buffer
		require.NoError(t, writeOpenMetrics(&b, api.Status{Quorum: q}, nil, buildinfo.Build{}))
		openMetrics(t, b.String())
		read := textFormat(t, b.String())
		got := fmt.Sprintf("known %v", read["dlmlockd_quorum_known"].Metric[0].GetGauge().GetValue())
		if f := read["dlmlockd_quorate"]; f != nil && len(f.Metric) > 0 {
			got += fmt.Sprintf(", quorate %v", f.Metric[0].GetGauge().GetValue())
		}
		require.Equal(t, want, got)
	}
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
	openMetrics(t, string(text))
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
