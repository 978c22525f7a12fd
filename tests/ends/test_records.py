"""Whole messages, wherever the bytes of an input were cut, and however long they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mysocket.core.batch import MAX_PAYLOAD, Flag, Kind, LineCutter, Piece
from mysocket.ends.records import Gather, Records


def messages(pieces: list[Piece]) -> list[bytes]:
    """What a receiver makes of them, without delimiters."""
    found, part = [], b""
    for piece in pieces:
        part += piece.payload
        if not piece.flags & Flag.MORE:
            found += part.removesuffix(b"\n").split(b"\n")
            part = b""
    assert not part, "the last message is not whole"
    return found


def test_what_is_whole_passes_as_it_is() -> None:
    pieces = [Piece(Kind.LINES, 0, b"one\ntwo\n")]
    assert Gather(10).take(pieces) is pieces


def test_a_long_message_comes_when_it_is_complete_and_all_at_once() -> None:
    records = Records(LineCutter(), 16 * MAX_PAYLOAD)
    line = b"x" * (3 * MAX_PAYLOAD) + b"\n"
    assert records.feed(b"before\n") == [Piece(Kind.LINES, 0, b"before\n")]
    for at in range(0, len(line) - 1, 100_000):
        assert records.feed(line[at : min(at + 100_000, len(line) - 1)]) == []
    assert records.held == len(line) - 1
    pieces = records.feed(b"\nbehind\n")
    assert messages(pieces) == [line[:-1], b"behind"]
    assert [bool(piece.flags & Flag.MORE) for piece in pieces][-1:] == [False]
    assert records.held == 0 and records.cuts == 0


def test_what_is_too_long_goes_on_in_parts_and_nothing_is_lost() -> None:
    limit = 2 * MAX_PAYLOAD
    records = Records(LineCutter(), limit)
    line = bytes(range(65, 91)) * 80_000
    found: list[Piece] = []
    for at in range(0, len(line), 65_536):
        found += records.feed(line[at : at + 65_536])
        assert records.held <= limit + MAX_PAYLOAD
    assert records.cuts == len(line) // limit
    found += records.feed(b"\nnext\n")
    parts = messages(found)
    assert b"".join(parts[:-1]) == line and parts[-1] == b"next"
    assert all(len(part) <= limit for part in parts)
    ends = [piece for piece in found if not piece.flags & Flag.MORE]
    assert [bool(piece.flags & Flag.UNTERMINATED) for piece in ends[:-1]] == [True] * records.cuts
    # The rest of the line and what came with it may stand in one piece.
    assert not ends[-1].flags & Flag.UNTERMINATED


@given(st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"-")), max_size=20), st.data())
def test_any_cuts_give_the_same_messages(lines: list[bytes], data: st.DataObject) -> None:
    stream, records = b"".join(line + b"\n" for line in lines) + b"rest", Records(LineCutter(), 1000)
    found: list[Piece] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += records.feed(stream[:size])
        stream = stream[size:]
    found += records.finish()
    assert b"".join(piece.payload for piece in found) == b"".join(line + b"\n" for line in lines) + b"rest"
    assert not any(piece.flags & Flag.MORE for piece in found)
    assert found[-1].payload.endswith(b"rest") and found[-1].flags & Flag.UNTERMINATED
    assert records.held == 0 and records.finish() == []


def test_after_its_end_it_can_go_on() -> None:
    records = Records(LineCutter(), 1000)
    records.feed(b"half")
    assert [piece.payload for piece in records.finish()] == [b"half"]
    assert [piece.payload for piece in records.feed(b"new\n")] == [b"new\n"]
