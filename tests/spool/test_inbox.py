"""What is received and kept: it is there once, until all who read it have it, whatever dies when."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from unittest import mock

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from mysocket.core.batch import MAX_PAYLOAD, Batch, Flag, Kind
from mysocket.core.inbox import Mark
from mysocket.errors import MySocketError
from mysocket.spool import committer
from mysocket.spool import inbox as inboxes
from mysocket.spool import queue as queues
from mysocket.spool.changes import Changes
from mysocket.spool.disk import DiskSpool
from mysocket.spool.disk_inbox import DiskInbox
from mysocket.spool.inbox import Consumer, Row, is_boundary, rows, size_of, state
from mysocket.spool.ledger import Entry
from mysocket.spool.queue import RETIRE_DELAY
from mysocket.spool.space import RETRY
from mysocket.spool.store import Store
from tests.support.disks import small_disk
from tests.support.spools import close, committer_of, kill, opened, settle, store_of

STREAM, OTHER = b"s" * 16, b"o" * 16
SPACE = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None


class Box:
    """A spool with an inbox, and senders that fill it."""

    def __init__(self, path: Path, *, capacity: int = 2**30, wall: float = 5.0) -> None:
        self.path = path
        self.time = 0.0
        self.full: list[str] = []
        self.failures: list[MySocketError] = []
        self.done: list[int] = []
        self.spool: DiskSpool = opened(
            path, capacity=capacity, keep_received=True, now=lambda: self.time, wall=lambda: wall, output=None
        )
        self.spool.on_full = self.full.append
        self.spool.on_failure = self.failures.append
        self.sent: dict[bytes, int] = {entry.stream: entry.mark.position for entry in self.spool.ledger}

    @property
    def inbox(self) -> DiskInbox:
        assert self.spool.inbox is not None
        return self.spool.inbox

    @property
    def store(self) -> Store:
        return store_of(self.spool)

    def give(
        self, payload: bytes, *, kind: Kind = Kind.LINES, flags: int = 0, stream: bytes = STREAM, peer: str = "hosta"
    ) -> int:
        """A block comes, and its entry behind it; where its stream stands then."""
        start = self.sent.get(stream, 0)
        self.inbox.deposit(Batch(start, kind, flags, 0, payload), stream=stream, peer=peer)
        return self.enter(start + len(payload), stream)

    def enter(self, position: int, stream: bytes = STREAM) -> int:
        self.sent[stream] = position
        entry = Entry(stream, b"n" * 16, b"", True, peer_of(stream), Mark(position, 7, False), 0.0)
        self.spool.ledger.commit(entry, lambda: self.done.append(position))
        return position

    def kept(self) -> bytes:
        """All that is kept on the disk."""
        return read_from(self.store, 0)

    def positions(self) -> dict[str, int]:
        """How far consumers are, by the tables."""
        return {name: consumer.position for name, consumer in state(self.store).consumers.items()}

    def later(self) -> None:
        """What waits for company has waited long enough."""
        self.time += max(RETIRE_DELAY, RETRY) + 0.01
        settle(self.spool)

    def settle(self) -> None:
        settle(self.spool)


def peer_of(stream: bytes) -> str:
    return stream[:1].decode()


def read_from(store: Store, position: int, most: int = inboxes.FETCH) -> bytes:
    """Everything from a position on, or from the oldest behind it, without a gap."""
    data = b""
    at: int | None = None
    while found := rows(store, position, most):
        for row in found:
            assert at in (None, row.at) and row.payload and len(row.payload) <= MAX_PAYLOAD
            data, at = data + row.payload, row.end
            position = row.end
    return data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def box(path: Path) -> Box:
    return Box(path)


# What comes ---------------------------------------------------------------------------------------------------------------------


def test_a_block_is_there_with_its_entry_and_not_before(box: Box) -> None:
    heard: list[int] = []
    box.inbox.listen(lambda: heard.append(box.inbox.end))
    box.give(b"one\ntwo\n")
    assert (box.inbox.end, box.done, heard) == (0, [], [])
    assert box.spool.step()
    assert (box.inbox.begin, box.inbox.end, box.inbox.kept, box.done, heard) == (0, 8, 8, [8], [8])
    [row] = rows(box.store, 0)
    assert row == Row(0, STREAM, 8, "hosta", 5.0, Kind.LINES, 0, b"one\ntwo\n")
    close(box.spool)


def test_a_block_waits_for_its_entry(box: Box) -> None:
    """The committer may look between the two."""
    box.inbox.deposit(Batch(0, Kind.LINES, 0, 0, b"one\n"), stream=STREAM, peer="")
    assert not box.spool.step() and not box.kept()
    box.enter(4)
    assert box.spool.step() and box.kept() == b"one\n"
    close(box.spool)


@pytest.mark.parametrize(("group", "items"), [(1, 1), (9, 1), (9, 3), (40, 2), (2**22, 4096)])
def test_a_block_and_its_entry_are_never_parted(path: Path, monkeypatch: pytest.MonkeyPatch, group: int, items: int) -> None:
    monkeypatch.setattr(queues, "GROUP", group)
    monkeypatch.setattr(queues, "GROUP_ITEMS", items)
    box = Box(path)
    size = 0
    for number in range(20):
        payload = b"%d\n" % number * (number % 3 + 1)
        size += len(payload)
        if number % 5 == 0:
            box.give(payload, stream=OTHER)
        else:
            box.give(payload)
            box.enter(box.sent[STREAM] + 1)  # an end mark has an entry, and no block
        while number % 4 == 0 and box.spool.step():
            assert_entries_fit(box.store)
    while box.spool.step():
        assert_entries_fit(box.store)
    assert state(box.store).end == size
    close(box.spool)


def assert_entries_fit(store: Store) -> None:
    """Of each stream the inbox has all up to the position of its entry; marks of one byte stand between."""
    last: dict[bytes, int] = {}
    for row in rows(store, 0, 2**30):
        last[row.stream] = row.stream_position
    entries = store.entries()
    for stream in {*last, *entries}:
        assert entries[stream].mark.position - last.get(stream, 0) in ((0, 1) if stream == STREAM else (0,))


@pytest.mark.parametrize("when", ["before", "within", "behind"])
def test_a_crash_takes_both_or_none(path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    box = Box(path)
    box.give(b"one\n")
    box.settle()
    box.give(b"two\n")
    if when == "within":
        monkeypatch.setattr(Changes, "commit", lambda self: crash())
    if when == "behind":
        settle(box.spool)
    elif when == "within":
        with pytest.raises(Crash):
            box.spool.step()
    kill(box.spool)
    monkeypatch.undo()
    box = Box(path)
    there = 8 if when == "behind" else 4
    assert (box.inbox.end, box.sent[STREAM], box.kept()) == (there, there, b"one\ntwo\n"[:there])
    box.give(b"three\n")
    box.settle()
    assert [row.at for row in rows(box.store, 0)] == [0, 4, 8][: there // 4 + 1]
    close(box.spool)


class Crash(BaseException):
    """The process dies here."""


def crash() -> None:
    raise Crash


def test_names_of_peers_are_kept_as_far_as_they_can_be(box: Box) -> None:
    for name in ("", "näme", "x" * 1000, "\U0001f600" * 300, "bad \udc80"):
        box.give(b"x\n", peer=name)
    box.settle()
    found = [row.peer for row in rows(box.store, 0)]
    assert found == ["", "näme", "x" * 255, "\U0001f600" * 255, "bad ?"]
    assert box.inbox.kept == 10 and not box.failures
    close(box.spool)


# Reading ------------------------------------------------------------------------------------------------------------------------


def test_an_empty_inbox_has_nothing_at_any_position(box: Box) -> None:
    assert rows(box.store, 0) == rows(box.store, 7) == []
    assert is_boundary(box.store, 0) and state(box.store).end == 0
    box.give(b"one\n")
    box.inbox.join("a")
    box.settle()
    box.inbox.acknowledge("a", 4)
    box.later()
    assert rows(box.store, 0) == rows(box.store, 4) == [] and is_boundary(box.store, 4)
    assert (box.inbox.begin, box.inbox.end, box.inbox.kept) == (4, 4, 0)
    close(box.spool)
    box = Box(box.path)
    assert (box.inbox.begin, box.inbox.end) == (4, 4)
    box.give(b"two\n")
    box.settle()
    assert rows(box.store, 0) == rows(box.store, 4) and rows(box.store, 4)[0].at == 4
    close(box.spool)


def test_a_long_row_comes_in_parts(box: Box) -> None:
    text = Random(1).randbytes(2 * MAX_PAYLOAD + 1000)
    box.give(b"before\n")
    box.give(text, kind=Kind.BLOB, stream=OTHER)
    box.give(b"last", flags=Flag.UNTERMINATED)
    box.settle()
    parts = rows(box.store, 0, 2**30)
    sizes = [7, MAX_PAYLOAD, MAX_PAYLOAD, 1000, 4]
    assert [len(part.payload) for part in parts] == sizes
    assert [part.at for part in parts] == [sum(sizes[:index]) for index in range(5)]
    assert [part.flags for part in parts] == [0, Flag.MORE, Flag.MORE, 0, Flag.UNTERMINATED]
    assert [part.stream_position for part in parts] == [7, MAX_PAYLOAD, 2 * MAX_PAYLOAD, len(text), 11]
    assert [part.stream for part in parts] == [STREAM, OTHER, OTHER, OTHER, STREAM]
    assert b"".join(bytes(part.payload) for part in parts) == b"before\n" + text + b"last"
    for position in (7, 8, 7 + MAX_PAYLOAD - 1, 7 + MAX_PAYLOAD, 7 + MAX_PAYLOAD + 1, 7 + len(text) - 1, 7 + len(text)):
        [part, *_] = rows(box.store, position)
        assert part.at == position and part.kind == (Kind.BLOB if position < 7 + len(text) else Kind.LINES)
        assert read_from(box.store, position) == (b"before\n" + text + b"last")[position:]
    assert sum(len(part.payload) for part in rows(box.store, 0, 1)) == 7, "one row at least, and no more than was asked for"
    assert len(rows(box.store, 7, 1)[0].payload) == MAX_PAYLOAD
    close(box.spool)


def test_what_is_read_at_once_is_bounded(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inboxes, "FETCH_ROWS", 3)
    for number in range(8):
        box.give(b"%d\n" % number)
    box.settle()
    assert [row.at for row in rows(box.store, 5)] == [5, 6, 8]
    got: list[list[Row]] = []
    box.inbox.fetch(4, got.append)
    box.settle()
    assert [row.at for row in got[0]] == [4, 6, 8]
    close(box.spool)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Kind, int, bytes, set[int]]:
    """A block: its payload, and where its messages end."""
    kind = draw(st.sampled_from("lnubm"))
    if kind == "b":
        payload = draw(st.binary(min_size=1, max_size=30))
        return Kind.BLOB, draw(st.sampled_from([0, int(Flag.CHUNK)])), payload, {len(payload)}
    delimiter, flags = (b"\0", int(Flag.NUL)) if kind == "n" else (b"\n", 0)
    texts = draw(st.lists(st.binary(max_size=8).map(lambda text: text.replace(delimiter, b"x")), min_size=1, max_size=5))
    if kind == "u":
        texts[-1] += b"x"
        flags |= Flag.UNTERMINATED
    payload, ends = b"", set()
    for index, text in enumerate(texts):
        payload += text if kind == "u" and index == len(texts) - 1 else text + delimiter
        ends.add(len(payload))
    return Kind.LINES, flags, payload, ends


@given(st.lists(blocks(), max_size=6), st.integers(0, 60), st.integers(1, 25))
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_read_from_any_position_is_what_came(
    given: list[tuple[Kind, int, bytes, set[int]]], trimmed: int, most: int
) -> None:
    """Rows, in the middle of rows, behind trimmed ones; and where messages end."""
    with tempfile.TemporaryDirectory(dir=SPACE) as directory:
        box = Box(Path(directory, "spool"))
        text, ends, starts = b"", {0}, [0]
        for kind, flags, payload, found in given:
            box.give(payload, kind=kind, flags=flags)
            ends |= {len(text) + end for end in found}
            text += payload
            starts.append(len(text))
        box.inbox.join("a")
        box.settle()
        box.inbox.acknowledge("a", min(trimmed, len(text)))
        box.later()
        begin = max(start for start in starts if start <= min(trimmed, len(text)))
        assert (box.inbox.begin, box.inbox.end, box.kept()) == (begin, len(text), text[begin:])
        assert (state(box.store).begin, state(box.store).end) == (begin, len(text))
        for position in range(len(text) + 2):
            assert read_from(box.store, position, most) == text[max(begin, position) :]
            if begin <= position <= len(text):
                assert is_boundary(box.store, position) == (position in ends), position
        close(box.spool)


# Consumers ----------------------------------------------------------------------------------------------------------------------


def test_a_consumer_begins_at_the_oldest_or_now_and_goes_on_where_it_was(path: Path) -> None:
    box = Box(path)
    box.give(b"one\n")
    box.settle()
    assert box.inbox.join("a") == Consumer(0, 5.0) and box.inbox.join("b", now=True) == Consumer(4, 5.0)
    box.settle()
    assert box.positions() == {"a": 0, "b": 4}
    kill(box.spool)
    box = Box(path, wall=9.0)
    assert box.inbox.join("a", now=True) == Consumer(0, 5.0), "it is known"
    assert box.inbox.holder == "a" and box.inbox.consumers.keys() == {"a", "b"}
    close(box.spool)


def test_an_acknowledgement_is_told_when_it_is_committed(box: Box) -> None:
    told: list[object] = []
    box.give(b"one\ntwo\n")
    box.inbox.join("a")
    box.settle()
    box.inbox.acknowledge("a", 4, lambda: told.append((4, box.positions()["a"])))
    box.inbox.acknowledge("a", 8, lambda: told.append((8, box.positions()["a"])))
    assert not told
    box.settle()
    assert told == [(4, 8), (8, 8)] or told == [(4, 4), (8, 8)]
    box.inbox.acknowledge("a", 2, lambda: told.append("old"))
    assert told[2:] == ["old"] and box.inbox.consumers["a"].position == 8
    close(box.spool)


def test_what_nobody_knows_or_nobody_sent_cannot_be_acknowledged(box: Box) -> None:
    box.inbox.join("a")
    box.give(b"one\n")
    with pytest.raises(ValueError, match="position 4 is behind the end"):
        box.inbox.acknowledge("a", 4)  # not committed
    box.settle()
    with pytest.raises(LookupError):
        box.inbox.acknowledge("b", 4)
    with pytest.raises(LookupError):
        box.inbox.forget("b")
    assert box.positions() == {"a": 0}
    close(box.spool)


def test_rows_go_when_every_consumer_has_them(box: Box) -> None:
    for number in range(4):
        box.give(b"%d..\n" % number)
    for name in "ab":
        box.inbox.join(name)
    box.later()
    box.inbox.acknowledge("a", 16)
    box.later()
    assert box.kept() == b"0..\n1..\n2..\n3..\n" and box.inbox.holder == "b"
    box.inbox.acknowledge("b", 6)
    box.later()
    assert box.kept() == b"1..\n2..\n3..\n" and box.inbox.begin == 4
    box.inbox.forget("b")
    box.later()
    assert box.kept() == b"" and box.inbox.begin == 16
    close(box.spool)


def test_without_a_consumer_nothing_goes(box: Box) -> None:
    box.give(b"one\n")
    box.inbox.join("a")
    box.settle()
    box.inbox.forget("a")
    box.later()
    assert box.kept() == b"one\n" and box.positions() == {} and box.inbox.holder is None
    close(box.spool)


def test_one_who_was_forgotten_may_come_back_at_once(box: Box) -> None:
    box.give(b"one\n")
    box.inbox.join("a")
    box.settle()
    box.inbox.acknowledge("a", 4)
    told: list[str] = []
    box.inbox.forget("a", lambda: told.append("forgotten"))
    assert box.inbox.join("a", now=True).position == 4
    box.later()
    assert told == ["forgotten"] and box.positions() == {"a": 4}
    close(box.spool)


def test_a_new_consumer_does_not_begin_at_what_is_on_its_way_out(box: Box) -> None:
    """All others have it, so it may be deleted at any moment."""
    box.give(b"one\n")
    box.give(b"two\n")
    box.inbox.join("a")
    box.settle()
    box.inbox.acknowledge("a", 4)
    assert box.inbox.begin == 0, "it is not gone yet"
    assert box.inbox.join("b").position == 4
    box.later()
    assert read_from(box.store, box.inbox.consumers["b"].position) == b"two\n"
    close(box.spool)


def test_nothing_is_deleted_before_its_acknowledgement_is_committed(box: Box) -> None:
    """Else one who comes back after a crash would be told that something is missing."""
    for number in range(4):
        box.give(b"%d..\n" % number)
    box.inbox.join("a")
    box.settle()
    box.inbox.acknowledge("a", 4)
    box.inbox.acknowledge("a", 12)  # waits for the one before
    while box.spool.step():
        assert state(box.store).begin <= box.positions()["a"]
        box.time += 1
    assert state(box.store).begin == 12
    close(box.spool)


def test_r8_what_all_have_goes_at_the_next_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(path)
    box.give(b"one\n")
    box.give(b"two\n")
    box.inbox.join("a")
    box.settle()
    monkeypatch.setattr(queues.Queue, "trim", lambda self, position, soon=False: None)
    box.inbox.acknowledge("a", 4)
    box.settle()
    assert box.positions() == {"a": 4} and box.kept() == b"one\ntwo\n"
    kill(box.spool)
    monkeypatch.undo()
    box = Box(path)
    box.later()
    assert box.kept() == b"two\n" and box.inbox.begin == 4
    close(box.spool)


def test_very_many_rows_go_in_several_transactions(box: Box) -> None:
    for _ in range(6000):
        box.give(b"x\n")
    box.inbox.join("a")
    box.settle()
    before = box.inbox.capacity - box.inbox.room
    assert before > 6000 * 60
    box.inbox.acknowledge("a", 12_000)
    assert box.spool.step()
    assert 0 < box.inbox.begin < 12_000 and box.inbox.begin == state(box.store).begin
    box.settle()
    assert box.inbox.begin == 12_000 and box.inbox.room == box.inbox.capacity
    close(box.spool)


# Room ---------------------------------------------------------------------------------------------------------------------------


def test_room_shrinks_with_what_comes_and_comes_back_in_full(path: Path) -> None:
    box = Box(path, capacity=2**20)
    rooms: list[int] = []
    box.inbox.on_room = lambda: rooms.append(box.inbox.room)
    box.inbox.join("a")
    for size in (1, 60, 700, 1500, 3000, 70_000) * 5:
        before = box.inbox.room
        box.give(b"x" * size + b"\n")
        assert before - box.inbox.room >= size + 1, "it counts as soon as it is given"
    box.settle()
    assert not rooms
    middle = box.inbox.end // 2
    box.inbox.acknowledge("a", middle)
    box.later()
    assert rooms and rooms[-1] == box.inbox.room < 2**20
    kill(box.spool)
    box = Box(path, capacity=2**20)
    assert abs(box.inbox.room - rooms[-1]) < 2**16, "what is counted after a restart is about the same"
    box.inbox.acknowledge("a", box.inbox.end)
    box.later()
    assert box.inbox.room == 2**20
    close(box.spool)


def test_room_is_not_what_is_given_meanwhile(path: Path) -> None:
    """All that was there is gone, but more is on its way to the disk."""
    box = Box(path, capacity=2**20)
    box.inbox.join("a")
    box.give(b"one\n")
    box.settle()
    box.inbox.acknowledge("a", 4)
    monkey = box.inbox.room
    box.give(b"x" * 10_000 + b"\n")
    box.later()
    assert monkey - 10_000 > box.inbox.room - 4096 and box.inbox.room < 2**20 - 10_000
    close(box.spool)


def test_a_smaller_bound_than_before_leaves_no_room(path: Path) -> None:
    box = Box(path)
    box.give(b"x" * 2**19 + b"\n")
    box.inbox.join("a")
    box.settle()
    close(box.spool)
    box = Box(path, capacity=2**18)
    assert box.inbox.room < 0 and box.kept() == b"x" * 2**19 + b"\n"
    box.inbox.acknowledge("a", box.inbox.end)
    box.later()
    assert box.inbox.room == 2**18
    close(box.spool)


def test_rows_take_about_what_is_counted(path: Path) -> None:
    box = Box(path)
    chosen = Random(1)
    payloads = [b"x" * chosen.choice([5, 80, 600, 1900, 2100, 6000]) + b"\n" for _ in range(1500)]
    for payload in payloads:
        box.give(payload)
    box.settle()
    counted = sum(size_of(row) for row in rows(box.store, 0, 2**30))
    assert counted == box.inbox.capacity - box.inbox.room
    assert counted * 0.8 < state(box.store).used < counted * 1.25
    close(box.spool)


# A full disk --------------------------------------------------------------------------------------------------------------------


def refuse(self: Changes) -> None:
    self._txn.abort()
    raise lmdb.Error("mdb_txn_commit: Input/output error")


def test_what_comes_waits_for_room_and_what_goes_makes_some(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    line = b"x" * 99_999 + b"\n"
    for _ in range(20):
        box.give(line)
    box.inbox.join("a")
    box.settle()
    monkeypatch.setattr(Store, "free", 0)
    told: list[str] = []
    for _ in range(20):
        box.give(line)
    box.settle()
    assert box.inbox.end == 2_000_000 and box.full == [box.full[0]] and "spool" in box.full[0]
    box.inbox.acknowledge("a", 2_000_000, lambda: told.append("acknowledged"))
    for _ in range(3):
        box.later()
    assert told == ["acknowledged"] and box.inbox.begin == 2_000_000 and 2_500_000 < box.inbox.end < 4_000_000
    assert len(box.full) == 1, "the rest waits still, and nobody is told again"
    for _ in range(3):
        box.inbox.acknowledge("a", box.inbox.end)
        box.later()
    assert box.inbox.end == 4_000_000 and box.full[1:] == [""] and not box.failures
    assert box.done == [100_000 * number for number in range(1, 41)]
    close(box.spool)


def test_what_there_is_room_for_is_kept_though_the_rest_waits(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """One commit's worth may be more than the disk will ever have."""
    monkeypatch.setattr(Store, "free", 2**20 + 350_000)
    for _ in range(10):
        box.give(b"x" * 99_999 + b"\n")
    assert box.spool.step()
    assert box.inbox.end == 300_000 and box.done == [100_000, 200_000, 300_000] and box.full
    assert_entries_fit(box.store)
    monkeypatch.undo()
    box.later()
    assert box.inbox.end == 1_000_000 and box.full[-1] == "" and len(box.done) == 10
    close(box.spool)


