"""What a link takes from its peer, without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from mysocket.core.batch import END, Batch, Flag, Kind, Piece, chain
from mysocket.core.inbox import Mark
from mysocket.core.session import Session
from mysocket.core.transfer import Chunk, Part
from mysocket.core.wire import NONE, Attach, Hello, Resume, Start
from mysocket.ends.sink import Origin
from mysocket.errors import RemoteProtocolError
from mysocket.receiving import Receiving
from mysocket.spool.ledger import Entry


class WholeSink:
    """Takes blocks of whole messages, and keeps them."""

    whole = True
    repeats = False
    room = 2**40

    def __init__(self) -> None:
        self.blocks: list[Batch] = []

    def write(self, block: Batch, origin: Origin) -> None:
        self.blocks.append(block)
        origin.written(block.end)

    def agreed(self, *, cut: bool) -> None:
        pass


class Peer:
    """The session, and where blocks come from."""

    def __init__(self, receiving: Receiving) -> None:
        self.receiving = receiving
        self.committed: list[int] = []

    def resume(self, frame: Resume) -> None:
        pass

    def written(self, position: int) -> None:
        def committed(position: int) -> None:
            self.committed.append(position)
            self.receiving.committed(position)

        self.receiving.written(position, None, committed)

    def send(self, *pieces: Piece) -> None:
        session, me = cast(Session, self), cast(Any, self)
        self.receiving.attach(session, Attach(b"s" * 16))
        self.receiving.start(session, Start(0, 0), None)
        position = value = 0
        for kind, flags, payload in pieces:
            value = chain(payload, value)
            self.receiving.take(session, Batch(position, kind, flags, value, payload), me)
            position += len(payload)


def test_a_message_whose_input_ends_without_the_rest_is_not_lost() -> None:
    """Its sender was killed within it and came back with an empty input: what was accepted of it is delivered."""
    sink = WholeSink()
    receiving = Receiving(sink, lambda: 1 << 20, 1 << 20)
    peer = Peer(receiving)
    peer.send(Piece(Kind.LINES, Flag.MORE, b"be"), Piece(Kind.LINES, Flag.MORE, b"gun"), END)
    assert [(block.kind, bytes(block.payload)) for block in sink.blocks] == [(Kind.LINES, b"begun"), (Kind.END, END.payload)]
    assert peer.committed == [5, 6]
    assert receiving.inbox.at_end and receiving.inbox.committed == receiving.inbox.taken == 6


class SlowLedger:
    """Commits when it is told to."""

    repeats = False

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.waiting: list[tuple[Entry, Callable[[], None]]] = []

    def find(self, stream: bytes) -> Entry | None:
        return self.entries.get(stream)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self.entries.values()))

    def commit(self, entry: Entry, done: Callable[[], None]) -> None:
        self.waiting.append((entry, done))

    def forget(self, stream: bytes) -> None:
        self.entries.pop(stream, None)

    def work(self, count: int = 10**9) -> None:
        """Commit the first `count` of what waits."""
        for _ in range(min(count, len(self.waiting))):
            entry, done = self.waiting.pop(0)
            self.entries[entry.stream] = entry
            done()


class Durable:
    """A durable sender, its session, and what is said to it."""

    def __init__(self, sink: Any, ledger: SlowLedger, node: bytes = b"n" * 16) -> None:
        self.ledger = ledger
        self.hello = Hello(node=node, stream=b"s" * 16, name="sender", durable=True, place=b"place678")
        self.receiving = Receiving(sink, lambda: 1 << 20, 1 << 20, ledger=ledger, now=lambda: 77.0)
        self.resumes: list[Resume] = []
        self.acks: list[int] = []

    def resume(self, frame: Resume) -> None:
        self.resumes.append(frame)

    def ack(self, position: int, window: int) -> None:
        self.acks.append(position)

    def written(self, position: int) -> None:
        self.receiving.written(position, self.hello, self._committed)

    def _committed(self, position: int) -> None:
        self.receiving.committed(position)

    def begin(self, stream: bytes = b"s" * 16, start: Start | None = None) -> None:
        session = cast(Session, self)
        self.receiving.attach(session, Attach(stream))
        said = self.resumes[-1]
        self.receiving.start(session, start or Start(said.position % NONE, said.chain), self.hello)

    def send(self, position: int, value: int, *payloads: bytes) -> None:
        for payload in payloads:
            value = chain(payload, value)
            batch = Batch(position, Kind.LINES, 0, value, payload)
            self.receiving.take(cast(Session, self), batch, cast(Any, self))
            position = batch.end

    def acknowledged(self) -> int:
        """What is acknowledged when an ACK goes now."""
        self.receiving.acknowledge(0.0, at_once=True)
        return self.acks[-1] if self.acks else 0


class PlainSink(WholeSink):
    whole = False

    def __init__(self) -> None:
        super().__init__()
        self.cuts: list[bool] = []

    def agreed(self, *, cut: bool) -> None:
        self.cuts.append(cut)


def test_only_what_the_ledger_has_is_acknowledged() -> None:
    peer = Durable(PlainSink(), SlowLedger())
    peer.begin()
    peer.send(0, 0, b"one\n", b"two\n", b"three\n")
    assert peer.receiving.inbox.taken == 14 and peer.acknowledged() == 0
    peer.ledger.work(2)
    assert peer.acknowledged() == 8
    peer.ledger.work()
    assert peer.acknowledged() == 14
    end = Mark(14, chain(b"three\n", chain(b"two\n", chain(b"one\n", 0))), False)
    assert list(peer.ledger) == [Entry(b"s" * 16, b"n" * 16, b"place678", True, "sender", end, 77.0)]


def test_a_process_goes_on_where_the_one_before_has_committed() -> None:
    ledger, sink = SlowLedger(), PlainSink()
    first = Durable(sink, ledger)
    first.begin()
    first.send(0, 0, b"one\n", b"two\n")
    ledger.work(1)
    ledger.waiting.clear()
    second = Durable(sink, ledger)
    assert second.receiving.meet(second.hello, ledger.find(b"s" * 16)) is None
    second.begin()
    value = chain(b"one\n", 0)
    assert (second.resumes[-1].position, second.resumes[-1].chain) == (4, value)
    second.send(4, value, b"two\n")
    ledger.work()
    assert second.acknowledged() == 8 and sink.cuts == [True, True]


def test_a_stream_that_does_not_begin_at_0_is_known_before_anything_of_it_is_written() -> None:
    """Else nobody could tell, after a crash, whose the tail of the output is."""
    ledger, sink = SlowLedger(), PlainSink()
    peer = Durable(sink, ledger)
    peer.begin(start=Start(40, 9))
    assert [entry.mark for entry, _ in ledger.waiting] == [Mark(40, 9, False)] and not sink.blocks
    ledger.work()
    again = Durable(sink, ledger)
    again.receiving.meet(again.hello, ledger.find(b"s" * 16))
    again.begin()
    assert again.resumes[-1].position == 40 and sink.cuts == [False, True]


# Windows ------------------------------------------------------------------------------------------------------------------------


class Roomy(WholeSink):
    """A sink whose room a test tells."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, block: Batch, origin: Origin) -> None:
        self.blocks.append(block)
        self.room -= len(block.payload)
        origin.written(block.end)


