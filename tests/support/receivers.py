"""Receivers that speak no protocol: what came over each connection to one, and whether that is all of what was sent.

A :class:`Transport` is a transport of Twisted's kind over a real socket, without a reactor: what happens, and when, is
up to a test.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

KINDS = ("tcp", "unix")


def pair(kind: str) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection, non-blocking."""
    if kind == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ours = socket.create_connection(listening.getsockname())
            theirs, _ = listening.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def drain(sock: socket.socket, most: int = 2**62) -> tuple[bytes, bool]:
    """What is there to be read, and whether there will be more."""
    found = bytearray()
    try:
        while len(found) < most:
            data = sock.recv(min(65536, most - len(found)))
            if not data:
                return bytes(found), False
            found += data
    except BlockingIOError:
        pass
    except OSError:
        return bytes(found), False
    return bytes(found), True


def reset(sock: socket.socket) -> None:
    """Close it as the death of a process with unread data does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def line(number: int, size: int) -> bytes:
    """A block that is like no other, of about that size."""
    head = b"block %d of %d bytes " % (number, size)
    return head + b"." * max(0, size - len(head) - 1) + b"\n"


def check(blocks: Sequence[bytes], connections: Sequence[bytes], done: int) -> int:
    """Each connection begins with a block that may not be done, and goes on from there without a gap.

    :param done: blocks that count as done: the receiver must have them.
    :return: how many blocks came whole.
    """
    have = 0
    for data in filter(None, connections):
        # From what is left of a head at its end nobody can tell which block it is.
        first = next(number for number in range(len(blocks)) if b"".join(blocks[number:]).startswith(data))
        assert first <= have, f"block {have} is missing: the next connection begins with {first}"
        position = 0
        for number in range(first, len(blocks)):
            position += len(blocks[number])
            if position > len(data):
                break
            have = max(have, number + 1)
    assert done <= have, f"{done} blocks count as done, and {have} came"
    return have


class Transport:
    """Over a real socket; :meth:`turn` is a turn of the reactor."""

    disconnecting = False

    def __init__(self, sock: socket.socket, protocol: Protocol) -> None:
        self.sock = sock
        self.protocol = protocol
        self.open = True
        self.queued = b""
        self._producer: Any = None
        self._reads, self._aborted, self._shut, self._lose = True, False, False, False

    def getHandle(self) -> socket.socket:
        return self.sock

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self._producer is None and not streaming
        self._producer = producer
        producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if self.open and not self._aborted:
            self.queued += data

    def loseWriteConnection(self) -> None:
        self._shut = True

    def loseConnection(self) -> None:
        self._lose = True

    def abortConnection(self) -> None:
        self._aborted = True

    def turn(self, most: int = 2**62) -> None:
        """Do what a reactor would do now, but write ``most`` bytes at the most."""
        if not self.open:
            return
        if self._aborted:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._lost(ConnectionAborted())
            return
        if self._reads and not self._lose:
            try:
                while self.open and self._reads:
                    data = self.sock.recv(65536)
                    if data:
                        self.protocol.dataReceived(data)
                    else:
                        self._reads = False
                        self.protocol.readConnectionLost()  # type: ignore[attr-defined]
            except BlockingIOError:
                pass
            except OSError:
                self._lost(ConnectionLost())
                return
        self._write(most)

    def _write(self, most: int) -> None:
        if self.queued:
            try:
                sent = self.sock.send(self.queued[:most])
            except BlockingIOError:
                return
            except OSError:
                self._lost(ConnectionLost())
                return
            self.queued = self.queued[sent:]
            if not self.queued and self._producer is not None:
                self._producer.resumeProducing()
        if self.queued or self._aborted:
            return
        if self._lose:
            self._lost(ConnectionDone())
        elif self._shut:
            self._shut = False
            self.sock.shutdown(socket.SHUT_WR)
            self.protocol.writeConnectionLost()  # type: ignore[attr-defined]

    def _lost(self, why: Exception) -> None:
        self.open = False
        self.sock.close()
        self.protocol.connectionLost(Failure(why))


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Connects when a test wants it to. Keeps what came over each connection."""

    def __init__(self, kind: str = "tcp") -> None:
        self.kind = kind
        self.attempts: list[tuple[Any, Deferred[Any]]] = []
        self.transports: list[Transport] = []
        self.theirs: list[socket.socket] = []
        self.received: list[bytearray] = []
        self.cancelled = 0

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        attempt: Deferred[Any] = Deferred(self._cancel)
        self.attempts.append((protocolFactory, attempt))
        return attempt

    def _cancel(self, attempt: Deferred[Any]) -> None:
        self.cancelled += 1
        self.attempts = [one for one in self.attempts if one[1] is not attempt]

    @property
    def up(self) -> bool:
        """Does a connection stand, as far as the receiver knows?"""
        return bool(self.theirs) and self.theirs[-1].fileno() >= 0

    def accept(self) -> None:
        """The attempt succeeds."""
        factory, attempt = self.attempts.pop(0)
        ours, theirs = pair(self.kind)
        protocol = factory.buildProtocol(None)
        transport = Transport(ours, protocol)
        self.transports.append(transport)
        self.theirs.append(theirs)
        self.received.append(bytearray())
        protocol.makeConnection(transport)
        attempt.callback(protocol)

    def refuse(self, why: Callable[[], Exception] = ConnectionRefusedError) -> None:
        """The attempt fails."""
        _, attempt = self.attempts.pop(0)
        attempt.errback(Failure(why()))

    def read(self, most: int = 2**62) -> None:
        """The receiver reads from the last connection, and what there still is on those before."""
        for sock, received in zip(self.theirs, self.received, strict=True):
            if sock.fileno() >= 0:
                received += drain(sock, most if sock is self.theirs[-1] else 2**62)[0]

    def hang_up(self, how: str) -> None:
        """The receiver reads what its system has, and ends the connection: ``close``, ``half`` (its half), ``reset``."""
        if how == "half":
            with suppress(OSError):
                self.theirs[-1].shutdown(socket.SHUT_WR)
            return
        self.read()
        reset(self.theirs[-1]) if how == "reset" else self.theirs[-1].close()

    def turn(self, most: int = 2**62) -> None:
        """A turn of the reactor."""
        for transport in self.transports:
            transport.turn(most)

    def close(self) -> None:
        """Close every socket."""
        for sock in (*self.theirs, *(transport.sock for transport in self.transports)):
            sock.close()
