"""The inbox as a link's sink, a peer that waits for room in it, and what is shown in passing."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mysocket.carriers.stream import StreamProtocol
from mysocket.core.batch import END, MAX_PAYLOAD, Batch, Flag, Kind, LineCutter, Piece, WholeCutter
from mysocket.core.session import Session
from mysocket.core.wire import Hello, Input
from mysocket.ends import shelf
from mysocket.ends.shelf import InboxSink, Passing, PassingSink
from mysocket.ends.sink import Origin
from mysocket.errors import MySocketError
from mysocket.node import Character, Node
from mysocket.spool.disk import DiskSpool
from mysocket.spool.disk_inbox import DiskInbox
from mysocket.spool.inbox import Row, rows, state
from tests.support.network import Connection, Person, run
from tests.support.spools import close, kill, opened, settle, store_of

MIB = 2**20


class Sender:
    """Where a block comes from."""

    peer_text = "10.0.0.1"
    repeats_until = 0
    stream_id = b"s" * 16

    def __init__(self, peer: Hello | None = None) -> None:
        self.peer = peer
        self.positions: list[int] = []

    def written(self, position: int) -> None:
        self.positions.append(position)


def hello(name: str) -> Hello:
    return Hello(node=b"n" * 16, stream=b"s" * 16, name=name, input=Input.OPEN, takes=False)


def block(start: int, payload: bytes, kind: int = Kind.LINES, flags: int = 0) -> Batch:
    return Batch(start, kind, flags, 0, payload)


# The inbox ----------------------------------------------------------------------------------------------------------------------


class Kept:
    """What a sink gives to the inbox."""

    room = 17

    def __init__(self) -> None:
        self.blocks: list[tuple[bytes, bytes, str]] = []

    def deposit(self, block: Batch, *, stream: bytes, peer: str) -> None:
        self.blocks.append((bytes(block.payload), stream, peer))


def test_messages_go_to_the_inbox_and_end_marks_do_not() -> None:
    kept, sender = Kept(), Sender()
    sink = InboxSink(kept)  # type: ignore[arg-type]
    assert sink.whole and not sink.repeats and sink.room == 17
    sink.write(block(0, b"one\n"), sender)
    sink.write(block(4, END.payload, Kind.END), sender)
    sender.peer = hello("hosta")
    sink.write(block(5, b"two", Kind.BLOB), sender)
    sender.peer = hello("")
    sink.write(block(8, b"three\n"), sender)
    sink.agreed(cut=True)
    assert sender.positions == [4, 5, 8, 14]
    assert kept.blocks == [
        (b"one\n", b"s" * 16, "10.0.0.1"),
        (b"two", b"s" * 16, "hosta"),
        (b"three\n", b"s" * 16, "10.0.0.1"),
    ]


class Service:
    """A node whose sink is the inbox of a spool without a thread."""

    def __init__(self, path: Path, clock: Clock, *, capacity: int, hub: bool = False, max_message: int = 16 * MIB) -> None:
        self.clock = clock
        self.said: list[str] = []
        self.errors: list[MySocketError] = []
        self.spool: DiskSpool = opened(path, capacity=capacity, keep_received=True, now=clock.seconds, wall=clock.seconds, seed=7)
        self.spool.on_failure = self.errors.append
        self.inbox.on_room = self.settle_links
        character = Character(name="service", input=Input.OPEN, hub=hub, max_message=max_message)
        self.node = Node(
            character,
            clock=clock,
            random_bytes=Random(9).randbytes,
            sink=InboxSink(self.inbox),
            watcher=self,
            spool=self.spool,
            now=clock.seconds,
        )
        self.node.start()

    @property
    def inbox(self) -> DiskInbox:
        assert self.spool.inbox is not None
        return self.spool.inbox

    def settle_links(self) -> None:
        for link in list(self.node.links.values()):
            link.settle()

    def protocol(self, *, dialler: bool) -> StreamProtocol:
        return StreamProtocol(
            dialler=dialler, clock=self.clock, owner=self.node.strangers, heartbeat=self.node.character.heartbeat
        )

    def changed(self) -> None:
        pass

    def tell(self, text: str) -> None:
        self.said.append(text)

    def fail(self, error: MySocketError) -> None:
        self.errors.append(error)

    @property
    def used(self) -> int:
        return self.inbox.capacity - self.inbox.room


class World:
    """A service, and those who send to it."""

    def __init__(self, path: Path, *, senders: int = 1, capacity: int = MIB, max_message: int = 16 * MIB) -> None:
        self.clock = Clock()
        self.service = Service(path, self.clock, capacity=capacity, hub=senders > 1, max_message=max_message)
        self.people = [Person(self.clock, 10 + number, name=f"p{number}", max_message=max_message) for number in range(senders)]
        self.connections = [Connection(person, self.service) for person in self.people]  # type: ignore[arg-type]
        self.pieces: list[list[Piece]] = [[] for _ in self.people]
        self.read = bytearray()
        self.peak = 0
        self.go()

    def go(self) -> None:
        """Everything that can happen happens, for a second."""
        for _ in range(10):
            for person, pieces in zip(self.people, self.pieces, strict=True):
                while pieces and person.input is not None and person.input.room > 0:
                    person.input.accept([pieces.pop(0)])
            run(*self.connections)
            settle(self.service.spool)
            self.peak = max(self.peak, self.service.used)
            self.clock.advance(0.1)

    def consume(self, most: int = 2**40) -> int:
        """A consumer takes what is there, or some of it, and acknowledges it; how much that was."""
        inbox, size = self.service.inbox, 0
        position = inbox.join("a").position
        while size < most and (found := rows(store_of(self.service.spool), position)):
            for row in found[: max(1, most // MAX_PAYLOAD)]:
                assert row.at == position
                self.read += bytes(row.payload)
                position, size = row.end, size + len(row.payload)
        inbox.acknowledge("a", position)
        self.go()
        return size

    def end(self) -> None:
        assert not self.service.errors and not any(person.errors for person in self.people)
        close(self.service.spool)


@pytest.fixture
def acks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """All that are said, of every session."""
    said: list[tuple[int, int]] = []
    real = Session.ack

    def ack(self: Session, position: int, window: int) -> None:
        said.append((position, window))
        real(self, position, window)

    monkeypatch.setattr(Session, "ack", ack)
    return said


def cut(data: bytes, size: int) -> list[Piece]:
    cutter = LineCutter()
    return [piece for at in range(0, len(data), size) for piece in cutter.feed(data[at : at + size])] + cutter.finish()


def lines(size: int) -> bytes:
    return b"".join(b"%d %s\n" % (number, b"x" * (number % 900)) for number in range(size // 450))


@pytest.mark.parametrize("batch", [900, 65_536, MAX_PAYLOAD])
def test_a_peer_waits_for_room_and_goes_on_when_a_consumer_has_made_some(
    tmp_path: Path, acks: list[tuple[int, int]], batch: int
) -> None:
    world = World(tmp_path / "spool")
    data = lines(6 * MIB)
    world.pieces[0] = cut(data, batch)
    for _ in range(5):
        world.go()
    link = next(iter(world.service.node.links.values()))
    assert link.receiving.window() == 0 and world.service.inbox.room <= 0
    assert world.service.inbox.end < 2 * MIB, "no more than was granted, and one batch"
    # Nothing happens while nobody reads.
    quiet, here = len(acks), world.service.inbox.end
    for _ in range(60):
        world.go()
    assert (len(acks), world.service.inbox.end) == (quiet, here) and world.people[0].link.linked
    turns = 0
    while len(world.read) < len(data):
        assert world.consume(), "it hangs"
        turns += 1
    assert world.read == data and world.peak < 3 * MIB
    assert len(acks) - quiet < 60 * turns
    assert world.service.inbox.room == MIB
    world.go()
    assert world.people[0].link.sending.spool.retired == len(data)
    world.end()


def test_a_consumer_that_takes_little_at_a_time_causes_no_storm(tmp_path: Path, acks: list[tuple[int, int]]) -> None:
    world = World(tmp_path / "spool")
    data = lines(3 * MIB)
    world.pieces[0] = cut(data, 4000)
    world.go()
    turns = 0
    while len(world.read) < len(data):
        assert world.consume(20_000)
        turns += 1
    assert world.read == data and len(acks) < 30 * turns
    world.end()


@pytest.mark.parametrize("before", [0, 300_000, MIB - 1000, 2 * MIB])
def test_a_message_longer_than_the_inbox_comes_through(tmp_path: Path, before: int) -> None:
    """Whatever is left of it, and whenever that comes to its end."""
    world = World(tmp_path / "spool", capacity=MIB)
    first, long = lines(before), Random(1).randbytes(12 * MIB)
    cutter = WholeCutter()
    pieces = [piece for at in range(0, len(long), 100_000) for piece in cutter.feed(long[at : at + 100_000])]
    world.pieces[0] = cut(first, 65_536) + pieces + cutter.finish() + cut(b"behind\n", 10)
    world.go()
    for _ in range(40):
        world.consume()
    assert world.read == first + long + b"behind\n"
    assert world.peak < 14 * MIB + 2 * before and world.service.inbox.room == MIB
    world.end()


def test_long_messages_of_several_senders_do_not_hold_each_other_up(tmp_path: Path) -> None:
    world = World(tmp_path / "spool", senders=3, capacity=MIB)
    texts = [Random(number).randbytes(4 * MIB) for number in range(3)]
    for number, text in enumerate(texts):
        cutter = WholeCutter()
        world.pieces[number] = cutter.feed(text) + cutter.finish()
    world.go()
    for _ in range(30):
        world.consume()
    assert len(world.read) == 12 * MIB and all(text in world.read for text in texts)
    world.end()


def test_what_was_not_committed_when_the_service_died_comes_again(tmp_path: Path) -> None:
    """Its sender has it still, and each message is kept once."""
    data = lines(2 * MIB)
    world = World(tmp_path / "spool", capacity=2**30)
    world.pieces[0] = cut(data[: len(data) // 2], 5000)
    for _ in range(3):
        world.go()
    before = world.service.inbox.end
    world.pieces[0] = cut(data[len(data) // 2 :], 5000)
    person = world.people[0]
    while world.pieces[0] and person.link.room > 0:
        person.link.accept([world.pieces[0].pop(0)])
    run(*world.connections)  # taken, and not committed
    assert world.service.inbox.end == before < len(data)
    world.connections[0].cut()
    run(*world.connections)
    kill(world.service.spool)
    world.service = Service(tmp_path / "spool", world.clock, capacity=2**30)
    world.connections = [Connection(person, world.service)]  # type: ignore[arg-type]
    for _ in range(5):
        world.go()
    found = rows(store_of(world.service.spool), 0, 2**30)
    assert b"".join(bytes(row.payload) for row in found) == data
    assert [row.stream_position for row in found] == [row.end for row in found]
    world.end()


def test_a_message_whose_input_broke_off_is_kept_as_far_as_it_came(tmp_path: Path) -> None:
    world = World(tmp_path / "spool")
    world.pieces[0] = [Piece(Kind.LINES, Flag.MORE, b"be"), Piece(Kind.LINES, Flag.MORE, b"gun"), END]
    world.go()
    [row] = rows(store_of(world.service.spool), 0)
    assert (bytes(row.payload), row.flags, row.stream_position) == (b"begun", Flag.UNTERMINATED, 5)
    assert state(store_of(world.service.spool)).end == 5
    world.end()


# In passing ---------------------------------------------------------------------------------------------------------------------


class Look:
    """Somebody who looks on, and takes all there is whenever there is more."""

    def __init__(self, passing: Passing, position: int | None = None) -> None:
        self.passing = passing
        self.position = passing.end if position is None else position
        self.rows: list[Row] = []
        self.missed = 0
        self.leave = passing.listen(self.look)

    def look(self) -> None:
        while self.position < self.passing.end:
            found: list[Row] = []
            self.passing.fetch(self.position, found.extend)
            assert found, "there is something"
            for row in found:
                assert row.at >= self.position
                self.missed += row.at - self.position
                self.position = row.end
            self.rows += found

    @property
    def text(self) -> bytes:
        return b"".join(bytes(row.payload) for row in self.rows)


def show(passing: Passing, payload: bytes, stream: bytes = b"s" * 16) -> None:
    passing.show(block(passing.end, payload), stream=stream, peer="hosta")


def test_what_passes_is_seen_by_those_who_look() -> None:
    passing = Passing(lambda: 5.0)
    show(passing, b"before\n")
    assert (passing.begin, passing.end) == (7, 7)
    one = Look(passing)
    show(passing, b"one\n")
    other = Look(passing)
    show(passing, b"two\n")
    one.leave()
    show(passing, b"three\n")
    other.leave()
    show(passing, b"four\n")
    assert one.text == b"one\ntwo\n" and other.text == b"two\nthree\n"
    assert one.rows[0] == Row(7, b"s" * 16, 11, "hosta", 5.0, Kind.LINES, 0, b"one\n")
    assert (passing.begin, passing.end) == (26, 26), "nobody looks: nothing is held"
    late = Look(passing)
    show(passing, b"five\n")
    assert late.text == b"five\n" and late.missed == 0


def test_one_who_does_not_read_misses_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "HELD", 50)
    passing = Passing(lambda: 0.0)
    passing.listen(lambda: None)
    for number in range(20):
        show(passing, b"message %d\n" % number)
    assert passing.end - passing.begin <= 50
    late = Look(passing, 0)
    late.look()
    assert late.missed == passing.begin and late.text == b"".join(b"message %d\n" % number for number in range(16, 20))
    found: list[Row] = []
    passing.fetch(passing.end, found.extend)
    assert found == []
    passing.fetch(passing.end - 3, found.extend)
    assert [(row.at, bytes(row.payload), row.stream_position) for row in found] == [(passing.end - 3, b"19\n", passing.end)]


def test_one_row_is_held_however_long_and_read_in_portions() -> None:
    passing = Passing(lambda: 0.0)
    look = Look(passing)
    text = Random(1).randbytes(6 * MIB)
    portions: list[int] = []
    passing.listen(lambda: passing.fetch(0, lambda found: portions.append(sum(len(row.payload) for row in found))))
    show(passing, b"x\n")
    show(passing, text)
    assert look.text == b"x\n" + text and passing.begin == 2
    assert all(row.flags == Flag.MORE for row in look.rows[1:-1]) and look.rows[-1].flags == 0
    assert max(portions) <= shelf.FETCH + MAX_PAYLOAD, "the rest waits until that is read"


def test_many_small_rows_are_held_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "HELD_ROWS", 5)
    monkeypatch.setattr(shelf, "FETCH_ROWS", 2)
    passing = Passing(lambda: 0.0)
    passing.listen(lambda: None)
    for _ in range(9):
        show(passing, b"x\n")
    assert (passing.begin, passing.end) == (8, 18)
    found: list[Row] = []
    passing.fetch(0, found.extend)
    assert [row.at for row in found] == [8, 10]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("show"), st.integers(1, 40)),
            st.tuples(st.sampled_from(["come", "go", "read"]), st.integers(0, 2)),
        ),
        max_size=40,
    )
)
@settings(max_examples=150)
def test_nobody_sees_anything_twice_or_in_another_order(steps: list[tuple[str, int]]) -> None:
    """Those who look come and go while rows come, and some read late."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "HELD", 60)
        patch.setattr(shelf, "HELD_ROWS", 6)
        patch.setattr(shelf, "FETCH", 30)
        passing, text = Passing(lambda: 0.0), b""
        looks: dict[int, Look] = {}
        for what, number in steps:
            if what == "show":
                payload = bytes([len(text) % 251]) * number
                show(passing, payload)
                text += payload
            elif what == "come" and number not in looks:
                look = looks[number] = Look(passing)
                if number == 2:  # it reads only when it is told to
                    look.leave()
                    look.leave = passing.listen(lambda: None)
            elif what == "go" and number in looks:
                looks.pop(number).leave()
            elif what == "read" and number in looks:
                looks[number].look()
            assert passing.end == len(text) and 0 <= passing.end - passing.begin <= 60
            for look in looks.values():
                for row in look.rows:
                    assert row.payload == text[row.at : row.end]
        for number, look in looks.items():
            look.look()
            assert not look.missed or number == 2


