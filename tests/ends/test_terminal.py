"""A person at a terminal: each line typed is a message, and EXIT or Ctrl-D ends the input."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred

from mysocket.core.batch import Flag, Kind, Piece, cutter
from mysocket.ends.descriptors import What, what
from mysocket.ends.terminal import TerminalSource, own_terminal

reactor: Any = installed

#: Seconds that only a test that hangs meets.
DEADLINE = 30
PLENTY = 2**40


class Person:
    """A terminal, and what takes the lines that are typed at it."""

    def __init__(self, cut: str = "lines", room: int = PLENTY) -> None:
        self.room = room
        self.pieces: list[Piece] = []
        self.ends: list[bool] = []
        self.ended = 0
        self.master, self.slave = os.openpty()
        self._call: Callable[[], None] = lambda: None
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []
        self.private = own_terminal(self.slave)
        self.source = TerminalSource(reactor, self.private, cutter(cut), self, ended=self._ended)

    # What takes the lines

    def when_room(self, call: Callable[[], None]) -> None:
        self._call = call

    def accept(self, pieces: list[Piece]) -> int:
        assert not self.ends, "something came behind the end"
        self.pieces += pieces
        self.room -= sum(len(piece.payload) for piece in pieces)
        self._look()
        return 0

    def end_input(self, *, wanted: bool = True) -> None:
        self.ends.append(wanted)

    def _ended(self) -> None:
        assert len(self.ends) == 1, "the taker is told first"
        self.ended += 1
        self._look()

    def _look(self) -> None:
        for entry in list(self._waiting):
            if entry[0]():
                self._waiting.remove(entry)
                reactor.callLater(0, entry[1].callback, None)  # when what has just happened is over

    # The test

    @property
    def lines(self) -> list[bytes]:
        return [piece.payload for piece in self.pieces]

    @property
    def reading(self) -> bool:
        """The reactor waits for keys."""
        return any(reader.fileno() == self.private.fd for reader in reactor.getReaders())

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def give_room(self, size: int = PLENTY) -> None:
        self.room = size
        self._call()

    async def until(self, condition: Callable[[], bool]) -> None:
        done: Deferred[None] = Deferred()
        self._waiting.append((condition, done))
        self._look()
        await done.addTimeout(DEADLINE, reactor)

    async def until_lines(self, count: int) -> None:
        await self.until(lambda: len(self.pieces) >= count)

    async def until_end(self) -> None:
        await self.until(lambda: bool(self.ended))

    async def turns(self, count: int = 3) -> None:
        """Let the reactor look at all descriptors some times."""
        for _ in range(count):
            turned: Deferred[None] = Deferred()
            reactor.callLater(0, turned.callback, None)
            await turned

    def close(self) -> None:
        self.source.stop()
        self.private.close()
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def person() -> Iterator[Person]:
    made = Person()
    yield made
    made.close()
    assert not made.reading


@pytest_twisted.ensureDeferred
async def test_each_line_is_a_message_when_its_end_is_typed(person: Person) -> None:
    person.source.start()
    person.type(b"one\n")
    await person.until_lines(1)
    person.type(b"\xc3\xa4 two")
    await person.turns()
    assert len(person.pieces) == 1
    person.type(b" of it\n\nthree\n")
    await person.until_lines(4)
    assert person.pieces == [Piece(Kind.LINES, 0, line) for line in (b"one\n", b"\xc3\xa4 two of it\n", b"\n", b"three\n")]
    assert not person.ends and person.reading


@pytest_twisted.ensureDeferred
async def test_a_longer_line_than_twisted_takes_is_no_reason_to_end(person: Person) -> None:
    """A terminal in raw mode, or something that only looks like one, has no limit of 4095 bytes."""
    person.source.start()
    person.source.dataReceived(b"x" * 100_000)
    person.source.dataReceived(b"y\nnext\n")
    assert person.lines == [b"x" * 100_000 + b"y\n", b"next\n"] and not person.ends


@pytest.mark.parametrize("word", [b"EXIT\n", b"EXIT\r\n", b"EXIT\x16\r\n"], ids=["LF", "return-key", "CR-LF"])
@pytest_twisted.ensureDeferred
async def test_exit_ends_the_input_and_is_no_message(person: Person, word: bytes) -> None:
    r"""The terminal makes LF of CR, unless Ctrl-V (\x16) stands before it."""
    person.source.start()
    person.type(b"one\n" + (word if b"\x16" in word else word.replace(b"\r\n", b"\r")))
    await person.until_end()
    assert person.lines == [b"one\n"] and person.ends == [False] and not person.reading


@pytest.mark.parametrize("line", [b"exit", b" EXIT", b"EXIT ", b"EXIT.", b"EXITEXIT"], ids=repr)
@pytest_twisted.ensureDeferred
async def test_only_the_word_itself_ends_the_input(person: Person, line: bytes) -> None:
    person.source.start()
    person.type(line + b"\nnext\n")
    await person.until_lines(2)
    assert person.lines == [line + b"\n", b"next\n"] and not person.ends and person.reading


@pytest_twisted.ensureDeferred
async def test_lines_behind_exit_are_not_taken(person: Person) -> None:
    person.source.start()
    person.source.dataReceived(b"one\nEXIT\ntwo\nEXIT\nthree")
    person.type(b"four\n\x04")
    person.give_room()
    await person.turns()
    assert person.lines == [b"one\n"] and person.ends == [False] and person.ended == 1 and not person.reading


@pytest_twisted.ensureDeferred
async def test_ctrl_d_ends_the_input(person: Person) -> None:
    person.source.start()
    person.type(b"one\n\x04")
    await person.until_end()
    assert person.lines == [b"one\n"] and person.ends == [False]
    await person.turns()
    assert person.ended == 1 and not person.reading
    # The terminal is the shell's; only the own description of it is closed.
    person.private.close()
    assert what(person.slave) is What.TERMINAL and what(person.private.fd) is What.CLOSED


@pytest_twisted.ensureDeferred
async def test_text_before_ctrl_d_is_a_line_without_its_end(person: Person) -> None:
    """The first one gives the text to the program, as everywhere; the second one ends the input."""
    person.source.start()
    person.type(b"one\ntail\x04")
    await person.until_lines(1)
    await person.turns()
    assert person.lines == [b"one\n"] and not person.ends
    person.type(b"\x04")
    await person.until_end()
    assert person.pieces[1:] == [Piece(Kind.LINES, Flag.UNTERMINATED, b"tail")] and person.ends == [False]


@pytest_twisted.ensureDeferred
async def test_text_that_was_given_by_ctrl_d_is_the_beginning_of_the_line(person: Person) -> None:
    person.source.start()
    person.type(b"half\x04")
    await person.turns()
    person.type(b" and half\n")
    await person.until_lines(1)
    assert person.lines == [b"half and half\n"] and not person.ends


@pytest_twisted.ensureDeferred
async def test_a_terminal_that_is_hung_up_ends_the_input_once(person: Person) -> None:
    person.source.start()
    person.type(b"one\n")
    await person.until_lines(1)
    os.close(person.master)
    person.master = -1
    await person.until_end()
    await person.turns()
    assert person.lines == [b"one\n"] and person.ends == [False] and person.ended == 1 and not person.reading


@pytest_twisted.ensureDeferred
async def test_a_connection_that_twisted_calls_lost_ends_the_input_once(person: Person) -> None:
    person.source.start()
    for _ in range(2):
        person.source.connectionLost()
        assert person.ends == [False] and person.ended == 1 and not person.reading


@pytest_twisted.ensureDeferred
async def test_nothing_is_read_without_room_and_all_the_rest_when_there_is_room_again(person: Person) -> None:
    person.room = 4
    person.source.start()
    person.type(b"one\n")
    await person.until_lines(1)
    assert person.room == 0 and not person.reading
    person.type(b"two\nthree\n\x04")
    await person.turns()
    assert person.lines == [b"one\n"] and not person.ends
    # It is still in the terminal.
    assert select.select([person.slave], [], [], 0)[0]
    person.give_room()
    await person.until_end()
    assert person.lines == [b"one\n", b"two\n", b"three\n"] and person.ends == [False]


@pytest_twisted.ensureDeferred
async def test_a_terminal_is_not_read_on_just_because_room_was_given_before_the_end(person: Person) -> None:
    person.source.start()
    person.type(b"EXIT\n")
    await person.until_end()
    person.give_room()
    assert not person.reading


@pytest_twisted.ensureDeferred
async def test_a_source_that_is_stopped_takes_nothing_more_and_gives_no_end(person: Person) -> None:
    person.source.start()
    person.type(b"one\n")
    await person.until_lines(1)
    person.source.stop()
    person.type(b"two\nEXIT\n\x04")
    person.give_room()
    await person.turns()
    assert person.lines == [b"one\n"] and not person.ends and not person.ended and not person.reading


@pytest.mark.parametrize(
    ("cut", "pieces"),
    [
        ("stream", [Piece(Kind.BLOB, Flag.CHUNK, b"one\n"), Piece(Kind.BLOB, Flag.CHUNK, b"two\n")]),
        ("whole", [Piece(Kind.BLOB, 0, b"one\ntwo\n")]),
        ("null", [Piece(Kind.LINES, Flag.NUL | Flag.UNTERMINATED, b"one\ntwo\n")]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_lines_are_cut_as_it_was_asked_for(cut: str, pieces: list[Piece]) -> None:
    person = Person(cut)
    try:
        person.source.start()
        person.type(b"one\ntwo\nEXIT\n")
        await person.until_end()
        assert person.pieces == pieces and person.ends == [False]
    finally:
        person.close()
