package main

import (
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/dlmlock/dlmlockd/lab/scale/chart"
)

// data is a file with numbers: its columns by name.
type data struct {
	columns []string
	rows    [][]string
}

func read(file string) (data, error) {
	f, err := os.Open(file)
	if err != nil {
		return data{}, err
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comment = '#'
	rows, err := r.ReadAll()
	if err != nil || len(rows) < 2 {
		return data{}, fmt.Errorf("%s has no rows: %w", file, err)
	}
	return data{rows[0], rows[1:]}, nil
}

// number returns a cell, which has to be a number.
func (d data) number(row []string, column string) float64 {
	v, err := strconv.ParseFloat(row[slices.Index(d.columns, column)], 64)
	if err != nil {
		panic(fmt.Sprintf("column %q: %v", column, err))
	}
	return v
}

// points returns y by x of the rows in which the other columns have these values.
func (d data) points(x, y string, factor float64, where map[string]float64) []chart.Point {
	var all []chart.Point
rows:
	for _, row := range d.rows {
		for column, value := range where {
			if d.number(row, column) != value {
				continue rows
			}
		}
		all = append(all, chart.Point{X: d.number(row, x), Y: d.number(row, y) * factor})
	}
	return all
}

// plots draws all pictures.
func plots(dir, pictures string) error {
	files := map[string]data{}
	for _, name := range []string{"model", "recovery", "wide", "convoy", "memory"} {
		d, err := read(filepath.Join(dir, name+".csv"))
		if err != nil {
			return err
		}
		files[name] = d
	}
	for name, c := range map[string]chart.Chart{
		"detection": detection(), "recovery": recovery(files["recovery"], files["wide"]), "traffic": traffic(files["model"]),
		"convoy": convoy(files["convoy"]), "memory": memory(files["model"], files["memory"]),
	} {
		if out := c.Outside(); len(out) > 0 {
			return fmt.Errorf("the axes of %s are too short for %v", name, out)
		}
		if err := os.WriteFile(filepath.Join(pictures, "scale-"+name+".svg"), []byte(c.SVG()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

var (
	clusterAxis = chart.Axis{Label: "nodes in the lockspace", Ticks: []float64{0, 8, 16, 32, 48, 64}}
	memberAxis  = chart.Axis{Label: "nodes in corosync.conf", Ticks: []float64{0, 8, 16, 32, 48, 64}}
)

// detection is how long corosync's default timeouts let a lost node go unnoticed: corosync.conf(5),
// token, token_coefficient and consensus.
func detection() chart.Chart {
	token := chart.Line{Name: "token lost", Bare: true}
	both := chart.Line{Name: "new membership\ntoken + consensus", Bare: true}
	for n := 2; n <= 64; n++ {
		t := 3 + 0.65*float64(n-2)
		token.Points = append(token.Points, chart.Point{X: float64(n), Y: t})
		both.Points = append(both.Points, chart.Point{X: float64(n), Y: 2.2 * t})
	}
	return chart.Chart{Title: "Until the cluster notices that a node is lost",
		Source: "computed from the default timeouts of corosync.conf(5)",
		X:      memberAxis,
		Y:      chart.Axis{Label: "seconds", Ticks: []float64{0, 20, 40, 60, 80, 100}},
		Lines:  []chart.Line{token, both}}
}

// counted says how many locks there are on each resource.
var counted = map[float64]string{1: "one lock", 2: "two locks", 3: "three locks"}

// recovery has the rows of two measurements with the same columns.
func recovery(d, wide data) chart.Chart {
	sizes := []float64{2, 3, 5}
	for _, row := range wide.rows {
		if n := wide.number(row, "nodes"); !slices.Contains(sizes, n) {
			sizes = append(sizes, n)
		}
	}
	d.rows = slices.Concat(d.rows, wide.rows)
	c := chart.Chart{Title: "Recovery of a lockspace after a node has left",
		Source: "measured on emulated nodes",
		X:      chart.Axis{Label: "resources in the lockspace", Ticks: []float64{0, 2500, 5000, 7500, 10_000}},
		Y:      chart.Axis{Label: "milliseconds", Ticks: []float64{0, 500, 1000, 1500, 2000, 2500, 3000, 3500}}}
	for _, nodes := range sizes {
		for _, locks := range []float64{1, min(3, nodes)} {
			c.Lines = append(c.Lines, chart.Line{Name: fmt.Sprintf("%.0f nodes\n%s on each", nodes, counted[locks]),
				Dashed: locks > 1, Paired: locks > 1, Points: d.points("resources", "milliseconds", 1,
					map[string]float64{"nodes": nodes, "locks on each": locks})})
		}
	}
	return c
}

func traffic(d data) chart.Chart {
	c := chart.Chart{Title: "What all nodes send when one has left, with 1,000,000 resources",
		Source: "computed; the kernels of 2 to 12 nodes counted the same",
		X:      clusterAxis,
		Y:      chart.Axis{Label: "megabytes", Log: true, Ticks: []float64{0.01, 0.1, 1, 10, 100, 1000}}}
	for _, l := range []struct {
		name, column string
		locks        float64
	}{
		{"names\nfor the directory", "names bytes", 1}, {"locks\nthree on each resource", "lock bytes", 3},
		{"look-ups\nthree on each resource", "look-up bytes", 3}, {"status\nof the nodes", "status bytes", 1},
	} {
		points := d.points("nodes", l.column, 1e-6, map[string]float64{"locks on each": l.locks})
		points = slices.DeleteFunc(points, func(p chart.Point) bool { return p.Y < 0.01 })
		c.Lines = append(c.Lines, chart.Line{Name: l.name, Points: points, Dashed: l.locks == 3})
	}
	return c
}

func convoy(d data) chart.Chart {
	c := chart.Chart{Title: "One lock that many wait for: time until the next one has it",
		Source: "measured on emulated nodes",
		X:      chart.Axis{Label: "waiters", Log: true, Ticks: []float64{1, 10, 100, 1000, 10_000}},
		Y:      chart.Axis{Label: "milliseconds", Log: true, Ticks: []float64{0.1, 1, 10, 100}}}
	for _, nodes := range []float64{1, 3} {
		c.Lines = append(c.Lines, chart.Line{Name: map[float64]string{1: "all on the master", 3: "on three nodes"}[nodes],
			Points: d.points("waiters", "microseconds for each", 1e-3, map[string]float64{"nodes": nodes})})
	}
	return c
}

// memory is what the kernel of a node needs. The bytes of each structure are in the measurement: node 1
// first takes locks of its own, and then becomes the master of another node's locks.
func memory(d, measured data) chart.Chart {
	own, copies := measured.slabs("node 1 has 10000 locks"), measured.slabs("node 2 has them too")
	c := chart.Chart{Title: "Kernel memory of the fullest node, with 1,000,000 resources",
		Source: "objects computed, bytes of each measured on a node",
		X:      clusterAxis,
		Y:      chart.Axis{Label: "megabytes", Log: true, Ticks: []float64{1, 10, 100, 1000}}}
	for _, locks := range []float64{1, 3} {
		where := map[string]float64{"locks on each": locks}
		sum := d.points("nodes", "resources of the fullest node", own["dlm_rsb"]/1e6, where)
		for column, bytes := range map[string]float64{
			"locks of the fullest node":  own["dlm_lkb"] + own["kmalloc-96"] + own["kmalloc-32"],
			"copies of the fullest node": copies["dlm_lkb"] + copies["kmalloc-32"],
		} {
			for i, p := range d.points("nodes", column, bytes/1e6, where) {
				sum[i].Y += p.Y
			}
		}
		c.Lines = append(c.Lines, chart.Line{Name: counted[locks] + "\non each resource", Points: sum,
			Dashed: locks == 3})
	}
	return c
}

// slabs returns the bytes of slabs for each object that node 1 got in a step, by cache.
func (d data) slabs(step string) map[string]float64 {
	bytes := map[string]float64{}
	for _, row := range d.rows {
		if row[slices.Index(d.columns, "step")] == step && d.number(row, "node") == 1 {
			bytes[row[slices.Index(d.columns, "cache")]] = d.number(row, "bytes of slabs") / d.number(row, "objects")
		}
	}
	return bytes
}
