"""Files on their way: in the network in memory, and into spools whose processes are killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.task import Clock

from mysocket.core.batch import END, Batch, Flag, Kind, LineCutter, Piece
from mysocket.core.transfer import CHUNK, Part, read_chunk
from mysocket.core.wire import Input
from mysocket.ends import filereader
from mysocket.ends.filereader import BLOCK, Stamp
from mysocket.ends.worker import Outcome, attempt
from mysocket.errors import FileChanged, NoFilesTaken, NotSendable
from mysocket.services.own import HeldTaker, OwnOutlet
from mysocket.services.pace import LEAST, MOMENT, MOST, Pace
from mysocket.services.upload import INTERVAL, PREFIX, Mark
from mysocket.services.uploads import LEFT, Uploads
from mysocket.spool.disk import DiskSpool
from tests.support.network import Connection, Person, run
from tests.support.spools import close, kill, opened, read_all, settle, store_of

T = TypeVar("T")


class Later:
    """Does what it is asked to when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def do(self, work: Callable[[], T], done: Callable[[Outcome[T]], None]) -> None:
        self.waiting.append(lambda: done(attempt(work)))

    def work(self) -> bool:
        """Do the next; False: there was none."""
        if not self.waiting:
            return False
        self.waiting.pop(0)()
        return True


class Room:
    """Uploads, and the session around them: with a link of a person, or a spool without one."""

    def __init__(self, clock: Clock, *, person: Person | None = None, spool: DiskSpool | None = None, seed: int = 1) -> None:
        self.hand, self.told, self.complaints = Later(), list[str](), list[str]()
        self.service = SimpleNamespace(
            own_link=person.link if person is not None else None,
            own_stream=person.link.sending.spool if person is not None else spool,
            settings=SimpleNamespace(peer="hub:9001"),
            sends=True,
            full="",
        )
        service: Any = self.service
        ids = iter(range(seed, 1 << 20))
        self.uploads = Uploads(
            OwnOutlet(service, spool),
            clock=clock,
            hand=self.hand,
            random_bytes=lambda size: next(ids).to_bytes(size),
            wall=lambda: 5.0,
            tell=self.told.append,
            complain=self.complaints.append,
        )
        self.spool = spool
        if person is not None:
            person.link.sending.on_progress = self.uploads.go_on
        elif spool is not None:
            spool.on_change = self.uploads.go_on

    def die(self) -> None:
        """What the end of a process closes."""
        for job in self.uploads._jobs:
            if job.reader is not None:
                job.reader.close()

    def work(self) -> None:
        """Let everything come as far as it comes without a peer."""
        while self.hand.work() or self.spool is not None and self.spool.step():
            pass


class Files:
    """What a receiver would make of a stream."""

    def __init__(self) -> None:
        self.open: dict[bytes, bytearray] = {}
        self.done: list[tuple[str, bytes]] = []
        self.cancelled: list[tuple[bytes, int, str]] = []
        self.messages: list[bytes] = []
        #: Kinds, in order.
        self.order: list[str] = []

    def take(self, batches: list[Batch]) -> None:
        for batch in batches:
            if batch.kind != Kind.FILE:
                self.order.append("message")
                self.messages.append(bytes(batch.payload))
                continue
            chunk = read_chunk(batch.payload)
            self.order.append(chunk.part.name)
            if chunk.part is Part.OFFER:
                assert chunk.id not in self.open
                self.open[chunk.id] = bytearray()
            elif chunk.part is Part.DATA:
                assert chunk.offset == len(self.open[chunk.id])
                self.open[chunk.id] += chunk.data
            elif chunk.part is Part.END:
                data = bytes(self.open.pop(chunk.id))
                assert chunk.offset == len(data) and chunk.digest == sha256(data).digest()
                self.done.append((chunk.text, data))
            else:
                assert chunk.offset == len(self.open.pop(chunk.id))
                self.cancelled.append((chunk.id, chunk.offset, chunk.text))


def received(person: Person) -> Files:
    files = Files()
    files.take(person.sink.blocks)
    return files


