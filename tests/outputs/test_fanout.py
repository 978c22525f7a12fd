"""Several sinks as one: what is reported is what all of them have, in order, however fast each of them is."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mysocket.core.batch import END_PAYLOAD, Batch, Bytes, Kind
from mysocket.core.transfer import Chunk, Part
from mysocket.core.wire import Hello
from mysocket.ends.sink import FormatSink, JsonFormat, Origin, PlainFormat, Sink
from mysocket.ends.sorting import SortingSink
from mysocket.errors import MessageTooLong, MySocketError, StateLoss
from mysocket.outputs.fanout import FanOutSink


class Sender:
    """Where blocks come from."""

    def __init__(self, name: str = "a", then: Callable[[int], None] = lambda position: None) -> None:
        self.peer_text = "192.0.2.1:9"
        self.peer: Hello | None = Hello(node=b"n" * 16, stream=name.encode() * 16, name=name)
        self.stream_id = name.encode() * 16
        self.repeats_until = 77
        self.positions: list[int] = []
        self.failures: list[MySocketError] = []
        self.at = 0
        self._then = then

    def written(self, position: int, then: Callable[[], None] | None = None) -> None:
        self.positions.append(position)
        self._then(position)
        if then is not None:
            then()

    def failed(self, error: MySocketError) -> None:
        self.failures.append(error)

    def block(self, data: bytes = b"line\n", kind: Kind = Kind.LINES) -> Batch:
        made = Batch(self.at, kind, 0, 0, data)
        self.at = made.end
        return made


class Slow:
    """A sink that says that it has a block when a test wants it to."""

    def __init__(self, *, whole: bool = False, repeats: bool = True, room: int = 2**40, at_once: bool = False) -> None:
        self.whole, self.repeats, self.room = whole, repeats, room
        self.at_once = at_once
        self.refuses: type[MySocketError] | None = None
        self.taken: list[tuple[bytes, bytes, int]] = []  # stream, payload, where it ends
        self.waiting: deque[tuple[Origin, int]] = deque()
        self.agreements: list[bool] = []

    def write(self, block: Batch, origin: Origin) -> None:
        if self.refuses is not None:
            raise self.refuses("no", limit=1, position=0)
        self.taken.append((origin.stream_id, bytes(block.payload), block.end))
        if self.at_once:
            origin.written(block.end)
        else:
            self.waiting.append((origin, block.end))

    def agreed(self, *, cut: bool) -> None:
        self.agreements.append(cut)

    def work(self, count: int = 1) -> None:
        for _ in range(min(count, len(self.waiting))):
            origin, position = self.waiting.popleft()
            origin.written(position)


def test_a_block_is_reported_when_all_have_it() -> None:
    one, two, sender = Slow(), Slow(), Sender()
    sink = FanOutSink([one, two], None)
    for _ in range(3):
        sink.write(sender.block(), sender)
    assert one.taken == two.taken and len(one.taken) == 3
    one.work(3)
    assert not sender.positions
    two.work()
    assert sender.positions == [5]
    two.work(2)
    assert sender.positions == [5, 10, 15]


def test_the_last_gets_what_the_others_have_and_each_position_at_once() -> None:
    """The file of a spool: what it is given is committed with the position that is reported next."""
    journal: list[str] = []

    class File(Slow):
        def write(self, block: Batch, origin: Origin) -> None:
            journal.append(f"file {block.end}")
            super().write(block, origin)

    one, file = Slow(), File(repeats=False, at_once=True)
    sender = Sender(then=lambda position: journal.append(f"commit {position}"))
    sink = FanOutSink([one], file)
    for _ in range(3):
        sink.write(sender.block(), sender)
    assert not journal
    one.work(3)
    assert journal == ["file 5", "commit 5", "file 10", "commit 10", "file 15", "commit 15"]


def test_a_last_that_is_slow_is_waited_for() -> None:
    one, last, sender = Slow(at_once=True), Slow(), Sender()
    sink = FanOutSink([one], last)
    sink.write(sender.block(), sender)
    sink.write(sender.block(), sender)
    assert len(last.taken) == 2 and not sender.positions
    last.work()
    assert sender.positions == [5]


@pytest.mark.parametrize("last", [None, Slow(at_once=True)], ids=["no-last", "last"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_sinks_that_have_it_at_once_report_at_once(count: int, last: Slow | None) -> None:
    sender = Sender()
    sink = FanOutSink([Slow(at_once=True) for _ in range(count)], last)
    sink.write(sender.block(), sender)
    sink.write(sender.block(END_PAYLOAD, Kind.END), sender)
    assert sender.positions == [5, 6]


def test_a_sink_that_reports_several_at_once_has_them_all() -> None:
    one, two, sender = Slow(), Slow(at_once=True), Sender()
    sink = FanOutSink([one, two], None)
    for _ in range(3):
        sink.write(sender.block(), sender)
    one.waiting[-1][0].written(15)
    assert sender.positions == [5, 10, 15]


def test_senders_do_not_wait_for_each_other() -> None:
    one, two, first, second = Slow(), Slow(at_once=True), Sender("a"), Sender("b")
    sink = FanOutSink([one, two], None)
    sink.write(first.block(), first)
    sink.write(second.block(b"longer\n"), second)
    one.waiting.reverse()
    one.work()
    assert (first.positions, second.positions) == ([], [7])
    one.work()
    assert first.positions == [5]


def test_what_a_sink_knows_of_the_sender_is_what_the_sender_says() -> None:
    seen: list[tuple[Any, ...]] = []

    class Curious(Slow):
        def write(self, block: Batch, origin: Origin) -> None:
            seen.append((origin.peer, origin.peer_text, origin.stream_id, origin.repeats_until))
            super().write(block, origin)

    sender = Sender()
    sink = FanOutSink([Curious(at_once=True)], Curious(at_once=True, repeats=False))
    sink.write(sender.block(), sender)
    sender.peer_text, sender.peer = "192.0.2.2:9", None
    sink.write(sender.block(), sender)
    hello = Hello(node=b"n" * 16, stream=b"a" * 16, name="a")
    assert seen == [
        (hello, "192.0.2.1:9", b"a" * 16, 77),
        # What was not committed is not in the file of a spool.
        (hello, "192.0.2.1:9", b"a" * 16, 0),
        (None, "192.0.2.2:9", b"a" * 16, 77),
        (None, "192.0.2.2:9", b"a" * 16, 0),
    ]


def test_it_is_what_its_sinks_are_together() -> None:
    plain, whole, file = Slow(room=10), Slow(whole=True, room=5), Slow(repeats=False)
    assert not FanOutSink([plain], None).whole and FanOutSink([plain], whole).whole
    assert FanOutSink([plain, file], None).repeats and not FanOutSink([], file).repeats
    sink = FanOutSink([plain, whole], file)
    assert sink.room == 5
    whole.room = 0
    assert sink.room == 0
    sink.agreed(cut=True)
    sink.agreed(cut=False)
    assert plain.agreements == whole.agreements == file.agreements == [True, False]
    assert FanOutSink([], None).room > 2**40


# Callbacks within callbacks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [None, Slow(at_once=True)], ids=["no-last", "last"])
def test_whoever_hears_of_a_block_may_give_the_next(last: Slow | None) -> None:
    def more(position: int) -> None:
        if position < 50:
            sink.write(sender.block(), sender)

    sender = Sender(then=more)
    one = Slow(at_once=True)
    sink = FanOutSink([one, Slow(at_once=True)], last)
    sink.write(sender.block(), sender)
    assert sender.positions == list(range(5, 51, 5)) and [end for _, _, end in one.taken] == sender.positions


def test_a_sink_may_write_and_report_in_turns() -> None:
    """The last of the first has it, the last gets it, and its report comes while the first are told of the next."""
    one, two = Slow(), Slow(at_once=True)
    sender = Sender(then=lambda position: one.work())
    sink = FanOutSink([one, two], Slow(at_once=True))
    for _ in range(5):
        sink.write(sender.block(), sender)
    one.work()
    assert sender.positions == [5, 10, 15, 20, 25]


# What is refused ----------------------------------------------------------------------------------------------------------------


class Plain:
    """An output that keeps what it is given."""

    repeats = True

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: Bytes, done: Callable[[], None]) -> None:
        self.data += bytes(data)
        done()

    def agreed(self, *, cut: bool) -> None:
        """Nothing to take back."""


def test_a_message_that_is_too_long_is_refused_before_anybody_has_it() -> None:
    plain, objects, sender = Plain(), Plain(), Sender()
    sinks: list[Sink] = [FormatSink(PlainFormat(True), plain), FormatSink(JsonFormat(10, lambda: 0.0), objects)]
    sink = FanOutSink(sinks, None, max_message=10)
    sink.write(sender.block(b"short\n" * 10), sender)
    with pytest.raises(MessageTooLong):
        sink.write(sender.block(b"short\nbut this is long\n"), sender)
    assert plain.data == b"short\n" * 10 and len(objects.data.splitlines()) == 10
    assert sender.positions == [60]


@pytest.mark.parametrize("before_it", ["slow", "at once"])
def test_a_block_that_one_refuses_is_never_reported(before_it: str) -> None:
    """Even if those before it have taken it; and what came before it is."""
    one, two, last = Slow(at_once=before_it == "at once"), Slow(), Slow(at_once=True)
    sender = Sender()
    sink = FanOutSink([one, two], last)
    sink.write(sender.block(), sender)
    two.refuses = MessageTooLong
    with pytest.raises(MessageTooLong):
        sink.write(sender.block(), sender)
    one.work(2)
    two.work(2)
    assert sender.positions == [5] and [end for _, _, end in last.taken] == [5]
    # The sender has another stream, whose positions are small again.
    two.refuses, sender.at = None, 0
    sink.write(sender.block(b"x\n"), sender)
    assert sender.positions == [5]
    one.work()
    two.work()
    assert sender.positions == [5, 2]


def test_a_late_report_of_what_was_refused_says_nothing_of_the_stream_that_came_then() -> None:
    one, two, sender = Slow(), Slow(), Sender()
    sink = FanOutSink([one, two], None)
    sender.at = 1000
    sink.write(sender.block(), sender)
    two.refuses = MessageTooLong
    with pytest.raises(MessageTooLong):
        sink.write(sender.block(), sender)
    two.refuses, sender.at = None, 0
    sink.write(sender.block(b"x\n"), sender)
    two.work(2)
    one.work(2)
    assert sender.positions == [1005], "the first has not said that it has the new stream's"
    one.work()
    assert sender.positions == [1005, 2]


@pytest.mark.parametrize("slow", [False, True])
def test_what_the_last_refuses_its_sender_hears(slow: bool) -> None:
    one, last, sender = Slow(at_once=not slow), Slow(at_once=True), Sender()
    last.refuses = StateLoss
    sink = FanOutSink([one], last)
    if slow:
        sink.write(sender.block(), sender)
        one.work()
        assert [type(error) for error in sender.failures] == [StateLoss]
    else:
        with pytest.raises(StateLoss):
            sink.write(sender.block(), sender)
        assert not sender.failures
    assert not sender.positions


def test_nobody_is_kept_when_all_is_reported() -> None:
    one = Slow()
    sink = FanOutSink([one, Slow(at_once=True)], None)
    sender = Sender()
    sink.write(sender.block(), sender)
    gone = weakref.ref(sender)
    del sender
    gc.collect()
    assert gone() is not None, "a link that has gone is told all the same"
    one.work()
    gc.collect()
    assert gone() is None and not sink._lanes


# Below what sorts files ---------------------------------------------------------------------------------------------------------


class Downloads:
    """Takes chunks, and says so when a test wants it to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.on_written: Callable[[], None] = lambda: None

    def take(self, node: bytes, peer: str, chunk: Chunk, done: Callable[[], None], failed: object) -> None:
        self.waiting.append(done)

    def forget(self, node: bytes, transfer: bytes) -> None:
        """Nothing is remembered."""

    def work(self) -> None:
        for done in self.waiting:
            done()
        self.waiting.clear()
        self.on_written()


