"""A stream connection to a receiver that speaks no protocol of ours, and how much of what was written it has.

Nobody answers over such a connection, but its system does: TCP acknowledges. What the own kernel still holds is asked for with
SIOCOUTQ (tcp(7), unix(7)); what was given to the kernel less that is with the receiver's kernel.

Rules

1. TCP: SIOCOUTQ counts bytes that are not acknowledged. A Unix socket: it counts the memory of what is not read yet, which is
   never less than its bytes. So the difference is never too large.
2. A connection that was reset counts nothing any more: the queue of a Unix socket is empty then. So the error is looked for after
   the queue.
3. Inside TLS the bytes are others. There everything counts when nothing is left in any queue, and nothing before.
4. Who dials a port of this machine where nobody listens may get that port for its own end, and so a connection with itself (TCP
   lets both ends dial). It has no receiver.
5. A receiver that does not read is waited for, however long; one that does not answer is not. TCP_USER_TIMEOUT would end both
   (Linux: tcp_probe_timer), so unanswered segments are looked for in TCP_INFO.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import termios
from typing import Any
from typing import Protocol as Interface

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    INegotiated,
    IPullProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from mysocket.core.batch import Bytes

#: Seconds without an answer to what was sent after which a connection is dead; the same for one that is idle, in three probes.
DEAD_TIME = 45.0
PROBES = 3
#: Seconds for a TLS handshake.
HANDSHAKE_TIME = 30.0
#: Seconds for the receiver to close its side after we have closed ours.
CLOSE_TIME = 1.0
#: Bytes that may be with neither the receiver nor us, at most: what may come twice after a lost connection. At 50 ms there and
#: back that is 80 MB/s. Inside TLS all of it must arrive before more goes out.
ON_THE_WAY = 4 * 1024 * 1024
ON_THE_WAY_TLS = 1024 * 1024
#: In struct tcp_info (linux/tcp.h): a byte; words; and where the last of them ends.
PROBES_AT, UNACKED_AT, LAST_SENT_AT, LAST_ACK_AT, INFO_SIZE = 3, 24, 44, 56, 60


class Owner(Interface):
    """Whoever writes to the connection."""

    def came_up(self, connection: Counted) -> None:
        """It can be written to."""

    def has_room(self, connection: Counted) -> None:
        """It can be written to again."""

    def half_closed(self, connection: Counted) -> None:
        """The receiver has closed its half, or all of it: nobody can tell before something is written."""

    def lost(self, connection: Counted, why: str) -> None:
        """It is gone. The last call."""


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPullProducer)
class Counted(Protocol):
    """One connection. What comes over it is thrown away.

    :param owner: hears what happens; None: nobody any more.
    """

    transport: Any

    def __init__(self, owner: Owner, clock: IReactorTime) -> None:
        self.owner: Owner | None = owner
        #: What is written now goes out at once.
        self.writable = False
        #: Bytes that were written here, and how many of them the receiver's system has.
        self.total = 0
        self.acknowledged = 0
        #: Bytes that may be on the way.
        self.most = ON_THE_WAY
        #: What is wrong with it, if something is: nothing is counted any more, and it should be dropped.
        self.broken = ""
        self._clock = clock
        self._socket: socket.socket | None = None
        self._layer: Any = None  # the transport is a layer above that of the socket
        self._bottom: Any = None
        self._given = 0  # with the own kernel, at least
        self._fresh = False  # something was written since the last look
        self._answered = 0.0
        self._read_closed = self._write_closed = self._closing = False
        self._timer: IDelayedCall | None = None

    # Twisted calls these --------------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self._bottom = transport
        while not isinstance(handle := _handle(self._bottom), socket.socket) and hasattr(self._bottom, "transport"):
            self._bottom = self._bottom.transport
        if isinstance(handle, socket.socket):
            self._socket = handle
            if handle.family in (socket.AF_INET, socket.AF_INET6):
                if _meets_itself(handle):
                    self.abort("nothing listens there: it was connected to itself")
                    return
                _watch_over(handle)
        if self._bottom is transport:
            _hear_of_half_closes(transport)
            self._up(streaming=False)
            return
        self._layer = transport
        self.most = ON_THE_WAY_TLS
        if INegotiated.providedBy(transport):
            self._timer = self._clock.callLater(HANDSHAKE_TIME, self.abort, f"no TLS handshake within {HANDSHAKE_TIME:g} s")
        else:
            self._up(streaming=True)

    def handshakeCompleted(self) -> None:
        self._stop_timer()
        if not self._closing and not self.broken:
            self._up(streaming=True)

    def _up(self, *, streaming: bool) -> None:
        """
        :param streaming: a layer asks for nothing; it says when it has too much.
        """
        transport: Any = self.transport
        self.writable = True
        transport.registerProducer(self, streaming)
        if self.owner is not None:
            self.owner.came_up(self)

    def dataReceived(self, data: bytes) -> None:
        """Nobody wants it; but if it were not read, its close would not be seen, and ours would be a reset."""

    def readConnectionLost(self) -> None:
        self._read_closed = True
        if self._closing:
            self.transport.loseConnection()
        elif self.owner is not None:
            self.owner.half_closed(self)

    def writeConnectionLost(self) -> None:
        """Our half is closed, and all that was written is with the kernel."""
        self._write_closed = True
        if self._read_closed:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.writable = False
        self._socket = self._layer = self._bottom = None
        self._stop_timer()
        owner, self.owner = self.owner, None
        if owner is not None:
            done = reason.check(ConnectionDone) is not None
            owner.lost(self, self.broken or ("it was closed" if done else reason.getErrorMessage().rstrip(".")))

    def resumeProducing(self) -> None:
        if self._layer is None:
            # The transport has nothing queued.
            self._given = self.total
        if not self.writable and not self.broken and not self._closing:
            self.writable = True
            if self.owner is not None:
                self.owner.has_room(self)

    def pauseProducing(self) -> None:
        """The layers below have much queued."""
        self.writable = False

    def stopProducing(self) -> None:
        """The connection is closing; :meth:`connectionLost` follows."""

    # The owner calls these ------------------------------------------------------------------------------------------------------

    def write(self, parts: list[Bytes]) -> None:
        """Write, while it is :attr:`writable`."""
        if self.total == self.acknowledged:
            self._answered = self._clock.seconds()
        self._fresh = True
        self.total += sum(map(len, parts))
        if self._layer is not None or self._socket is None:
            self.writable = self._layer is not None
            self.transport.write(b"".join(parts))
            return
        try:
            sent = self._socket.sendmsg(parts)
        except OSError as problem:
            if problem.errno not in (errno.EAGAIN, errno.ENOBUFS):
                self._break(problem.strerror or str(problem))
                return
            sent = 0
        self._given += sent
        if self._given < self.total:
            self.writable = False
            self.transport.write(_rest(parts, sent))

    def look(self) -> None:
        """See how much the receiver's system has, and whether the connection still stands."""
        if self.broken or self._bottom is None:
            return
        fresh, self._fresh = self._fresh, False
        if self._socket is None:
            # What is no socket has no queue that could be asked for.
            if self.writable:
                self.acknowledged = self.total
            return
        left = _unsent(self._socket)
        if not self._stands(self._socket):
            return
        before = self.acknowledged
        if self._layer is None:
            self.acknowledged = max(before, self._given - left)
        elif not fresh and not left and not _queued(self._bottom) and not getattr(self._layer, "_appSendBuffer", None):
            # Small writes are encrypted in the next turn of the reactor, and so before the next look.
            self.acknowledged = self.total
        now = self._clock.seconds()
        if self.acknowledged != before or not _unanswered(self._socket):
            self._answered = now
        elif now - self._answered >= DEAD_TIME:
            self._break(f"no answer within {DEAD_TIME:g} s")

    def _stands(self, sock: socket.socket) -> bool:
        poll = select.poll()
        poll.register(sock, 0)
        events = poll.poll(0)
        # A Unix socket that was read to its end and closed in order hangs up without an error.
        fatal = select.POLLERR if sock.family == socket.AF_UNIX else select.POLLERR | select.POLLHUP
        if not events or not events[0][1] & fatal:
            return True
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._break(os.strerror(number) if number else "it was reset")
        return False

    def _break(self, why: str) -> None:
        self.broken = self.broken or why
        self.writable = False

    def finish(self) -> None:
        """Close in order: what was written goes out, and what still comes is read for a moment. Nobody hears of it any more."""
        if self._closing or self._bottom is None:
            return
        self._closing, self.writable = True, False
        transport: Any = self.transport
        transport.unregisterProducer()
        self._stop_timer()
        self._timer = self._clock.callLater(CLOSE_TIME, self._close_now)
        if self._read_closed or self._layer is not None or self._socket is None:
            transport.loseConnection()
        else:
            transport.loseWriteConnection()

    def _close_now(self) -> None:
        transport: Any = self.transport
        if self._write_closed:
            transport.loseConnection()
        else:
            transport.abortConnection()

    def abort(self, why: str = "") -> None:
        """Drop it."""
        if self._bottom is not None:
            self._break(why or "it was dropped")
            self._stop_timer()
            transport: Any = self.transport
            transport.abortConnection()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