def waiting(spool: DiskSpool) -> Files:
    files = Files()
    settle(spool)
    files.take(read_all(spool, spool.retired))
    return files


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., str]:
    """A file of so many bytes."""

    def make(size: int, name: str = "file") -> str:
        path = tmp_path / name
        path.write_bytes(os.urandom(size))
        os.utime(path, (1e9, 1e9))
        return str(path)

    return make


def data_of(path: str) -> tuple[str, bytes]:
    return os.path.basename(path), Path(path).read_bytes()


class Two:
    """Somebody who sends, somebody who takes, and what is between them."""

    def __init__(self, clock: Clock, *, files: bool = True) -> None:
        self.clock = clock
        self.a = Person(clock, 1, input=Input.OPEN)
        self.b = Person(clock, 2, input=Input.OPEN, files=files)
        self.room = Room(clock, person=self.a)
        self.uploads = self.room.uploads
        self.connections: list[Connection] = []

    def link(self) -> Connection:
        self.connections.append(Connection(self.a, self.b))
        run(*self.connections)
        return self.connections[-1]

    def type(self, text: bytes) -> None:
        assert self.a.input is not None
        self.a.input.accept(LineCutter().feed(text))

    def settle(self, rounds: int = 1000) -> None:
        for _ in range(rounds):
            moved = self.room.hand.work()
            before = len(self.b.sink.blocks)
            run(*self.connections)
            self.clock.advance(0.02)
            if not moved and len(self.b.sink.blocks) == before:
                break
        self.clock.advance(0.2)
        run(*self.connections)
        self.clock.advance(INTERVAL)


@pytest.fixture
def two(clock: Clock) -> Iterator[Two]:
    found = Two(clock)
    yield found
    found.room.die()


# In memory ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK, 3 * BLOCK + 5, 20_000_000])
def test_a_file_arrives(two: Two, make: Callable[..., str], size: int) -> None:
    two.link()
    path = make(size)
    upload = two.uploads.send(path)
    assert two.uploads.busy and upload.state == "sending" and (upload.name, upload.size) == ("file", size)
    two.settle()
    assert received(two.b).done == [data_of(path)]
    assert (upload.state, upload.offset, upload.acknowledged, upload.delivered) == ("sent", size, size, True)
    assert not two.uploads.busy and not two.room.complaints and not two.room.hand.waiting


def test_files_go_one_after_the_other(two: Two, make: Callable[..., str]) -> None:
    two.link()
    paths = [make(size, f"f{size}") for size in (2 * BLOCK, 0, BLOCK)]
    uploads = [two.uploads.send(path) for path in paths]
    assert two.uploads.under_way == uploads
    two.settle()
    files = received(two.b)
    assert files.done == [data_of(path) for path in paths]
    assert files.order.index("END") < files.order.index("OFFER", 1)


def test_it_goes_on_over_lost_connections(two: Two, make: Callable[..., str]) -> None:
    path = make(8_000_000)
    upload = two.uploads.send(path)
    states = []
    for _ in range(12):
        connection = two.link()
        for _ in range(8):
            two.room.hand.work()
            for wire in connection.wires:
                wire.deliver(70_001)
            two.clock.advance(0.03)
        states.append(upload.acknowledged)
        connection.cut()
        two.settle(3)
    two.link()
    two.settle()
    assert received(two.b).done == [data_of(path)] and upload.delivered
    assert states == sorted(states) and 0 < states[3] < 8_000_000


def test_messages_pass_a_file_that_waits_for_its_turn(two: Two, make: Callable[..., str]) -> None:
    """A slow link: what is typed in the middle arrives long before the file has."""
    connection = two.link()
    upload = two.uploads.send(make(8_000_000))
    typed = 0
    for _ in range(1000):
        two.room.hand.work()
        connection.wires[1].deliver(20_000)  # a megabyte a second
        connection.wires[0].deliver(1 << 30)
        two.clock.advance(0.02)
        if upload.acknowledged > 2_000_000 and not typed:
            typed = upload.acknowledged
            two.type(b"hello\n")
        if typed and any(block.kind != Kind.FILE for block in two.b.sink.blocks):
            break
    assert typed and upload.acknowledged - typed < 2 * 1024 * 1024, "it waited for what a slow link takes in a moment"
    assert upload.state == "sending"
    two.settle()
    assert upload.delivered and received(two.b).messages == [b"hello\n"]