class Listener(Peer):
    """A peer that hears what is acknowledged and granted."""

    def __init__(self, receiving: Receiving) -> None:
        super().__init__(receiving)
        self.acks: list[tuple[int, int]] = []
        self.time = 0.0
        self.at = self.value = 0
        session = cast(Session, self)
        receiving.attach(session, Attach(b"s" * 16))
        receiving.start(session, Start(0, 0), None)
        self.settle()

    def ack(self, position: int, window: int) -> None:
        self.acks.append((position, window))

    def settle(self, seconds: float = 0.0) -> int:
        """So much time goes by; how many ACKs come."""
        before = len(self.acks)
        self.receiving.acknowledge(self.time)
        end = self.time + seconds
        while (due := self.receiving.ack_due(self.time)) is not None and due <= end:
            self.time = max(self.time, due)
            self.receiving.acknowledge(self.time)
            assert len(self.acks) - before < 1000, "a storm"
        self.time = end
        return len(self.acks) - before

    def give(self, size: int, flags: int = 0) -> None:
        payload = b"x" * size
        self.value = chain(payload, self.value)
        me = cast(Any, self)
        self.receiving.take(cast(Session, self), Batch(self.at, Kind.BLOB, flags, self.value, payload), me)
        self.at += size

    @property
    def granted(self) -> int:
        """The window is never closed: the largest counts."""
        return max(window for _, window in self.acks)


