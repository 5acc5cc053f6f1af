#!/bin/sh
# controld-sigpipe: the client of a query is gone when dlm_controld answers. It answers with write(2),
# and SIGPIPE ends it, unless whoever started it ignores that signal (systemd does, Pacemaker does not).
# A lockspace of that node stops for good then. One node is enough; dlm_controld runs, no lockspace is
# joined. SPDX-License-Identifier: LGPL-2.1-or-later
set -eu
pid=$(pgrep -o -x dlm_controld)
kill -STOP "$pid"
dlm_tool ls >/dev/null 2>&1 &
query=$!
sleep 1 # it has sent the query and waits for the answer
kill -KILL "$query"
wait "$query" 2>/dev/null || true
kill -CONT "$pid"
for _ in 1 2 3 4 5 6 7 8 9 10; do
    if ! kill -0 "$pid" 2>/dev/null || grep -q "^[^ ]* (dlm_controld) Z" "/proc/$pid/stat"; then
        echo "present: dlm_controld is gone"
        exit 1
    fi
    sleep 0.3
done
echo "absent: dlm_controld runs"
