"""The input: everything arrives, nothing is read without room for it, and its end is told once."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from mysocket.core.batch import MAX_PAYLOAD, Flag, Kind, Piece, cutter
from mysocket.ends import source as sources
from mysocket.ends.descriptors import Private, What, what
from mysocket.ends.source import DescriptorSource
from mysocket.errors import MySocketError

reactor: Any = installed

#: Seconds that only a test that hangs meets.
DEADLINE = 60
PLENTY = 2**40


class Turning(Clock):
    """A reactor that turns when it is told to. A turn takes a second, and what is to be called at once is called in the next."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.addReader, self.removeReader = self.readers.add, self.readers.discard

    def callLater(self, delay: float, call: Any, *arguments: Any) -> Any:  # type: ignore[override]
        return super().callLater(max(1, delay), call, *arguments)

    def turn(self) -> bool:
        """Let everybody read who can, and make the calls that are due; true if there was something to do."""
        ready = [reader for reader in self.readers if select.select([reader], [], [], 0)[0]]
        for reader in ready:
            reader.doRead()
        calls = len(self.getDelayedCalls())
        self.advance(1)
        return bool(ready or calls)

    def run(self) -> None:
        """Turn until there is nothing to do."""
        for _ in range(10_000):
            if not self.turn():
                return
        raise AssertionError("it never ends")


class Taker:
    """Takes as many bytes as the test gives room for, and as one read brings more."""

    def __init__(self, room: int = PLENTY) -> None:
        self.room = room
        self.pieces: list[Piece] = []
        self.ends = 0
        self._call: Callable[[], None] = lambda: None

    @property
    def data(self) -> bytes:
        return b"".join(piece.payload for piece in self.pieces)

    def when_room(self, call: Callable[[], None]) -> None:
        self._call = call

    def accept(self, pieces: list[Piece]) -> int:
        assert not self.ends, "something came behind the end"
        self.pieces += pieces
        self.room -= sum(len(piece.payload) for piece in pieces)
        return 0

    def end_input(self, *, wanted: bool = True) -> None:
        assert wanted
        self.ends += 1

    def give_room(self, size: int = PLENTY) -> None:
        self.room = size
        self._call()


class Input:
    """A source over a descriptor."""

    def __init__(self, fd: int, *, cut: str = "lines", room: int = PLENTY, reactor: Any = None) -> None:
        self.reactor = Turning() if reactor is None else reactor
        self.taker = Taker(room)
        self.errors: list[MySocketError] = []
        self.ended = 0
        self.at_end: Callable[[], None] = lambda: None
        self.private = Private(fd, os.O_RDONLY)
        self.source = DescriptorSource(
            self.reactor, self.private, cutter(cut), self.taker, failed=self.errors.append, ended=self._ended
        )

    def _ended(self) -> None:
        assert self.taker.ends == 1, "the taker is told first"
        self.ended += 1
        self.at_end()

    def run(self) -> None:
        self.reactor.run()

    @property
    def idle(self) -> bool:
        """Nothing will ever be read unless something happens."""
        return not self.reactor.readers and not self.reactor.getDelayedCalls()


class Writing:
    """The other end of a pipe."""

    def __init__(self, fd: int) -> None:
        self.fd: int | None = fd

    def write(self, data: bytes) -> None:
        assert self.fd is not None and os.write(self.fd, data) == len(data)

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


@contextmanager
def piped(*, cut: str = "lines", room: int = PLENTY, reactor: Any = None) -> Iterator[tuple[Input, Writing]]:
    read, write = os.pipe()
    writer = Writing(write)
    made = Input(read, cut=cut, room=room, reactor=reactor)
    try:
        yield made, writer
    finally:
        made.source.stop()
        os.close(read)
        writer.close()


@contextmanager
def from_file(path: Path, data: bytes, *, cut: str = "lines", room: int = PLENTY, reactor: Any = None) -> Iterator[Input]:
    path.write_bytes(data)
    with path.open("rb") as file:
        made = Input(file.fileno(), cut=cut, room=room, reactor=reactor)
        yield made
        made.source.stop()