MIB = 1 << 20


def test_a_sink_without_room_grants_nothing_and_is_not_talked_about() -> None:
    sink = Roomy(MIB)
    receiving = Receiving(sink, lambda: 8 * MIB, MIB)
    peer = Listener(receiving)
    assert peer.acks == [(0, MIB)]
    while peer.at < peer.granted:
        peer.give(100_000)
        peer.settle()
    assert receiving.window() == 0 and sink.room <= 0
    peer.settle(1)
    assert peer.acks[-1][0] == peer.at, "what came is acknowledged, room or not"
    assert peer.settle(3600) == 0 and receiving.ack_due(peer.time) is None
    sink.room = 50  # a little is told as well, but not at once
    assert peer.settle() == 1 and peer.granted == peer.at + 50
    for room in range(51, 2000):
        sink.room = room
        peer.settle(0.001)
    assert len(peer.acks) < 130, "one in 20 ms"
    sink.room = MIB
    assert peer.settle() == 1 and peer.granted == peer.at + MIB


def test_small_blocks_into_a_full_sink_are_not_acknowledged_one_by_one() -> None:
    """What was granted before still comes."""
    sink = Roomy(MIB)
    receiving = Receiving(sink, lambda: 8 * MIB, MIB)
    peer = Listener(receiving)
    sink.room = 0
    before = len(peer.acks)
    for _ in range(1000):
        peer.give(10)
        peer.settle(0.0001)
    assert len(peer.acks) - before <= 8
    peer.settle(1)
    assert peer.acks[-1] == (10_000, MIB), "and nothing that was granted is taken back"


@pytest.mark.parametrize(("room", "budget"), [(MIB, 8 * MIB), (2**40, 8 * MIB), (2**40, 4096), (1, 8 * MIB)])
def test_a_message_of_any_length_comes_to_its_end(room: int, budget: int) -> None:
    """Its parts are held on top of the window, however much that is."""
    sink = Roomy(room)
    receiving = Receiving(sink, lambda: budget, 256 * MIB)
    peer = Listener(receiving)
    part = 256 * 1024
    while peer.at < 64 * MIB:
        for _ in range(100):
            if peer.at < peer.granted:
                break
            assert peer.settle(1), f"it hangs at {peer.at}, with {receiving.window()}"
        peer.give(part, Flag.MORE)
        peer.settle()
    peer.give(1)
    peer.settle(1)
    assert [len(block.payload) for block in sink.blocks] == [64 * MIB + 1] and peer.acks[-1][0] == 64 * MIB + 1


def test_a_message_that_is_held_up_within_goes_on_when_there_is_room() -> None:
    sink = Roomy(MIB)
    receiving = Receiving(sink, lambda: 8 * MIB, 256 * MIB)
    peer = Listener(receiving)
    for _ in range(20):
        while peer.at < peer.granted:
            peer.give(256 * 1024, Flag.MORE)
        sink.room = 0
        peer.settle(1)
        while peer.at < peer.granted:
            peer.give(256 * 1024, Flag.MORE)
        assert peer.settle(60) == 0
        sink.room = 100
        assert peer.settle(1) and peer.granted > peer.at
        sink.room = MIB
        peer.settle(1)
    peer.give(1)
    peer.settle(1)
    assert len(sink.blocks) == 1 and peer.acks[-1][0] == peer.at


# Files --------------------------------------------------------------------------------------------------------------------------


