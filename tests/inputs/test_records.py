"""Whole messages, wherever the bytes of an input were cut, and however long they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket.core.batch import MAX_PAYLOAD, Assembler, Batch, Flag, Kind, Piece, split
from mysocket.inputs.records import Records

LINES = st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"-")), max_size=20)


def messages(pieces: list[Piece], limit: int) -> list[bytes]:
    """What a receiver with the same --max-message makes of them; it raises MessageTooLong where one is longer."""
    assembler, found, at = Assembler(limit), list[bytes](), 0
    for piece in pieces:
        block = assembler.feed(Batch(at, piece.kind, piece.flags, 0, piece.payload))
        at += len(piece.payload)
        if block is not None:
            found += [message.payload for message in split(block, limit)]
    assert not assembler.held, "the last message is not whole"
    return found


def test_what_is_whole_passes_as_it_is() -> None:
    assert Records(b"\n", 10).feed(b"one\ntwo\n") == [Piece(Kind.LINES, 0, b"one\ntwo\n")]
    assert Records(b"\0", 10).feed(b"one\0t\nwo\0") == [Piece(Kind.LINES, Flag.NUL, b"one\0t\nwo\0")]


def test_a_long_message_comes_when_it_is_complete_and_all_at_once() -> None:
    limit = 16 * MAX_PAYLOAD
    records = Records(b"\n", limit)
    line = b"x" * (3 * MAX_PAYLOAD) + b"\n"
    assert records.feed(b"before\n") == [Piece(Kind.LINES, 0, b"before\n")]
    for at in range(0, len(line) - 1, 100_000):
        assert records.feed(line[at : min(at + 100_000, len(line) - 1)]) == []
    assert records.held == len(line) - 1
    assert messages(records.feed(b"\nbehind\n"), limit) == [line[:-1], b"behind"]
    assert records.held == 0 and not records.cut_some


@pytest.mark.parametrize("limit", [2 * MAX_PAYLOAD, 300_000, 1000])
@pytest.mark.parametrize("size", [65_536, 3_000_000])
def test_what_is_too_long_goes_on_in_parts_that_everybody_takes(limit: int, size: int) -> None:
    """A receiver refuses what is longer, and with a spool that message would be the next one for ever."""
    records, found = Records(b"\n", limit), list[Piece]()
    line = bytes(range(65, 91)) * 80_000
    for at in range(0, len(line), size):
        found += records.feed(line[at : at + size])
        assert records.held <= limit
    assert records.cut_some
    parts = messages([*found, *records.feed(b"\nnext\n")], limit)
    assert b"".join(parts[:-1]) == line and parts[-1] == b"next"
    assert {len(part) for part in parts[:-2]} == {limit}


@given(LINES, st.integers(1, 25), st.data())
def test_any_cuts_give_the_same_messages(lines: list[bytes], limit: int, data: st.DataObject) -> None:
    stream, records = b"".join(line + b"\n" for line in lines) + b"rest", Records(b"\n", limit)
    whole, found = stream, list[Piece]()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += records.feed(stream[:size])
        assert records.held <= limit
        stream = stream[size:]
    found += records.finish()
    assert b"".join(piece.payload for piece in found) == whole
    assert b"".join(messages(found, limit)) == whole.replace(b"\n", b"")
    assert records.cut_some == any(len(line) > limit for line in [*lines, b"rest"])
    assert records.held == 0 and records.finish() == []


def test_after_its_end_it_can_go_on() -> None:
    records = Records(b"\n", 1000)
    records.feed(b"half")
    assert records.finish() == [Piece(Kind.LINES, Flag.UNTERMINATED, b"half")]
    assert [piece.payload for piece in records.feed(b"new\n")] == [b"new\n"]