def test_everything_in_a_pipe_arrives_and_its_end_is_told_once() -> None:
    with piped() as (given, pipe):
        given.source.start()
        pipe.write(b"one\ntw")
        given.run()
        assert given.taker.data == b"one\n" and not given.taker.ends
        pipe.write(b"o\nthree")
        pipe.close()
        given.run()
        assert given.taker.data == b"one\ntwo\nthree" and given.taker.pieces[-1].flags == Flag.UNTERMINATED
        assert given.taker.ends == given.ended == 1 and given.idle and given.source.total == 13
        given.source.resume()
        given.source.connectionLost()
        assert given.taker.ends == given.ended == 1 and given.idle and not given.errors


@pytest.mark.parametrize(
    "data", [b"", b"one\n", b"one\ntwo", b"line of a file\n" * 100_000], ids=["empty", "one", "open", "large"]
)
def test_everything_in_a_file_arrives_and_its_end_is_told_once(tmp_path: Path, data: bytes) -> None:
    with from_file(tmp_path / "in", data) as given:
        given.source.start()
        assert not given.taker.pieces, "reading waits for the reactor"
        given.run()
        assert given.taker.data == data and given.taker.ends == given.ended == 1
        assert given.idle and given.source.total == len(data) and not given.errors


def test_a_file_is_read_in_many_turns_so_that_others_get_theirs(tmp_path: Path) -> None:
    with from_file(tmp_path / "in", b"x" * (3 * MAX_PAYLOAD), cut="stream") as given:
        given.source.start()
        for number in range(4):
            assert len(given.taker.pieces) == number and given.reactor.turn()
        assert given.taker.ends == 1


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_nothing_is_read_without_room_and_all_the_rest_when_there_is_room_again(tmp_path: Path, kind: str) -> None:
    data = b"".join(b"%d\n" % number for number in range(100_000))[: 2 * MAX_PAYLOAD]
    with piped(room=0) as (piped_in, pipe), from_file(tmp_path / "in", data, room=0) as file_in:
        given = piped_in if kind == "pipe" else file_in
        pipe.write(data)
        pipe.close()
        given.source.start()
        given.run()
        assert given.idle and given.source.total == 0
        given.taker.give_room(1)
        assert not given.taker.pieces, "reading waits for the reactor"
        given.run()
        # One read went past the room; no second one was made.
        assert given.idle and 0 < given.source.total <= MAX_PAYLOAD and not given.taker.ends
        given.taker.give_room(0)
        assert given.idle
        given.taker.give_room()
        given.run()
        assert given.taker.data == data and given.taker.ends == given.ended == 1


def test_the_end_of_a_pipe_waits_while_there_is_no_room() -> None:
    with piped(room=1) as (given, pipe):
        given.source.start()
        pipe.write(b"one\n")
        given.run()
        pipe.close()
        given.run()
        assert given.taker.data == b"one\n" and not given.taker.ends and given.idle
        given.taker.give_room()
        given.run()
        assert given.taker.data == b"one\n" and given.taker.ends == given.ended == 1


def test_room_that_is_given_again_and_again_leads_to_one_reader(tmp_path: Path) -> None:
    with from_file(tmp_path / "in", b"one\n") as given:
        given.source.start()
        for _ in range(3):
            given.taker.give_room()
        assert len(given.reactor.getDelayedCalls()) == 1
        given.run()
        assert given.taker.data == b"one\n" and given.taker.ends == 1


DATA = b"one\ntwo\0three"


@pytest.mark.parametrize(
    ("cut", "pieces"),
    [
        ("lines", [(Kind.LINES, 0, b"one\n"), (Kind.LINES, Flag.UNTERMINATED, b"two\0three")]),
        ("null", [(Kind.LINES, Flag.NUL, b"one\ntwo\0"), (Kind.LINES, Flag.NUL | Flag.UNTERMINATED, b"three")]),
        ("stream", [(Kind.BLOB, Flag.CHUNK, DATA)]),
        ("whole", [(Kind.BLOB, 0, DATA)]),
    ],
)
def test_the_input_is_cut_as_it_was_asked_for(tmp_path: Path, cut: str, pieces: list[tuple[Kind, int, bytes]]) -> None:
    with from_file(tmp_path / "in", DATA, cut=cut) as given:
        given.source.start()
        given.run()
        assert given.taker.pieces == pieces and given.taker.ends == 1


