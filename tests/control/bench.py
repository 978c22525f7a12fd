"""Clients of a control factory without sockets: an own stream that commits when it is told to, and wires that fill up."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from mysocket.control.outcomes import Outcomes
from mysocket.control.protocol import Greeting, Line, LineReader, encode, piece_line
from mysocket.control.server import ControlFactory, ControlProtocol
from mysocket.core.batch import Batch, Kind, Piece
from mysocket.spool.disk import DiskSpool
from mysocket.spool.disk_inbox import DiskInbox
from mysocket.spool.inbox import Feed
from mysocket.spool.interface import Bookmark
from mysocket.spool.opening import open_spool
from tests.support.spools import settle

#: What Twisted holds of what is not taken before it tells the producer; and what a Unix socket holds.
BUFFER, KERNEL = 65536, 212992


class Kept:
    """What outlives a process."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.bookmarks: dict[str, bytes] = {}
        self.position = 0
        self.retired = 0

    @property
    def payload(self) -> bytes:
        return b"".join(piece.payload for piece in self.pieces)


class OwnLog:
    """An :class:`~mysocket.control.outcomes.Outgoing`: like a spool it commits batches, and other things, in two queues."""

    durable = True

    def __init__(self, kept: Kept, capacity: int = 1 << 30) -> None:
        self.kept = kept
        self.capacity = capacity
        self.end = kept.position
        self.on_progress: Callable[[], None] = lambda: None
        self._batches: deque[tuple[list[Piece], Bookmark]] = deque()
        self._items: deque[Callable[[], Callable[[], None]]] = deque()

    @property
    def retired(self) -> int:
        return self.kept.retired

    @property
    def committed(self) -> int:
        return self.kept.position

    @property
    def room(self) -> int:
        return self.capacity - (self.end - self.retired)

    def accept(self, pieces: list[Piece], bookmark: Bookmark) -> None:
        assert pieces and self.room > 0
        self.end += sum(len(piece.payload) for piece in pieces)
        self._batches.append((pieces, bookmark))

    def mark(self, bookmark: Bookmark, done: Callable[[], None]) -> None:
        def make() -> Callable[[], None]:
            self.kept.bookmarks[bookmark.name] = bookmark.value
            return done

        self._items.append(make)

    def unmark(self, names: Collection[str]) -> None:
        def make() -> Callable[[], None]:
            for name in names:
                self.kept.bookmarks.pop(name, None)
            return lambda: None

        self._items.append(make)

    def commit(self, batches: int = 1 << 30, items: int = 1 << 30) -> None:
        """Commit so many of each; then tell."""
        done = []
        while self._batches and batches > 0:
            batches -= 1
            pieces, bookmark = self._batches.popleft()
            self.kept.pieces += pieces
            self.kept.position += sum(len(piece.payload) for piece in pieces)
            self.kept.bookmarks[bookmark.name] = bookmark.value
        while self._items and items > 0:
            items -= 1
            done.append(self._items.popleft()())
        for call in done:
            call()
        self.on_progress()

    def settle(self) -> None:
        while self._batches or self._items:
            self.commit()

    def deliver(self) -> None:
        """The peer has acknowledged what is committed."""
        self.kept.retired = self.kept.position
        self.on_progress()


class Service:
    """A factory with a desk around it; the desk is this."""

    def __init__(
        self,
        kept: Kept | None = None,
        *,
        feed: Feed | None = None,
        capacity: int = 1 << 30,
        max_message: int = 16 * 1024 * 1024,
        log: OwnLog | None = None,
        at_once: bool = True,
    ) -> None:
        self.kept = kept if kept is not None else Kept()
        self.log = log if log is not None else OwnLog(self.kept, capacity)
        self.clock = Clock()
        self.outcomes = Outcomes(self.log, self.kept.bookmarks, self.clock.seconds)
        self.no_input: str | None = None
        self.no_files: str | None = None
        self.feed = feed
        self.max_message = max_message
        self.stopped = 0
        self.asked: list[Callable[[Line], None]] = []
        self.greeting = Greeting("9.9", os.getpid(), "ab" * 16, 9000, "hub:9001", "/spool", feed is not None)
        self.factory = ControlFactory(self, self.clock)
        self.log.on_progress = self.factory.progress
        self._at_once = at_once
        self._undo = ExitStack()

    def status(self, done: Callable[[Line], None]) -> None:
        self.asked.append(done)

    def stop(self) -> None:
        self.stopped += 1

    def connect(self, *, reads: bool = True) -> Wire:
        wire = self._undo.enter_context(Wire(self, reads=reads))
        return wire

    def settle(self) -> None:
        """Do what would be done in a moment."""
        if self._at_once:
            self.log.settle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._undo.close()


