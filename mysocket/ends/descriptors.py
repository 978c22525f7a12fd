"""File descriptors: what they are, private descriptions of them, and writing to one without ever being held by it.

Non-blocking mode belongs to the open file description, which stdin, stdout and the user's shell may share. So a pipe or a
terminal is opened anew first; only what cannot be (a socket) is changed and set back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure
from zope.interface import implementer

from mysocket import failpoints
from mysocket.core.batch import Bytes
from mysocket.errors import MySocketError, OutputClosed, OutputFailed

#: What a pipe is enlarged to, in bytes, so that one read or write can move a whole batch (Linux: /proc/sys/fs/pipe-max-size).
PIPE_SIZE = 1024 * 1024
#: Buffers in one writev.
BUFFERS = 64


class What(Enum):
    """What a descriptor is."""

    CLOSED = auto()
    NULL = auto()
    FILE = auto()
    TERMINAL = auto()
    PIPE = auto()
    OTHER = auto()


def what(fd: int) -> What:
    """What descriptor ``fd`` is."""
    try:
        mode = os.fstat(fd)
    except OSError:
        return What.CLOSED
    if stat.S_ISREG(mode.st_mode):
        return What.FILE
    if stat.S_ISFIFO(mode.st_mode):
        return What.PIPE
    if os.isatty(fd):
        return What.TERMINAL
    if stat.S_ISCHR(mode.st_mode) and mode.st_rdev == os.stat(os.devnull).st_rdev:
        return What.NULL
    return What.OTHER


class Private:
    """A non-blocking descriptor for what ``fd`` refers to, without a change that others could see.

    :param flags: ``os.O_RDONLY``, ``os.O_WRONLY`` or ``os.O_RDWR``.
    """

    def __init__(self, fd: int, flags: int) -> None:
        self.what = what(fd)
        self._own = False
        self._shared_blocking: bool | None = None
        self.fd = fd
        if self.what is What.FILE:
            return
        if self.what in (What.PIPE, What.TERMINAL):
            try:
                self.fd = os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
                self._own = True
            except OSError:
                self._share(fd)
            if self.what is What.PIPE:
                enlarge(self.fd)
        elif self.what is What.OTHER:
            self._share(fd)

    def _share(self, fd: int) -> None:
        self._shared_blocking = os.get_blocking(fd)
        os.set_blocking(fd, False)

    def close(self) -> None:
        """Close what was opened, set back what was changed."""
        if self._own:
            self._own = False
            os.close(self.fd)
        if self._shared_blocking is not None:
            os.set_blocking(self.fd, self._shared_blocking)
            self._shared_blocking = None


def enlarge(fd: int) -> None:
    """Make a pipe larger, if the system lets us."""
    try:
        if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < PIPE_SIZE:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except (OSError, AttributeError):
        pass


@implementer(IReadWriteDescriptor)
class Writer:
    """Writes to a descriptor: at once if it takes it, else when the reactor says that it does.

    :param failed: called once, with :class:`OutputClosed` or :class:`OutputFailed`.
    """

    repeats = True

    def __init__(self, reactor: Any, private: Private, where: str, failed: Callable[[MySocketError], None]) -> None:
        self._reactor = reactor
        self._private = private
        self._fd = private.fd
        self._where = where
        self._failed = failed
        self._queue: deque[tuple[Bytes, Callable[[], None]]] = deque()
        self._broken = False
        self._telling = False  # callbacks of earlier writes are being called
        if private.what is What.PIPE:
            # A pipe says that its reader is gone (EPOLLERR) only to those who wait for something.
            reactor.addReader(self)

    def agreed(self, *, cut: bool) -> None:
        """What is written cannot be taken back."""

    @property
    def idle(self) -> bool:
        """Everything is written."""
        return not self._queue

    def write(self, data: Bytes, done: Callable[[], None]) -> None:
        """Write ``data``, then call ``done``; in the order of the calls. Nothing is called once writing has failed."""
        if self._broken:
            return
        if not self._queue and not self._telling:
            rest = self._try([data], len(data))
            if self._broken:
                return
            if rest == len(data):
                failpoints.reach("R7")
                done()
                return
            data = memoryview(data)[rest:]
        if not self._queue:
            self._reactor.addWriter(self)
        self._queue.append((data, done))

    def _try(self, buffers: list[Bytes], size: int) -> int:
        written = 0
        try:
            while written < size:
                failpoints.reach("R5")
                if failpoints.armed("R6"):
                    buffers = [memoryview(b"".join(buffers))[: (size - written) // 2]]
                count = os.writev(self._fd, buffers)
                failpoints.reach("R6")
                written += count
                if self._private.what is not What.FILE or written == size:
                    break
                buffers = [memoryview(b"".join(buffers))[count:]]
        except BlockingIOError:
            pass
        except OSError as problem:
            self._fail(problem)
        return written

    def doWrite(self) -> None:
        buffers = [self._queue[index][0] for index in range(min(len(self._queue), BUFFERS))]
        written = self._try(buffers, sum(map(len, buffers)))
        finished: list[Callable[[], None]] = []
        while self._queue and not self._broken:
            data, done = self._queue[0]
            if written < len(data):
                if written:
                    self._queue[0] = (memoryview(data)[written:], done)
                break
            written -= len(data)
            self._queue.popleft()
            finished.append(done)
        if not self._queue:
            self._reactor.removeWriter(self)
        if finished:
            failpoints.reach("R7")
        self._telling = True
        for done in finished:
            done()
        self._telling = False

    def doRead(self) -> None:
        """Nothing can be read here; asked for only to hear of the reader's end."""

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return "output"

    def connectionLost(self, reason: Failure = Failure(CONNECTION_LOST)) -> None:
        self._fail(BrokenPipeError(errno.EPIPE, "Broken pipe"))

    def _fail(self, problem: OSError) -> None:
        if self._broken:
            return
        self._stop()
        text = problem.strerror or str(problem)
        # EIO of a terminal: it was hung up.
        gone = problem.errno == errno.EIO and self._private.what is What.TERMINAL
        if gone or problem.errno in (errno.EPIPE, errno.ECONNRESET):
            self._failed(OutputClosed(text))
        else:
            self._failed(OutputFailed(text, where=self._where))

    def _stop(self) -> None:
        self._broken = True
        self._queue.clear()
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)

    def close(self) -> None:
        """Write nothing more."""
        if not self._broken:
            self._stop()
        self._private.close()
