"""Cutting bytes into pieces and putting messages together again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket.core.batch import (
    END,
    MAX_PAYLOAD,
    Assembler,
    Batch,
    ChunkCutter,
    Cutter,
    Flag,
    Kind,
    LineCutter,
    Piece,
    WholeCutter,
    chain,
    count,
    split,
)
from mysocket.errors import MessageTooLong

CUTTERS = {"lines": LineCutter, "null": lambda: LineCutter(b"\0"), "stream": ChunkCutter, "whole": WholeCutter}


def cut(cutter: Cutter, parts: list[bytes]) -> list[Piece]:
    return [piece for part in parts for piece in cutter.feed(part)] + cutter.finish()


def batches(pieces: list[Piece]) -> list[Batch]:
    found, at, value = [], 0, 0
    for piece in pieces:
        value = chain(piece.payload, value)
        found.append(Batch(at, piece.kind, piece.flags, value, piece.payload))
        at = found[-1].end
    return found


def messages(pieces: list[Piece], limit: int = 2**30) -> list[bytes]:
    assembler = Assembler(limit)
    blocks = [assembler.feed(batch) for batch in batches(pieces)]
    return [message.payload for block in blocks if block is not None for message in split(block, limit)]


PARTS = st.lists(
    st.one_of(st.binary(max_size=30), st.sampled_from([b"\n", b"a\nb", b"\0", bytes(MAX_PAYLOAD), b"x" * 300_000])), max_size=8
)


@given(name=st.sampled_from(sorted(CUTTERS)), parts=PARTS)
def test_what_goes_in_comes_out(name: str, parts: list[bytes]) -> None:
    """Whatever the cut, the payloads joined are the input, and no batch is empty or too large."""
    pieces = cut(CUTTERS[name](), [part for part in parts if part])
    assert b"".join(piece.payload for piece in pieces) == b"".join(parts)
    assert all(0 < len(piece.payload) <= MAX_PAYLOAD for piece in pieces)


@given(parts=PARTS)
def test_lines_are_the_lines_of_the_input(parts: list[bytes]) -> None:
    data = b"".join(parts)
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert messages(cut(LineCutter(), [part for part in parts if part])) == expected


@given(parts=PARTS)
def test_no_message_is_left_open(parts: list[bytes]) -> None:
    """The last piece of an input is never flagged MORE."""
    for make in CUTTERS.values():
        pieces = cut(make(), [part for part in parts if part])
        assert not pieces or not pieces[-1].flags & Flag.MORE


def test_a_batch_of_lines_is_cut_once() -> None:
    data = b"x" * 99 + b"\n"
    [piece] = LineCutter().feed(data * 1000 + b"tail")
    assert piece == Piece(Kind.LINES, 0, data * 1000)


def test_an_aligned_read_is_not_copied() -> None:
    data = b"line\n" * 10
    assert LineCutter().feed(data)[0].payload is data


def test_an_unterminated_last_line_is_flagged() -> None:
    assert cut(LineCutter(), [b"a\nb"]) == [Piece(Kind.LINES, 0, b"a\n"), Piece(Kind.LINES, Flag.UNTERMINATED, b"b")]
    assert cut(LineCutter(b"\0"), [b"b"]) == [Piece(Kind.LINES, Flag.UNTERMINATED | Flag.NUL, b"b")]


def test_a_long_line_travels_in_parts() -> None:
    pieces = cut(LineCutter(), [b"x" * (2 * MAX_PAYLOAD), b"\nnext\n"])
    assert [piece.flags for piece in pieces] == [Flag.MORE, 0] or [piece.flags for piece in pieces] == [Flag.MORE, Flag.MORE, 0]
    assert messages(pieces) == [b"x" * (2 * MAX_PAYLOAD), b"next"]


def test_whole_is_one_message() -> None:
    pieces = cut(WholeCutter(), [b"a\n" * 200_000])
    assert messages(pieces) == [b"a\n" * 200_000]
    assert cut(WholeCutter(), []) == []


def test_a_message_over_the_limit_is_refused_with_its_position() -> None:
    with pytest.raises(MessageTooLong, match="position 2 "):
        messages(cut(LineCutter(), [b"a\n" + b"x" * 600_000]), limit=500_000)
    with pytest.raises(MessageTooLong, match="position 2 "):
        messages(cut(LineCutter(), [b"a\nxxxx\n"]), limit=3)
    assert messages(cut(LineCutter(), [b"xxx\n"]), limit=3) == [b"xxx"]


@pytest.mark.parametrize("size", [300_000, 3])
def test_a_message_of_just_the_limit_passes_however_it_is_cut(size: int) -> None:
    assert messages(cut(LineCutter(), [b"x" * size + b"\nend\n"]), limit=size) == [b"x" * size, b"end"]
    assert messages(cut(LineCutter(), [b"x" * size + b"\n"]), limit=size) == [b"x" * size]
    with pytest.raises(MessageTooLong):
        messages(cut(LineCutter(), [b"x" * (size + 1) + b"\n"]), limit=size)


def test_the_limit_counts_the_message_and_not_what_follows_it() -> None:
    assembler = Assembler(MAX_PAYLOAD + 10)
    long = b"x" * (MAX_PAYLOAD + 5)
    pieces = [Piece(Kind.LINES, Flag.MORE, long[:MAX_PAYLOAD]), Piece(Kind.LINES, 0, long[MAX_PAYLOAD:] + b"\n" + b"y\n" * 1000)]
    first, last = batches(pieces)
    assert assembler.feed(first) is None and assembler.held == MAX_PAYLOAD
    assert assembler.feed(last) is not None and assembler.held == 0


@pytest.mark.parametrize("kind", [Kind.LINES, Kind.BLOB])
def test_a_message_that_was_broken_off_is_there_as_far_as_it_came(kind: Kind) -> None:
    assembler = Assembler(100)
    whole, first, second, mark = batches(
        [Piece(kind, 0, b"one\n"), Piece(kind, Flag.MORE, b"be"), Piece(kind, Flag.MORE, b"gun"), END]
    )
    assert assembler.feed(whole) == whole and assembler.end() is None
    assert assembler.feed(first) is None and assembler.feed(second) is None
    block = assembler.end()
    assert block is not None and (block.start, block.end, block.checksum) == (4, mark.start, second.checksum)
    assert [tuple(message) for message in split(block, 100)] == [(9, b"begun")] and count(block) == 1
    assert assembler.end() is None and assembler.held == 0 and assembler.feed(mark) == mark


def test_positions_stand_behind_messages() -> None:
    [block] = batches([Piece(Kind.LINES, 0, b"a\nbcd\ne")])
    assert [message.position for message in split(block, 10)] == [2, 6, 7]


def test_an_end_holds_no_message() -> None:
    [end] = batches([END])
    assert list(split(end, 10)) == [] and count(end) == 0 and end.end == 1


@given(parts=PARTS)
def test_count_counts_messages(parts: list[bytes]) -> None:
    pieces = cut(LineCutter(), [part for part in parts if part])
    assert sum(map(count, batches(pieces))) == len(messages(pieces))
