"""Connections and datagrams as inputs: who may, what becomes of half a line, and what happens when nobody takes it."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from mysocket.carriers.admission import LOOPBACK, Admission
from mysocket.core.batch import Flag, Kind, LineCutter, Piece
from mysocket.ends import listeners
from mysocket.ends.listeners import ConnectionSource, DatagramSource, LinesProtocol
from mysocket.spool.interface import Bookmark


class Taking:
    """An intake that keeps everything."""

    def __init__(self) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self.full = False
        self.pieces: list[Piece] = []
        self.dropped: list[str] = []
        self.rejected: list[tuple[object, str]] = []
        self.told: list[str] = []
        self.ended = False

    def give(self, pieces: list[Piece], bookmark: Bookmark | None = None) -> None:
        assert bookmark is None
        self.pieces += pieces

    def end(self) -> None:
        self.ended = True

    def drop(self, text: str) -> None:
        self.dropped.append(text)

    def reject(self, key: object, text: str) -> None:
        self.rejected.append((key, text))

    def tell(self, text: str) -> None:
        self.told.append(text)

    complain = tell

    @property
    def bytes(self) -> bytes:
        return b"".join(piece.payload for piece in self.pieces)


class Names:
    """A resolver that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Deferred[list[tuple[int, str]]]] = []

    def look_up(self, name: str) -> Deferred[list[tuple[int, str]]]:
        self.asked.append(Deferred())
        return self.asked[-1]


class Room:
    """One source of connections."""

    def __init__(self, limit: int = 1000, hosts: tuple[str, ...] = ()) -> None:
        self.taking, self.names = Taking(), Names()
        networks = [*LOOPBACK, ip_network("10.0.0.0/8")]
        admission = Admission(networks, hosts, resolver=self.names, clock=Clock())  # type: ignore[arg-type]
        self.source = ConnectionSource("tcp:1", self.taking, admission=admission, cutter=LineCutter, limit=limit)

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
    assert "192.0.2.1:4000" in room.taking.rejected[0][1] and "--allow" in room.taking.rejected[0][1]


def test_a_unix_socket_has_no_address_its_mode_decides() -> None:
    room = Room()
    one, _ = room.connect(UNIXAddress(None))
    one.dataReceived(b"local\n")
    assert room.taking.bytes == b"local\n"


@pytest.mark.parametrize("admitted", [True, False])
def test_while_a_name_is_looked_up_nothing_is_read(admitted: bool) -> None:
    room = Room(hosts=("device.example",))
    one, transport = room.connect("192.0.2.7")
    assert transport.producerState == "paused"
    one.dataReceived(b"what was on its way\n")  # in one read with the connection
    assert not room.taking.pieces
    room.names.asked[0].callback([(2, "192.0.2.7" if admitted else "192.0.2.8")])
    assert room.taking.bytes == (b"what was on its way\n" if admitted else b"")
    assert transport.disconnecting != admitted
    if admitted:
        assert transport.producerState == "producing"


def test_gone_while_its_name_is_looked_up() -> None:
    room = Room(hosts=("device.example",))
    one, _ = room.connect("192.0.2.7")
    lost(one)
    room.names.asked[0].callback([(2, "192.0.2.7")])
    assert room.source.connections == 0


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
    assert room.source.connections == 2 and len(room.taking.rejected) == 1


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


# Datagrams ----------------------------------------------------------------------------------------------------------------------


def datagrams(clock: Clock, taking: Taking, delimiter: bytes = b"\n", hosts: tuple[str, ...] = ()) -> DatagramSource:
    admission = Admission(LOOPBACK, hosts, resolver=Names(), clock=clock)  # type: ignore[arg-type]
    return DatagramSource("udp:1", taking, reactor=clock, admission=admission, delimiter=delimiter)


def test_each_datagram_is_a_message_and_those_of_a_moment_go_together() -> None:
    clock, taking = Clock(), Taking()
    source = datagrams(clock, taking)
    for datagram in (b"one", b"two\n", b"", b"\xff\x00"):
        source.datagramReceived(datagram, ("127.0.0.1", 5))
    assert not taking.pieces
    clock.advance(0)
    assert taking.pieces == [Piece(Kind.LINES, 0, b"one\ntwo\n\n\xff\x00\n")]


def test_a_datagram_of_several_lines_is_one_message_in_its_place() -> None:
    clock, taking = Clock(), Taking()
    source = datagrams(clock, taking)
    for datagram in (b"before", b"a\nb\n", b"behind"):
        source.datagramReceived(datagram, ("::1", 5, 0, 0))
    clock.advance(0)
    assert [(piece.kind, piece.payload) for piece in taking.pieces] == [
        (Kind.LINES, b"before\n"),
        (Kind.BLOB, b"a\nb\n"),
        (Kind.LINES, b"behind\n"),
    ]
    assert not clock.getDelayedCalls()


def test_datagrams_that_end_in_nul() -> None:
    clock, taking = Clock(), Taking()
    source = datagrams(clock, taking, b"\0")
    for datagram in (b"one\n", b"two\0"):
        source.datagramReceived(datagram, ("127.0.0.1", 5))
    clock.advance(0)
    assert taking.pieces == [Piece(Kind.LINES, Flag.NUL, b"one\n\0two\0")]


def test_datagrams_of_strangers_and_those_without_room_are_counted() -> None:
    clock, taking = Clock(), Taking()
    source = datagrams(clock, taking)
    source.datagramReceived(b"spoofed", ("192.0.2.9", 5))
    taking.full = True
    source.datagramReceived(b"no room", ("127.0.0.1", 5))
    clock.advance(0)
    assert not taking.pieces and len(taking.rejected) == len(taking.dropped) == 1


def test_look_ups_for_datagrams_are_bounded() -> None:
    clock, taking = Clock(), Taking()
    source = datagrams(clock, taking, hosts=("device.example",))
    for _ in range(listeners.MAX_JUDGING + 5):
        source.datagramReceived(b"x", ("192.0.2.9", 5))
    assert len(taking.dropped) == 5


def test_datagrams_of_the_last_moment_are_given_when_it_stops() -> None:
    clock, taking = Clock(), Taking()
    source = datagrams(clock, taking)
    source.datagramReceived(b"last", ("127.0.0.1", 5))
    source.stop()
    source.datagramReceived(b"too late", ("127.0.0.1", 5))
    clock.advance(1)
    assert taking.bytes == b"last\n"
