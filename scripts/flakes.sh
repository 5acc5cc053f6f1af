#!/bin/bash
# Looks for flaky tests: runs each package's tests many times under load, and says
# which of them failed how often.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/flakes.sh [OPTION]... PACKAGE...

Builds the tests of each package once, with the race detector, and runs them many
times in shuffled order, in several copies at once. Then it lists the tests that
failed, and how often. The status is 1 if there are any.

  --runs=N      runs of each copy (20)
  --copies=N    copies that run beside each other (2)
  --procs=LIST  values of GOMAXPROCS, taken in turn ("1 2 4")
  --busy=N      busy loops beside the tests (1)
  --run=REGEXP  only these tests, as with go test
  --logs=DIR    where the logs of failed runs go (a new temporary directory)

Packages are named as for go test, in this module: ./varlink/... is one or more.
Tests that need root need it here as well. A log names the seed of its order:
repeat it with go test -race -shuffle=SEED.

  scripts/flakes.sh ./varlink/... ./frontend
  scripts/flakes.sh --runs=100 --run='^TestShutdown$' ./varlink/wire
END
}

runs=20 copies=2 procs='1 2 4' busy=1 run='' logs=''
while (($# > 0)); do
    case $1 in
    --help | -h) usage && exit ;;
    --runs=*) runs=${1#*=} ;;
    --copies=*) copies=${1#*=} ;;
    --procs=*) procs=${1#*=} ;;
    --busy=*) busy=${1#*=} ;;
    --run=*) run=${1#*=} ;;
    --logs=*) logs=$(realpath -m "${1#*=}") ;;
    -*)
        usage >&2
        exit 2
        ;;
    *) break ;;
    esac
    shift
done
(($# > 0)) || { usage >&2 && exit 2; }

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
logs=${logs:-$(mktemp -d)}
mkdir -p "$logs"
work=$(mktemp -d)
end() {
    local started
    mapfile -t started < <(jobs -p)
    ((${#started[@]} == 0)) || kill "${started[@]}"
    rm -rf "$work"
}
trap end EXIT
read -ra procs <<<"$procs"
tags=godbus_no_tcp
if pkg-config --exists libdlm_lt; then
    tags+=' libdlm'
fi

# The tests of one package, once, in place of the shell that calls this. Such a shell has
# what it starts ignore Ctrl-C, which tests send.
once() {
    cd "$1"
    GOMAXPROCS=$2 exec nice -n 10 env --default-signal=INT,QUIT "$work/test" -test.paniconexit0 -test.count=1 \
        -test.shuffle=on -test.timeout=20m -test.run="$run"
}

# The names of the failed tests in a log, without the groups that they are in.
failed() {
    sed -n 's/^ *--- FAIL: \([^ ]*\) .*/\1/p' "$1" | sort | awk '
        NR > 1 && index($0, last "/") != 1 { print last }
        { last = $0 }
        END { if (NR) print last; else print "(no test: a crash, a race, or the time limit)" }'
}

for ((i = 0; i < busy; i++)); do
    nice -n 10 sh -c 'while :; do :; done' &
done

bad=0
while read -r package dir; do
    go test -race -c -tags "$tags" -o "$work/test" "$package"
    [ -e "$work/test" ] || continue # no tests
    began=$SECONDS
    name=${package//\//-}
    for ((i = 0; i < runs; i++)); do
        pids=() of=()
        for ((c = 0; c < copies; c++)); do
            n=${procs[(i + c) % ${#procs[@]}]}
            of+=("$logs/$name.$i.$c.procs$n.log")
            once "$dir" "$n" >"${of[c]}" 2>&1 &
            pids+=($!)
        done
        for ((c = 0; c < copies; c++)); do
            if wait "${pids[c]}"; then
                rm "${of[c]}"
            else
                bad=$((bad + 1))
            fi
        done
    done
    rm "$work/test"
    echo "$package: $((runs * copies)) runs, $(find "$logs" -name "$name.[0-9]*.log" | wc -l) failed," \
        "$(((SECONDS - began) / runs)) s each"
    for log in "$logs/$name".[0-9]*.log; do
        [ ! -e "$log" ] || failed "$log"
    done | sort | uniq -c | sort -rn
done < <(go list -tags "$tags" -f '{{.ImportPath}} {{.Dir}}' "$@")
((bad == 0)) || {
    echo "logs of failed runs: $logs" >&2
    exit 1
}