class Wire:
    """The transport of a protocol on one side, the client on the other.

    :ivar reads: the client takes what is said to it.
    """

    def __init__(self, service: Service, *, reads: bool = True) -> None:
        self.service = service
        self.reads = reads
        self.heard: list[Line] = []
        self.disconnecting = self.closed = self.aborted = False
        self.protocol = ControlProtocol()
        self.protocol.factory = service.factory
        self._reader = LineReader()
        self._buffer = bytearray()
        self._kernel = 0  # bytes the kernel holds for a client that does not read
        self._sent = bytearray()  # bytes the service has not read yet
        self._reading = True
        self._producer: Any = None
        self._producing = True
        self._socket, self._other = socket.socketpair()
        self.protocol.makeConnection(self)  # type: ignore[arg-type]
        self.flush()

    # The transport --------------------------------------------------------------------------------------------------------------

    def getHandle(self) -> socket.socket:
        return self._socket

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        if self.closed:
            return
        self._buffer += data
        if self._producer is not None and len(self._buffer) > BUFFER:
            self._producing = False
            self._producer.pauseProducing()

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        if not self.disconnecting:
            self._reading = True

    def loseConnection(self) -> None:
        self.disconnecting = True
        self._reading = False

    def abortConnection(self) -> None:
        self.aborted = True
        self._close(ConnectionAborted())

    def _close(self, error: Exception) -> None:
        if not self.closed:
            self.closed = self.disconnecting = True
            self.protocol.connectionLost(Failure(error))

    # The client -----------------------------------------------------------------------------------------------------------------

    @property
    def unread(self) -> int:
        """Bytes that the service holds for the client."""
        return len(self._buffer)

    @property
    def unheard(self) -> int:
        """Bytes of the client that the service has not read."""
        return len(self._sent)

    def say(self, *lines: Line) -> None:
        """Say lines in one go."""
        self.send(b"".join(encode(line) for line in lines))

    def send(self, data: bytes, size: int = 65536) -> None:
        self._sent += data
        self.turn(size)

    def turn(self, size: int = 65536) -> None:
        """Let the service read what was sent, as far as it does; and read what it says."""
        while True:
            self.flush()
            if self.closed or not self._reading or not self._sent:
                break
            data = bytes(self._sent[:size])
            del self._sent[: len(data)]
            self.protocol.dataReceived(data)
        self.service.settle()
        self.flush()

    def read(self) -> list[Line]:
        """Take what was said; from now on the client reads."""
        self.reads = True
        self.turn()
        heard, self.heard = self.heard, []
        return heard

    def flush(self) -> None:
        """Let go what the client, or the kernel, takes."""
        while self._buffer and not self.aborted:
            size = len(self._buffer) if self.reads else min(len(self._buffer), KERNEL - self._kernel)
            if not size:
                return
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._kernel += 0 if self.reads else size
            self.heard += self._reader.feed(data)
            if self._producer is not None and not self._producing and not self._buffer:
                self._producing = True
                self._producer.resumeProducing()
        if self.disconnecting and not self._buffer:
            self._close(ConnectionDone())

    def drop(self) -> None:
        """The client goes."""
        self._close(ConnectionDone())

    @property
    def error(self) -> str:
        """Why the service has ended the connection."""
        self.flush()
        assert self.closed and "error" in self.heard[-1], (self.closed, self.heard[-3:])
        return str(self.heard[-1]["error"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.drop()
        self._socket.close()
        self._other.close()


# What is said -------------------------------------------------------------------------------------------------------------------

ID = "0123456789abcdef0123456789abcdef"


def send(number: int = 0) -> Line:
    """The question of the request of that number."""
    return {"do": "send", "id": f"{number:032x}"}


def lines(payload: bytes, flags: int = 0) -> Line:
    return piece_line(Piece(Kind.LINES, flags, payload))


def blob(payload: bytes, flags: int = 0) -> Line:
    return piece_line(Piece(Kind.BLOB, flags, payload))


# An inbox -----------------------------------------------------------------------------------------------------------------------


def open_inbox(path: Path, capacity: int = 1 << 30) -> tuple[DiskSpool, DiskInbox]:
    """A spool without a thread, whose inbox commits when :func:`settle` is called."""
    spool = open_spool(
        str(path),
        role="service",
        capacity=capacity,
        keep_received=True,
        host="host",
        post=lambda call: call(),
        now=lambda: 0.0,
        wall=lambda: 0.0,
        random_bytes=os.urandom,
    )
    assert spool.inbox is not None
    return spool, spool.inbox


def receive(spool: DiskSpool, *payloads: bytes, kind: Kind = Kind.LINES) -> None:
    """Messages of a peer come into the inbox."""
    assert spool.inbox is not None
    for payload in payloads:
        at = spool.inbox._given
        spool.inbox.deposit(Batch(at, kind, 0, 0, payload), stream=b"s" * 16, peer="peer")
        # The entry that a link gives behind it.
        spool.mark(Bookmark("test", b""))
    settle(spool)
