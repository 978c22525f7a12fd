"""What this program needs of the reactor it runs on."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.python.failure import Failure


#: Descriptors that are enough for any hub.
MOST_DESCRIPTORS = 65_536


def install_asyncio() -> None:
    """Make asyncio's event loop the one that Twisted runs on."""
    import asyncio

    from twisted.internet import asyncioreactor

    # Set first: without it prompt_toolkit would find another loop, and never start.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)


def use_monotonic_time(reactor: Any) -> None:
    """Timers follow the monotonic clock. Twisted's follow the wall clock (twisted#2424): a step of it stops or fires them all."""
    reactor.seconds = time.monotonic


def use_all_descriptors() -> None:
    """Let this process open as many files and connections as it may. The soft limit exists for select(2), which is not used here.

    A hub needs one for each of its senders. As with systemd's own daemons, the hard limit is the administrator's word.
    """
    with suppress(OSError, ValueError):  # a sandbox may forbid to ask, or to change it
        soft, hard = getrlimit(RLIMIT_NOFILE)
        wanted = MOST_DESCRIPTORS if hard == RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
        if soft < wanted:
            setrlimit(RLIMIT_NOFILE, (wanted, hard))


@implementer(IReadDescriptor)
class SignalWaker:
    """Wakes the reactor when a signal has come: one that does not install its own handlers has no other waker.

    Python runs the handler of a signal between two of its own instructions. If the signal comes right before the reactor begins
    to wait, or to another thread, that would be after the wait only; the byte which the C code writes to this pipe ends it.
    """

    def __init__(self) -> None:
        self._read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def doRead(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._read, 4096)

    def fileno(self) -> int:
        return self._read

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends."""

    def logPrefix(self) -> str:
        return "signals"
