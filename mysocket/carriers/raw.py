"""Plain bytes over a stream transport, as nc and socat speak them. What goes in comes out, and nothing is promised beyond TCP."""

from __future__ import annotations

from typing import Any
from typing import Protocol as Interface

from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IPullProducer, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mysocket.carriers.stream import READ_SIZE

#: Bytes that wait for the socket above which no more input is taken.
HIGH_WATER = 1024 * 1024


class RawOwner(Interface):
    """Whoever answers for raw connections."""

    def raw_connected(self, carrier: RawProtocol) -> None:
        """The connection stands."""

    def raw_received(self, carrier: RawProtocol, data: bytes) -> None:
        """Bytes have come."""

    def raw_ended(self, carrier: RawProtocol) -> None:
        """The peer's half has ended."""

    def raw_drained(self, carrier: RawProtocol) -> None:
        """Nothing is queued for the socket."""

    def raw_shut(self, carrier: RawProtocol) -> None:
        """Our half has ended, and all of it is with the kernel."""

    def raw_lost(self, carrier: RawProtocol, reason: Failure) -> None:
        """The connection is gone. The last call."""


@implementer(IHalfCloseableProtocol, IPullProducer)
class RawProtocol(Protocol):
    """One plain connection."""

    transport: ITCPTransport

    def __init__(self, owner: RawOwner, *, dialler: bool) -> None:
        self.dialler = dialler
        self.connected_to: IAddress | None = None
        #: Bytes that were handed over and are not with the kernel yet; an upper bound, exact when it is 0.
        self.queued = 0
        self._owner = owner
        self._shut = False

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.connected_to = transport.getPeer()
        transport.bufferSize = READ_SIZE
        transport.registerProducer(self, False)
        self._owner.raw_connected(self)

    def dataReceived(self, data: bytes) -> None:
        self._owner.raw_received(self, data)

    def readConnectionLost(self) -> None:
        self._owner.raw_ended(self)

    def writeConnectionLost(self) -> None:
        self._owner.raw_shut(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._owner.raw_lost(self, reason)

    def resumeProducing(self) -> None:
        """The transport has nothing queued."""
        self.queued = 0
        self._owner.raw_drained(self)

    def stopProducing(self) -> None:
        """The connection is closing; :meth:`connectionLost` follows."""

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.queued += len(data)
        self.transport.write(data)

    def shut(self) -> None:
        """Send what is queued, then end our half."""
        if not self._shut:
            self._shut = True
            self.transport.unregisterProducer()  # type: ignore[attr-defined]
            self.transport.loseWriteConnection()

    def close(self) -> None:
        """Send what is queued, then close."""
        if not self._shut:
            self._shut = True
            self.transport.unregisterProducer()  # type: ignore[attr-defined]
        self.transport.loseConnection()

    def abort(self) -> None:
        """Drop the connection."""
        self.transport.abortConnection()

    def pause(self) -> None:
        """Read nothing until :meth:`resume`."""
        self.transport.pauseProducing()  # type: ignore[attr-defined]

    def resume(self) -> None:
        """Read again."""
        self.transport.resumeProducing()  # type: ignore[attr-defined]


class RawFactory(Factory[RawProtocol]):
    """Makes the protocol of each plain connection."""

    noisy = False

    def __init__(self, owner: RawOwner, *, dialler: bool) -> None:
        self._owner = owner
        self._dialler = dialler

    def buildProtocol(self, addr: IAddress | None) -> RawProtocol:
        protocol = RawProtocol(self._owner, dialler=self._dialler)
        protocol.factory = self
        return protocol
