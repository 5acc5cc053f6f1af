"""Cluster-wide locks of dlmlockd.

    with dlmlock.Lock("vms", "backup", label="nightly backup") as lock:
        for part in parts:
            lock.check()  # raises LockLost, or NotHeld outside of the block
            copy(part, token=lock.token)

A lock can be lost while its holder works: the node leaves the lockspace, or an
administrator releases the lock. Then `on_lost` is called, `lost` is true, and `check`
raises. A restart of the service loses no lock. A lock ends with the process that took
it, however that process ends; a child after os.fork does not hold it. A process that
changes its user, as with os.setuid, may not be able to release the lock afterwards, and
learns of a loss within seconds.

The module reaches the service over Varlink: the environment variable DLMLOCK_ADDRESS, if
it is a path, names the socket. It needs only the standard library.

A Lock belongs to one thread; any thread may use `lost`, `reason` and `check`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, List, Optional, Type

__all__ = [
    "AccessDenied", "Error", "Lock", "LockLost", "NotHeld", "NotRunning", "Service", "Timeout", "WouldBlock", "SOCKET",
]

SOCKET = "/run/dlmlock/org.example.DlmLock"
INTERFACE = "org.example.DlmLock."

# Times in seconds. _RETRY and _RELEASE_TIME are how often, and for how long, a service that restarts
# is looked for; _ASK is how often a lock whose changes are not reported is asked about.
_RETRY = 0.2
_ASK = 2.0
_RELEASE_TIME = 30.0
_LONGEST_WAIT = 1e9
_WITHDRAW_TIME = 2.0
_WITHDRAW_PAUSE = 0.005


class Error(Exception):
    """An error that the service reports.

    name is the name of the error in org.example.DlmLock(5), without the interface.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        self._parameters: Dict[str, Any] = {}


class WouldBlock(Error):
    """Somebody else holds the lock, and the call does not wait."""


class Timeout(Error):
    """The lock was not granted within the given time."""


class AccessDenied(Error):
    """The caller lacks the permission."""


class NotRunning(Error):
    """The service can't be reached, or ended during a call."""


class NotHeld(Error):
    """This process does not hold the lock: it is not taken yet, or it is released."""


class LockLost(Error):
    """The lock is not held any more, and its holder has not released it."""


_ERRORS: Dict[str, Type[Error]] = {
    "WouldBlock": WouldBlock, "Timeout": Timeout, "NotHeld": NotHeld, "PermissionDenied": AccessDenied,
    "InteractiveAuthenticationRequired": AccessDenied,
}


def _error(name: str, parameters: Dict[str, Any]) -> Error:
    short = name.rpartition(".")[2]
    error = _ERRORS.get(short, Error)(short, str(parameters.get("message") or name))
    error._parameters = parameters
    return error


def _check_types(**values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} has to be a str, not {type(value).__name__}")
        _check_text(name, value)


