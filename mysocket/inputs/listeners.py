"""An input that others connect to: each line of a connection is a message.

Who may is a question for :class:`~mysocket.carriers.admission.Admission`. Nobody gets an answer: a plain connection has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from typing import Protocol as Interface

from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from mysocket.carriers.addresses import address_text
from mysocket.carriers.admission import Admission, source_of
from mysocket.core.batch import Piece
from mysocket.ends.intake import Intake
from mysocket.inputs.records import Records
from mysocket.metrics import Rejected

#: Connections to one input at a time.
MAX_CONNECTIONS = 1000
#: Bytes of messages that are not complete, of all connections of an input together; beyond that the longest is cut.
MAX_HELD = 64 * 1024 * 1024


class GuardedIntake(Intake, Interface):
    """An intake of things that come from others."""

    def reject(self, key: object, text: str, *, address: str, why: Rejected) -> None:
        """A connection or a datagram of a stranger is not taken; ``key``: what counts as one kind, for the log."""


class LinesProtocol(Protocol):
    """One connection to an input."""

    transport: Any

    def __init__(self, source: ConnectionSource, records: Records) -> None:
        self.records = records
        self.text = "a connection"
        self.told = False  # that a message was too long
        self._source = source

    def connectionMade(self) -> None:
        self.text = address_text(self.transport.getPeer())
        with suppress(AttributeError, OSError):
            self.transport.setTcpKeepAlive(True)
        self._source.connected(self)

    def dataReceived(self, data: bytes) -> None:
        self._source.received(self, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._source.lost(self)


class ConnectionSource:
    """A :class:`~mysocket.ends.intake.Source` on an endpoint.

    :param name: the input, as the user calls it.
    :param limit: bytes of the longest message; a longer one goes on in parts.
    :param delimiter: what messages end in.
    """

    def __init__(
        self,
        name: str,
        intake: GuardedIntake,
        *,
        admission: Admission,
        limit: int,
        delimiter: bytes = b"\n",
    ) -> None:
        self.factory = Factory.forProtocol(lambda: LinesProtocol(self, Records(delimiter, limit)))
        self.factory.noisy = False
        self._name = name
        self._intake = intake
        self._admission = admission
        self._limit = limit
        self._ports: Sequence[IListeningPort] = ()
        self._connections: set[LinesProtocol] = set()
        self._held = 0
        self._paused = self._stopped = self._told_cut = False
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
                text = f"{self._name}: {MAX_CONNECTIONS} connections are open; closed one from {one.text}"
                self._intake.reject("many", text, address=one.text, why=Rejected.TOO_MANY)
            one.transport.loseConnection()
            return
        if not self._admission.allows(host if isinstance(host, str) else None):
            why = f"connections are taken {self._admission}; use --allow to take more"
            text = f"{self._name}: closed a connection from {one.text}: {why}"
            self._intake.reject(source_of(host), text, address=one.text, why=Rejected.NOT_ALLOWED)
            one.transport.loseConnection()
            return
        self._connections.add(one)
        if self._paused:
            one.transport.pauseProducing()

    def received(self, one: LinesProtocol, data: bytes) -> None:
        """Bytes of a connection."""
        if one not in self._connections:
            return  # it was turned away, or this has stopped
        before = one.records.held
        pieces = one.records.feed(data)
        self._held += one.records.held - before
        if one.records.cut_some and not one.told:
            one.told = True
            self._intake.tell(f"{self._name}: a message from {one.text} is longer than {self._limit} bytes; it goes on in parts")
        self._intake.give(pieces)
        if self._held > MAX_HELD:
            self._cut(max(self._connections, key=lambda each: each.records.held))
        if self._intake.full and not self._paused:
            self._paused = True
            for each in self._connections:
                each.transport.pauseProducing()

    def _cut(self, one: LinesProtocol) -> None:
        """All together hold too much, and this one most."""
        if not self._told_cut:
            self._told_cut = True
            text = f"{MAX_HELD} bytes wait for the ends of messages; the longest, now from {one.text}, goes on in parts"
            self._intake.tell(f"{self._name}: more than {text}")
        self._intake.give(self._finish_records(one))

    def lost(self, one: LinesProtocol) -> None:
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
