"""Waiting for descriptors and for signals at once, and writing to stdout without being held by it."""

from __future__ import annotations

import os
import select
import signal
import stat
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

from mysocket.errors import INTERRUPTED, TERMINATED, OutputClosed, OutputFailed

STDOUT, STDERR = 1, 2
STATUSES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
IN, OUT, GONE = select.POLLIN, select.POLLOUT, select.POLLERR | select.POLLHUP | select.POLLNVAL


class Stopped(Exception):
    """A signal came.

    :ivar status: the exit status that fits.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Signals:
    """SIGINT and SIGTERM end a wait, and nothing else: what is being done is done to its end.

    Python would raise KeyboardInterrupt between a write and its acknowledgement. A context manager.
    """

    def __init__(self) -> None:
        self._caught: int | None = None
        self._read, self._write = -1, -1

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._catch) for number in STATUSES}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._caught = number

    def fileno(self) -> int:
        """Readable when a signal came."""
        return self._read

    def check(self) -> None:
        """:raises Stopped: a signal came."""
        if self._caught is not None:
            raise Stopped(STATUSES[signal.Signals(self._caught)])

    def wait(self, wanted: Mapping[int, int], timeout: float | None = None) -> dict[int, int]:
        """What is ready of ``wanted``: descriptors, and the events of :func:`select.poll`; empty after ``timeout`` seconds.

        :raises Stopped: a signal came, before or meanwhile.
        """
        self.check()
        poll = select.poll()
        for fd, events in {**wanted, self._read: IN}.items():
            poll.register(fd, events)
        found = dict(poll.poll(None if timeout is None else timeout * 1000))
        self.check()
        return {fd: events for fd, events in found.items() if fd != self._read}


class Stdout:
    """Writes all, however slow the reader is, and hears signals meanwhile.

    A pipe or a terminal is opened anew, to be non-blocking for us alone. What cannot be is written a little at a time, when it
    takes something.
    """

    def __init__(self, signals: Signals, fd: int = STDOUT) -> None:
        self._signals = signals
        self.terminal = os.isatty(fd)
        mode = os.fstat(fd).st_mode
        #: What a wait is to hear of: that the reader has gone. A file has none.
        self.watched = {} if stat.S_ISREG(mode) else {fd: 0}
        self._fd, self._most = fd, select.PIPE_BUF
        self._own: int | None = None
        if stat.S_ISREG(mode):
            self._most = 2**30
        elif stat.S_ISFIFO(mode) or self.terminal:
            with suppress(OSError):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._fd = self._own = os.open(f"/proc/self/fd/{fd}", flags)
                self._most = 2**30

    def close(self) -> None:
        """Close what was opened."""
        if self._own is not None:
            os.close(self._own)
            self._own = None

    def check(self, ready: Mapping[int, int]) -> None:
        """See whether the reader has gone, by what a wait has found.

        :raises OutputClosed: it has.
        """
        if any(ready.get(fd, 0) & GONE for fd in self.watched):
            raise OutputClosed("broken pipe")

    def write(self, data: bytes) -> None:
        """Write all of it.

        :raises OutputClosed: the reader has gone. :raises OutputFailed: it cannot be written.
        :raises Stopped: a signal came while nothing could be written.
        """
        rest = memoryview(data)
        while rest:
            if self._most == select.PIPE_BUF:
                self._signals.wait({self._fd: OUT})
            try:
                rest = rest[os.write(self._fd, rest[: self._most]) :]
            except BlockingIOError:
                self._signals.wait({self._fd: OUT})
            except BrokenPipeError as problem:
                raise OutputClosed((problem.strerror or "").lower()) from None
            except OSError as problem:
                raise OutputFailed(problem.strerror or str(problem), where="stdout") from None


def say(text: str) -> None:
    """One line for people, on stderr. One that cannot take it loses it."""
    with suppress(OSError):
        os.write(STDERR, f"mysocket: {text}\n".encode(errors="replace"))