def _check_text(name: str, value: object) -> None:
    """The service closes a connection over which such a text comes, as if it had ended."""
    if isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"{name}={value!r}: it has a character that can't be sent over Varlink: U+0000 or a surrogate")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_text(f"{name}.{key}", inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_text(name, inner)


def _check_wait(wait: float) -> None:
    if not 0 <= wait <= _LONGEST_WAIT:
        raise ValueError(f"wait={wait}: it has to be a number of seconds from 0 to {_LONGEST_WAIT:g}")


class Service:
    """One connection to the service. It has one call at a time."""

    def __init__(self, path: Optional[str] = None) -> None:
        address = os.environ.get("DLMLOCK_ADDRESS", "")
        self.path = path or (address if address.startswith("/") else SOCKET)
        opened: Optional[socket.socket] = None
        try:
            opened = self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            opened.connect(self.path)
        except OSError as e:  # also if this process has no descriptor left, which may change
            if opened is not None:
                opened.close()
            raise NotRunning("NotRunning", f"can't connect to the service at {self.path}: {e}") from e
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection, even while another thread waits for a reply."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()
        self._file.close()  # the descriptor is open until then

    def call(self, method: str, **parameters: Any) -> Dict[str, Any]:
        """Makes a call with one reply, and returns its parameters."""
        return next(self._replies(method, False, parameters))

    def replies(self, method: str, **parameters: Any) -> Iterator[Dict[str, Any]]:
        """Makes a call with any number of replies ("more")."""
        return self._replies(method, True, parameters)

    def _replies(self, method: str, more: bool, parameters: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
        sent = {name: value for name, value in parameters.items() if value is not None}
        for name, value in sent.items():
            _check_text(name, value)
        message = {"method": INTERFACE + method, "parameters": sent, "more": more}
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\0")
            while True:
                reply = json.loads(self._read())
                if reply.get("error"):
                    raise _error(reply["error"], reply.get("parameters") or {})
                yield reply.get("parameters") or {}
                if not reply.get("continues"):
                    return
        except (OSError, ValueError) as e:
            raise NotRunning("NoAnswer", f"the service ended during the call: {e}") from e

    def _read(self) -> bytes:
        message = bytearray()
        while True:
            byte = self._file.read(1)
            if not byte:
                raise ConnectionResetError("the connection is closed")
            if byte == b"\0":
                return bytes(message)
            message += byte


def _start_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
        return int(f.read().rpartition(")")[2].split()[19])


class Lock:
    """A lock on a resource in a lockspace, as a context manager.

    mode is "ex" (exclusive), "pr" (shared, with other readers) or another one of the lock
    manager's. wait is how many seconds to wait for the lock: None is without limit, 0 is
    not at all; a negative number, or one above 1e9, is a
    ValueError. label is what others read about the lock.

    on_lost is called with the reason, on a thread of its own, when the lock is lost. It
    is not called for a release.
    """

    def __init__(self, lockspace: str, resource: str, mode: str = "ex", *, wait: Optional[float] = None,
                 label: Optional[str] = None, on_lost: Optional[Callable[[str], None]] = None,
                 path: Optional[str] = None) -> None:
        _check_types(lockspace=lockspace, resource=resource, mode=mode, label="" if label is None else label)
        if wait is not None:
            _check_wait(wait)
        self.lockspace, self.resource, self.mode = lockspace, resource, mode
        self.wait, self.label, self.on_lost, self.path = wait, label, on_lost, path
        self.token = 0
        """The fencing token: larger than that of every earlier grant in pw or ex, on any node.

        It is 0, as lockid is, while the lock is not held.
        """
        self.lockid = 0
        self.reason = ""
        """Why the lock was lost."""
        self._owner = ""
        self._name = ""
        self._holder = 0  # the process that holds the lock: a child has a copy of this object, but not the lock
        self._lost = threading.Event()
        self._ending = False
        self._unsettled = False  # the last convert failed, which may have given the lock another token
        self._exists = False  # the lock was lost by a conversion, and has to be released all the same
        self._user = -1  # the user of this process when it took the lock
        self._changes = 0  # the beginnings and ends of convert: what was asked before one says nothing after it
        self._mutex = threading.Lock()
        self._watching: Optional[Service] = None
        self._thread: Optional[threading.Thread] = None

    @property
    def lost(self) -> bool:
        """Whether the lock is lost."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raises LockLost if the lock is lost, and NotHeld if this process does not hold it."""
        if self.lost:
            raise LockLost("LockLost", self.reason)
        self._check_held()

    def _check_held(self) -> None:
        if self._holder != os.getpid():
            raise NotHeld("NotHeld", f"this process does not hold the lock {self.lockspace}/{self.resource}; "
                          "take it with acquire, or in a with statement")

    def wait_lost(self, timeout: Optional[float] = None) -> bool:
        """Waits until the lock is lost; returns False if the time is over."""
        return self._lost.wait(timeout)

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.release()

    def acquire(self) -> None:
        """Takes the lock. The watch for its loss starts first."""
        if self._thread is not None:
            raise RuntimeError("the lock is held already")
        if self.wait is not None:
            _check_wait(self.wait)
        self._owner, self._ending, self.reason = f"python-{uuid.uuid4()}", False, ""
        self._unsettled, self._exists, self._user = False, False, os.geteuid()
        self._lost.clear()
        try:
            watch = _watch(self.path, self.lockspace, self._owner)
        except Error as e:
            self._explain(e, "acquire", self.mode, watch=True)
            raise
        try:
            granted = self._take()
        except BaseException as e:
            watch[0].close()
            self._withdraw()
            if isinstance(e, Error):
                self._explain(e, "acquire", self.mode, self.wait)
            raise
        self._name, self.token, self.lockid = granted["lock"], granted["token"], granted["lockId"]
        self._watching = watch[0]
        self._thread = threading.Thread(target=self._watch, args=watch, daemon=True, name="dlmlock")
        self._holder = os.getpid()  # before the watch, whose on_lost may release
        self._thread.start()

    def _explain(self, error: Error, operation: str, mode: str, wait: Optional[float] = None,
                 watch: bool = False) -> None:
        """Puts an error that the service words for callers of its methods into the words of this module.

        wait is how long the call was to wait. watch is whether the watch has failed, which needs the
        lockspace alone.
        """
        if error.name == "WouldBlock":
            text = "another lock is in the way; try again later, or wait for it with wait="
            if error._parameters.get("holder"):
                text += f"; held by {error._parameters['holder']}"
        elif error.name == "Timeout" and wait:
            text = f"not granted within {wait:g} s; wait longer with a larger wait="
            if operation == "acquire":
                text += ", or without limit with wait=None"
            if error._parameters.get("holder"):
                text += f"; held by {error._parameters['holder']}"
        elif error.name == "NoSuchLockspace":
            text = (f"this node is not in the lockspace; join it with `dlmlockctl join {self.lockspace}`, or name "
                    "it under lockspaces in /etc/dlmlockd.toml")
        elif error.name == "NotHeld":
            text = "the lock is not held any more"
        elif error.name == "InvalidName" and watch:
            text = ("this can't be the name of a lockspace: it has 1 to 64 letters, digits, '_', '-', '.' and '+', "
                    "and does not begin with a dot")
        elif watch and not isinstance(error, NotRunning):
            text = f"the watch for a loss of the lock has failed: {error}"
        else:
            return
        error.args = (f"{operation} {self.lockspace}/{self.resource} {mode}: {text}",)

    def _take(self) -> Dict[str, Any]:
        end = None if self.wait is None else time.monotonic() + self.wait
        again = False
        over: Optional[Error] = None
        while True:
            left = None if end is None else max(0, int((end - time.monotonic()) * 1e6))
            if self.wait and left == 0:
                left = 1
            if over is not None:
                left = 0
            try:
                with Service(self.path) as service:
                    options = {"owner": self._owner, "label": self.label, "lifetime": "process",
                               "processId": os.getpid(), "processStartTicks": _start_ticks(os.getpid()),
                               "waitUSec": left}
                    replies = service.replies("Acquire", lockspace=self.lockspace, resource=self.resource,
                                              mode=self.mode, **options)
                    granted: Dict[str, Any] = next(replies)["granted"]
                    return granted
            except Error as e:
                if over is not None:
                    over._parameters = e._parameters if isinstance(e, WouldBlock) else over._parameters
                    raise over from None
                if isinstance(e, Timeout) and not e._parameters.get("holder"):
                    over = e  # one try without a wait: its error also names a holder on another node
                    continue
                # Asking again for the same owner returns what it may have by now.
                restarting = isinstance(e, NotRunning) or e.name == "ShuttingDown"
                if not restarting or (e.name == "NotRunning" and not again) or left == 0 or left == 1:
                    raise
            again = True
            time.sleep(_RETRY)

    def _withdraw(self) -> None:
        """Releases what may have been granted to a call that got no answer.

        The service may not have noticed yet that the call was given up. While the call waits there
        is nothing to release, and it could still be granted, so this looks again.
        """
        end = time.monotonic() + _WITHDRAW_TIME
        try:
            with Service(self.path) as service:
                service.call("ReleaseOwner", owner=self._owner)
                while list(service.replies("ListLocks", owner=self._owner)) and time.monotonic() < end:
                    time.sleep(_WITHDRAW_PAUSE)
                    service.call("ReleaseOwner", owner=self._owner)
        except Error:
            pass  # nothing is left (NoSuchLock), or the service releases it at the end of this process

    def release(self) -> None:
        """Releases the lock, and waits for the service if it is just being restarted.

        In a child after os.fork it does nothing: the lock is the parent's.
        """
        if self._holder not in (0, os.getpid()):
            return
        with self._mutex:
            self._ending = True
            self._holder = self.token = self.lockid = 0
            watching, thread, self._thread = self._watching, self._thread, None
        if thread is None:
            return
        if watching is not None:
            watching.close()
        if thread is not threading.current_thread():
            thread.join()
        if self.lost and not self._exists:
            return
        end = time.monotonic() + _RELEASE_TIME
        while True:
            try:
                with Service(self.path) as service:
                    self._release(service)
                return
            except Error as e:
                if not (isinstance(e, NotRunning) or e.name == "ShuttingDown") or time.monotonic() > end:
                    raise
            time.sleep(_RETRY)

    def _release(self, service: Service) -> None:
        if os.geteuid() == self._user:
            service.call("ReleaseOwner", owner=self._owner)
            return
        try:  # ReleaseOwner would release nothing
            service.call("Release", lockspace=self.lockspace, resource=self.resource, select={"lock": self._name})
        except NotHeld:
            pass

    def convert(self, mode: str, wait: float = 0) -> None:
        """Changes the mode without releasing the lock. If it fails, the lock keeps its mode,
        unless the error says otherwise.

        wait is as for Lock, but never None.
        """
        _check_types(mode=mode)
        _check_wait(wait)
        self._check_held()
        with self._mutex:
            self._changes += 1
        try:
            with Service(self.path) as service:
                reply = service.call("Convert", lockspace=self.lockspace, resource=self.resource, mode=mode,
                                     select={"lock": self._name}, waitUSec=int(wait * 1e6))
            self.mode, self.token, self._unsettled = mode, reply["token"], False
        except Error as e:
            self._unsettled = True
            self._explain(e, "convert", mode, wait)
            raise
        finally:
            with self._mutex:
                self._changes += 1

    def _watch(self, service: Service, events: Iterator[Dict[str, Any]]) -> None:
        """Reads the events, the first of which are older than the lock, until the lock is lost."""
        why = ""
        while not self._ending:
            try:
                if os.geteuid() == self._user or why:
                    why = why or next(filter(None, map(self._read, events)), "")
                else:
                    why = self._ask()
                if why:
                    self._lose(why)
                    return
            except Error:
                pass
            # The service has ended, or events were dropped.
            service.close()
            while not self._ending:
                try:
                    service, events = _watch(self.path, self.lockspace, self._owner)
                    with self._mutex:
                        self._watching = service
                        if self._ending:
                            service.close()
                    why = self._gone()
                    break
                except Error:
                    service.close()
                    time.sleep(_RETRY)

    def _ask(self) -> str:
        """Asks again and again why the lock no longer exists.

        The service reports changes only to the user whose lock it is.
        """
        why = ""
        while not self._ending and not why:
            end = time.monotonic() + _ASK
            while not self._ending and time.monotonic() < end:
                time.sleep(_RETRY)
            why = "" if self._ending else self._gone()
        return why

    def _read(self, event: Dict[str, Any]) -> str:
        """Why an event means that the lock is lost; "" if it does not."""
        lost = event.get("lockLost")
        if lost and lost["lock"] == self._name:
            return str(lost["reason"])
        if event.get("lockRemoved") == self._name:
            return "somebody else released it"
        changed = event.get("lockChanged")
        if changed and changed["lock"] == self._name and changed.get("state") == "held" \
                and (changed.get("mode") != self.mode.lower() or changed.get("token") != self.token):
            with self._mutex:
                if self._changes == 0:  # its holder has never converted it
                    return self._converted(changed)
            return self._gone()
        return ""

    def _gone(self) -> str:
        """Asks why the lock no longer exists; "" if it does."""
        with self._mutex:
            changes = self._changes
        with Service(self.path) as service:
            try:
                for row in service.replies("ListLocks", lockspace=self.lockspace, resource=self.resource,
                                           owner=self._owner):
                    lock = row["lock"]
                    if lock["lock"] != self._name or lock["state"] == "releasing":
                        continue
                    with self._mutex:
                        own = changes % 2 == 1 or changes != self._changes
                        return "" if own else self._converted(lock)
            except Error as e:
                if e.name not in ("NoSuchLock", "NoSuchLockspace"):
                    raise
        return self._reason()

    def _converted(self, lock: Dict[str, Any]) -> str:
        """How somebody else has converted the lock; "" if nobody has.

        The token shows that a lock was converted and converted back: a conversion up to pw or ex gives
        it a new one, and one to a weaker mode that of the last lock in pw or ex.
        """
        mode = {"exclusive": "ex", "shared": "pr"}.get(self.mode.lower(), self.mode.lower())
        if self._unsettled and lock["state"] == "converting":
            return ""  # it may be on its way back
        if lock.get("mode") != mode:
            self._exists = True
            return f"somebody else converted it to {lock.get('mode')}"
        now = lock.get("token") or 0
        if self._unsettled:
            self.token, self._unsettled = now, False
        elif now and self.token and now != self.token:
            self._exists = True
            return (f"somebody else converted it to another mode and back: its token was {self.token} "
                    f"and is now {now}")
        return ""

    def _reason(self) -> str:
        with Service(self.path) as service:
            try:
                for row in service.replies("ListLost", lockspace=self.lockspace, resource=self.resource):
                    if row["lost"]["lock"] == self._name:
                        return str(row["lost"]["reason"])
            except Error as e:
                if e.name != "NoSuchLock":
                    raise
        return "somebody else released it"

    def _lose(self, why: str) -> None:
        with self._mutex:
            if self._ending:
                return
            self.reason = why
            self._lost.set()
        if self.on_lost is not None:
            self.on_lost(why)


def _watch(path: Optional[str], lockspace: str, owner: str) -> "tuple[Service, Iterator[Dict[str, Any]]]":
    """Watches the locks of an owner in a lockspace; no event is missed after it has returned.

    A service that is older than the parameter owner reports the locks of all owners of the user, and
    lets only a few connections watch at once.
    """
    filters: List[Dict[str, Any]] = [{"owner": owner}, {"ownOnly": True}]
    while True:
        service = Service(path)
        try:
            events = service.replies("Monitor", events=["lockLost", "lockRemoved", "lockChanged"], lockspace=lockspace,
                                     existing=False, **filters.pop(0))
            next(event for event in events if event.get("ready"))
            return service, events
        except BaseException as e:
            service.close()
            if not filters or not isinstance(e, Error) or e._parameters.get("parameter") != "owner":
                raise
