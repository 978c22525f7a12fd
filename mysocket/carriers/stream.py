"""A session over a stream transport of Twisted: TCP or a Unix socket. Moves bytes and knows nothing of positions.

Data goes out by ``sendmsg`` straight to the socket as long as nothing is queued, header and payload side by side: that saves a
copy and a trip round the reactor. What the socket does not take is left to the transport, and until that is gone nothing more is
asked for (:attr:`StreamProtocol.writable`).
"""

from __future__ import annotations

import socket
from typing import Any
from typing import Protocol as Interface

from twisted.internet.interfaces import IAddress, IDelayedCall, IPullProducer, IReactorTime, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mysocket import failpoints
from mysocket.core.batch import Bytes
from mysocket.core.session import Event, Heartbeat, Session
from mysocket.core.wire import Reason

#: Bytes read from a socket at once. Twisted's default is 64 KiB; a batch is up to 256 KiB.
READ_SIZE = 256 * 1024
#: Seconds a connection that was told BYE may take to close its side. A close with unread data would send a reset, and the reset
#: would overtake the BYE; so what still comes is read and thrown away.
CLOSE_TIME = 2.0
#: Bytes that wait behind a full socket, besides one batch, at most; then the connection is dropped.
UNREAD_LIMIT = 256 * 1024
#: Seconds in which a peer must be heard when somebody else says to be it.
CHALLENGE_TIME = 5.0


class Owner(Interface):
    """Whoever answers for a connection: the node until a HELLO has come, then a link."""

    def connected(self, carrier: StreamProtocol) -> None:
        """The connection stands; nothing was said yet."""

    def event(self, carrier: StreamProtocol, event: Event) -> None:
        """The session has an event."""

    def settle(self) -> None:
        """All events of one read are handled: send what is due."""

    def lost(self, carrier: StreamProtocol, reason: Failure) -> None:
        """The connection is gone. The last call."""


