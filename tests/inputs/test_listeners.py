"""Connections as inputs: who may, what becomes of half a line, and what happens when nobody takes it."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from mysocket.carriers.admission import LOOPBACK, Admission
from mysocket.core.batch import Flag
from mysocket.inputs import listeners
from mysocket.inputs.listeners import ConnectionSource, LinesProtocol
from mysocket.metrics import Rejected
from tests.support.intake import Taking


class Room:
    """One source of connections."""

    def __init__(self, limit: int = 1000) -> None:
        self.taking = Taking()
        networks = [*LOOPBACK, ip_network("10.0.0.0/8")]
        admission = Admission(networks, [], resolver=None, clock=Clock())  # type: ignore[arg-type]
        self.source = ConnectionSource("tcp:1", self.taking, admission=admission, limit=limit)

    def connect(self, address: Any = "127.0.0.1") -> tuple[LinesProtocol, StringTransport]:
        if isinstance(address, str):
            address = IPv4Address("TCP", address, 4000)
        protocol: Any = self.source.factory.buildProtocol(address)
        transport = StringTransport(peerAddress=address)
        protocol.makeConnection(transport)
        return protocol, transport


def lost(protocol: LinesProtocol) -> None:
    protocol.connectionLost()


def test_lines_of_connections_are_never_mixed_within_a_line() -> None:
    room = Room()
    (one, _), (other, _) = room.connect(), room.connect("10.1.2.3")
    one.dataReceived(b"first half, ")
    other.dataReceived(b"another\nand its ")
    one.dataReceived(b"second half\n")
    other.dataReceived(b"end\n")
    assert room.taking.bytes == b"another\nfirst half, second half\nand its end\n"
    assert room.source.connections == 2


def test_a_line_without_an_end_is_a_message_when_its_connection_is_gone() -> None:
    room = Room()
    one, _ = room.connect()
    one.dataReceived(b"whole\nhalf")
    lost(one)
    assert [piece.payload for piece in room.taking.pieces] == [b"whole\n", b"half"]
    assert room.taking.pieces[-1].flags & Flag.UNTERMINATED and room.source.connections == 0


def test_who_may_not_is_closed_without_a_byte_and_nothing_of_it_is_taken() -> None:
    room = Room()
    stranger, transport = room.connect("192.0.2.1")
    assert transport.disconnecting and not transport.value()
    stranger.dataReceived(b"let me in\n")
    lost(stranger)
    assert not room.taking.pieces and len(room.taking.rejected) == 1
    assert room.taking.rejected[0][0] is Rejected.NOT_ALLOWED
    assert "192.0.2.1:4000" in room.taking.rejected[0][1] and "--allow" in room.taking.rejected[0][1]


def test_a_unix_socket_has_no_address_its_mode_decides() -> None:
    room = Room()
    one, _ = room.connect(UNIXAddress(None))
    one.dataReceived(b"local\n")
    assert room.taking.bytes == b"local\n"


def test_a_full_intake_stops_everybody_and_those_who_come() -> None:
    room = Room()
    (one, first), (_, second) = room.connect(), room.connect()
    room.taking.full = True
    one.dataReceived(b"x\n")
    assert first.producerState == second.producerState == "paused"
    _, third = room.connect()
    assert third.producerState == "paused"
    room.taking.full = False
    room.taking.on_room()
    assert {first.producerState, second.producerState, third.producerState} == {"producing"}


def test_too_many_connections_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "MAX_CONNECTIONS", 2)
    room = Room()
    kept = [room.connect()[1] for _ in range(2)]
    _, late = room.connect()
    assert late.disconnecting and not any(transport.disconnecting for transport in kept)
    assert room.source.connections == 2 and [why for why, _ in room.taking.rejected] == [Rejected.TOO_MANY]


def test_what_all_connections_hold_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "MAX_HELD", 1000)
    room = Room(limit=10_000)
    protocols = [room.connect()[0] for _ in range(20)]
    for _ in range(10):
        for number, protocol in enumerate(protocols):
            protocol.dataReceived(b"%02d" % number * 10)
            assert room.source._held <= 1000
    for protocol in protocols:
        lost(protocol)
    assert room.source._held == 0
    assert sum(len(piece.payload) for piece in room.taking.pieces) == 20 * 10 * 20, "nothing is lost"


def test_who_holds_most_is_cut_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "MAX_HELD", 100)
    room = Room(limit=10_000)
    (idle, _), (other, _) = room.connect("10.0.0.9"), room.connect()
    for text in (b"x" * 95, b"y" * 95):
        idle.dataReceived(text)
        other.dataReceived(b"first half, ")
        other.dataReceived(b"second half\n")
    assert room.taking.bytes == b"x" * 95 + b"first half, second half\n" + b"y" * 95 + b"first half, second half\n"
    assert len(room.taking.told) == 1 and "10.0.0.9" in room.taking.told[0]
    other.dataReceived(b"whole\n" + b"z" * 101)
    assert room.taking.bytes.endswith(b"second half\nwhole\n" + b"z" * 101)


def test_a_message_that_is_too_long_is_told_once() -> None:
    room = Room(limit=300_000)
    one, _ = room.connect()
    for _ in range(20):
        one.dataReceived(b"x" * 100_000)
    one.dataReceived(b"\n")
    assert len(room.taking.told) == 1 and "300000 bytes" in room.taking.told[0]
    assert len(room.taking.bytes) == 2_000_001


def test_when_it_stops_what_came_is_not_lost() -> None:
    room = Room()
    one, transport = room.connect()
    one.dataReceived(b"whole\nhalf")
    room.source.stop()
    assert room.taking.bytes == b"whole\nhalf" and transport.disconnecting
    one.dataReceived(b"too late\n")
    lost(one)
    assert room.taking.bytes == b"whole\nhalf"
    _, late = room.connect()
    assert late.disconnecting and not room.taking.rejected
