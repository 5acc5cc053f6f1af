#!/bin/bash
# vulncheck.sh TAGS: has govulncheck compare what the programs and the lab call with the
# database of known vulnerabilities of Go and its modules, and fails if it finds any.
#
# The database is https://vuln.go.dev, or GOVULNDB: another URL, or file:///DIRECTORY with
# a copy (the directory data/osv of golang/vulndb will do). If the first can't be reached,
# this says on standard error that nothing was checked, and succeeds, so that the other
# checks can be run without a network. What GOVULNDB names has to be there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

database=${GOVULNDB:-https://vuln.go.dev}
if [[ $database != file:* ]] &&
    ! reason=$(curl --silent --show-error --fail --max-time 20 --output /dev/null "$database/index/db.json" 2>&1); then
    echo "NOT CHECKED for known vulnerabilities: $database can't be reached ($reason)." >&2
    echo "With a copy of it: make vulncheck GOVULNDB=file:///DIRECTORY" >&2
    [[ -z ${GOVULNDB-} ]]
    exit
fi
for module in . lab; do
    echo "$module: with $database"
    "$(go tool -n govulncheck)" -db "$database" -tags "$1" -C "$module" ./...
done