def test_a_fast_link_is_kept_busy_and_messages_find_room(two: Two, make: Callable[..., str]) -> None:
    two.link()
    spool = two.a.link.sending.spool
    two.uploads.send(make(60_000_000))
    most = 0
    while two.uploads.busy:
        while two.room.hand.work():
            pass
        most = max(most, spool.end - spool.retired)
        assert spool.room >= LEFT and spool.end - spool.retired <= MOST
        run(*two.connections)
        two.clock.advance(0.005)
    assert most > 4 * 1024 * 1024


def test_no_piece_stands_within_a_message(two: Two, make: Callable[..., str]) -> None:
    two.link()
    upload = two.uploads.send(make(2_000_000))
    long = Piece(Kind.LINES, Flag.MORE, b"x" * 1000)
    two.a.link.accept([long])
    two.settle()
    assert upload.offset == 0 and "OFFER" not in received(two.b).order
    two.a.link.accept([long, Piece(Kind.LINES, 0, b"end\n")])
    two.settle()
    assert received(two.b).order[:4] == ["message"] * 3 + ["OFFER"] and upload.delivered


def test_cancel_waits_for_the_end_of_a_message(two: Two, make: Callable[..., str]) -> None:
    two.link()
    upload = two.uploads.send(make(30_000_000))
    two.room.hand.work()
    assert upload.offset
    two.a.link.accept([Piece(Kind.LINES, Flag.MORE, b"x" * 1000)])
    upload.cancel("no more")
    assert upload.state == "sending"
    two.a.link.accept([Piece(Kind.LINES, 0, b"end\n")])
    two.settle()
    assert upload.state == "cancelled" and received(two.b).order[-1] == "CANCEL"


def test_cancel_says_why_and_lets_the_next_one_go(two: Two, make: Callable[..., str]) -> None:
    two.link()
    first, second, third = (two.uploads.send(make(size, str(size))) for size in (9_000_000, 8_000_000, 70))
    two.room.hand.work()
    assert 0 < first.offset < first.size
    second.cancel()
    assert second.state == "cancelled" and first.state == "sending"
    first.cancel("the user says so")
    two.settle()
    files = received(two.b)
    assert files.cancelled == [(first.id, first.offset, "the user says so")] and not files.open
    assert [name for name, _ in files.done] == ["70"] and third.delivered
    for upload in (first, second, third):
        upload.cancel()
    assert [upload.state for upload in (first, second, third)] == ["cancelled", "cancelled", "sent"]
    two.settle()
    assert received(two.b).order == files.order and not two.room.hand.waiting


def test_cancel_before_anything_was_read(two: Two, make: Callable[..., str]) -> None:
    two.link()
    upload = two.uploads.send(make(100))
    upload.cancel()
    assert upload.state == "cancelled" and not two.uploads.busy
    two.settle()
    assert received(two.b).order == [] and not two.room.hand.waiting


@pytest.mark.parametrize("size", [30_000_000, 100])
def test_a_file_that_changes_is_cancelled(two: Two, make: Callable[..., str], size: int) -> None:
    two.link()
    path = make(size)
    upload = two.uploads.send(path)
    if size > 100:
        two.room.hand.work()
    with open(path, "ab") as more:
        more.write(b"x")
    two.settle()
    assert upload.state == "failed" and isinstance(upload.error, FileChanged) and path in two.room.complaints[0]
    files = received(two.b)
    assert not files.done and not files.open and len(files.cancelled) == (size > 100)
    if size > 100:
        assert files.cancelled[0][2] == f"it had {size} bytes, and has {size + 1}", "where it lies is not the peer's"


