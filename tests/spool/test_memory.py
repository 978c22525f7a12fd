"""What a spool answers a link. The suite is for every kind of spool; now there is one, in memory."""

from __future__ import annotations

from mysocket.core.batch import END, Kind, Piece, chain
from mysocket.spool.interface import Spool
from mysocket.spool.memory import BATCH_COST, MemorySpool


def spool(capacity: int = 10_000) -> Spool:
    return MemorySpool(b"s" * 16, capacity)


def test_pieces_get_positions_and_chain_values() -> None:
    log = spool()
    first = log.append(Piece(Kind.LINES, 0, b"one\n"))
    last = log.append(END)
    assert (first.start, first.end, last.start, last.end, log.end) == (0, 4, 4, 5, 5)
    assert first.checksum == chain(b"one\n", 0) and last.checksum == chain(END.payload, first.checksum)
    assert log.read(0) == first and log.read(4) == last


def test_chain_values_are_known_at_every_boundary_that_is_kept() -> None:
    log = spool()
    first = log.append(Piece(Kind.LINES, 0, b"one\n"))
    second = log.append(Piece(Kind.LINES, 0, b"two\n"))
    assert [log.chain_at(position) for position in (0, 4, 8, 3, 9)] == [0, first.checksum, second.checksum, None, None]
    log.retire(4)
    assert [log.chain_at(position) for position in (0, 4, 8)] == [None, first.checksum, second.checksum]


def test_only_whole_batches_are_retired() -> None:
    log = spool()
    for text in (b"one\n", b"two\n"):
        log.append(Piece(Kind.LINES, 0, text))
    log.retire(7)
    assert log.retired == 4
    log.retire(8)
    assert log.retired == log.end == 8


def test_room_shrinks_by_what_is_kept_and_comes_back() -> None:
    log = spool(1000)
    log.append(Piece(Kind.BLOB, 0, bytes(500)))
    assert log.room == 500 - BATCH_COST
    log.append(Piece(Kind.BLOB, 0, bytes(500)))
    assert log.room < 0
    log.retire(1000)
    assert log.room == 1000


def test_a_backlog_of_tiny_messages_is_bounded_by_what_it_costs() -> None:
    log = spool(100_000)
    count = 0
    while log.room > 0:
        log.append(Piece(Kind.LINES, 0, b"\n"))
        count += 1
    assert count < 300
