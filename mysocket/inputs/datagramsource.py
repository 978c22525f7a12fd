"""An input of datagrams: each is a message.

Who may send is a question for :class:`~mysocket.carriers.admission.Admission`. What finds no room is dropped and counted: a
datagram cannot wait, and nobody can be asked for it again.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import DatagramProtocol

from mysocket.carriers.addresses import host_port_text
from mysocket.carriers.admission import Admission, source_of
from mysocket.core.batch import Kind, Piece
from mysocket.inputs.cutting import Lines
from mysocket.inputs.listeners import GuardedIntake
from mysocket.metrics import Rejected

#: Bytes of datagrams that wait for room, above which more are dropped.
MAX_QUEUED = 8 * 1024 * 1024
#: Bytes that the kernel is asked to keep of datagrams while this process is busy.
RECEIVE_BUFFER = 4 * 1024 * 1024


class DatagramSource(DatagramProtocol):
    """A :class:`~mysocket.ends.intake.Source` of datagrams: each is one message.

    A datagram of one line is a line, whether it ended as one or not; one of several lines is a message of several lines.

    :param limit: bytes of the longest message; a longer one goes on in parts.
    :param delimiter: what messages end in.
    """

    def __init__(
        self,
        name: str,
        intake: GuardedIntake,
        *,
        reactor: Any,
        admission: Admission,
        limit: int,
        delimiter: bytes = b"\n",
    ) -> None:
        self._name = name
        self._intake = intake
        self._reactor = reactor
        self._admission = admission
        self._cutter = Lines(delimiter, limit)
        self._told_long = False
        self._lines: list[bytes] = []
        self._call: IDelayedCall | None = None
        self._ports: Sequence[Any] = ()
        self._stopped = False

    connections = 0

    def listens(self, ports: Sequence[Any]) -> None:
        """It listens there."""
        self._ports = ports
        for port in ports:
            with suppress(AttributeError, OSError):
                port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

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
        if self._stopped:
            return
        text = host_port_text(addr[0], addr[1])
        if not self._admission.allows(addr[0]):
            why = f"datagrams are taken {self._admission}; use --allow to take more"
            said = f"{self._name}: dropped a datagram from {text}: {why}"
            self._intake.reject(source_of(addr[0]), said, address=text, why=Rejected.NOT_ALLOWED)
            return
        if self._intake.full:
            self._intake.drop(f"{self._name}: dropped a datagram: what came before waits for room")
            return
        delimiter, limit = self._cutter.delimiter, self._cutter.longest
        message = datagram.removesuffix(delimiter) + delimiter
        several = delimiter in message[:-1]
        if len(message) > limit + (not several) and not self._told_long:
            self._told_long = True
            self._intake.tell(f"{self._name}: a datagram from {text} is longer than {limit} bytes; such go on in parts")
        if several:
            self._flush()
            self._intake.give([Piece(Kind.BLOB, 0, message[at : at + limit]) for at in range(0, len(message), limit)])
            return
        self._lines.append(message)
        if self._call is None:
            # Those of one turn of the reactor go together.
            self._call = self._reactor.callLater(0, self._flush)

    def _flush(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        lines, self._lines = self._lines, []
        if lines:
            self._intake.give(self._cutter.whole(b"".join(lines)))
