"""A file as a source: when it is read and looked at, what it gives to its intake, and that nothing of it stays open."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import pytest
from twisted.internet.task import Clock

from mysocket.core.batch import Piece
from mysocket.ends.worker import Outcome, Worker, attempt
from mysocket.errors import InputMissing, InputUnread, MySocketError
from mysocket.inputs import following
from mysocket.inputs.follow import Follower, bookmark_name
from mysocket.inputs.following import INTERVAL, PORTION, FileSource
from mysocket.inputs.place import Place
from mysocket.inputs.succession import LINGER
from mysocket.spool.interface import Bookmark
from tests.inputs.test_follow import messages, open_below
from tests.support.processes import TIMEOUT

T = TypeVar("T")


class AtOnce:
    """Does what it is asked to at once."""

    def do(self, work: Callable[[], T], done: Callable[[Outcome[T]], None]) -> None:
        done(attempt(work))


class Later:
    """Does its work, and says so, when a test wants it to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], Callable[[], None]]] = []
        self.done: list[Callable[[], None]] = []

    def do(self, work: Callable[[], T], done: Callable[[Outcome[T]], None]) -> None:
        def both() -> Callable[[], None]:
            outcome = attempt(work)
            return lambda: done(outcome)

        self.waiting.append(both)

    def work(self) -> bool:
        """Do the next; False: there is none."""
        if self.waiting:
            self.done.append(self.waiting.pop(0)())
        return bool(self.done)

    def answer(self) -> None:
        """Say so."""
        self.done.pop(0)()

    def all(self) -> None:
        while self.work():
            self.answer()


class Shelf:
    """An intake with as much room as a test gives it."""

    def __init__(self) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self.on_give: Callable[[], None] = lambda: None
        self.room = 10**9
        self.given: list[tuple[list[Piece], Bookmark | None]] = []
        self.marks: list[Bookmark] = []
        self.held: list[Callable[[], None]] | None = None  # marks that are not kept yet, if a test holds them
        self.told: list[str] = []
        self.complaints: list[str] = []
        self.ended = False

    @property
    def full(self) -> bool:
        return self.room <= 0

    def give(self, pieces: list[Piece], bookmark: Bookmark | None = None) -> None:
        assert not self.full and not self.ended and pieces and not self.held and self.marks
        self.room -= sum(len(piece.payload) for piece in pieces)
        self.given.append((pieces, bookmark))
        self.on_give()

    def mark(self, bookmark: Bookmark, done: Callable[[], None]) -> None:
        assert not self.ended
        self.marks.append(bookmark)
        if self.held is None:
            done()
        else:
            self.held.append(done)

    def end(self) -> None:
        assert not self.ended
        self.ended = True

    def drop(self, text: str) -> None:
        raise AssertionError(text)

    def tell(self, text: str) -> None:
        self.told.append(text)

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    def make_room(self, room: int) -> None:
        self.room = room
        self.on_room()

    @property
    def lines(self) -> list[bytes]:
        return [line for pieces, _ in self.given for line in messages(pieces)]


class Kernel:
    """A reactor that listens when a test wants it to."""

    def __init__(self) -> None:
        self.readers: list[Any] = []
        self.failing = False

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    def removeWriter(self, writer: Any) -> None:
        pass

    def run(self) -> None:
        for reader in [*self.readers]:
            reader.doRead()


class Room:
    """A source, and all it needs."""

    def __init__(
        self, path: Path, hand: Any, *, follow: bool = True, place: bytes | None = None, kernel: Kernel | None = None
    ) -> None:
        self.path, self.hand, self.kernel = path, hand, kernel
        self.clock, self.shelf, self.errors = Clock(), Shelf(), list[MySocketError]()
        self.follower = Follower(str(path), follow=follow, cut="lines", max_message=1 << 24, place=place, now=self.clock.seconds)
        self.source = FileSource(
            self.follower,
            self.shelf,
            name=bookmark_name(str(path)),
            clock=self.clock,
            hand=hand,
            failed=self.errors.append,
            reactor=kernel,
        )

    def write(self, data: bytes) -> None:
        with open(self.path, "ab") as file:
            file.write(data)

    @property
    def place(self) -> bytes:
        bookmark = self.shelf.given[-1][1]
        assert bookmark is not None and bookmark.name == bookmark_name(str(self.path))
        return bookmark.value

    def stop(self) -> None:
        self.source.stop()
        if isinstance(self.hand, Later):
            self.hand.all()
        assert not open_below(self.path.parent) and not self.clock.getDelayedCalls()
        assert self.kernel is None or not self.kernel.readers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


