"""Datagrams as an input: each is a message, and what finds no room is counted."""

from __future__ import annotations

from twisted.internet.task import Clock

from mysocket.carriers.admission import LOOPBACK, Admission
from mysocket.core.batch import Flag, Kind, Piece
from mysocket.inputs.datagramsource import DatagramSource
from tests.support.intake import Taking


def datagrams(clock: Clock, taking: Taking, delimiter: bytes = b"\n", *, limit: int = 1000) -> DatagramSource:
    admission = Admission(LOOPBACK, [], resolver=None, clock=clock)  # type: ignore[arg-type]
    return DatagramSource("udp:1", taking, reactor=clock, admission=admission, limit=limit, delimiter=delimiter)


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


def test_datagrams_that_are_too_long_go_on_in_parts_and_that_is_told_once() -> None:
    clock, taking = Clock(), Taking()
    source = datagrams(clock, taking, limit=4)
    source.datagramReceived(b"four", ("127.0.0.1", 5))
    assert not taking.told
    for datagram in (b"fives", b"a\nbcde"):
        source.datagramReceived(datagram, ("127.0.0.1", 5))
    assert [(piece.kind, piece.payload) for piece in taking.pieces] == [
        (Kind.LINES, b"four\n"),
        (Kind.LINES, b"five"),
        (Kind.LINES, b"s\n"),
        (Kind.BLOB, b"a\nbc"),
        (Kind.BLOB, b"de\n"),
    ]
    assert len(taking.told) == 1 and "4 bytes" in taking.told[0]


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


def test_datagrams_of_the_last_moment_are_given_when_it_stops() -> None:
    clock, taking = Clock(), Taking()
    source = datagrams(clock, taking)
    source.datagramReceived(b"last", ("127.0.0.1", 5))
    source.stop()
    source.datagramReceived(b"too late", ("127.0.0.1", 5))
    clock.advance(1)
    assert taking.bytes == b"last\n"
