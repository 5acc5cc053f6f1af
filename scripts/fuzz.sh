#!/bin/bash
# Runs every fuzz target of both modules: scripts/fuzz.sh 20000x, or for a time: 1m.
# A number of runs is steadier than a short time: go test spends that on making
# interesting inputs smaller, and fails at times when it ends meanwhile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=${1:-20000x}
found=0
while read -r dir; do
    # A target's name from the source: go test can fuzz one at a time only.
    while read -r target; do
        found=$((found + 1))
        echo "$dir $target"
        go test -C "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x </dev/null
    done < <(cat "$dir"/*_test.go | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p')
done < <(for module in . lab; do
    go list -C "$module" -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./...
done | grep .)
((found > 0)) || {
    echo 'no fuzz targets found' >&2
    exit 1
}
