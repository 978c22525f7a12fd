"""A request: what is said when, what is kept, and which answers are believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket.control.protocol import Line, Malformed, read_piece
from mysocket.control.request import Forgotten, Request
from mysocket.core.batch import MAX_PAYLOAD, Flag, Kind, LineCutter, Piece, WholeCutter

ID = bytes(range(16))


def lines(text: bytes, flags: int = 0) -> Piece:
    return Piece(Kind.LINES, flags, text)


def answer(accepted: int, *, window: int | None = None, ended: bool = False) -> Line:
    return {
        "accepted": accepted,
        "position": 100 + accepted,
        "window": MAX_PAYLOAD + accepted if window is None else window,
        "ended": ended,
    }


def begun(*pieces: Piece, window: int | None = None) -> Request:
    request = Request(ID)
    request.give(pieces)
    assert request.begin() == {"do": "send", "id": ID.hex()}
    assert list(request.lines()) == []
    assert request.hear(answer(0, window=window))
    return request


def said(request: Request) -> list[bytes]:
    return [read_piece(line).payload if "piece" in line else b"END" for line in request.lines()]


def test_the_whole_way() -> None:
    request = begun(lines(b"a\n"))
    assert said(request) == [b"a\n"]
    assert not request.is_known
    request.give([lines(b"b\n")])
    request.finish()
    assert said(request) == [b"b\n", b"END"]
    assert said(request) == []
    assert request.hear(answer(2))
    assert not request.hear(answer(2))
    assert not request.is_accepted
    assert request.hear(answer(4, ended=True))
    assert request.is_accepted and request.position == 104
    assert request.hear({"delivered": 104}) and request.delivered


def test_a_part_of_a_message_is_known_not_to_be_accepted() -> None:
    request = begun(Piece(Kind.BLOB, Flag.MORE, b"a"), Piece(Kind.BLOB, 0, b"b"), window=1)
    assert said(request) == [b"a"]
    assert request.is_known
    request.hear({"window": 2})
    assert said(request) == [b"b"]
    assert not request.is_known


def test_a_message_whose_rest_is_not_there_keeps_nobody_waiting_but_us() -> None:
    request = begun(lines(b"a\n"), Piece(Kind.BLOB, Flag.MORE, b"b"), window=2)
    assert said(request) == [b"a\n"]
    assert not request.is_idle
    request.hear(answer(2, window=3))
    assert not request.is_idle, "it can be said"
    assert said(request) == [b"b"]
    assert not request.is_idle, "the service has not taken it"
    request.hear({"window": 4})
    assert request.is_idle
    request.give([Piece(Kind.BLOB, 0, b"c")])
    assert not request.is_idle
    assert said(request) == [b"c"]
    assert not request.is_idle
    request.hear(answer(4))
    assert request.is_idle


def test_an_earlier_position_is_not_delivery() -> None:
    request = begun(lines(b"a\n"))
    request.finish()
    said(request)
    request.hear(answer(2, ended=True))
    request.hear({"delivered": 101})
    assert not request.delivered


def test_a_piece_begins_below_the_window() -> None:
    request = begun(lines(b"aaa\n"), lines(b"b\n"), lines(b"c\n"), window=5)
    request.finish()
    assert said(request) == [b"aaa\n", b"b\n"]
    request.hear({"window": 6})
    assert said(request) == []
    request.hear({"window": 7})
    assert said(request) == [b"c\n", b"END"]


def test_nothing_at_all_is_a_request_too() -> None:
    request = begun()
    assert request.is_idle and request.is_known
    request.finish()
    assert said(request) == [b"END"]
    request.hear(answer(0, ended=True))
    assert request.is_accepted


def test_what_is_not_accepted_is_said_again_and_nothing_else() -> None:
    request = begun(lines(b"a\n"), lines(b"b\n"), lines(b"c\n"))
    request.finish()
    said(request)
    request.hear(answer(2))
    request.begin()
    request.hear(answer(4))
    assert said(request) == [b"c\n", b"END"]
    request.begin()
    request.hear(answer(6, ended=True))
    assert said(request) == []
    assert request.is_accepted


def test_a_message_in_parts_is_said_again_from_its_beginning() -> None:
    parts = WholeCutter().feed(b"x" * (2 * MAX_PAYLOAD + 1))
    request = begun(*parts, window=10**9)
    assert len(said(request)) == 2
    request.begin()
    request.hear(answer(0, window=10**9))
    assert len(said(request)) == 2
    with pytest.raises(Malformed, match="middle of a message"):
        request.hear(answer(MAX_PAYLOAD))


def test_one_that_has_lost_what_it_had_accepted() -> None:
    request = begun(lines(b"a\n"), lines(b"b\n"))
    said(request)
    request.hear(answer(2))
    request.begin()
    with pytest.raises(Forgotten) as problem:
        request.hear(answer(0))
    assert (problem.value.before, problem.value.now) == (2, 0)


def test_a_withdrawal_of_what_is_all_accepted_is_success() -> None:
    request = begun(lines(b"a\n"))
    request.finish()
    said(request)
    assert request.hear({"withdrawn": True, "accepted": 2, "position": 9})
    assert request.is_accepted and request.is_known


def test_a_withdrawal_tells_the_outcome() -> None:
    request = begun(lines(b"a\n"), lines(b"b\n"))
    request.finish()
    said(request)
    request.hear({"withdrawn": True, "accepted": 2, "position": 9})
    assert not request.is_accepted and request.is_known and request.accepted == 2


@pytest.mark.parametrize(
    "line",
    [
        {"accepted": 1, "position": 1},
        {"accepted": 3, "position": 1},
        {"accepted": 99, "position": 1},
        {"accepted": -1, "position": 1},
        {"accepted": True, "position": 1},
        {"accepted": "2", "position": 1},
        {"accepted": 2},
        {"accepted": 2, "position": None},
        {"window": -1},
        {"window": 1.5},
        {"ended": True},
        {"delivered": "x"},
        {"accepted": 0, "position": 1},
    ],
)
def test_answers_that_cannot_be(line: Line) -> None:
    request = begun(lines(b"a\n"), lines(b"b\n"))
    said(request)
    request.hear(answer(2))
    with pytest.raises(Malformed):
        request.hear({**line})
        # What it had accepted it may not take back, and it may not end what has not ended.
        raise AssertionError(line)


@given(
    st.lists(st.binary(max_size=300).map(lambda data: data.replace(b"\x01", b"\n")), max_size=8),
    st.lists(st.sampled_from(["say", "accept", "lose"]), max_size=40),
    st.integers(1, 500),
)
def test_whatever_comes_between_all_arrives_once(inputs: list[bytes], steps: list[str], window: int) -> None:
    """A service that accepts what it likes, when it likes, and loses connections, has the input in the end, and nothing twice."""
    cutter = LineCutter()
    request = Request(ID)
    for data in inputs:
        request.give(cutter.feed(data))
    request.give(cutter.finish())
    request.finish()
    stream, held, ended = bytearray(), list[Piece](), False

    def hear() -> None:
        request.hear(answer(len(stream), window=len(stream) + sum(len(p.payload) for p in held) + window, ended=ended))

    request.begin()
    hear()
    for step in [*steps, *(["say", "accept"] * 1000)]:
        if request.is_accepted:
            break
        if step == "say":
            for line in request.lines():
                if "end" in line:
                    ended = True
                else:
                    held.append(read_piece(line))
        elif step == "accept":
            while held and any(not p.flags & Flag.MORE for p in held):
                piece = held.pop(0)
                stream += piece.payload
            ended = ended and not held
            hear()
        else:
            held.clear()
            ended = False
            request.begin()
            hear()
    assert bytes(stream) == b"".join(inputs)
    assert request.accepted == request.given == len(stream)