def test_chunks_of_files_never_reach_it_and_order_is_kept() -> None:
    one, file, sender, downloads = Slow(), Slow(at_once=True, repeats=False), Sender(), Downloads()
    sink = SortingSink(FanOutSink([one], file), downloads)  # type: ignore[arg-type]
    chunk = Chunk(Part.DATA, b"i" * 16, 0, b"data").piece().payload
    sink.write(sender.block(), sender)
    sink.write(sender.block(chunk, Kind.FILE), sender)
    sink.write(sender.block(), sender)
    downloads.work()
    assert not sender.positions and len(one.taken) == 1
    one.work()
    assert sender.positions[-1] == 5 + len(chunk), "the message before it, and the chunk"
    one.work()
    assert sender.positions[-1] == 10 + len(chunk) and [data for _, data, _ in file.taken] == [b"line\n", b"line\n"]


# Any order ----------------------------------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Sinks at different speeds, over several senders, of which some go away and some come with a new stream."""

    @initialize(
        at_once=st.lists(st.booleans(), min_size=0, max_size=3),
        last=st.sampled_from([None, True, False]),
        eager=st.booleans(),
    )
    def begin(self, at_once: list[bool], last: bool | None, eager: bool) -> None:
        self.first = [Slow(at_once=one) for one in at_once]
        self.last = Slow(at_once=last) if last is not None else None
        self.sink = FanOutSink(self.first, self.last)
        self.eager = eager
        self.senders: list[Sender] = []
        self.given: dict[Sender, list[int]] = {}
        self.more = 0
        self.come()

    @property
    def all(self) -> list[Slow]:
        return [*self.first, *([self.last] if self.last is not None else [])]

    @rule()
    def come(self) -> None:
        if len(self.given) < 6:
            sender = Sender(chr(ord("a") + len(self.given)), then=lambda position: self.heard(sender))
            self.senders.append(sender)
            self.given[sender] = []

    def heard(self, sender: Sender) -> None:
        if self.eager and self.more < 40:
            self.more += 1
            self.give(sender, 3)

    def give(self, sender: Sender, size: int) -> None:
        block = sender.block(b"x" * size)
        self.given[sender].append(block.end)
        self.sink.write(block, sender)

    @precondition(lambda self: self.senders)
    @rule(index=st.integers(0, 5), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
    def write(self, index: int, sizes: list[int]) -> None:
        for size in sizes:
            self.give(self.senders[index % len(self.senders)], size)

    @precondition(lambda self: len(self.senders) > 1)
    @rule(index=st.integers(0, 5))
    def go(self, index: int) -> None:
        """A link goes away; nobody but the sinks knows of it any more."""
        self.senders.pop(index % len(self.senders))

    @precondition(lambda self: self.senders)
    @rule(index=st.integers(0, 5))
    def renew(self, index: int) -> None:
        """A stream that is all reported gives way to another."""
        sender = self.senders[index % len(self.senders)]
        if sender.positions == self.given[sender]:
            sender.at, sender.positions = 0, []
            self.given[sender] = []
            for one in self.all:
                one.taken = [taken for taken in one.taken if taken[0] != sender.stream_id]

    @rule(index=st.integers(0, 3), count=st.integers(1, 5))
    def work(self, index: int, count: int) -> None:
        if self.all:
            self.all[index % len(self.all)].work(count)

    @precondition(lambda self: hasattr(self, "given"))
    @invariant()
    def what_is_reported_all_have(self) -> None:
        for sender, ends in self.given.items():
            assert sender.positions == ends[: len(sender.positions)], "in order, and none twice"
            for one in self.all:
                taken = [end for stream, _, end in one.taken if stream == sender.stream_id]
                waits = sum(1 for origin, _ in one.waiting if origin.stream_id == sender.stream_id)
                assert taken == ends[: len(taken)]
                assert len(sender.positions) <= len(taken) - waits

    def teardown(self) -> None:
        if not hasattr(self, "given"):
            return
        while any(one.waiting for one in self.all):
            for one in self.all:
                one.work(1)
        assert all(sender.positions == ends for sender, ends in self.given.items())
        assert not self.sink._lanes


AnyOrder.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase


@given(order=st.permutations([0, 0, 0, 1, 1, 1, 2, 2, 2]), sizes=st.lists(st.integers(1, 5), min_size=3, max_size=3))
def test_in_every_order_of_completion_each_is_reported_as_soon_as_all_have_it(order: list[int], sizes: list[int]) -> None:
    sinks, sender = [Slow() for _ in range(3)], Sender()
    sink = FanOutSink(sinks, None)
    ends = []
    for size in sizes:
        sink.write(sender.block(b"x" * size), sender)
        ends.append(sender.at)
    have = [0, 0, 0]
    for index in order:
        sinks[index].work()
        have[index] += 1
        assert sender.positions == ends[: min(have)]