def test_a_name_with_escapes_is_said_and_not_drawn(two: Two, make: Callable[..., str], desk: Desk) -> None:
    """Any program may have made that file, and Tab completes it."""
    name = "a\x1b[2J\nb"
    shown = "a\\x1b[2J\\x0ab"
    path = make(3_000_000, name)
    two.link()
    two.uploads.send(path)
    two.room.hand.work()
    os.truncate(path, 5)
    two.settle()
    assert shown in two.room.complaints[0] and "\x1b" not in two.room.complaints[0] and "\n" not in two.room.complaints[0]
    desk.uploads.send(path)
    settle(desk.spool)
    desk.again()
    desk.uploads.stop()
    two.uploads.send(path)
    ended = HeldTaker(two.a.link, two.uploads, two.room.told.append)
    ended.end_input()
    two.uploads.stop()
    said = [*desk.room.told, *desk.uploads.left(), *two.room.told, *two.uploads.left()]
    assert len(said) == 4 and all(shown in text and "\x1b" not in text for text in said), said
    with pytest.raises(NotSendable) as failed:
        two.uploads.send(f"/nowhere/{name}")
    assert shown in str(failed.value)


def test_a_reader_that_breaks_says_so_to_its_user(two: Two, make: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    two.link()
    path = make(30_000_000)
    upload = two.uploads.send(path)
    two.room.hand.work()
    monkeypatch.setattr(filereader, "sha256", None)
    monkeypatch.setattr(filereader.FileReader, "read", None)
    two.settle()
    assert upload.state == "failed" and "Traceback" in two.room.complaints[0]
    assert received(two.b).cancelled[0][2] == "the sender cannot read it"


def test_what_cannot_be_sent_is_said_at_once(two: Two, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing", Path("/dev/zero")):
        with pytest.raises(NotSendable):
            two.uploads.send(str(path))
    assert not two.uploads.busy


def test_a_peer_that_takes_no_files_is_said_at_once(clock: Clock, make: Callable[..., str]) -> None:
    two = Two(clock, files=False)
    two.link()
    with pytest.raises(NoFilesTaken, match="--download-dir") as raised:
        two.uploads.send(make(100))
    assert raised.value.status == 4
    two.type(b"hello\n")
    two.settle()
    assert received(two.b).messages == [b"hello\n"]


def test_one_that_comes_later_and_takes_none_holds_no_message_up(clock: Clock, make: Callable[..., str]) -> None:
    two = Two(clock, files=False)
    upload = two.uploads.send(make(100))
    two.type(b"hello\n")
    two.settle()
    assert upload.state == "sending" and not upload.offset
    two.link()
    two.type(b"again\n")
    two.settle()
    assert upload.state == "failed" and isinstance(upload.error, NoFilesTaken) and len(two.room.complaints) == 1
    assert received(two.b).messages == [b"hello\n", b"again\n"]


def test_a_peer_that_is_waited_for_gets_it_when_it_comes(two: Two, make: Callable[..., str]) -> None:
    path = make(5_000_000)
    upload = two.uploads.send(path)
    two.settle()
    assert not upload.offset
    two.link()
    two.settle()
    assert upload.delivered and received(two.b).done == [data_of(path)]


def test_changes_are_told_ten_times_a_second_at_most_and_the_last_at_once(two: Two, make: Callable[..., str]) -> None:
    connection = two.link()
    upload = two.uploads.send(make(6_000_000))
    calls: list[tuple[float, str, int, bool]] = []
    upload.on_change = lambda: calls.append((two.clock.seconds(), upload.state, upload.acknowledged, upload.delivered))
    for _ in range(3000):
        two.room.hand.work()
        connection.wires[1].deliver(20_000)
        connection.wires[0].deliver(1 << 30)
        two.clock.advance(0.005)
    assert upload.delivered
    ends = [call for call in calls if call[1] == "sent"]
    under_way = [call for call in calls if not call[3]]
    assert calls[-1][1:] == ("sent", 6_000_000, True) and ends
    steps = [after[0] - before[0] for before, after in pairwise(under_way) if after[1] == before[1]]
    assert len(steps) > 5 and min(steps) >= INTERVAL - 1e-9
    assert [call[2] for call in calls] == sorted(call[2] for call in calls)


def test_an_end_of_the_input_waits_for_files(two: Two, make: Callable[..., str]) -> None:
    two.link()
    told: list[str] = []
    taker = HeldTaker(two.a.link, two.uploads, told.append)
    taker.end_input()
    assert two.a.link.sending.ended and not told
    with pytest.raises(NotSendable, match="the input has ended"):
        two.uploads.send(make(1))


def test_an_end_of_the_input_comes_behind_them(two: Two, make: Callable[..., str]) -> None:
    two.link()
    told: list[str] = []
    taker = HeldTaker(two.a.link, two.uploads, told.append)
    two.uploads.send(make(4_000_000, "one"))
    two.uploads.send(make(100, "two"))
    taker.end_input(wanted=False)
    assert not two.a.link.sending.ended
    assert told == ["waiting until one (0 of 4000000 bytes) and 1 more is sent. Ctrl-C leaves without."]
    two.settle()
    assert two.a.link.sending.ended and two.a.link.sending.delivered
    assert received(two.b).order[-2:] == ["END", "message"] and received(two.b).messages == [END.payload]


def test_who_leaves_cancels_what_has_begun(two: Two, make: Callable[..., str]) -> None:
    two.link()
    told: list[str] = []
    first, second = two.uploads.send(make(30_000_000)), two.uploads.send(make(5, "two"))
    two.room.hand.work()
    HeldTaker(two.a.link, two.uploads, told.append).end_input()
    two.uploads.stop()
    two.uploads.stop()
    assert first.state == second.state == "cancelled" and not two.uploads.busy
    assert [text.endswith("it is cancelled") for text in two.uploads.left()] == [True, True]
    assert f"{first.path}: {first.offset} of 30000000 bytes were read" in two.uploads.left()[0]
    two.settle()
    files = received(two.b)
    assert files.order[-2:] == ["CANCEL", "message"] and not files.open and not files.done
    assert "the sender has left" in files.cancelled[0][2]
    with pytest.raises(NotSendable, match="leaving"):
        two.uploads.send(make(5, "three"))
    assert not two.room.hand.waiting and not two.clock.getDelayedCalls()[5:]


def test_a_stream_that_has_lost_its_state_sends_nothing_more(two: Two, make: Callable[..., str]) -> None:
    two.link()
    upload = two.uploads.send(make(30_000_000))
    two.room.hand.work()
    two.a.link.sending.broken = True
    two.uploads.go_on()
    assert upload.state == "failed" and not two.uploads.busy and "lost its state" in two.room.complaints[0]


# In a spool ---------------------------------------------------------------------------------------------------------------------


class Desk:
    """Sessions with a spool, one after the other."""

    def __init__(self, path: Path, clock: Clock, capacity: int = 1 << 30) -> None:
        self.path = path
        self.clock = clock
        self.capacity = capacity
        self.begun = 0
        self.begin()

    def begin(self) -> None:
        self.begun += 1
        self.spool = opened(self.path, capacity=self.capacity)
        self.room = Room(self.clock, spool=self.spool, seed=1 + 1000 * self.begun)
        self.uploads = self.room.uploads

    def resume(self, *, here: bool = True) -> None:
        self.uploads.resume(self.spool.bookmarks, here=here)

    def again(self) -> None:
        kill(self.spool)
        self.room.die()
        self.begin()
        self.resume()

    def bookmarks(self) -> list[str]:
        """Those that the next process finds."""
        settle(self.spool)
        return sorted(name for name in opened_bookmarks(self.spool) if name.startswith(PREFIX))


def opened_bookmarks(spool: DiskSpool) -> dict[str, bytes]:
    return store_of(spool).bookmarks()


@pytest.fixture
def desk(tmp_path: Path, clock: Clock) -> Iterator[Desk]:
    found = Desk(tmp_path / "spool", clock)
    yield found
    close(found.spool)


@pytest.mark.parametrize("size", [0, 100, 12_000_000])
def test_a_spool_takes_it_all(desk: Desk, make: Callable[..., str], size: int) -> None:
    path = make(size)
    upload = desk.uploads.send(path)
    desk.room.work()
    assert upload.state == "sent" and upload.offset == size and not upload.delivered
    assert waiting(desk.spool).done == [data_of(path)] and desk.bookmarks() == []
    desk.spool.retire(desk.spool.end)
    desk.uploads.go_on()
    assert upload.delivered and upload.acknowledged == size


def test_a_killed_process_is_gone_on_for(desk: Desk, make: Callable[..., str]) -> None:
    paths = [make(20_000_000, "long"), make(700, "short")]
    for path in paths:
        desk.uploads.send(path)
    for _ in range(3):
        desk.room.hand.work()
        settle(desk.spool)
    assert len(desk.bookmarks()) == 2 and [upload.offset > 0 for upload in desk.uploads.under_way] == [True, False]
    for steps in range(1, 5):
        desk.again()
        assert "going on with" in desk.room.told[0] and len(desk.uploads.under_way) == 2
        for _ in range(steps):
            desk.room.hand.work()
            desk.spool.step()
    desk.again()
    desk.room.work()
    assert waiting(desk.spool).done == [data_of(path) for path in paths] and desk.bookmarks() == []
    desk.again()
    assert not desk.uploads.busy and not desk.room.told


def test_what_was_asked_for_and_not_begun_is_not_forgotten(desk: Desk, make: Callable[..., str]) -> None:
    path = make(100)
    desk.uploads.send(path)
    assert desk.bookmarks() == [PREFIX + (1001).to_bytes(16).hex()]
    desk.again()
    desk.room.work()
    assert waiting(desk.spool).done == [data_of(path)] and desk.bookmarks() == []


def test_nothing_is_accepted_before_it_is_known_what_for(desk: Desk, make: Callable[..., str]) -> None:
    """A bookmark alone and one with pieces are committed in no order: the older one must not come last."""
    path = make(20_000_000)
    upload = desk.uploads.send(path)
    desk.uploads.go_on()
    while desk.room.hand.work():
        pass
    assert desk.spool.end == 0 and upload.offset == 0
    settle(desk.spool)
    assert desk.spool.end > 0 and upload.offset > 0
    desk.room.work()
    assert waiting(desk.spool).done == [data_of(path)] and desk.bookmarks() == []


def test_cancel_before_it_is_known_what_for(desk: Desk, make: Callable[..., str]) -> None:
    upload = desk.uploads.send(make(100))
    upload.cancel()
    desk.room.work()
    assert desk.bookmarks() == [] and waiting(desk.spool).order == [] and not desk.uploads.busy


def test_the_end_and_the_bookmark_are_one_commit(desk: Desk, make: Callable[..., str]) -> None:
    """Killed between the END and the deletion of the bookmark: nothing is sent again."""
    path = make(100)
    desk.uploads.send(path)
    settle(desk.spool)
    desk.room.hand.work()
    desk.spool.step()
    desk.again()
    desk.room.work()
    assert waiting(desk.spool).done == [data_of(path)] and desk.bookmarks() == []


@pytest.mark.parametrize("what", ["gone", "changed", "another"])
def test_a_file_that_is_not_what_it_was_is_cancelled_after_a_restart(desk: Desk, make: Callable[..., str], what: str) -> None:
    path = make(20_000_000)
    desk.uploads.send(path)
    for _ in range(2):
        desk.room.hand.work()
        settle(desk.spool)
    offset = desk.uploads.under_way[0].offset
    assert 0 < offset < 20_000_000
    if what == "gone":
        os.unlink(path)
    elif what == "changed":
        with open(path, "r+b") as inside:
            inside.write(b"x")
    else:
        os.rename(path, path + ".old")
        make(20_000_000)
    desk.again()
    [upload] = desk.uploads.under_way
    assert upload.offset == offset
    desk.room.work()
    assert upload.state == "failed" and len(desk.room.complaints) == 1 and path in desk.room.complaints[0]
    files = waiting(desk.spool)
    assert not files.done and [found[1] for found in files.cancelled] == [offset] and desk.bookmarks() == []


def test_a_file_that_was_not_begun_and_is_gone_leaves_nothing(desk: Desk, make: Callable[..., str]) -> None:
    path = make(100)
    desk.uploads.send(path)
    settle(desk.spool)
    os.unlink(path)
    desk.again()
    desk.room.work()
    assert desk.bookmarks() == [] and waiting(desk.spool).order == [] and path in desk.room.complaints[0]


def test_who_leaves_keeps_them_for_the_next(desk: Desk, make: Callable[..., str]) -> None:
    path = make(20_000_000)
    upload = desk.uploads.send(path)
    desk.room.hand.work()
    idle: list[None] = []
    desk.uploads.when_idle().addCallback(idle.append)
    desk.uploads.stop()
    desk.room.work()
    assert not idle and upload.state == "sending" and desk.uploads.busy
    [left] = desk.uploads.left()
    assert path in left and f"{upload.offset} of 20000000" in left and not desk.room.hand.waiting
    desk.again()
    desk.room.work()
    assert waiting(desk.spool).done == [data_of(path)]


def test_a_run_that_cannot_go_on_says_so_and_touches_nothing(desk: Desk, make: Callable[..., str]) -> None:
    path = make(20_000_000)
    desk.uploads.send(path)
    desk.room.hand.work()
    settle(desk.spool)
    kill(desk.spool)
    desk.begin()
    before = desk.bookmarks()
    desk.resume(here=False)
    desk.room.work()
    assert not desk.uploads.busy and desk.bookmarks() == before and path in desk.room.told[0]
    assert "a session at a terminal, or a service, goes on with it" in desk.room.told[0]
    assert waiting(desk.spool).done == []


def test_cancel_in_a_spool_ends_the_bookmark(desk: Desk, make: Callable[..., str]) -> None:
    first, second = desk.uploads.send(make(20_000_000)), desk.uploads.send(make(100, "two"))
    settle(desk.spool)
    desk.room.hand.work()
    second.cancel()
    first.cancel()
    desk.room.work()
    assert desk.bookmarks() == [] and [found[1] for found in waiting(desk.spool).cancelled] == [first.offset]


@pytest.mark.parametrize("capacity", [1 << 20, 3 << 20])
def test_a_small_spool_takes_it_bit_by_bit_and_messages_find_room(
    tmp_path: Path, clock: Clock, make: Callable[..., str], capacity: int
) -> None:
    desk = Desk(tmp_path / "small", clock, capacity)
    path = make(10_000_000)
    upload = desk.uploads.send(path)
    files = Files()
    for number in range(100):
        desk.room.work()
        assert desk.spool.room >= min(LEFT, capacity // 4) - 4096
        if number == 3:
            desk.spool.append(Piece(Kind.LINES, 0, b"hello\n"))
            settle(desk.spool)
        files.take(read_all(desk.spool, desk.spool.retired))
        desk.spool.retire(desk.spool.end)
        settle(desk.spool)
        if upload.delivered:
            break
    assert files.done == [data_of(path)] and files.messages == [b"hello\n"]
    close(desk.spool)


def test_a_full_disk_is_given_nothing(desk: Desk, make: Callable[..., str]) -> None:
    desk.room.service.full = f"the spool {desk.spool.path}"
    upload = desk.uploads.send(make(100))
    desk.room.work()
    assert not upload.offset and waiting(desk.spool).order == []
    desk.room.service.full = ""
    desk.uploads.go_on()
    desk.room.work()
    assert upload.state == "sent"


def test_the_input_of_the_session_is_not_counted_with_it(desk: Desk, make: Callable[..., str]) -> None:
    """What the user would have to give again after a crash is the input, not the files."""
    desk.spool.append(Piece(Kind.LINES, 0, b"typed\n"))
    desk.uploads.send(make(3_000_000))
    desk.room.work()
    assert store_of(desk.spool).state().input_size == 6


@pytest.mark.parametrize("path", ["/a/b", "/a/\udcff", "/" + "x" * 4000, "/a\nb"])
def test_a_mark_is_read_as_it_was_written(path: str) -> None:
    mark = Mark(path, Stamp(2**63, -5, 2**64 - 1), 7, 2**40, 1.5)
    assert Mark.decode(mark.encode()) == mark
    assert Mark.decode(b"") is None and Mark.decode(b"short") is None


# Pace ---------------------------------------------------------------------------------------------------------------------------


def test_the_pace_is_what_was_taken_in_a_moment() -> None:
    pace = Pace()
    assert pace.allowance(0.0) == LEAST
    for number in range(100):
        pace.acknowledged(number * 0.01, 40_000)
    assert pace.allowance(0.99) == 40_000 * 50
    assert pace.allowance(0.99 + MOMENT / 2) == 40_000 * 25
    assert pace.allowance(5.0) == LEAST
    pace.acknowledged(6.0, 1 << 30)
    assert pace.allowance(6.0) == MOST


# A machine ----------------------------------------------------------------------------------------------------------------------


class Sessions(RuleBasedStateMachine):
    """Files and messages into one spool, by processes that are killed anywhere: each file arrives once, or is cancelled."""

    SIZES = (0, 1, CHUNK, 3 * CHUNK, BLOCK + 1, 3 * BLOCK)

    @initialize(directory=st.uuids())
    def begin(self, directory: object) -> None:
        self.directory = TemporaryDirectory()
        self.desk = Desk(Path(self.directory.name) / "spool", Clock(), 3 << 20)
        self.files, self.sent, self.number = Files(), dict[bytes, str](), 0

    @rule(size=st.sampled_from(SIZES), committed=st.booleans())
    def send(self, size: int, committed: bool) -> None:
        self.number += 1
        path = Path(self.directory.name) / str(self.number)
        path.write_bytes(bytes([self.number % 256]) * size)
        os.utime(path, (1e9, 1e9))
        upload = self.desk.uploads.send(str(path))
        if committed:
            settle(self.desk.spool)
        self.sent[upload.id] = str(path)

    @rule(times=st.integers(1, 6))
    def read(self, times: int) -> None:
        for _ in range(times):
            self.desk.room.hand.work()

    @rule(times=st.integers(1, 3))
    def commit(self, times: int) -> None:
        for _ in range(times):
            self.desk.spool.step()

    @rule()
    def say(self) -> None:
        if self.desk.spool.room > 0:
            self.desk.spool.append(Piece(Kind.LINES, 0, b"hello\n"))

    @rule(which=st.integers(0, 5))
    def cancel(self, which: int) -> None:
        under_way = self.desk.uploads.under_way
        if which < len(under_way):
            under_way[which].cancel()

    @rule()
    def crash(self) -> None:
        self.desk.again()

    @rule()
    def deliver(self) -> None:
        settle(self.desk.spool)
        spool = self.desk.spool
        self.files.take(read_all(spool, spool.retired))
        spool.retire(spool.end)
        settle(spool)

    @invariant()
    def nothing_is_left_open_but_one(self) -> None:
        if hasattr(self, "files"):
            assert len(self.files.open) <= 1

    def teardown(self) -> None:
        if not hasattr(self, "files"):
            return
        for _ in range(400):
            self.desk.room.work()
            self.deliver()
            if not self.desk.uploads.busy:
                break
        self.deliver()
        assert not self.desk.uploads.busy and not self.files.open and self.desk.bookmarks() == []
        names = [name for name, _ in self.files.done]
        assert len(names) == len(set(names)), "once"
        for name, data in self.files.done:
            assert data == (Path(self.directory.name) / name).read_bytes()
        close(self.desk.spool)
        self.directory.cleanup()


Sessions.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=25, deadline=None)
TestSessions = Sessions.TestCase
