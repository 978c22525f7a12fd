"""Chunks of files and messages in one stream: each where it belongs, and reported in the order in which they came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket.core.batch import END, Batch, Kind
from mysocket.core.transfer import Chunk, Part
from mysocket.core.wire import Hello
from mysocket.ends.sink import Origin
from mysocket.ends.sorting import SortingSink
from mysocket.errors import MessageTooLong, MySocketError, StateLoss


class Link:
    """An origin, and what it hears."""

    peer_text = "10.0.0.1:9000"
    repeats_until = 7

    def __init__(self, events: list[tuple[str, Any]], name: str = "a") -> None:
        self.name = name
        self.stream_id = name.encode() * 16
        self.peer: Hello | None = Hello(node=name.encode() * 16, stream=self.stream_id, name=f"host{name}\n")
        self.events = events
        self.at = 0
        self.written_to: list[int] = []
        self.uncommitted: list[Callable[[], None]] = []
        self.error: MySocketError | None = None

    def block(self, payload: bytes, kind: Kind = Kind.LINES) -> Batch:
        batch = Batch(self.at, kind, 0, 0, payload)
        self.at = batch.end
        return batch

    def text(self, text: str = "hi\n") -> Batch:
        return self.block(text.encode())

    def file(self, part: Part = Part.DATA, id: bytes = b"i" * 16) -> Batch:
        return self.block(Chunk(part, id, 0, b"x" if part is Part.DATA else b"", digest=bytes(32)).piece().payload, Kind.FILE)

    def written(self, position: int, then: Callable[[], None] | None = None) -> None:
        assert self.error is None and (not self.written_to or position > self.written_to[-1])
        self.written_to.append(position)
        self.events.append(("written", self.name))
        if then is not None:
            self.uncommitted.append(then)

    def failed(self, error: MySocketError) -> None:
        assert self.error is None
        self.error = error


class Inner:
    """The other sink: done at once, as with a spool, or when it is told to, as a pipe."""

    whole = True
    repeats = False
    room = 4711

    def __init__(self, events: list[tuple[str, Any]], *, slow: bool = False) -> None:
        self.slow = slow
        self.events = events
        self.blocks: list[tuple[Batch, Origin]] = []
        self.waiting: list[Callable[[], None]] = []
        self.cuts: list[bool] = []
        self.refuse = b"\0"

    def write(self, block: Batch, origin: Origin) -> None:
        if block.payload == self.refuse:
            raise MessageTooLong(limit=1, position=block.start)
        self.blocks.append((block, origin))
        self.events.append(("given", origin.stream_id[:1].decode()))
        if self.slow:
            self.waiting.append(lambda: origin.written(block.end))
        else:
            origin.written(block.end)

    def agreed(self, *, cut: bool) -> None:
        self.cuts.append(cut)

    def drain(self, count: int = 10**9) -> None:
        for _ in range(min(count, len(self.waiting))):
            self.waiting.pop(0)()


class Files:
    """The downloads: done when they are told to."""

    def __init__(self) -> None:
        self.on_written: Callable[[], None] = lambda: None
        self.waiting: list[tuple[Callable[[], None], Callable[[MySocketError], None]]] = []
        self.taken: list[tuple[bytes, str, Part]] = []
        self.forgotten: list[tuple[bytes, bytes]] = []
        self.retired: list[tuple[bytes, bytes]] = []

    def take(self, node: bytes, peer: str, chunk: Chunk, done: Callable[[], None], lost: Callable[[MySocketError], None]) -> None:
        self.taken.append((node, peer, chunk.part))
        self.waiting.append((done, lost))

    def forget(self, node: bytes, id: bytes) -> None:
        self.forgotten.append((node, id))

    def retire(self, node: bytes, id: bytes) -> None:
        self.retired.append((node, id))

    def write(self, count: int = 10**9) -> None:
        for _ in range(min(count, len(self.waiting))):
            self.waiting.pop(0)[0]()
        self.on_written()


class Bench:
    def __init__(self, *, slow: bool = False, behind: int | None = None) -> None:
        self.events: list[tuple[str, Any]] = []
        self.inner, self.files = Inner(self.events, slow=slow), Files()
        self.sink = SortingSink(self.inner, self.files, behind=behind)  # type: ignore[arg-type]

    def link(self, name: str = "a") -> Link:
        return Link(self.events, name)

    def write(self, link: Link, *blocks: Batch) -> None:
        for block in blocks:
            self.sink.write(block, link)

    @property
    def held(self) -> int:
        """Origins that are held for what is not reported."""
        return len(self.sink._lines)


def test_it_is_as_the_sink_behind_it() -> None:
    bench = Bench()
    assert bench.sink.whole and not bench.sink.repeats and bench.sink.room == 4711
    bench.sink.agreed(cut=True)
    bench.sink.agreed(cut=False)
    assert bench.inner.cuts == [True, False]


def test_each_goes_where_it_belongs() -> None:
    bench = Bench()
    link = bench.link()
    bench.write(link, link.text(), link.file(), link.block(END.payload, Kind.END))
    assert bench.files.taken == [(b"a" * 16, r"hosta\x0a", Part.DATA)]
    assert link.written_to == [3] and len(bench.inner.blocks) == 1
    bench.files.write()
    assert [block.kind for block, _ in bench.inner.blocks] == [Kind.LINES, Kind.END]
    assert link.written_to[-1] == link.at and not bench.held
    _, origin = bench.inner.blocks[0]
    assert (origin.peer, origin.peer_text, origin.repeats_until, origin.stream_id) == (link.peer, "10.0.0.1:9000", 7, b"a" * 16)


def test_a_message_waits_for_the_file_before_it_and_no_other() -> None:
    bench = Bench()
    one, other = bench.link("a"), bench.link("b")
    bench.write(one, one.file(), one.text(), one.file(), one.text(), one.text())
    bench.write(other, other.text())
    assert [origin.stream_id[:1] for _, origin in bench.inner.blocks] == [b"b"]
    bench.files.write(1)
    assert len(bench.inner.blocks) == 2 and len(one.written_to) == 2
    bench.files.write(1)
    assert len(bench.inner.blocks) == 4 and one.written_to[-1] == one.at and not bench.held


def test_a_file_waits_for_the_message_before_it() -> None:
    bench = Bench(slow=True)
    link = bench.link()
    bench.write(link, link.text(), link.file(), link.text())
    bench.files.write()
    assert link.written_to == [] and len(bench.inner.blocks) == 1
    bench.inner.drain()
    assert len(link.written_to) == 1 and len(bench.inner.blocks) == 2
    bench.inner.drain()
    assert link.written_to[-1] == link.at and not bench.held


def test_messages_alone_do_not_wait_for_each_other() -> None:
    bench = Bench(slow=True)
    link = bench.link()
    bench.write(link, *(link.text() for _ in range(5)))
    assert len(bench.inner.waiting) == 5
    bench.inner.drain(2)
    assert link.written_to == [3, 6]


def test_a_group_is_one_report() -> None:
    bench = Bench()
    link = bench.link()
    bench.write(link, *(link.file() for _ in range(50)))
    bench.files.write(20)
    bench.files.write()
    assert len(link.written_to) == 2 and link.written_to[-1] == link.at


@pytest.mark.parametrize("part", Part)
def test_a_part_is_of_use_until_the_end_is_committed(part: Part) -> None:
    bench = Bench()
    link = bench.link()
    bench.write(link, link.file(part, b"1" * 16), link.file(Part.DATA, b"2" * 16))
    bench.files.write()
    assert bench.files.forgotten == [] and len(link.uncommitted) == (part in (Part.END, Part.CANCEL))
    for call in link.uncommitted:
        call()
    assert bench.files.forgotten == ([(b"a" * 16, b"1" * 16)] if link.uncommitted else [])


def test_without_a_spool_it_is_remembered_until_the_sender_knows() -> None:
    bench = Bench(behind=100)
    link, other = bench.link("a"), bench.link("b")
    for one in (link, other):
        bench.write(one, one.file(Part.END, b"1" * 16))
        bench.files.write()
        one.uncommitted.pop()()
    end = link.at
    assert bench.files.retired == [(b"a" * 16, b"1" * 16), (b"b" * 16, b"1" * 16)]
    while link.at <= end + 100:
        bench.write(link, link.text())
        assert bench.files.forgotten == []
    bench.write(link, link.text())
    assert bench.files.forgotten == [(b"a" * 16, b"1" * 16)]
    for _ in range(2):
        bench.sink.finished(other.stream_id)
        bench.sink.finished(link.stream_id)
    assert bench.files.forgotten == [(b"a" * 16, b"1" * 16), (b"b" * 16, b"1" * 16)]


def test_what_came_behind_a_loss_is_never_reported() -> None:
    bench = Bench()
    link, other = bench.link("a"), bench.link("b")
    bench.write(link, link.file(), link.file(), link.text(), link.file())
    bench.write(other, other.file())
    bench.files.write(1)
    assert len(link.written_to) == 1
    error = StateLoss("gone")
    bench.files.waiting.pop(0)[1](error)
    bench.files.write()
    assert link.error is error and len(link.written_to) == 1 and bench.inner.blocks == [] and len(other.written_to) == 1
    assert not bench.held


def test_a_message_that_is_refused_at_once() -> None:
    bench = Bench()
    bench.inner.refuse = b"long\n"
    link = bench.link()
    with pytest.raises(MessageTooLong):
        bench.write(link, link.text("long\n"))
    assert link.error is None and not bench.held


def test_a_message_that_is_refused_when_its_turn_comes() -> None:
    bench = Bench()
    bench.inner.refuse = b"long\n"
    link = bench.link()
    bench.write(link, link.file(), link.text(), link.text("long\n"), link.text(), link.file())
    bench.files.write()
    assert isinstance(link.error, MessageTooLong) and len(bench.inner.blocks) == 1 and not bench.held
    assert link.written_to == [26, 29]


STEP = st.tuples(st.sampled_from(["text", "file", "end", "inner", "files"]), st.sampled_from("abc"), st.integers(1, 4))


@given(st.lists(STEP, max_size=60), st.booleans())
def test_everything_is_reported_once_in_order(steps: list[tuple[str, str, int]], slow: bool) -> None:
    bench = Bench(slow=slow)
    links = {name: bench.link(name) for name in "abc"}
    for what, name, count in steps:
        link = links[name]
        if what == "inner":
            bench.inner.drain(count)
        elif what == "files":
            bench.files.write(count)
        else:
            for _ in range(count):
                kind = {"text": link.text, "file": link.file, "end": lambda link=link: link.file(Part.END)}[what]
                bench.write(link, kind())
        check(bench, slow)
    for _ in range(100):
        bench.inner.drain()
        bench.files.write()
    check(bench, slow)
    assert all(link.at == (link.written_to or [0])[-1] for link in links.values())
    assert not bench.held


def check(bench: Bench, slow: bool) -> None:
    """With a spool what is given is reported before anything else is: else it would be committed with another's position."""
    if slow:
        return
    for one, next in zip(bench.events, bench.events[1:], strict=False):
        if one[0] == "given":
            assert next == ("written", one[1])
    assert not bench.events or bench.events[-1][0] == "written"
