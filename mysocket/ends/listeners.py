"""Inputs that others connect to, or send datagrams to: each line of a connection is a message, and so is each datagram.

Who may is a question for :class:`~mysocket.carriers.admission.Admission`. Nobody gets an answer: a plain connection has none.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from mysocket.carriers.addresses import address_text, host_port_text
from mysocket.carriers.admission import Admission, source_of
from mysocket.carriers.datagram import Address
from mysocket.core.batch import MAX_PAYLOAD, Cutter, Flag, Kind, Piece
from mysocket.ends.intake import Intake
from mysocket.ends.records import Records

#: Connections to one input at a time.
MAX_CONNECTIONS = 1000
#: Bytes of messages that are not complete, of all connections of an input together; who goes beyond has its message cut there.
MAX_HELD = 64 * 1024 * 1024
#: Datagrams whose sender's address is looked up.
MAX_JUDGING = 64
#: Bytes of datagrams that wait for room, above which more are dropped.
MAX_QUEUED = 8 * 1024 * 1024
#: Bytes that the kernel is asked to keep of datagrams while this process is busy.
RECEIVE_BUFFER = 4 * 1024 * 1024


class GuardedIntake(Intake, Interface):
    """An intake of things that come from others."""

    def reject(self, key: object, text: str) -> None:
        """A connection or a datagram of a stranger is not taken; ``key``: what counts as one kind, for the log."""


class LinesProtocol(Protocol):
    """One connection to an input."""

    transport: Any

    def __init__(self, source: ConnectionSource, records: Records) -> None:
        self.records = records
        self.text = "a connection"
        self.told = False  # that a message was too long
        self._source = source
        self._admitted = False
        self._early: list[bytes] = []

    def connectionMade(self) -> None:
        self.text = address_text(self.transport.getPeer())
        with suppress(AttributeError, OSError):
            self.transport.setTcpKeepAlive(True)
        self._source.connected(self)

    def admit(self) -> None:
        """It may."""
        self._admitted = True
        early, self._early = self._early, []
        for data in early:
            self.dataReceived(data)

    def dataReceived(self, data: bytes) -> None:
        if self._admitted:
            self._source.received(self, data)
        else:
            self._early.append(data)  # one read at most: it is paused

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._source.lost(self, admitted=self._admitted)


class ConnectionSource:
    """A :class:`~mysocket.ends.intake.Source` on an endpoint.

    :param name: the input, as the user calls it.
    :param cutter: makes what finds the ends of messages.
    :param limit: bytes of the longest message that is put together.
    """

    def __init__(
        self,
        name: str,
        intake: GuardedIntake,
        *,
        admission: Admission,
        cutter: Callable[[], Cutter],
        limit: int,
    ) -> None:
        self.factory = Factory.forProtocol(lambda: LinesProtocol(self, Records(cutter(), limit)))
        self.factory.noisy = False
        self._name = name
        self._intake = intake
        self._admission = admission
        self._limit = limit
        self._ports: Sequence[IListeningPort] = ()
        self._connections: set[LinesProtocol] = set()
        self._held = 0
        self._paused = self._stopped = False
        intake.on_room = self._resume

    @property
    def connections(self) -> int:
        return len(self._connections)

    def listens(self, ports: Sequence[IListeningPort]) -> None:
        """It listens there."""
        self._ports = ports

    def start(self) -> None:
        """It has been listening."""

    def stop(self) -> None:
        self._stopped = True
        for port in self._ports:
            port.stopListening()
        self._ports = ()
        for one in list(self._connections):
            # What came is not to be lost because it has no end yet.
            self._finish(one)
            one.transport.loseConnection()

    # What connections say -------------------------------------------------------------------------------------------------------

    def connected(self, one: LinesProtocol) -> None:
        """A connection stands."""
        host = getattr(one.transport.getPeer(), "host", None)
        if self._stopped or len(self._connections) >= MAX_CONNECTIONS:
            if not self._stopped:
                self._intake.reject("many", f"{self._name}: {MAX_CONNECTIONS} connections are open; closed one from {one.text}")
            one.transport.loseConnection()
            return
        self._connections.add(one)
        verdict = self._admission.judge(host if isinstance(host, str) else None)
        if isinstance(verdict, Deferred):
            one.transport.pauseProducing()
            verdict.addCallback(self._judged, one)
        else:
            self._judged(verdict, one)

    def _judged(self, admitted: bool, one: LinesProtocol) -> None:
        if one not in self._connections:
            return
        if not admitted:
            host = getattr(one.transport.getPeer(), "host", None)
            self._intake.reject(
                source_of(host),
                f"{self._name}: closed a connection from {one.text}: connections are taken {self._admission}; "
                "use --allow to take more",
            )
            self._connections.discard(one)
            one.transport.loseConnection()
            return
        one.admit()
        if self._paused:
            one.transport.pauseProducing()
        else:
            one.transport.resumeProducing()

    def received(self, one: LinesProtocol, data: bytes) -> None:
        """Bytes of a connection that may."""
        if self._stopped:
            return
        before = one.records.held
        pieces = one.records.feed(data)
        self._held += one.records.held - before
        if self._held > MAX_HELD:
            pieces += self._finish_records(one)
        if one.records.cuts and not one.told:
            one.told = True
            self._intake.tell(f"{self._name}: a message from {one.text} is longer than {self._limit} bytes; it goes on in parts")
        self._intake.give(pieces)
        if self._intake.full and not self._paused:
            self._paused = True
            for each in self._connections:
                each.transport.pauseProducing()

    def lost(self, one: LinesProtocol, *, admitted: bool) -> None:
        """A connection is gone; its last line may have no end."""
        if one in self._connections:
            self._finish(one)

    def _finish(self, one: LinesProtocol) -> None:
        self._connections.discard(one)
        self._intake.give(self._finish_records(one))

    def _finish_records(self, one: LinesProtocol) -> list[Piece]:
        self._held -= one.records.held
        return one.records.finish()

    def _resume(self) -> None:
        if self._paused and not self._stopped:
            self._paused = False
            for one in list(self._connections):
                one.transport.resumeProducing()


class DatagramSource(DatagramProtocol):
    """A :class:`~mysocket.ends.intake.Source` of datagrams: each is one message.

    A datagram of one line is a line, whether it ended as one or not; one of several lines is a message of several lines.

    :param delimiter: what messages end in.
    """

    def __init__(self, name: str, intake: GuardedIntake, *, reactor: Any, admission: Admission, delimiter: bytes = b"\n") -> None:
        self._name = name
        self._intake = intake
        self._reactor = reactor
        self._admission = admission
        self._delimiter = delimiter
        self._flags = Flag.NUL.value if delimiter == b"\0" else 0
        self._lines: list[bytes] = []
        self._size = 0
        self._call: IDelayedCall | None = None
        self._ports: Sequence[IListeningPort] = ()
        self._judging = 0
        self._stopped = False

    connections = 0

    def listens(self, ports: Sequence[IListeningPort]) -> None:
        """It listens there."""
        self._ports = ports
        for port in ports:
            with suppress(AttributeError, OSError):
                port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)  # type: ignore[attr-defined]

    def start(self) -> None:
        """It has been listening."""

    def stop(self) -> None:
        self._stopped = True
        for port in self._ports:
            port.stopListening()
        self._ports = ()
        if self._call is not None:
            self._call.cancel()
            self._flush()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        verdict = self._admission.judge(addr[0])
        if isinstance(verdict, Deferred):
            if self._judging >= MAX_JUDGING:
                self._intake.drop(f"{self._name}: dropped datagrams while their sender's address was looked up")
                return
            self._judging += 1
            verdict.addCallback(self._looked_up, datagram, (addr[0], addr[1]))
        else:
            self._judged(verdict, datagram, (addr[0], addr[1]))

    def _looked_up(self, admitted: bool, datagram: bytes, address: Address) -> None:
        self._judging -= 1
        self._judged(admitted, datagram, address)

    def _judged(self, admitted: bool, datagram: bytes, address: Address) -> None:
        if self._stopped:
            return
        if not admitted:
            text = host_port_text(*address)
            self._intake.reject(
                source_of(address[0]),
                f"{self._name}: dropped a datagram from {text}: datagrams are taken {self._admission}; use --allow to take more",
            )
            return
        if self._intake.full:
            self._intake.drop(f"{self._name}: dropped a datagram: what came before waits for room")
            return
        message = datagram.removesuffix(self._delimiter) + self._delimiter
        if self._delimiter in message[:-1]:
            self._flush()
            self._intake.give([Piece(Kind.BLOB, 0, message)])
            return
        if self._size + len(message) > MAX_PAYLOAD:
            self._flush()
        self._lines.append(message)
        self._size += len(message)
        if self._call is None:
            # Those of one turn of the reactor go together.
            self._call = self._reactor.callLater(0, self._flush)

    def _flush(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        lines, self._lines, self._size = self._lines, [], 0
        if lines:
            self._intake.give([Piece(Kind.LINES, self._flags, b"".join(lines))])
