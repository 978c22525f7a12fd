"""Several inputs share one stream: whole messages, in turns, each with its bookmark, and no more than there is room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mysocket.carriers.admission import LOG_INTERVAL, RateLimitedLog
from mysocket.carriers.resolve import DaemonResolver
from mysocket.core.batch import MAX_PAYLOAD, Assembler, Batch, Flag, Kind, LineCutter, Piece, split
from mysocket.ends import words
from mysocket.metrics import Rejected
from mysocket.services.inputs import HIGH_WATER, TURN, Inputs, StandardTaker, Waiting, joined
from mysocket.services.sources import NamedInputs
from mysocket.settings import settings
from mysocket.specs import parse_input
from mysocket.spool.interface import Bookmark
from mysocket.watch import Voice


class Stream:
    """An :class:`~mysocket.services.outlet.Outlet` with as much room as a test gives it."""

    def __init__(self, room: int = 10**9) -> None:
        self.durable, self.peer, self.takes_files = True, "the peer", None
        self.closed = ""
        self.room = room
        self.stream: Any = SimpleNamespace(in_message=False)
        self.accepted: list[tuple[list[Piece], Bookmark | None]] = []

    def accept(self, pieces: Sequence[Piece], bookmark: Bookmark | None) -> None:
        assert self.room > 0 and not self.stream.in_message and not pieces[-1].flags & Flag.MORE
        self.accepted.append(([*pieces], bookmark))
        self.room -= sum(len(piece.payload) for piece in pieces)

    def mark(self, bookmark: Bookmark, done: Callable[[], None]) -> None:
        self.accepted.append(([], bookmark))
        done()

    def unmark(self, name: str) -> None:
        raise AssertionError

    @property
    def bytes(self) -> bytes:
        return b"".join(piece.payload for pieces, _ in self.accepted for piece in pieces)


class Idle:
    """A source that only remembers what it was told."""

    connections = 3

    def __init__(self) -> None:
        self.log: list[str] = []

    def start(self) -> None:
        self.log.append("start")

    def stop(self) -> None:
        self.log.append("stop")


class Room:
    def __init__(self, room: int = 10**9) -> None:
        self.clock, self.stream, self.told, self.ends = Clock(), Stream(room), list[str](), list[bool]()
        self.inputs = Inputs(
            self.stream,
            log=RateLimitedLog(self.told.append, self.clock),
            tell=self.told.append,
            complain=self.told.append,
            ended=lambda: self.ends.append(True),
        )

    def add(self, name: str = "tcp:1") -> Waiting:
        waiting = self.inputs.add(name)
        waiting.source = Idle()
        return waiting


def line(text: bytes) -> list[Piece]:
    return [Piece(Kind.LINES, 0, text + b"\n")]


def test_nothing_is_accepted_before_the_start_nor_without_a_stream() -> None:
    room = Room()
    one = room.add()
    one.give(line(b"early"))
    stream, room.stream.stream = room.stream.stream, None
    room.inputs.start()
    assert not room.stream.accepted and one.source.log == ["start"]  # type: ignore[union-attr]
    room.stream.stream = stream
    room.inputs.go_on()
    assert room.stream.bytes == b"early\n"


def test_nothing_comes_between_the_parts_of_another_message() -> None:
    room = Room()
    one = room.add()
    room.inputs.start()
    room.stream.stream.in_message = True
    one.give(line(b"patient"))
    assert not room.stream.accepted
    room.stream.stream.in_message = False
    room.inputs.go_on()
    assert room.stream.bytes == b"patient\n"


def test_each_has_its_turn() -> None:
    room = Room(room=0)
    greedy, modest = room.add("greedy"), room.add("modest")
    room.inputs.start()
    for number in range(40):
        greedy.give(line(b"g%d" % number + b"x" * (TURN // 4)))
    modest.give(line(b"m"))
    room.stream.room = 10**9
    room.inputs.go_on()
    assert [pieces[0].payload[:1] for pieces, _ in room.stream.accepted][:3] == [b"g", b"m", b"g"]
    assert room.stream.bytes.count(b"\n") == 41


def test_what_has_a_bookmark_is_accepted_with_it_alone() -> None:
    room = Room(room=0)
    one = room.add()
    room.inputs.start()
    marks = [Bookmark("input:x", b"%d" % number) for number in range(3)]
    for mark in marks:
        one.give(line(b"with"), mark)
    one.give(line(b"without"))
    one.give(line(b"either"))
    room.stream.room = 10**9
    room.inputs.go_on()
    assert [mark for _, mark in room.stream.accepted] == [*marks, None]
    assert room.stream.bytes == b"with\n" * 3 + b"without\neither\n"


def test_full_and_room_again() -> None:
    room = Room(room=0)
    one = room.add()
    room.inputs.start()
    asked: list[bool] = []
    one.on_room = lambda: asked.append(one.full)
    while not one.full:
        one.give(line(b"x" * 100_000))
    assert one.size >= HIGH_WATER and not asked
    room.stream.room = 1
    room.inputs.go_on()
    assert asked == [False], "one turn was enough"
    room.stream.room = 10**9
    room.inputs.go_on()
    assert asked == [False] and one.size == 0 and one.facts.bytes == len(room.stream.bytes)


def test_a_source_that_gives_more_when_there_is_room_is_no_recursion() -> None:
    room = Room(10**12)
    one, left = room.add(), [5000]

    def more() -> None:
        if left[0]:
            left[0] -= 1
            one.give([Piece(Kind.BLOB, 0, b"y" * HIGH_WATER)])

    one.on_room = more
    room.inputs.start()
    more()
    assert left == [0] and len(room.stream.accepted) == 5000


def test_it_has_ended_when_all_have_and_all_is_accepted() -> None:
    room = Room(room=0)
    one, other = room.add("one"), room.add("other")
    room.inputs.start()
    one.give(line(b"rest"))
    one.end()
    other.end()
    assert not room.ends and not room.inputs.ended
    room.stream.room = 100
    room.inputs.go_on()
    room.inputs.go_on()
    assert room.ends == [True] and room.inputs.ended


def test_leaving_names_what_is_lost_and_not_what_a_file_still_has() -> None:
    room = Room(room=0)
    one, file = room.add("tcp:1"), room.add("follow:x")
    room.inputs.start()
    one.give(line(b"nobody can give it again"))
    file.give(line(b"still there"), Bookmark("input:x", b"1"))
    room.inputs.stop()
    assert room.inputs.left() == ["tcp:1: 25 bytes were read and found no room; they are lost"]
    assert one.source.log == ["start", "stop"] and not room.ends  # type: ignore[union-attr]


def test_losses_are_counted_and_told_now_and_then() -> None:
    room = Room()
    one = room.add()
    for _ in range(1000):
        one.drop("dropped one")
        one.reject("a", "closed one", address="192.0.2.1:5", why=Rejected.NOT_ALLOWED)
    assert room.told == ["dropped one", "closed one"]
    assert room.told[1].fields == {"address": "192.0.2.1:5", "reason": "not_allowed", "input": "tcp:1"}  # type: ignore[attr-defined]
    assert (one.facts.dropped, one.facts.rejected) == (1000, 1000)
    room.clock.advance(LOG_INTERVAL)
    one.drop("dropped one")
    assert room.told[2:] == ["dropped one (and 999 more like it)"]


def test_an_input_of_which_much_is_to_be_said_does_not_fill_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "LINES", 5)
    said: list[str] = []
    named = settings({"peer": "hub:1", "input": [parse_input("follow:x")]}, ())
    watch: Any = SimpleNamespace(voice=Voice(said.append))
    inputs = NamedInputs(
        named, Clock(), Stream(), resolver=DaemonResolver(Clock()), watch=watch, bookmarks=None, ended=lambda: None
    )
    ((_, waiting),) = inputs._waiting
    for _ in range(20):
        waiting.tell("truncated")
        waiting.complain("lines are missing")
    assert said == ["truncated", "lines are missing"] * 5


def test_stdin_among_others_gives_whole_messages() -> None:
    room = Room()
    waiting = room.inputs.add("-")
    taker, cutter = StandardTaker(waiting, b"\n", 10 * MAX_PAYLOAD), LineCutter()
    room.add("tcp:1").end()
    room.inputs.start()
    assert taker.room > 0 and [facts.name for facts in room.inputs.facts] == ["tcp:1"]
    long = b"x" * (3 * MAX_PAYLOAD)
    for at in range(0, len(long), 65_536):
        taker.accept(cutter.feed(long[at : at + 65_536]))
    assert not room.stream.accepted
    taker.accept(cutter.feed(b"\nunfinished"))
    assert room.stream.bytes == long + b"\n"
    taker.accept(cutter.finish())
    taker.end_input()
    assert room.stream.bytes == long + b"\nunfinished" and room.ends == [True]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3000), st.booleans(), st.integers(0, 4000)), max_size=40))
def test_any_order_keeps_the_order_of_each(steps: list[tuple[int, int, bool, int]]) -> None:
    room = Room(room=0)
    waiting = [room.add(str(number)) for number in range(3)]
    given: list[list[bytes]] = [[], [], []]
    room.inputs.start()
    for number, (which, size, marked, more) in enumerate(steps):
        text = b"%d %d %s\n" % (which, number, b"x" * size)
        given[which].append(text)
        waiting[which].give([Piece(Kind.LINES, 0, text)], Bookmark(f"input:{which}", b"%d" % number) if marked else None)
        room.stream.room += more
        room.inputs.go_on()
    room.stream.room = 10**9
    room.inputs.go_on()
    got = room.stream.bytes.splitlines(keepends=True)
    for which in range(3):
        assert [text for text in got if text.startswith(b"%d " % which)] == given[which]
    for pieces, mark in room.stream.accepted:
        if mark is not None:
            assert len(pieces) == 1 and pieces[0].payload.split()[1] == mark.value


def test_a_bookmark_alone_comes_behind_what_was_given_before() -> None:
    room = Room(room=0)
    one = room.add()
    room.inputs.start()
    done: list[int] = []
    one.give(line(b"before"), Bookmark("input:x", b"1"))
    one.mark(Bookmark("input:x", b"2"), lambda: done.append(len(room.stream.accepted)))
    assert not done and not room.stream.accepted
    room.stream.room = 100
    room.inputs.go_on()
    assert [mark.value for _, mark in room.stream.accepted if mark] == [b"1", b"2"] and done == [2]
    assert one.size == 0


def test_lines_of_many_connections_go_in_few_pieces() -> None:
    room = Room(room=0)
    waiting = room.add()
    room.inputs.start()
    for number in range(5000):
        waiting.give(line(b"%d" % number))
    room.stream.room = 10**9
    room.inputs.go_on()
    pieces = [piece for pieces, _ in room.stream.accepted for piece in pieces]
    assert len(pieces) == 1 and room.stream.bytes == b"".join(b"%d\n" % number for number in range(5000))


_PAYLOADS = st.sampled_from([b"a\n", b"bb\n", b"c" * 1000 + b"\n", b"d" * (MAX_PAYLOAD - 1) + b"\n"])
_MESSAGES = st.one_of(
    _PAYLOADS.map(lambda data: [Piece(Kind.LINES, 0, data)]),
    _PAYLOADS.map(lambda data: [Piece(Kind.LINES, Flag.NUL, data[:-1] + b"\0")]),
    _PAYLOADS.map(lambda data: [Piece(Kind.LINES, Flag.UNTERMINATED, data[:-1])]),
    _PAYLOADS.map(lambda data: [Piece(Kind.BLOB, 0, data)]),
    _PAYLOADS.map(lambda data: [Piece(Kind.LINES, Flag.MORE, b"x" * 5), Piece(Kind.LINES, 0, data)]),
    _PAYLOADS.map(lambda data: [Piece(Kind.BLOB, Flag.MORE, b"y" * 5), Piece(Kind.BLOB, 0, data)]),
)


def each_message(pieces: list[Piece]) -> list[tuple[int, int, bytes]]:
    """Kind, flags and payload of each message, as a receiver takes them out of blocks."""
    assembler, found = Assembler(10**9), []
    for piece in pieces:
        block = assembler.feed(Batch(0, piece.kind, piece.flags, 0, piece.payload))
        if block is not None:
            kept = block.flags & (Flag.NUL | Flag.UNTERMINATED)
            found += [(int(block.kind), kept, bytes(message.payload)) for message in split(block, 10**9)]
    return found


@given(st.lists(_MESSAGES, max_size=30))
def test_joined_pieces_are_the_same_messages(messages: list[list[Piece]]) -> None:
    pieces = [piece for message in messages for piece in message]
    found = joined(pieces)
    assert all(len(piece.payload) <= MAX_PAYLOAD for piece in found) and len(found) <= len(pieces)
    assert each_message(found) == each_message(pieces)