def test_a_commit_that_finds_no_room_takes_nothing_and_loses_nothing(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.give(b"one\n")
    box.inbox.join("a")
    box.settle()
    monkeypatch.setattr(Store, "free", 0)
    monkeypatch.setattr(Changes, "commit", refuse)
    told: list[str] = []
    box.give(b"two\n")
    box.inbox.acknowledge("a", 4, lambda: told.append("four"))
    box.settle()
    box.later()
    box.inbox.acknowledge("a", 4, lambda: told.append("again"))
    box.later()
    assert not told and box.inbox.end == 4 and not box.failures
    assert committer_of(box.spool).patience() is not None
    monkeypatch.undo()
    box.later()
    assert told == ["four", "again"] and box.kept() == b"two\n" and box.positions() == {"a": 4}
    close(box.spool)


def test_leaving_while_acknowledgements_wait_is_not_clean(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.give(b"one\n")
    box.inbox.join("a")
    box.settle()
    monkeypatch.setattr(Store, "free", 0)
    monkeypatch.setattr(Changes, "commit", refuse)
    box.inbox.acknowledge("a", 4)
    box.settle()
    monkeypatch.undo()
    close(box.spool)
    box = Box(box.path)
    assert box.spool.ledger.repeats and box.positions() == {"a": 0} and box.kept() == b"one\n"
    close(box.spool)


def test_on_a_real_disk_that_is_full_everything_comes_once_in_the_end(tmp_path: Path) -> None:
    """It is smaller than what comes in one commit, and than what waits for it."""
    payloads = [b"%d " % number + bytes([97 + number % 26]) * 200_000 + b"\n" for number in range(60)]
    with small_disk(tmp_path, 4 << 20) as disk:
        box = Box(disk.path / "spool")
        box.inbox.join("a")
        box.settle()
        for payload in payloads:
            box.give(payload)
        got, told = b"", False
        for turn in range(20):
            box.later()
            assert not box.failures
            told = told or bool(box.full)
            if turn == 2:
                # What waits in memory is gone with the process, and comes again from its sender.
                kill(box.spool)
                box = Box(box.path)
                assert box.inbox.end == box.sent[STREAM] and box.inbox.consumers["a"].position <= len(got)
                for payload in b"".join(payloads)[box.sent[STREAM] :].splitlines(keepends=True):
                    box.give(payload)
            at = box.inbox.consumers["a"].position
            got = got[:at] + read_from(box.store, at)
            box.inbox.acknowledge("a", len(got))
        assert got == b"".join(payloads)
        assert box.kept() == b"" and told and box.full[-1:] in ([], [""])
        close(box.spool)


# Any order ----------------------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from("abc")


class Consumers(RuleBasedStateMachine):
    """Consumers come, acknowledge and go, while rows come, disks fill up, and the process dies.

    1. What a living consumer has not acknowledged is there, in the process and after its death.
    2. What was told to be acknowledged is so after a death; nothing more is acknowledged than was said.
    3. Everybody who acknowledged or forgot is told once, when there is room.
    4. What all have goes in the end; without a consumer nothing does.
    """

    @initialize(groups=st.sampled_from([(1, 1), (30, 3), (2**22, 4096)]), deleted=st.sampled_from([1, 2, 4096]))
    def begin(self, groups: tuple[int, int], deleted: int) -> None:
        self.directory = tempfile.mkdtemp(dir=SPACE)
        self.patches = ExitStack()
        self.full = ""
        real = Changes.commit

        def commit(changes: Changes) -> None:
            if self.full == "all":
                refuse(changes)
            real(changes)

        free = property(lambda store: 0 if self.full else 2**40)
        for where, what, value in (
            (queues, "GROUP", groups[0]),
            (queues, "GROUP_ITEMS", groups[1]),
            (committer, "DELETED_AT_ONCE", deleted),
            (Changes, "commit", commit),
            (Store, "free", free),
        ):
            self.patches.enter_context(mock.patch.object(where, what, value))
        self.text = b""
        self.starts = [0]
        self.said: dict[str, int] = {}
        #: What a name may be after a death: positions, or None for not there, by when that was said.
        self.maybe: dict[str, dict[int, int | None]] = {name: {0: None} for name in "abc"}
        self.moment = 0
        self.calls = 0
        self.told: list[int] = []
        self.box = Box(Path(self.directory, "spool"))
        self.give([3, 1, 4, 1, 5])
        self.join("a", False)
        self.box.settle()

    def teardown(self) -> None:
        if hasattr(self, "box"):
            self.full = ""
            self.box.later()
            self.box.later()
            assert sorted(self.told) == sorted(set(self.told)) and len(self.told) == self.calls, "everybody is told once"
            assert self.box.inbox.end == len(self.text)
            if self.box.inbox.consumers:
                least = min(consumer.position for consumer in self.box.inbox.consumers.values())
                assert self.box.inbox.begin == max(start for start in self.starts if start <= least)
            assert self.box.positions() == self.said
            close(self.box.spool)
            self.patches.close()
            shutil.rmtree(self.directory)

    @rule(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
    def give(self, sizes: list[int]) -> None:
        for size in sizes:
            payload = b"%d" % len(self.text) * size + b"\n"
            self.box.give(payload)
            self.text += payload
            self.starts.append(len(self.text))

    @rule(name=NAMES, now=st.sampled_from([False, False, True]))
    def join(self, name: str, now: bool) -> None:
        known = name in self.said
        position = self.box.inbox.join(name, now=now).position
        if known:
            assert position == self.said[name]
        else:
            assert self.box.inbox.begin <= position <= self.box.inbox.end
            self._say(name, position)

    def _say(self, name: str, position: int | None) -> None:
        self.moment += 1
        self.maybe[name][self.moment] = position
        if position is None:
            del self.said[name]
        else:
            self.said[name] = position

    @precondition(lambda self: self.said)
    @rule(data=st.data(), share=st.sampled_from([0.2, 0.5, 0.8, 1.0]))
    def acknowledge(self, data: st.DataObject, share: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.said)))
        position = int(self.box.inbox.end * share)
        if position > self.said[name]:
            self._say(name, position)
        self.box.inbox.acknowledge(name, position, self._call(name))

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.said)))
        self._say(name, None)
        self.box.inbox.forget(name, self._call(name))

    def _call(self, name: str) -> Callable[[], None]:
        number, self.calls = self.calls, self.calls + 1
        history = self.maybe[name]
        latest = max(history)

        def done() -> None:
            self.told.append(number)
            # What was said until then is on the disk: what was before it cannot come back.
            for time in [time for time in history if time < latest]:
                del history[time]

        return done

    @rule()
    def step(self) -> None:
        self.box.spool.step()

    @rule()
    def later(self) -> None:
        self.box.later()

    @rule(full=st.sampled_from(["", "", "new", "all"]))
    def fill(self, full: str) -> None:
        self.full = full

    @rule()
    def die(self) -> None:
        kill(self.box.spool)
        self.full = ""
        confirmed = set(self.told)
        self.box = Box(Path(self.directory, "spool"))
        inbox = self.box.inbox
        found = {name: consumer.position for name, consumer in inbox.consumers.items()}
        assert inbox.end == self.box.sent.get(STREAM, 0)
        for name, said in self.maybe.items():
            assert found.get(name) in said.values(), "what was told is so, and nothing is that was not said"
        assert all(position >= inbox.begin for position in found.values())
        self.text, self.said = self.text[: inbox.end], found
        self.starts = [start for start in self.starts if start <= inbox.end]
        self.maybe = {name: {self.moment: found.get(name)} for name in "abc"}
        self.calls, self.told = len(confirmed), [*range(len(confirmed))]

    @invariant()
    def nothing_is_missing(self) -> None:
        if not hasattr(self, "box"):
            return
        store, inbox = self.box.store, self.box.inbox
        found = state(store)
        assert not self.box.failures
        assert read_from(store, found.begin) == self.text[found.begin : found.end]
        for name, consumer in inbox.consumers.items():
            assert consumer.position == self.said[name]
            assert found.begin <= consumer.position, f"{name} has lost something"
        for name, consumer in found.consumers.items():
            assert found.begin <= consumer.position, f"{name} would lose something by a crash"
        assert inbox.begin <= found.begin and inbox.end == found.end
        entry = store.entries().get(STREAM)
        assert found.end == (entry.mark.position if entry is not None else 0)


def test_consumers_in_any_order() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Consumers,
        settings=settings(
            max_examples=200, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
        ),
    )