class Out:
    """A sink behind another."""

    def __init__(self, *, whole: bool, repeats: bool) -> None:
        self.whole = whole
        self.repeats = repeats
        self.written: list[tuple[int, bytes]] = []
        self.cuts: list[bool] = []

    def write(self, block: Batch, origin: Origin) -> None:
        self.written.append((block.kind, bytes(block.payload)))
        origin.written(block.end)

    def agreed(self, *, cut: bool) -> None:
        self.cuts.append(cut)


@pytest.mark.parametrize("whole", [False, True])
def test_a_sink_shows_what_it_passes_on(whole: bool) -> None:
    out, passing, sender = Out(whole=whole, repeats=True), Passing(lambda: 0.0), Sender(hello("hosta"))
    sink = PassingSink(out, passing)  # type: ignore[arg-type]
    assert (sink.whole, sink.repeats) == (whole, True) and sink.room > 2**40
    look = Look(passing)
    sink.write(block(0, b"one\n"), sender)
    sink.write(block(4, END.payload, Kind.END), sender)
    sink.write(block(5, b"two\n"), sender)
    sink.agreed(cut=True)
    assert out.written == [(1, b"one\n"), (3, END.payload), (1, b"two\n")] and out.cuts == [True]
    assert sender.positions == [4, 5, 9]
    assert [(row.at, row.stream_position, row.peer) for row in look.rows] == [(0, 4, "hosta"), (4, 9, "hosta")]
