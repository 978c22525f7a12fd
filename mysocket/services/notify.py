"""What a supervisor is told (sd_notify(3)): that the service is ready, how it is, that it lives, that it leaves.

Rules

1. READY=1 when it listens, its spool is open and the reactor runs. A twistd that has forked says with it which process is meant.
2. STATUS is one line, told when it changes, at most once a second. What peers say of themselves is escaped in it, and all of it
   is short.
3. WATCHDOG=1 comes from the reactor thread, twice in the time that the supervisor allows: a reactor that hangs sends none. Nor
   does one whose spool has lost its thread, for then nothing is kept any more.
4. SIGHUP opens the output file anew: RELOADING=1, and READY=1 when that is done.
5. A socket that is missing, full or broken never hurts. What must be known is tried again while it is full; the rest is not.
6. NOTIFY_SOCKET stays in the environment: this program starts no others.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from mysocket.ends.escape import one_line
from mysocket.services.base import EndpointService
from mysocket.services.linked import LinkService

#: Seconds between two looks at how the service is.
TICK = 1.0
#: Characters of the status line, and messages that wait for a socket that is full.
STATUS = 256
WAITING = 8

#: Sends a message; False: there is no room now.
Send = Callable[[bytes], bool]


def channel(address: str) -> Send | None:
    """What sends to the socket of a supervisor: a path, or a name in the abstract namespace (``@…``)."""
    if address[:1] not in ("/", "@") or len(address) < 2:
        return None
    to = "\0" + address[1:] if address.startswith("@") else address
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def send(message: bytes) -> bool:
        try:
            sender.sendto(message, to)
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            pass  # nobody is there, or the name is none
        return True

    return send


def watchdog_time(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds in which the supervisor wants to hear of this process, or None (sd_watchdog_enabled(3))."""
    named, text = environ.get("WATCHDOG_PID"), environ.get("WATCHDOG_USEC", "")
    if named not in (None, str(pid)) or not re.fullmatch("[0-9]{1,15}", text):
        return None
    return int(text) / 1e6 or None


def make_notifier(service: EndpointService, reactor: Any, environ: Mapping[str, str], *, forked: bool = False) -> Notifier | None:
    """Tells the supervisor of this process, if there is one.

    :param forked: this is not the process that the supervisor has started.
    """
    send = channel(environ.get("NOTIFY_SOCKET", ""))
    if send is None:
        return None
    pid = os.getpid()
    return Notifier(service, reactor, send, watchdog=watchdog_time(environ, pid), main_pid=pid if forked else None)


class Notifier:
    """See the module. It begins at once, and goes on until the process ends.

    :param watchdog: seconds in which the supervisor wants to hear of it, or None.
    :param main_pid: the process that is meant, if it is not the one that was started.
    """

    def __init__(
        self, service: EndpointService, reactor: Any, send: Send, *, watchdog: float | None = None, main_pid: int | None = None
    ) -> None:
        self._service = service
        self._reactor = reactor
        self._send = send
        self._main_pid = main_pid
        self._waiting: deque[bytes] = deque(maxlen=WAITING)
        self._said = ""
        self._leaving = ""
        self._calls: dict[str, IDelayedCall] = {}
        service.on_ready = lambda: reactor.callWhenRunning(self._ready)
        service.on_leaving = self._leaves
        self._tick()
        if watchdog is not None:
            self._ping(watchdog / 2)

    # What happens ---------------------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Open the output anew."""
        if self._leaving:
            return
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        self._service.reopen_output()
        spool = self._service.spool if isinstance(self._service, LinkService) else None
        if spool is not None:
            spool.flush(self._reloaded)
        else:
            self._reloaded()

    def stop(self) -> None:
        """Tell nothing more."""
        for call in self._calls.values():
            if call.active():
                call.cancel()

    def _ready(self) -> None:
        if not self._leaving:
            pid = [f"MAINPID={self._main_pid}"] if self._main_pid is not None else []
            self._said = status_text(self._service)
            self._say("READY=1", f"STATUS={self._said}", *pid)

    def _reloaded(self) -> None:
        if not self._leaving:
            self._say("READY=1")

    def _leaves(self, why: str) -> None:
        self._leaving = self._said = one_line(f"leaving: {why}", STATUS)
        self._say("STOPPING=1", f"STATUS={self._leaving}")

    def _tick(self) -> None:
        self._calls["tick"] = self._reactor.callLater(TICK, self._tick)
        while self._waiting and self._send(self._waiting[0]):
            self._waiting.popleft()
        text = self._leaving or status_text(self._service)
        if text != self._said and self._send(f"STATUS={text}".encode()):
            self._said = text

    def _ping(self, period: float) -> None:
        self._calls["ping"] = self._reactor.callLater(period, self._ping, period)
        if lives(self._service):
            self._send(b"WATCHDOG=1")

    def _say(self, *lines: str) -> None:
        """Something that must be known."""
        message = "\n".join(lines).encode(errors="replace")
        if self._waiting or not self._send(message):
            self._waiting.append(message)


def lives(service: EndpointService) -> bool:
    """Can it do its work, as far as it knows? A disk that is full or hangs is a matter of patience; a thread that has died is
    not."""
    return not (isinstance(service, LinkService) and service.spool is not None and service.spool.abandoned)


def status_text(service: EndpointService) -> str:
    """How it is, in one line."""
    if not isinstance(service, LinkService):
        return "connected" if service.linked else "nobody is connected"
    linked = [link for link in service.node.links.values() if link.linked]
    if linked:
        more = f" and {len(linked) - 1} more" if len(linked) > 1 else ""
        text = f"linked with {linked[0].peer_text}{more}"
    else:
        error = service.attempts.error
        text = "not linked" + (f": {error}".rstrip(".") if error is not None else "")
    if waiting := service.undelivered():
        text += f"; {waiting} bytes wait to be acknowledged"
    if service.full:
        text = f"the disk of {service.full} is full; {text}"
    return one_line(text, STATUS)
