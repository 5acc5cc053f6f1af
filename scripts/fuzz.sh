#!/bin/bash
# Runs every fuzz target of the module for a while: scripts/fuzz.sh 5s
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=${1:-5s}
found=0
while read -r dir; do
    # A target's name from the source: go test can fuzz one at a time only.
    while read -r target; do
        found=$((found + 1))
        echo "$dir $target"
        go test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" </dev/null
    done < <(cat "$dir"/*_test.go | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p')
done < <(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./... | grep .)
((found > 0)) || {
    echo 'no fuzz targets found' >&2
    exit 1
}
