"""Tests against the real service, which the Go test that runs them has started: the
environment variable DLMLOCK_ADDRESS is its socket. "restart" on standard output asks
that test to kill the service and start it again; a line on standard input says that it
has."""

import inspect
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest
from typing import Any, Dict, List, Optional

import dlmlock

NOBODY = 65534


def listed(resource: str) -> List[str]:
    """The states of the locks on a resource."""
    with dlmlock.Service() as service:
        try:
            return [row["lock"]["state"] for row in
                    service.replies("ListLocks", lockspace="vms", resource=resource)]
        except dlmlock.Error as e:
            if e.name != "NoSuchLock":
                raise
            return []


def held(resource: str) -> int:
    return listed(resource).count("held")


def nobody_exists() -> bool:
    """Whether this process can become the user nobody. It can't in a user namespace that has only root,
    in which the tests of the packages run."""
    with open("/proc/self/uid_map") as uid_map:
        return any(int(first) <= NOBODY < int(first) + int(count)
                   for first, _, count in map(str.split, uid_map))


class LockTest(unittest.TestCase):
    def test_holds_and_releases(self) -> None:
        last = 0
        for _ in range(2):
            with dlmlock.Lock("vms", "a", label="test") as lock:
                self.assertEqual(held("a"), 1)
                self.assertGreater(lock.token, last)
                last = lock.token
                lock.check()
                with self.assertRaises(dlmlock.WouldBlock):
                    dlmlock.Lock("vms", "a", wait=0).acquire()
                with self.assertRaises(dlmlock.Timeout):
                    dlmlock.Lock("vms", "a", wait=0.05).acquire()
            self.assertEqual(held("a"), 0)
            self.assertFalse(lock.lost)

    def test_waits(self) -> None:
        first = dlmlock.Lock("vms", "w")
        first.acquire()
        token = first.token
        timer = threading.Timer(0.1, first.release)
        timer.start()
        with dlmlock.Lock("vms", "w", wait=20) as second:
            self.assertGreater(second.token, token)
        timer.join()

    def test_leaves_no_wait_behind(self) -> None:
        """An exception that ends a wait withdraws it: nobody would release what it gets."""
        class Enough(Exception):
            pass

        def enough(number: int, frame: Optional[types.FrameType]) -> None:
            raise Enough

        before = signal.signal(signal.SIGALRM, enough)
        try:
            with dlmlock.Lock("vms", "given up"):
                with self.assertRaises(Enough):
                    signal.setitimer(signal.ITIMER_REAL, 0.1)
                    dlmlock.Lock("vms", "given up").acquire()
                self.assertEqual(listed("given up"), ["held"])
            self.assertEqual(listed("given up"), [])
        finally:
            signal.signal(signal.SIGALRM, before)

    def test_readers(self) -> None:
        with dlmlock.Lock("vms", "r", "pr", wait=0), dlmlock.Lock("vms", "r", "pr", wait=0):
            self.assertEqual(held("r"), 2)

    def test_convert_is_no_loss(self) -> None:
        with dlmlock.Lock("vms", "c", "pr") as lock:
            lock.convert("ex", wait=1)
            self.assertEqual(lock.mode, "ex")
            self.assertFalse(lock.wait_lost(0.3), lock.reason)

    def test_check_needs_the_lock(self) -> None:
        def not_held(lock: dlmlock.Lock) -> None:
            with self.assertRaises(dlmlock.NotHeld) as caught:
                lock.check()
            self.assertEqual(caught.exception.name, "NotHeld")
            with self.assertRaises(dlmlock.NotHeld):
                lock.convert("pr")
            self.assertEqual((lock.lost, lock.token, lock.lockid), (False, 0, 0))

        lock = dlmlock.Lock("vms", "check", wait=0)
        not_held(lock)
        for _ in range(2):
            with lock:
                lock.check()
                self.assertGreater(min(lock.token, lock.lockid), 0)
                with self.assertRaises(dlmlock.WouldBlock):
                    other = dlmlock.Lock("vms", "check", wait=0)
                    other.acquire()
                not_held(other)
            not_held(lock)

    def test_a_child_does_not_hold_it(self) -> None:
        subprocess.run([sys.executable, "-W", "ignore", "-c", "import dlmlock, os, sys\n"
                        "lock = dlmlock.Lock('vms', 'forks')\nlock.acquire()\nlock.check()\n"
                        "child = os.fork()\n"
                        "if child == 0:\n"
                        "    try:\n        lock.check()\n"
                        "    except dlmlock.NotHeld:\n        lock.release()\n        os._exit(0)\n"
                        "    finally:\n        os._exit(1)\n"
                        "failed = os.waitpid(child, 0)[1] != 0\n"
                        "with dlmlock.Service() as service:\n"
                        "    rows = list(service.replies('ListLocks', lockspace='vms', resource='forks'))\n"
                        "lock.check()\nsys.exit(failed or len(rows) != 1)"], check=True)

    def test_convert_that_fails_is_no_loss(self) -> None:
        with dlmlock.Lock("vms", "cf", "pr") as lock, dlmlock.Lock("vms", "cf", "pr"):
            for wait in (0, 0.05):
                with self.assertRaises((dlmlock.WouldBlock, dlmlock.Timeout)):
                    lock.convert("ex", wait=wait)
            self.assertFalse(lock.wait_lost(0.3), lock.reason)
            lock.check()

    def test_converted_and_back_is_a_loss(self) -> None:
        for modes in (("ex", "nl"), ("pr", "ex")):
            with dlmlock.Lock("vms", "cb", modes[0]) as lock, dlmlock.Service() as service:
                with lock._mutex:
                    lock._changes += 1  # the lock does not look meanwhile, as during a conversion of its own
                for mode in reversed(modes):
                    service.call("Convert", lockspace="vms", resource="cb", mode=mode)
                row = next(service.replies("ListLocks", lockspace="vms", resource="cb"))
                with lock._mutex:
                    lock._changes += 1
                self.assertEqual(lock._read({"lockChanged": row["lock"]}), "somebody else converted it to another "
                                 f"mode and back: its token was {lock.token} and is now {row['lock']['token']}")

    def test_released_while_the_socket_is_away(self) -> None:
        socket_path = os.environ["DLMLOCK_ADDRESS"]
        away = socket_path + ".away"
        with dlmlock.Lock("vms", "away") as lock, dlmlock.Lock("vms", "converted") as converted:
            os.rename(socket_path, away)
            try:
                with dlmlock.Service(away) as service:
                    service.call("Release", lockspace="vms", resource="away")
                    service.call("Convert", lockspace="vms", resource="converted", mode="nl")
                self.assertTrue(lock.wait_lost(20) and converted.wait_lost(20))
                self.assertEqual(lock.reason, "somebody else released it")
                self.assertEqual(converted.reason, "somebody else converted it to nl")
                lock.release()
            finally:
                os.rename(away, socket_path)

    def lose(self, resource: str, how: str) -> str:
        told: "list[str]" = []
        with dlmlock.Lock("vms", resource, on_lost=told.append) as lock:
            with dlmlock.Service() as service:
                if how == "release":
                    service.call("Release", lockspace="vms", resource=resource)
                elif how == "convert":
                    service.call("Convert", lockspace="vms", resource=resource, mode="nl")
                else:
                    service.call("LeaveLockspace", lockspace="vms", force=True)
                    service.call("JoinLockspace", lockspace="vms")
            self.assertTrue(lock.wait_lost(20))
            with self.assertRaises(dlmlock.LockLost):
                lock.check()
        end = time.monotonic() + 20
        while not told and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual(told, [lock.reason])
        return lock.reason

    def test_every_loss_is_told(self) -> None:
        self.assertEqual(self.lose("l", "release"), "somebody else released it")
        self.assertEqual(self.lose("l", "convert"), "somebody else converted it to nl")
        self.assertNotIn("somebody else", self.lose("l", "leave"))

    def test_restart(self) -> None:
        lock = dlmlock.Lock("vms", "restart")
        lock.acquire()
        lockid = lock.lockid
        print("restart", flush=True)
        sys.stdin.readline()
        self.assertFalse(lock.wait_lost(1), lock.reason)
        with dlmlock.Service() as service:
            row = next(service.replies("ListLocks", lockspace="vms", resource="restart"))
            self.assertEqual(row["lock"]["lockId"], lockid)
            service.call("Release", lockspace="vms", resource="restart")
        self.assertTrue(lock.wait_lost(20))
        lock.release()

    def test_restart_without_descriptors(self) -> None:
        """The watch goes on once the process has descriptors again."""
        lock = dlmlock.Lock("vms", "scarce")
        lock.acquire()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        try:
            with self.assertRaises(OSError):
                while True:
                    used.append(os.open("/dev/null", os.O_RDONLY))
            print("restart", flush=True)
            sys.stdin.readline()
            time.sleep(0.5)
        finally:
            for descriptor in used:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with dlmlock.Service() as service:
            service.call("Release", lockspace="vms", resource="scarce")
        self.assertTrue(lock.wait_lost(20))

    @unittest.skipUnless(nobody_exists(), "this user namespace has no user nobody; make test runs this test")
    def test_user_changes(self) -> None:
        """A process that took a lock as root notices its loss as another user, and can't release it."""
        child = subprocess.Popen([sys.executable, "-c", "import dlmlock, os\n"
                                  "lock, other = dlmlock.Lock('vms', 'uid'), dlmlock.Lock('vms', 'other')\n"
                                  f"lock.acquire()\nother.acquire()\nos.setuid({NOBODY})\nprint('held', flush=True)\n"
                                  "lock.wait_lost(60)\nprint(lock.reason)\n"
                                  "try:\n    other.release()\nexcept dlmlock.AccessDenied:\n    print('denied')\n"],
                                 stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        with child, child.stdout:
            self.assertEqual(child.stdout.readline(), "held\n")
            print("restart", flush=True)
            sys.stdin.readline()
            with dlmlock.Service() as service:
                service.call("Release", lockspace="vms", resource="uid")
            self.assertEqual(child.stdout.read(), "somebody else released it\ndenied\n")

    def test_many_at_once(self) -> None:
        """The watch of each lock does not count against the limit on programs that watch everything."""
        locks = [dlmlock.Lock("vms", f"many{i}") for i in range(100)]
        for lock in locks:
            lock.acquire()
        with dlmlock.Service() as service:
            service.call("Release", lockspace="vms", resource="many50")
        self.assertTrue(locks[50].wait_lost(60))
        for lock in locks:
            self.assertEqual(lock.lost, lock is locks[50])
            lock.release()

    def test_older_service(self) -> None:
        """An older service does not know the parameter owner of Monitor."""
        asked: List[Dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
            path = os.path.join(directory, "s")
            listener.bind(path)
            listener.listen()

            def serve() -> None:
                for _ in range(2):
                    conn = listener.accept()[0]
                    with conn, conn.makefile("rb") as calls:
                        text = b""
                        while not text.endswith(b"\0"):
                            text += calls.read(1)
                        asked.append(json.loads(text[:-1])["parameters"])
                        reply: Dict[str, Any] = {"parameters": {"ready": True}, "continues": True}
                        if "owner" in asked[-1]:
                            reply = {"error": "org.varlink.service.InvalidParameter",
                                     "parameters": {"parameter": "owner"}}
                        conn.sendall(json.dumps(reply).encode() + b"\0")

            thread = threading.Thread(target=serve)
            thread.start()
            watch = dlmlock._watch(path, "vms", "me")[0]
            thread.join()
            watch.close()
        self.assertEqual(asked[0].get("owner"), "me")
        self.assertEqual((asked[1].get("owner"), asked[1]["ownOnly"]), (None, True))

    def test_ends_with_the_process(self) -> None:
        child = subprocess.run([sys.executable, "-c", "import dlmlock, os\n"
                                "dlmlock.Lock('vms', 'dies').acquire()\nos._exit(0)"], check=True)
        self.assertEqual(child.returncode, 0)
        with dlmlock.Lock("vms", "dies", wait=20):
            pass

    def test_errors(self) -> None:
        with self.assertRaises(dlmlock.NotRunning):
            dlmlock.Lock("vms", "a", path="/nonexistent").acquire()
        with self.assertRaises(dlmlock.Error) as caught:
            dlmlock.Lock("nowhere", "a").acquire()
        self.assertEqual(caught.exception.name, "NoSuchLockspace")
        self.assertIn("DLMLOCK_ADDRESS", os.environ)

    def test_errors_speak_python(self) -> None:
        """They name what this module's callers have written, not the methods and fields of the service."""
        def text(lock: dlmlock.Lock, name: str) -> str:
            with self.assertRaises(dlmlock.Error) as caught:
                lock.acquire()
            self.assertEqual(caught.exception.name, name)
            return str(caught.exception)

        with dlmlock.Lock("vms", "words", "pr"), dlmlock.Lock("vms", "words", "pr") as lock:
            words = "acquire vms/words ex: another lock is in the way; try again later, or wait for it with wait="
            self.assertTrue(text(dlmlock.Lock("vms", "words", wait=0), "WouldBlock").startswith(words))
            with self.assertRaises(dlmlock.WouldBlock) as caught:
                lock.convert("ex")
            self.assertTrue(str(caught.exception).startswith(words.replace("acquire", "convert")))
            words = "vms/words ex: not granted within 0.05 s; wait longer with a larger wait="
            late = text(dlmlock.Lock("vms", "words", wait=0.05), "Timeout")
            self.assertTrue(late.startswith("acquire " + words + ", or without limit with wait=None; held by "), late)
            with self.assertRaises(dlmlock.Timeout) as late_convert:
                lock.convert("ex", wait=0.05)
            self.assertTrue(str(late_convert.exception).startswith("convert " + words + "; held by "))
            lock.check()
        self.assertIn("dlmlockctl join nowhere", text(dlmlock.Lock("nowhere", "a"), "NoSuchLockspace"))
        for bad in ("", ".a", "a/b", "a" * 65):
            self.assertRegex(text(dlmlock.Lock(bad, "a"), "InvalidName"), "^acquire .*the name of a lockspace")
        self.assertRegex(text(dlmlock.Lock("vms", "a" * 65), "InvalidName"), "^acquire ")

    def test_wrong_arguments(self) -> None:
        for wait in (-1, -0.001, float("nan"), float("inf"), 1e300):
            with self.assertRaisesRegex(ValueError, "wait="):
                dlmlock.Lock("vms", "a", wait=wait)
        with dlmlock.Lock("vms", "arguments") as lock:
            with self.assertRaisesRegex(ValueError, "wait=-1"):
                lock.convert("pr", wait=-1)
        with dlmlock.Lock("vms", "arguments", wait=1e9):
            pass
        lock.wait = -1
        with self.assertRaisesRegex(ValueError, "wait=-1"):
            lock.acquire()
        self.assertEqual(listed("arguments"), [])
        with self.assertRaisesRegex(TypeError, "resource has to be a str, not int"):
            dlmlock.Lock("vms", 5)  # type: ignore[arg-type]
        with self.assertRaisesRegex(TypeError, "lockspace has to be a str, not NoneType"):
            dlmlock.Lock(None, "a")  # type: ignore[arg-type]

    def test_characters_that_cannot_be_sent(self) -> None:
        for bad in ("a\0b", os.fsdecode(b"\xff"), "\ud800"):
            for arguments in ((bad, "a"), ("vms", bad), ("vms", "a", bad)):
                with self.assertRaisesRegex(ValueError, "can't be sent"):
                    dlmlock.Lock(*arguments)
            with self.assertRaisesRegex(ValueError, "^label="):
                dlmlock.Lock("vms", "a", label=bad)
        with dlmlock.Lock("vms", "\u3042 \U0001f512") as lock, dlmlock.Service() as service:
            with self.assertRaisesRegex(ValueError, "^mode="):
                lock.convert("pr\0")
            lock.check()
            with self.assertRaisesRegex(ValueError, "^select.owner="):
                service.call("Release", lockspace="vms", resource="a", select={"owner": "a\0"})
            with self.assertRaisesRegex(ValueError, "^places.resource="):
                service.call("ReleaseMany", places=[{"lockspace": "vms", "resource": "\0"}])
            service.call("Describe")  # the connection is as it was

    def test_the_names_stay(self) -> None:
        """docs/versioning.md promises these to other programs."""
        found = []
        for name in sorted(dlmlock.__all__):
            value = getattr(dlmlock, name)
            if not isinstance(value, type):
                found.append(f"{name} = {value!r}")
                continue
            found.append(f"class {name}({', '.join(base.__name__ for base in value.__bases__)})")
            for member, of in sorted(vars(value).items()):
                if member == "__init__" or not member.startswith("_"):
                    shown = str(inspect.signature(of)) if inspect.isfunction(of) else ""
                    found.append(f"{name}.{member}{shown}")
        short = [line if len(line) < 100 else line.replace(", ", ",\n  ") for line in found]
        self.assertEqual("\n".join(short), NAMES.strip())


NAMES = """
class AccessDenied(Error)
class Error(Exception)
Error.__init__(self, name: 'str', message: 'str') -> 'None'
class Lock(object)
Lock.__init__(self,
  lockspace: 'str',
  resource: 'str',
  mode: 'str' = 'ex',
  *,
  wait: 'Optional[float]' = None,
  label: 'Optional[str]' = None,
  on_lost: 'Optional[Callable[[str],
  None]]' = None,
  path: 'Optional[str]' = None) -> 'None'
Lock.acquire(self) -> 'None'
Lock.check(self) -> 'None'
Lock.convert(self, mode: 'str', wait: 'float' = 0) -> 'None'
Lock.lost
Lock.release(self) -> 'None'
Lock.wait_lost(self, timeout: 'Optional[float]' = None) -> 'bool'
class LockLost(Error)
class NotHeld(Error)
class NotRunning(Error)
SOCKET = '/run/dlmlock/org.example.DlmLock'
class Service(object)
Service.__init__(self, path: 'Optional[str]' = None) -> 'None'
Service.call(self, method: 'str', **parameters: 'Any') -> 'Dict[str, Any]'
Service.close(self) -> 'None'
Service.replies(self, method: 'str', **parameters: 'Any') -> 'Iterator[Dict[str, Any]]'
class Timeout(Error)
class WouldBlock(Error)
"""


if __name__ == "__main__":
    unittest.main()