@implementer(IPullProducer)
class StreamProtocol(Protocol):
    """One connection.

    :param clock: the reactor, for the time.
    :param owner: who is told what happens; may be replaced at any time.
    """

    transport: ITCPTransport

    def __init__(self, *, dialler: bool, clock: IReactorTime, owner: Owner, heartbeat: Heartbeat = Heartbeat()) -> None:
        self.clock = clock
        self.owner = owner
        self.session = Session(dialler=dialler, now=clock.seconds(), heartbeat=heartbeat)
        #: Nothing is queued: what is sent now goes out at once.
        self.writable = False
        #: Both ends; a transport forgets them when the connection is lost.
        self.connected_to: IAddress | None = None
        self.connected_from: IAddress | None = None
        self._socket: socket.socket | None = None
        self._closing = False
        self._unread = 0
        self._close_timer: IDelayedCall | None = None

    # Twisted calls these --------------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.connected_to = transport.getPeer()
        self.connected_from = transport.getHost()
        get_handle = getattr(transport, "getHandle", None)
        handle = get_handle() if get_handle is not None else None
        if isinstance(handle, socket.socket):
            self._socket = handle
            transport.bufferSize = READ_SIZE
            if handle.family in (socket.AF_INET, socket.AF_INET6):
                transport.setTcpNoDelay(True)
        transport.registerProducer(self, False)
        self.owner.connected(self)

    def dataReceived(self, data: bytes) -> None:
        for event in self.session.receive(data, self.clock.seconds()):
            self.owner.event(self, event)
        self.owner.settle()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.writable = False
        self._socket = None
        self.session.is_over = True
        if self._close_timer is not None and self._close_timer.active():
            self._close_timer.cancel()
        self.owner.lost(self, reason)

    def resumeProducing(self) -> None:
        """The transport has nothing queued (it calls this once when the producer is registered, too)."""
        self._unread = 0
        if not self.writable:
            self.writable = True
            if self.session.is_open:
                self.owner.settle()

    def stopProducing(self) -> None:
        """The connection is closing; :meth:`connectionLost` follows."""

    # The owner calls these ------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """The session's deadline has come."""
        for event in self.session.tick(self.clock.seconds()):
            self.owner.event(self, event)

    def pause(self) -> None:
        """Read nothing until :meth:`resume`."""
        self.transport.pauseProducing()  # type: ignore[attr-defined]

    def resume(self) -> None:
        """Read (again)."""
        if not self._closing:
            self.transport.resumeProducing()  # type: ignore[attr-defined]

    def challenge(self) -> None:
        """Make sure soon that the peer is still there."""
        self.session.challenge(self.clock.seconds(), CHALLENGE_TIME)
        self.flush()

    def flush(self) -> None:
        """Send what the session has to send."""
        parts = self.session.output(self.clock.seconds())
        if parts and not self._closing:
            self._send(parts)

    def write_text(self, data: bytes) -> None:
        """Say something to a stranger, outside the protocol."""
        self.transport.write(data)

    def finish(self) -> None:
        """Send what is queued, then close our half; the peer's close, or :data:`CLOSE_TIME`, ends the connection."""
        self.flush()
        if self._closing:
            return
        self._closing = True
        self.writable = False
        self.transport.unregisterProducer()  # type: ignore[attr-defined]
        self.transport.loseWriteConnection()
        self._close_timer = self.clock.callLater(CLOSE_TIME, self.abort)

    def close(self, reason: Reason, text: str = "") -> None:
        """Say BYE, take nothing more, and close."""
        self.session.refuse(reason, text)
        self.finish()

    def drop(self) -> None:
        """Close at once, without a word beyond what is queued."""
        self.session.is_over = self._closing = True
        self.writable = False
        self.transport.unregisterProducer()  # type: ignore[attr-defined]
        self.transport.loseConnection()

    def abort(self) -> None:
        """Drop the connection, and what is queued."""
        self.session.is_over = self._closing = True
        self.transport.abortConnection()

    def _send(self, parts: list[Bytes]) -> None:
        if self.writable and self._socket is not None:
            if failpoints.armed("S4"):
                whole = b"".join(parts)
                parts = [memoryview(whole)[: len(whole) // 2]]
            try:
                sent = self._socket.sendmsg(parts)
            except BlockingIOError:
                sent = 0
            except OSError:
                # The transport meets the same error at its next write and reports it in the usual way.
                sent = 0
            else:
                failpoints.reach("S4")
            parts = _rest(parts, sent)
            if not parts:
                return
        if not self.writable:
            # Only acks and answers to pings come here; who causes more of them than this and reads none wants our memory.
            self._unread += sum(map(len, parts))
            if self._unread > UNREAD_LIMIT:
                self.abort()
                return
        self.writable = False
        # The transport joins what it queues, so views of other people's buffers do not outlive this call.
        self.transport.writeSequence([bytes(part) for part in parts])


def _rest(parts: list[Bytes], sent: int) -> list[Bytes]:
    """What is left of ``parts`` when ``sent`` bytes of them are gone."""
    for index, part in enumerate(parts):
        if sent < len(part):
            return [memoryview(part)[sent:], *parts[index + 1 :]]
        sent -= len(part)
    return []


class StreamFactory(Factory[StreamProtocol]):
    """Makes the protocol of each connection, dialled or accepted.

    :param owner: who answers for a connection at first.
    """

    noisy = False

    def __init__(self, *, dialler: bool, clock: IReactorTime, owner: Owner, heartbeat: Heartbeat = Heartbeat()) -> None:
        self._dialler = dialler
        self._clock = clock
        self._owner = owner
        self._heartbeat = heartbeat

    def buildProtocol(self, addr: IAddress | None) -> StreamProtocol:
        protocol = StreamProtocol(dialler=self._dialler, clock=self._clock, owner=self._owner, heartbeat=self._heartbeat)
        protocol.factory = self
        return protocol
