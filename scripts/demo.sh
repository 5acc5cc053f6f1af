#!/bin/bash
# Shows the main job with real parts, step by step: a private message bus of type
# system with the shipped policy, the real daemon with --engine=local, and busctl.
# It needs root (only root may own the bus name), dbus-daemon and busctl, touches
# nothing outside a temporary directory, and ends with 0 if every step succeeds.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
daemon=${DLMLOCKD:-$here/bin/dlmlockd}
tmp=$(mktemp -d /tmp/dlmlockd-demo.XXXXXX)
bus_pid='' daemon_pid=''
export DBUS_SYSTEM_BUS_ADDRESS="unix:path=$tmp/bus"

cleanup() {
    local code=$?
    trap - EXIT
    [[ -z $daemon_pid ]] || kill "$daemon_pid" 2>/dev/null || true
    [[ -z $daemon_pid ]] || wait "$daemon_pid" 2>/dev/null || true
    [[ -z $bus_pid ]] || kill "$bus_pid" 2>/dev/null || true
    if ((code != 0)); then
        printf '\nThe demo FAILED. What the daemon said:\n'
        cat "$tmp/log" 2>/dev/null || true
    fi
    rm -rf "$tmp"
    exit "$code"
}
trap cleanup EXIT

bold='' plain=''
if [[ -t 1 ]]; then
    bold=$'\e[1m' plain=$'\e[0m'
fi
say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

# quoted prints a command as a person would type it.
quoted() {
    local word line=''
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=-]+$ ]] || word="'$word'"
        line+=" $word"
    done
    printf '%s' "${line# }"
}

# run shows a command and runs it; its output is also in $out.
out=''
run() {
    printf '$ %s\n' "$(quoted "$@")"
    if out=$("$@" 2>&1); then
        [[ -z $out ]] || printf '%s\n' "$out"
        return 0
    fi
    printf '%s\n' "$out"
    return 1
}

# call calls a member of the lock service with busctl.
call() {
    run busctl call org.example.DlmLock /org/example/DlmLock org.example.DlmLock "$@"
}

await() { # what, command...: waits up to ten seconds for the command to succeed
    local what=$1 i
    shift
    for ((i = 0; i < 200; i++)); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.05
    done
    fail "$what did not happen within ten seconds"
}

start_bus() {
    mkdir "$tmp/system.d"
    chmod 755 "$tmp"
    cp "$here/data/org.example.DlmLock.conf" "$tmp/system.d/"
    cat >"$tmp/bus.conf" <<-CONF
	<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
	 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
	<busconfig>
	  <type>system</type>
	  <listen>unix:path=$tmp/bus</listen>
	  <auth>EXTERNAL</auth>
	  <policy context="default">
	    <allow user="*"/>
	    <deny own="*"/>
	    <deny send_type="method_call"/>
	    <allow send_type="signal"/>
	    <allow send_requested_reply="true" send_type="method_return"/>
	    <allow send_requested_reply="true" send_type="error"/>
	    <allow receive_type="method_call"/>
	    <allow receive_type="method_return"/>
	    <allow receive_type="error"/>
	    <allow receive_type="signal"/>
	    <allow send_destination="org.freedesktop.DBus"/>
	  </policy>
	  <includedir>$tmp/system.d</includedir>
	</busconfig>
	CONF
    dbus-daemon --config-file="$tmp/bus.conf" --nofork --nopidfile 2>"$tmp/bus.log" &
    bus_pid=$!
    await 'the bus' busctl --no-pager status
}

start_daemon() {
    printf '$ dlmlockd --engine=local &\n'
    # A copy: the service reads no file that somebody else than its user could change.
    cp "$here/data/dlmlockd.toml" "$tmp/" && chmod 644 "$tmp/dlmlockd.toml"
    "$daemon" --engine=local --config="$tmp/dlmlockd.toml" --state-dir="$tmp/state" 2>>"$tmp/log" &
    daemon_pid=$!
    await 'the start of dlmlockd' busctl status org.example.DlmLock
}

[[ -x $daemon ]] || fail "$daemon is missing: make build"
[[ $(id -u) == 0 ]] || fail 'run it as root: only root may own the bus name (make demo does)'
for tool in dbus-daemon busctl; do
    command -v "$tool" >/dev/null || fail "$tool is missing: make deps"
done

say 'A message bus of its own, of type system, with the policy that dlmlockd ships'
start_bus
say 'The lock service, with the embedded single-node lock manager'
start_daemon
say 'Join the lockspace "vms"'
call JoinLockspace 'sa{sv}' vms 0

say 'Lock the disk "disk1" exclusively for the virtual machine "web"'
call Acquire 'sssa{sv}' vms disk1 EX 2 owner s web label s /images/disk1.qcow2
read -r _ lockid token _ <<<"$out"
echo "  -> lockid $lockid, fencing token $token"

say 'Who holds it?'
call Inspect ss vms disk1
[[ $out == *'"web"'* ]] || fail 'Inspect does not name the owner'

say 'Somebody else wants it too, and is refused'
if call Acquire 'sssa{sv}' vms disk1 EX 1 owner s db; then
    fail 'a second exclusive lock was granted'
fi

say 'The daemon dies in the hardest way; nobody tells it anything'
echo "\$ kill -9 $daemon_pid"
kill -9 "$daemon_pid"
wait "$daemon_pid" 2>/dev/null || true
daemon_pid=''
say 'What it wrote down is a TOML file, plain to read (for root)'
sed -n '/^\[\[lock\]\]/,$p' "$tmp/state/state.toml" | grep . || fail 'no lock in the state file'

say 'It is started again'
start_daemon
say 'The lock is still there, under the same lockid'
call ListLocks 'a{sv}' 1 owner s web
[[ $out == *"\"disk1\" $lockid \"EX\""* ]] || fail "the lock is not listed under lockid $lockid"
say 'A client that was restarted too just asks again, and gets the same lock'
call Acquire 'sssa{sv}' vms disk1 EX 2 owner s web label s /images/disk1.qcow2
read -r _ again _ <<<"$out"
[[ $again == "$lockid" ]] || fail "the lockid was $lockid and is $again"
echo "  -> lockid $again, as before"
say 'Somebody else is still refused'
if call Acquire 'sssa{sv}' vms disk1 EX 1 owner s db; then
    fail 'a second exclusive lock was granted after the restart'
fi

say 'Release it, by name and owner'
call Release 'ssa{sv}' vms disk1 1 owner s web
say 'Now the other one gets it'
call Acquire 'sssa{sv}' vms disk1 EX 1 owner s db
call ReleaseOwner ss vms db

say 'An orderly stop'
kill "$daemon_pid"
wait "$daemon_pid" || fail "dlmlockd ended with $?"
daemon_pid=''
say 'Done: acquired, inspected, survived kill -9 under the same lockid, released.'
