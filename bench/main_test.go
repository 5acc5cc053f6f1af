package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dlmlock/dlmlockd/internal/benchreport"
)

// With these in the environment the test program plays another role.
const (
	envFloor        = "BENCH_FLOOR_BUS"     // the service with the empty method, on this bus
	envFlood        = "BENCH_FLOOD"         // the number of a kind of flood, and the bus
	envVarlinkFlood = "BENCH_FLOOD_VARLINK" // the number of a kind of flood over Varlink, and the socket
	envVarlinkFloor = "BENCH_FLOOR_VARLINK" // the same over Varlink, at this socket
	envReport       = "BENCH_REPORT"        // the file to write the table to
	envDaemon       = "BENCH_DLMLOCKD"      // the daemon to measure
)

func TestMain(m *testing.M) {
	if address := os.Getenv(envFloor); address != "" {
		serveFloor(address)
		return
	}
	if socket := os.Getenv(envVarlinkFloor); socket != "" {
		serveVarlinkFloor(socket)
		return
	}
	if arg := os.Getenv(envFlood); arg != "" {
		runFlooder(arg)
		return
	}
	if arg := os.Getenv(envVarlinkFlood); arg != "" {
		runVarlinkFlooder(arg)
		return
	}
	code := m.Run()
	if len(report) > 0 {
		code = publish("bench", table(), code)
	}
	if len(floodReport) > 0 {
		code = publish("bench-floods", floodTable(floodReport), code)
	}
	if len(varlinkFloodReport) > 0 {
		code = publish("bench-floods (Varlink)", floodTable(varlinkFloodReport), code)
	}
	os.Exit(code)
}

// publish prints a table and, if all went well, writes it into the document.
func publish(target, text string, code int) int {
	fmt.Printf("\n%s", text)
	if path := os.Getenv(envReport); path != "" && code == 0 {
		if err := benchreport.Write(path, target, benchreport.Machine()+"\n"+text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

// line is one line of the table.
type line struct{ what, measured, floor, ratio, goal string }

var report []line

// add puts a line into the table; a benchmark that runs again replaces its own.
func add(l line) {
	i := slices.IndexFunc(report, func(o line) bool { return o.what == l.what })
	if i < 0 {
		report = append(report, l)
	} else {
		report[i] = l
	}
}

func table() string {
	var b strings.Builder
	b.WriteString("| what | measured | floor | ratio | goal |\n| --- | --- | --- | --- | --- |\n")
	for _, l := range report {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", l.what, l.measured, l.floor, l.ratio, l.goal)
	}
	return b.String()
}

// interleave runs the functions in turns, so a busy moment of the machine affects each of them, and
// returns the median time of each.
func interleave(rounds int, fs ...func()) []time.Duration {
	times := make([][]time.Duration, len(fs))
	for _, f := range fs {
		f() // warm
	}
	for range rounds {
		for i, f := range fs {
			began := time.Now()
			f()
			times[i] = append(times[i], time.Since(began))
		}
	}
	medians := make([]time.Duration, len(fs))
	for i := range times {
		slices.Sort(times[i])
		medians[i] = times[i][len(times[i])/2]
	}
	return medians
}

func micros(d time.Duration) string {
	return fmt.Sprintf("%.1f us", float64(d.Nanoseconds())/1000)
}

func ratio(a, b time.Duration) string { return fmt.Sprintf("%.2f", float64(a)/float64(b)) }

// daemonPath is the daemon to measure, as make build leaves it.
func daemonPath(tb testing.TB) string {
	path := os.Getenv(envDaemon)
	if path == "" {
		path = "../bin/dlmlockd"
	}
	path, err := filepath.Abs(path)
	must(tb, err)
	if _, err := os.Stat(path); err != nil {
		tb.Fatalf("%v: make build", err)
	}
	return path
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