def test_a_long_message_is_read_on_although_nothing_of_it_can_be_given_yet() -> None:
    """Held back is no more than a batch; there is always a read that gets on."""
    data = b"x" * (2 * MAX_PAYLOAD + 10)
    with piped(cut="whole") as (given, pipe):
        given.source.start()
        for at in range(0, len(data), 60_000):
            pipe.write(data[at : at + 60_000])
            given.run()
            assert given.source.total == min(len(data), at + 60_000)
        pipe.close()
        given.run()
        assert given.taker.data == data and [piece.flags for piece in given.taker.pieces] == [Flag.MORE, Flag.MORE, 0]


def test_an_input_that_cannot_be_read_is_told_once_and_is_no_end(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    given = Input(fd)
    given.source.start()
    given.source.doRead()
    given.source.doRead()
    assert [str(error) for error in given.errors] == [f"Reading the input failed: {os.strerror(errno.EISDIR)}"]
    assert not given.taker.ends and not given.ended and given.idle
    os.close(fd)


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_an_error_in_the_middle_of_the_input_is_told_behind_what_was_read(tmp_path: Path, kind: str) -> None:
    with piped() as (piped_in, pipe), from_file(tmp_path / "in", b"one\ntwo") as file_in, pytest.MonkeyPatch.context() as patch:
        given = piped_in if kind == "pipe" else file_in
        pipe.write(b"one\ntwo")
        real, reads = os.read, []

        def read(fd: int, size: int) -> bytes:
            reads.append(size)
            if len(reads) > 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(fd, size)

        patch.setattr(sources.os, "read", read)
        given.source.start()
        given.reactor.turn()
        pipe.write(b"more")
        given.run()
        assert [str(error) for error in given.errors] == [f"Reading the input failed: {os.strerror(errno.EIO)}"]
        # What stood behind the last newline is not the whole line, and is not sent as one.
        assert given.taker.data == b"one\n" and not given.taker.ends and not given.ended and given.idle


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_a_source_that_is_stopped_takes_nothing_more_and_gives_no_end(tmp_path: Path, kind: str) -> None:
    with piped() as (piped_in, pipe), from_file(tmp_path / "in", b"one\ntwo\n") as file_in:
        given = piped_in if kind == "pipe" else file_in
        given.source.start()
        pipe.write(b"one\n")
        given.reactor.turn()
        before = given.taker.data
        given.source.stop()
        assert given.idle and (kind == "file" or what(given.private.fd) is What.CLOSED)
        given.source.stop()
        pipe.write(b"two\n")
        pipe.close()
        given.taker.give_room()
        given.source.connectionLost(Failure(ConnectionLost()))
        given.source.doRead()
        given.run()
        assert given.idle and given.taker.data == before and before.startswith(b"one\n")
        assert not given.taker.ends and not given.ended and not given.errors


@pytest.mark.parametrize("kind", ["pipe", "file"])
@pytest_twisted.ensureDeferred
async def test_megabytes_arrive_in_the_reactor_while_room_comes_and_goes(tmp_path: Path, kind: str) -> None:
    data = os.urandom(900_000)
    before = len(reactor.getReaders())
    with (
        piped(cut="stream", room=1, reactor=reactor) as (piped_in, pipe),
        from_file(tmp_path / "in", data, cut="stream", room=1, reactor=reactor) as file_in,
    ):
        given = piped_in if kind == "pipe" else file_in
        pipe.write(data[:400_000])
        ended: Deferred[None] = Deferred()
        given.at_end = lambda: ended.callback(None)
        accept = given.taker.accept

        def accept_and_give_room_later(pieces: list[Piece]) -> int:
            assert given.taker.room > 0, "it was read without room"
            if not given.taker.pieces:
                pipe.write(data[400_000:])
                pipe.close()
            done = accept(pieces)
            reactor.callLater(0, given.taker.give_room, 1)
            return done

        given.taker.accept = accept_and_give_room_later  # type: ignore[method-assign]
        given.source.start()
        await ended.addTimeout(DEADLINE, reactor)
        assert given.taker.data == data and given.taker.ends == given.ended == 1 and len(given.taker.pieces) > 3
    assert len(reactor.getReaders()) == before