class BothSink(WholeSink):
    """Keeps everything, and says that it has it when it is told to."""

    def __init__(self, *, whole: bool = True) -> None:
        super().__init__()
        self.whole = whole
        self.waiting: list[Callable[[], None]] = []

    def write(self, block: Batch, origin: Origin) -> None:
        self.blocks.append(block)
        self.waiting.append(lambda: origin.written(block.end))

    def drain(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


def chunk(size: int = 10, part: Part = Part.DATA) -> Piece:
    return Chunk(part, b"i" * 16, 0, b"x" * size).piece()


@pytest.mark.parametrize("whole", [True, False])
def test_chunks_of_files_are_no_parts_of_messages(whole: bool) -> None:
    """They are as large as they are, and nothing is put together."""
    sink = BothSink(whole=whole)
    receiving = Receiving(sink, lambda: 1 << 20, 20, files=True)
    peer = Peer(receiving)
    peer.send(Piece(Kind.LINES, 0, b"a\n"), chunk(200_000), chunk(), Piece(Kind.LINES, 0, b"b\n"), END, chunk())
    assert [block.kind for block in sink.blocks] == [Kind.LINES, Kind.FILE, Kind.FILE, Kind.LINES, Kind.END, Kind.FILE]
    assert receiving.inbox.committed == 0
    sink.drain()
    assert receiving.inbox.committed == receiving.inbox.taken and not receiving.inbox.at_end


def refused(receiving: Receiving, *pieces: Piece) -> Peer:
    peer = Peer(receiving)
    before = receiving.inbox.taken
    with pytest.raises(RemoteProtocolError, match="a piece of a file"):
        peer.send(*pieces)
    assert receiving.inbox.taken == before + sum(len(piece.payload) for piece in pieces[:-1]), "what is refused is not taken"
    return peer


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "pieces",
    [
        [chunk()._replace(flags=Flag.MORE)],
        [chunk()._replace(flags=Flag.CHUNK)],
        [chunk()._replace(flags=Flag.NUL | Flag.UNTERMINATED)],
        [Piece(Kind.FILE, 0, b"\2")],
        [Piece(Kind.FILE, 0, b"\7" + bytes(40))],
        [Piece(Kind.LINES, 0, b"a\n"), Piece(Kind.FILE, 0, b"\2" + bytes(24))],
        [Piece(Kind.LINES, Flag.MORE, b"a"), chunk()],
        [chunk(), Piece(Kind.BLOB, Flag.MORE, b"a"), chunk()],
    ],
)
def test_chunks_that_cannot_be(whole: bool, pieces: list[Piece]) -> None:
    refused(Receiving(BothSink(whole=whole), lambda: 1 << 20, 1 << 20, files=True), *pieces)


def test_a_node_that_takes_no_files() -> None:
    refused(Receiving(BothSink(), lambda: 1 << 20, 1 << 20), chunk())


def test_a_message_that_was_broken_off_is_over_at_the_end_mark() -> None:
    sink = BothSink(whole=False)
    Peer(Receiving(sink, lambda: 1 << 20, 1 << 20, files=True)).send(Piece(Kind.LINES, Flag.MORE, b"a"), END, chunk())
    assert [block.kind for block in sink.blocks] == [Kind.LINES, Kind.END, Kind.FILE]


def test_another_stream_does_not_go_on_with_the_message_of_the_one_before() -> None:
    sink = BothSink(whole=False)
    receiving = Receiving(sink, lambda: 1 << 20, 1 << 20, files=True)
    peer = Peer(receiving)
    peer.send(Piece(Kind.LINES, Flag.MORE, b"a"))
    sink.drain()
    session, me = cast(Session, peer), cast(Any, peer)
    receiving.attach(session, Attach(b"t" * 16))
    receiving.start(session, Start(0, 0), None)
    payload = chunk().payload
    receiving.take(session, Batch(0, Kind.FILE, 0, chain(payload, 0), payload), me)
    assert [block.kind for block in sink.blocks] == [Kind.LINES, Kind.FILE]


def test_a_chunk_that_comes_again_is_old_whatever_came_behind_it() -> None:
    sink = BothSink(whole=False)
    receiving = Receiving(sink, lambda: 1 << 20, 1 << 20, files=True)
    peer = Peer(receiving)
    peer.send(chunk(), Piece(Kind.LINES, Flag.MORE, b"a"))
    payload = chunk().payload
    receiving.take(cast(Session, peer), Batch(0, Kind.FILE, 0, chain(payload, 0), payload), cast(Any, peer))
    assert len(sink.blocks) == 2


def test_another_stream_waits_for_the_files_of_the_one_before() -> None:
    sink = BothSink()
    receiving = Receiving(sink, lambda: 1 << 20, 1 << 20, files=True)
    peer = Peer(receiving)
    peer.send(chunk())
    session = cast(Session, peer)
    receiving.attach(session, Attach(b"t" * 16))
    assert receiving.inbox.stream == b"s" * 16
    (write,) = sink.waiting
    position = receiving.inbox.taken
    receiving.written(position, None, lambda at: None)
    assert receiving.committed(position) == (session, Attach(b"t" * 16)) and write is not None