def _handle(transport: Any) -> object:
    get_handle = getattr(transport, "getHandle", None)
    return get_handle() if get_handle is not None else None


def _hear_of_half_closes(transport: Any) -> None:
    """What endpoints of Twisted wrap a protocol in passes only one of its further interfaces on, the last of a list (26.10)."""
    wrapper = getattr(transport, "protocol", None)
    if hasattr(wrapper, "readConnectionLost") and not IHalfCloseableProtocol.providedBy(wrapper):
        alsoProvides(wrapper, IHalfCloseableProtocol)


def _meets_itself(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:
        return False  # it is gone already


def _watch_over(sock: socket.socket) -> None:
    """TCP: send at once, and notice when nobody is there any more while nothing is written."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds = int(DEAD_TIME / PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES - 1)


def _unsent(sock: socket.socket) -> int:
    """What the own kernel holds of what was written."""
    found = bytearray(4)
    # SIOCOUTQ is another name of it.
    fcntl.ioctl(sock, termios.TIOCOUTQ, found)
    return int(struct.unpack("i", found)[0])


def _unanswered(sock: socket.socket) -> bool:
    """Does the receiver's system owe an answer? One that says that it takes no more now has answered."""
    if sock.family == socket.AF_UNIX:
        return False
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_SIZE)
    unacked, sent, heard = (struct.unpack_from("I", info, at)[0] for at in (UNACKED_AT, LAST_SENT_AT, LAST_ACK_AT))
    # Milliseconds ago. A probe of a closed window is none of what was sent; one of them may be on the way.
    return unacked > 0 and heard > sent or info[PROBES_AT] > 1


def _queued(transport: Any) -> int:
    """Bytes that a transport of Twisted has queued."""
    return len(transport.dataBuffer) - int(transport.offset) + int(transport._tempDataLen)


def _rest(parts: list[Bytes], sent: int) -> bytes:
    """What is left of ``parts`` when ``sent`` bytes of them are gone."""
    rest: list[Bytes] = []
    for part in parts:
        if sent < len(part):
            rest.append(memoryview(part)[sent:])
        sent = max(0, sent - len(part))
    return b"".join(rest)
