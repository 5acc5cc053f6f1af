// Command scale writes the numbers and pictures of docs/scale.md that need no nodes:
//
//	scale model DATA            DATA/model.csv, what package scale computes for larger clusters
//	scale plots DATA PICTURES   PICTURES/scale-*.svg, from the files in DATA
//
// DATA is lab/scale/data. The other files there are measured on nodes ("make bench-scale").
package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/dlmlock/dlmlockd/lab/scale"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "model":
		return model(context.Background(), filepath.Join(args[1], "model.csv"), resources)
	case len(args) == 3 && args[0] == "plots":
		return plots(args[1], args[2])
	}
	return errors.New("usage: scale model DATA, or scale plots DATA PICTURES")
}

// resources is the number of resources of a computed cluster.
const resources = 1_000_000

var clusterSizes = []int{2, 4, 8, 16, 32, 64}

var modelColumns = []string{"nodes", "resources", "locks on each", "directory entries min", "directory entries max",
	"masters min", "masters max",
	"resources of the fullest node", "locks of the fullest node", "copies of the fullest node",
	"free 0 trips", "free 1 trip", "taken 1 trip", "taken 2 trips",
	"status messages", "names messages", "look-up messages", "lock messages",
	"status bytes", "names bytes", "look-up bytes", "lock bytes", "names one after the other", "steps to grant"}

// model computes clusters of several sizes, with locks in EX, and with locks of three nodes in PR.
func model(ctx context.Context, file string, resources int) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprintln(f, "# computed by lab/scale, after fs/dlm of Linux 6.12: see docs/scale.md")
	w := csv.NewWriter(f)
	if err := w.Write(modelColumns); err != nil {
		return err
	}
	for _, sharers := range []int{1, 3} {
		for _, nodes := range clusterSizes {
			if nodes < sharers {
				continue
			}
			s, err := scale.Summarize(ctx, scale.Workload{Nodes: nodes, Resources: resources, Sharers: sharers, Seed: 1})
			if err != nil {
				return err
			}
			if err := w.Write(cells(s)); err != nil {
				return err
			}
		}
	}
	w.Flush()
	return errors.Join(w.Error(), f.Close())
}

// cells has the numbers of a row in the order of modelColumns.
func cells(s scale.Summary) []string {
	r := s.Recovery
	var row []string
	integers := func(all ...int) {
		for _, n := range all {
			row = append(row, strconv.Itoa(n))
		}
	}
	integers(s.Nodes, s.Workload.Resources, s.Sharers, s.DirectoryEntries[0], s.DirectoryEntries[1], s.Masters[0],
		s.Masters[1], s.Objects.Resources, s.Objects.Locks, s.Objects.Copies)
	for _, share := range []float64{s.Free[0], s.Free[1], s.Taken[1], s.Taken[2]} {
		row = append(row, strconv.FormatFloat(share, 'f', 4, 64))
	}
	integers(r.Status.Messages, r.Names.Messages, r.LookUps.Messages, r.Locks.Messages,
		r.Status.Bytes, r.Names.Bytes, r.LookUps.Bytes, r.Locks.Bytes, r.NameTrips,
		r.GrantSteps)
	return row
}