def test_a_file_is_read_to_its_end(path: Path) -> None:
    path.write_bytes(b"one\ntwo")
    room = Room(path, AtOnce(), follow=False)
    room.source.start()
    assert room.shelf.lines == [b"one\n", b"two"] and room.shelf.ended and not room.errors
    assert room.source.connections == 0
    room.stop()
    again = Room(path, AtOnce(), follow=False, place=room.place)
    again.source.start()
    assert again.shelf.ended and not again.shelf.given
    again.stop()


def test_a_large_file_is_read_in_portions_without_going_deeper(path: Path) -> None:
    data = b"".join(b"%d\n" % number for number in range(20)) * 60000
    path.write_bytes(data)
    room = Room(path, AtOnce(), follow=False)
    room.source.start()
    assert b"".join(piece.payload for pieces, _ in room.shelf.given for piece in pieces) == data
    assert len(room.shelf.given) >= len(data) // PORTION > 10
    room.stop()


def test_a_small_portion_each_does_not_go_deeper_either(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PORTION", 1)
    monkeypatch.setattr("mysocket.inputs.follow.LEAST_READ", 1)
    path.write_bytes(b"x\n" * 3000)
    room = Room(path, AtOnce())
    room.source.start()
    assert len(room.shelf.given) == 3000
    room.stop()


def test_a_followed_file_is_looked_at_again_and_again(path: Path) -> None:
    room = Room(path, AtOnce())
    room.source.start()
    assert room.shelf.told == [f"waiting for {path}: it does not exist"]
    for number in range(5):
        room.write(b"%d\n" % number)
        assert len(room.shelf.lines) == number
        room.clock.advance(INTERVAL)
        assert room.shelf.lines[number:] == [b"%d\n" % number]
    path.rename(path.with_name("app.log.1"))
    room.write(b"new\n")
    room.clock.pump([INTERVAL] * round(LINGER / INTERVAL + 2))
    assert room.shelf.lines[5:] == [b"new\n"] and not room.shelf.ended and not room.shelf.complaints
    room.stop()


def test_each_portion_comes_with_its_place(path: Path) -> None:
    path.write_bytes(b"one\n")
    room = Room(path, AtOnce())
    room.source.start()
    room.write(b"two\nthr")
    room.clock.advance(INTERVAL)
    places = [bookmark.value for _, bookmark in room.shelf.given if bookmark is not None]
    room.stop()
    for place, rest in zip(places, ([b"two\n", b"three\n"], [b"three\n"]), strict=True):
        path.write_bytes(b"one\ntwo\nthree\n")
        again = Room(path, AtOnce(), place=place)
        again.source.start()
        assert again.shelf.lines == rest
        again.stop()


def test_a_full_intake_is_given_nothing_but_no_rotation_is_missed(path: Path) -> None:
    path.write_bytes(b"0\n")
    room = Room(path, AtOnce())
    room.source.start()
    room.shelf.room = 0
    for number in range(1, 6):
        path.rename(path.with_name("app.log.1"))
        room.write(b"%d\n" % number)
        room.clock.advance(INTERVAL)
        path.with_name("app.log.1").unlink()
    assert room.shelf.lines == [b"0\n"]
    room.shelf.make_room(10**9)
    room.clock.pump([INTERVAL] * round(LINGER / INTERVAL + 2))
    assert room.shelf.lines == [b"%d\n" % number for number in range(6)] and not room.shelf.complaints
    room.stop()


def test_reading_goes_on_where_there_is_room(path: Path) -> None:
    path.write_bytes(b"x" * 99 + b"\n")
    room = Room(path, AtOnce())
    room.shelf.room = 1
    room.source.start()
    assert len(room.shelf.lines) == 1 and room.shelf.full
    room.write(b"y\n")
    room.clock.advance(INTERVAL)
    assert len(room.shelf.lines) == 1
    room.shelf.make_room(1)
    assert room.shelf.lines[1:] == [b"y\n"]
    room.stop()


def test_an_intake_that_has_room_while_it_is_given_something(path: Path) -> None:
    path.write_bytes(b"x\n" * (3 * PORTION))
    room = Room(path, AtOnce(), follow=False)
    room.shelf.on_give = lambda: room.shelf.make_room(1)
    room.shelf.room = 1
    room.source.start()
    assert len(room.shelf.lines) == 3 * PORTION and room.shelf.ended
    room.stop()


def test_a_file_that_is_read_once_waits_for_room_only(path: Path) -> None:
    path.write_bytes(b"x\n" * PORTION)
    room = Room(path, AtOnce(), follow=False)
    room.shelf.room = 1
    room.source.start()
    assert room.shelf.full and not room.clock.getDelayedCalls()
    while not room.shelf.ended:
        room.shelf.make_room(1)
    assert len(room.shelf.lines) == PORTION
    room.stop()


def test_one_thing_at_a_time_is_asked_of_the_hand(path: Path) -> None:
    path.write_bytes(b"one\n")
    hand = Later()
    room = Room(path, hand)
    room.source.start()
    room.source.start()
    for _ in range(3):
        room.shelf.on_room()
        room.clock.advance(INTERVAL)
    assert len(hand.waiting) == 1
    hand.all()
    assert room.shelf.lines == [b"one\n"] and not hand.waiting
    room.clock.advance(INTERVAL)
    assert len(hand.waiting) == 1
    room.stop()


@pytest.mark.parametrize("moment", ["asked", "read", "waiting", "full", "never"])
def test_it_stops_at_any_moment(path: Path, moment: str) -> None:
    path.write_bytes(b"one\n")
    hand = Later()
    room = Room(path, hand)
    if moment != "never":
        room.source.start()
    if moment == "read":
        hand.work()
    elif moment in ("waiting", "full"):
        hand.all()
        room.shelf.room = 0 if moment == "full" else 1
    before = len(room.shelf.given)
    room.stop()
    room.source.stop()
    room.source.start()
    room.shelf.make_room(10**9)
    room.clock.advance(10)
    hand.all()
    assert len(room.shelf.given) == before and not hand.waiting and not room.shelf.ended and not room.errors


def test_it_stops_while_it_gives(path: Path) -> None:
    path.write_bytes(b"one\n" * 200000)
    room = Room(path, AtOnce())
    room.shelf.on_give = room.source.stop
    room.source.start()
    assert len(room.shelf.given) == 1
    room.stop()


def test_an_error_stops_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(path, AtOnce(), follow=False)
    room.source.start()
    assert [type(error) for error in room.errors] == [InputMissing] and not room.shelf.ended
    room.stop()
    path.write_bytes(b"one\n")
    room = Room(path, AtOnce())
    room.source.start()

    def fail(*args: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        room.clock.advance(INTERVAL)
    assert [type(error) for error in room.errors] == [InputUnread]
    room.stop()


def test_what_is_missing_is_complained_of(path: Path) -> None:
    path.write_bytes(b"one\n")
    room = Room(path, AtOnce())
    room.source.start()
    room.stop()
    path.write_bytes(b"two is longer\n")
    again = Room(path, AtOnce(), place=room.place)
    again.source.start()
    assert again.shelf.lines == [b"two is longer\n"] and "truncated" in again.shelf.complaints[0] and not again.shelf.told
    again.stop()


# The kernel ---------------------------------------------------------------------------------------------------------------------

linux = pytest.mark.skipif(not os.path.exists("/proc/sys/fs/inotify"), reason="needs inotify")


@pytest.fixture
def watched(path: Path) -> Iterator[Room]:
    path.write_bytes(b"one\n")
    room = Room(path, AtOnce(), kernel=Kernel())
    room.source.start()
    yield room
    room.stop()


@linux
def test_the_kernel_tells_at_once(watched: Room) -> None:
    assert watched.kernel is not None
    for number in range(3):
        assert len(watched.kernel.readers) == 1
        watched.write(b"%d\n" % number)
        watched.kernel.run()
        assert watched.shelf.lines[number + 1 :] == [b"%d\n" % number]
    watched.path.rename(watched.path.with_name("app.log.1"))
    watched.kernel.run()
    watched.write(b"new\n")
    watched.kernel.run()
    watched.clock.advance(LINGER)
    assert watched.shelf.lines[4:] == [b"new\n"]


@linux
def test_other_files_wake_nobody(watched: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched.kernel is not None
    monkeypatch.setattr(watched.follower, "read", lambda limit: pytest.fail("read"))
    watched.path.with_name("other.log").write_bytes(b"x\n")
    watched.kernel.run()
    assert len(watched.kernel.readers) == 1
    monkeypatch.undo()


@linux
def test_nobody_listens_while_the_intake_is_full(watched: Room) -> None:
    assert watched.kernel is not None
    watched.shelf.room = 0
    watched.clock.advance(INTERVAL)
    assert not watched.kernel.readers
    watched.write(b"two\n")
    watched.shelf.make_room(100)
    assert watched.shelf.lines[1:] == [b"two\n"] and watched.kernel.readers


@linux
def test_a_directory_that_goes_away_is_watched_no_more(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    kernel = Kernel()
    room = Room(tmp_path / "logs" / "app.log", AtOnce(), kernel=kernel)
    room.source.start()
    (tmp_path / "logs").rmdir()
    kernel.run()
    assert not kernel.readers
    (tmp_path / "logs").mkdir()
    room.write(b"one\n")
    room.clock.advance(INTERVAL)
    assert room.shelf.lines == [b"one\n"] and not room.errors
    room.stop()


def test_without_the_kernels_help_it_is_looked_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted.internet.inotify.INotify", lambda reactor: [][0])
    room = Room(path, AtOnce(), kernel=Kernel())
    room.source.start()
    room.write(b"one\n")
    room.clock.advance(INTERVAL)
    assert room.shelf.lines == [b"one\n"]
    room.stop()


# A real thread ------------------------------------------------------------------------------------------------------------------


def test_a_thread_reads_what_another_writes_and_rotates(path: Path) -> None:
    """Lines are written as fast as it goes, and the file is renamed every few of them; who reads it is killed, too."""
    calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
    turns, lines_each = 40, 500

    def write() -> None:
        for turn in range(turns):
            with open(path, "ab", buffering=0) as file:
                for number in range(lines_each):
                    file.write(b"%d\n" % (turn * lines_each + number))
            if turn < turns - 1:
                for old in range(turn, 0, -1):
                    path.with_name(f"app.log.{old}").rename(path.with_name(f"app.log.{old + 1}"))
                path.rename(path.with_name("app.log.1"))

    path.write_bytes(b"begin\n")
    room = Room(path, AtOnce())
    room.source.start()
    lines, place = room.shelf.lines, room.place
    room.stop()
    writer = threading.Thread(target=write)
    writer.start()
    for portions in (3, 10, 10**9):
        worker, closed = Worker(calls.put), list[bool]()
        room = Room(path, worker, place=place)
        room.source.start()
        while len(room.shelf.given) < portions and len(lines) + len(room.shelf.lines) < turns * lines_each + 1:
            room.clock.advance(INTERVAL)
            with suppress(Empty):
                calls.get(timeout=0.01)()
        place = room.place if room.shelf.given else place
        lines += room.shelf.lines
        assert not room.shelf.complaints and not room.errors
        room.source.stop()
        worker.do(lambda: True, lambda outcome, closed=closed: closed.append(outcome.value))
        while not closed:
            calls.get(timeout=TIMEOUT)()
    writer.join()
    assert not open_below(path.parent)
    assert lines == [b"begin\n", *(b"%d\n" % number for number in range(turns * lines_each))]


# The place of a file of which nothing was given ---------------------------------------------------------------------------------


def test_the_place_is_kept_before_the_first_line_is_given(path: Path) -> None:
    path.write_bytes(b"one\n")
    room = Room(path, Later())
    room.shelf.held = []
    room.source.start()
    room.hand.all()
    assert len(room.shelf.marks) == 1 and not room.shelf.given
    # Meanwhile it is looked at, so that no file is missed.
    room.clock.advance(INTERVAL)
    room.hand.all()
    assert len(room.shelf.marks) == 1 and not room.shelf.given
    held, room.shelf.held = room.shelf.held, None
    held[0]()
    room.hand.all()
    assert room.shelf.lines == [b"one\n"]
    room.stop()


def test_who_has_seen_an_empty_file_only_finds_it_again(path: Path) -> None:
    path.write_bytes(b"")
    room = Room(path, Later())
    room.source.start()
    room.hand.all()
    room.stop()
    assert not room.shelf.given
    room.write(b"written while nobody looked\n")
    path.rename(path.with_name("app.log.1"))
    path.write_bytes(b"behind it\n")
    after = Room(path, Later(), place=room.shelf.marks[-1].value)
    after.source.start()
    after.hand.all()
    after.clock.advance(LINGER + INTERVAL)
    after.hand.all()
    after.clock.advance(LINGER + INTERVAL)
    after.hand.all()
    assert after.shelf.lines == [b"written while nobody looked\n", b"behind it\n"] and not after.shelf.complaints
    after.stop()


def test_a_new_file_is_known_before_anything_is_in_it(path: Path) -> None:
    path.write_bytes(b"one\n")
    room = Room(path, Later())
    room.source.start()
    room.hand.all()
    path.rename(path.with_name("app.log.1"))
    path.write_bytes(b"half")
    for _ in range(8):
        room.clock.advance(INTERVAL)
        room.hand.all()
    assert len(room.shelf.marks) == 2, "the first, and the second"
    place = Place.decode(room.shelf.marks[-1].value, "it")
    assert (place.inode, place.offset) == (path.stat().st_ino, 0)
    room.stop()


def test_a_stopped_source_does_nothing_when_its_place_is_kept(path: Path) -> None:
    path.write_bytes(b"one\n")
    room = Room(path, Later())
    room.shelf.held = []
    room.source.start()
    room.hand.all()
    room.stop()
    room.shelf.held[0]()
    room.hand.all()
    assert not room.shelf.given
