"""Portions: what is never parted, what waits for company, and what is put back."""

from __future__ import annotations

import queue as threads
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mysocket.core.batch import END, MAX_PAYLOAD, Batch, Flag, Kind, Piece
from mysocket.core.inbox import Mark
from mysocket.spool import queue as queues
from mysocket.spool.changes import Changes
from mysocket.spool.disk import DiskSpool
from mysocket.spool.inbox import Consumer, Row, state
from mysocket.spool.interface import Bookmark
from mysocket.spool.ledger import Entry
from mysocket.spool.queue import RETIRE_DELAY, RETIRE_SIZE, Queue
from mysocket.spool.space import RETRY, Space
from mysocket.spool.store import Store
from mysocket.spool.work import Appended, Change, Data, Deposit, Enter, Group, Item, Reopen, Tail
from tests.support.spools import close, kill, opened, read_all, settle, store_of

PART = Piece(Kind.BLOB, Flag.MORE, b"x" * MAX_PAYLOAD)
LAST = Piece(Kind.BLOB, 0, b"end")


def line(text: bytes) -> Piece:
    return Piece(Kind.LINES, 0, text)


class Timed:
    """A spool whose time a test tells."""

    def __init__(self, path: Path, *, keep_received: bool = False) -> None:
        self.time = 0.0
        self.spool = opened(path, now=lambda: self.time, keep_received=keep_received)
        self.full: list[str] = []
        self.spool.on_full = self.full.append


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def timed(path: Path) -> Timed:
    return Timed(path)


# The queue alone ----------------------------------------------------------------------------------------------------------------


class AllRoom:
    """A disk with room, or without for some of it."""

    look_at = None

    def __init__(self) -> None:
        self.full: dict[str, float] = {}

    def is_there(self, what: str) -> bool:
        return what not in self.full


def taken(queue: Queue, space: AllRoom | None = None) -> Group | None:
    found: Space = space or AllRoom()  # type: ignore[assignment]
    with queue.wake:
        return queue.take(found, only_questions=False)


def appended(start: int, *, joined: bool = False, size: int = 1) -> Appended:
    return Appended(Batch(start, Kind.LINES, 0, 0, b"x" * size), 0, 0.0, (0, False), None, joined)


ENTRY = Entry(b"t" * 16, b"n" * 16, b"", True, "", Mark(1, 7, False), 0.0)


def item(kind: str) -> Item:
    match kind:
        case "data":
            return Data(b"data")
        case "deposit":
            return Deposit(Row(0, b"", 4, "", 0.0, 1, 0, b"row\n"), lambda: None)
        case "tail":
            return Tail(True)
        case "reopen":
            return Reopen()
        case "enter":
            return Enter(ENTRY, lambda: None)
    return Change(lambda changes: None, lambda: None)


def test_parts_are_not_taken_before_the_last_is_given() -> None:
    """The committer may look between any two of them."""
    queue = Queue(lambda: 0.0)
    queue.append(appended(0))
    queue.append(appended(1, joined=True))
    group = taken(queue)
    assert group is not None and [one.batch.start for one in group.batches] == [0]
    assert taken(queue) is None and queue.batches_wait
    queue.append(appended(2, joined=True))
    assert taken(queue) is None
    queue.append(appended(3))
    queue.append(appended(4, joined=True))
    group = taken(queue)
    assert group is not None and [one.batch.start for one in group.batches] == [1, 2, 3]


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 30)), max_size=30),
    st.lists(st.sampled_from(["data", "deposit", "tail", "reopen", "enter", "change"]), max_size=30),
    st.integers(1, 60),
    st.integers(1, 6),
    st.lists(st.integers(0, 3), min_size=1),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_portions_keep_the_order_and_what_belongs_together(
    batches: list[tuple[bool, int]], kinds: list[str], group_size: int, group_items: int, turns: list[int]
) -> None:
    """Given at any time between two takings; some of it is put back each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queues, "GROUP", group_size)
        patch.setattr(queues, "GROUP_ITEMS", group_items)
        queue = Queue(lambda: 0.0)
        wanted = [appended(number, joined=joined, size=size) for number, (joined, size) in enumerate(batches)]
        wanted += [appended(len(wanted))]
        # An entry follows whatever was received.
        items = [item(each) for kind in kinds for each in ([kind, "enter"] if kind in ("data", "deposit") else [kind])]
        got: list[Appended] = []
        got_items: list[Item] = []
        to_give, to_give_items, turn = list(wanted), list(items), 0
        while len(got) < len(wanted) or len(got_items) < len(items):
            number = turns[turn % len(turns)] if turn < 200 else 3
            turn += 1
            for _ in range(number):
                if to_give:
                    queue.append(to_give.pop(0))
                if to_give_items:
                    queue.give(to_give_items.pop(0))
            group = taken(queue)
            if group is None:
                continue
            assert not group.batches or not group.batches[-1].joined
            assert not group.items or not isinstance(group.items[-1], Data | Deposit)
            whole = [place + 1 for place, one in enumerate(group.batches) if not one.joined]
            if group.batches and turn < 200:
                queue.put_back_batches(group, whole[number % len(whole)] if number < 3 else 0)
            if group.items and number == 2 and turn < 200:
                queue.put_back_items(group, list(group.items))
            got += group.batches
            got_items += group.items
            for one, other in pairwise(group.items):
                assert not isinstance(other, Reopen), "what came before belongs to the file before"
                assert not (isinstance(one, Tail) and isinstance(other, Data))
        assert got == wanted
        assert all(one is other for one, other in zip(got_items, items, strict=True))
        assert not queue and taken(queue) is None


def test_deleting_waits_for_company_or_a_moment() -> None:
    now = 0.0
    queue = Queue(lambda: now)
    space: Space = AllRoom()  # type: ignore[assignment]
    queue.trim(5)
    assert taken(queue) is None and queue.patience(space) == pytest.approx(RETIRE_DELAY) and not queue
    now = 0.06
    queue.retire(7, soon=False)
    queue.trim(9)
    queue.trim(3)
    assert taken(queue) is None and queue.patience(space) == pytest.approx(RETIRE_DELAY - 0.06), "the first is as old as it is"
    now = RETIRE_DELAY
    group = taken(queue)
    assert group is not None and (group.retire, group.trim, group.changes) == (7, 9, True)
    queue.trim(10)
    assert taken(queue) is None
    queue.append(appended(0))
    group = taken(queue)
    assert group is not None and (group.trim, len(group.batches)) == (10, 1), "company"


@pytest.mark.parametrize("why", ["soon", "soon trim", "much", "full", "flush", "closing"])
def test_deleting_does_not_wait_when(why: str) -> None:
    queue, space = Queue(lambda: 0.0), AllRoom()
    if why == "soon trim":
        queue.trim(5, soon=True)
    else:
        queue.retire(RETIRE_SIZE if why == "much" else 5, soon=why == "soon")
    if why == "full":
        space.full = {"spool": 1.0}
    elif why == "flush":
        queue.flush.append(lambda: None)
    elif why == "closing":
        queue.closing = lambda: None
    group = taken(queue, space)
    assert group is not None and group.deletes and taken(queue, space) is None


def test_how_far_consumers_are_goes_with_the_next_group() -> None:
    queue, told = Queue(lambda: 0.0), []
    queue.enter_consumers({"a": Consumer(1, 0.0), "b": None}, lambda: told.append(1))
    queue.enter_consumers({"a": Consumer(2, 0.0)}, lambda: told.append(2))
    queue.trim(2)
    assert queue
    group = taken(queue)
    assert group is not None and group.consumers == {"a": Consumer(2, 0.0), "b": None} and group.trim == 2
    assert not queue and len(group.entered) == 2
    queue.put_back_deletes(group)
    assert not group.changes and queue
    queue.enter_consumers({"b": Consumer(3, 0.0)}, lambda: told.append(3))
    group = taken(queue)
    assert group is not None and group.consumers == {"a": Consumer(2, 0.0), "b": Consumer(3, 0.0)} and group.trim == 2
    for entered in group.entered:
        entered()
    assert told == [1, 2, 3]


def test_where_there_is_no_room_to_delete_it_is_looked_again_later() -> None:
    queue, space = Queue(lambda: 1.0), AllRoom()
    space.full = {"retire": 3.0}
    queue.enter_consumers({"a": None}, lambda: None)
    queue.trim(5)
    assert taken(queue, space) is None
    assert queue.patience(space) == 2.0  # type: ignore[arg-type]


# In one transaction -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [0, 1, 5, 40])
def test_a_message_in_parts_is_committed_at_once(timed: Timed, monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    monkeypatch.setattr(queues, "GROUP", 1)
    spool = timed.spool
    spool.append(line(b"one\n"))
    spool.append_together([PART] * parts + [LAST], Bookmark("send:1", b"value"))
    spool.append(line(b"two\n"))
    ends = []
    while spool.step():
        ends.append((spool.committed, store_of(spool).bookmarks().get("send:1")))
    behind = 4 + parts * MAX_PAYLOAD + 3
    assert list(dict.fromkeys(ends)) == [(4, None), (behind, b"value"), (behind + 4, b"value")]
    close(spool)


def test_a_crash_within_leaves_all_of_it_or_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crash(BaseException):
        pass

    def crash(self: Changes) -> None:
        raise Crash

    spool = opened(path)
    spool.append_together([PART, PART, LAST], Bookmark("send:1", b"1"))
    settle(spool)
    spool.append_together([PART, LAST], Bookmark("send:1", b"2"))
    monkeypatch.setattr(Changes, "commit", crash)
    with pytest.raises(Crash):
        spool.step()
    monkeypatch.undo()
    kill(spool)
    spool = opened(path)
    assert spool.end == 2 * MAX_PAYLOAD + 3 and spool.bookmarks == {"send:1": b"1"} and not spool.in_message
    close(spool)


def test_the_thread_takes_no_part_alone(path: Path) -> None:
    """With a real thread, which wakes whenever it likes."""
    posted: threads.Queue[Callable[[], None]] = threads.Queue()
    spool = opened(path, post=posted.put)
    seen: set[int] = set()
    spool.on_change = lambda: seen.add(spool.committed)
    spool.start()
    size = 20 * 1000 + 3
    for number in range(30):
        spool.append_together([Piece(Kind.BLOB, Flag.MORE, b"x" * 1000)] * 20 + [LAST], Bookmark("send:1", b"%d" % number))
    while spool.committed < spool.end:
        posted.get(timeout=30)()
    assert all(position % size == 0 for position in seen)
    told: list[bool] = []
    spool.close(lambda: told.append(True))
    while not told:
        posted.get(timeout=30)()


def test_a_message_that_finds_no_room_is_put_back_whole(timed: Timed, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = timed.spool
    spool.append(line(b"one\n"))
    spool.append_together([PART] * 4 + [LAST], Bookmark("send:1", b"1"))
    spool.append(line(b"two\n"))
    monkeypatch.setattr(Store, "free", 2**20 + 3 * MAX_PAYLOAD)
    settle(spool)
    assert spool.committed == 4 and timed.full and store_of(spool).bookmarks() == {}
    for _ in range(3):
        timed.time += RETRY
        settle(spool)
    assert spool.committed == 4
    monkeypatch.undo()
    timed.time += RETRY
    settle(spool)
    assert spool.committed == spool.end and timed.full[-1] == "" and store_of(spool).bookmarks() == {"send:1": b"1"}
    assert [batch.start for batch in read_all(spool, 0)][:2] == [0, 4]
    close(spool)


# Bookmarks ----------------------------------------------------------------------------------------------------------------------


def test_what_has_a_bookmark_does_not_count_as_the_users_input(path: Path) -> None:
    spool = opened(path)
    spool.append(line(b"one\n"))
    spool.append_together([Piece(Kind.LINES, Flag.MORE, b"lo"), line(b"ng\n")], Bookmark("send:1", b"1"))
    spool.append(line(b"two\n"), Bookmark("file", b"4"))
    settle(spool)
    found = store_of(spool).state()
    assert (found.input_size, found.input_complete, found.end) == (4, False, 13)
    spool.append(line(b"three\n"))
    spool.append(END)
    spool.append_together([line(b"four\n")], Bookmark("send:2", b"2"))
    close(spool)
    spool = opened(path)
    found = store_of(spool).state()
    assert (found.input_size, found.input_complete) == (10, True)
    assert spool.bookmarks == {"send:1": b"1", "send:2": b"2", "file": b"4"}
    spool.append(line(b"x\n"))
    settle(spool)
    assert store_of(spool).state().input_size == 2
    close(spool)


def test_a_mark_alone_is_kept_and_forgotten(path: Path) -> None:
    spool, told = opened(path), []
    spool.mark(Bookmark("send:1", b"1"), lambda: told.append(store_of(spool).bookmarks()["send:1"]))
    spool.mark(Bookmark("send:2", b"2"))
    assert not told
    settle(spool)
    assert told == [b"1"]
    kill(spool)
    spool = opened(path)
    assert spool.bookmarks == {"send:1": b"1", "send:2": b"2"}
    spool.unmark(["send:1", "send:3"])
    assert spool.bookmarks == {"send:2": b"2"}
    settle(spool)
    kill(spool)
    spool = opened(path)
    assert spool.bookmarks == {"send:2": b"2"}
    close(spool)


@pytest.mark.parametrize("how", ["small groups", "full disk"])
def test_a_mark_does_not_overtake_what_was_accepted_before_it(path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """It may say how much of an input that was: after a crash between the two it would be a lie."""
    timed = Timed(path)
    spool, told = timed.spool, []
    if how == "full disk":
        monkeypatch.setattr(Store, "free", 0)
    else:
        monkeypatch.setattr(queues, "GROUP", 1)
    for number in range(3):
        spool.append_together([line(b"%d\n" % number)], Bookmark("send:1", b"%d" % number))
    spool.mark(Bookmark("send:1", b"ended"), lambda: told.append("ended"))
    spool.mark(Bookmark("send:2", b"other"))
    spool.unmark(["send:2"])
    spool.append_together([line(b"x\n")], Bookmark("send:3", b"x"))
    if how == "full disk":
        settle(spool)
        assert store_of(spool).bookmarks() == {} and not told
        monkeypatch.undo()
        timed.time += RETRY
    while spool.step():
        value = store_of(spool).bookmarks().get("send:1")
        assert (value == b"ended") <= (spool.committed >= 6)
    assert store_of(spool).bookmarks() == {"send:1": b"ended", "send:3": b"x"} and told == ["ended"]
    close(spool)


def test_a_mark_behind_what_finds_no_room_is_gone_with_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(path)
    monkeypatch.setattr(Store, "free", 0)
    timed.spool.append_together([line(b"one\n")], Bookmark("send:1", b"1"))
    timed.spool.mark(Bookmark("send:1", b"ended"))
    settle(timed.spool)
    close(timed.spool)
    monkeypatch.undo()
    spool = opened(path)
    assert (spool.end, spool.bookmarks) == (0, {})
    close(spool)


# The end ------------------------------------------------------------------------------------------------------------------------


def is_clean(path: Path) -> bool:
    spool = opened(path, keep_received=True)
    clean = not spool.ledger.repeats
    close(spool)
    return clean


def enter(spool: DiskSpool, position: int) -> None:
    spool.ledger.commit(Entry(b"t" * 16, b"n" * 16, b"", True, "", Mark(position, 7, False), 0.0), lambda: None)


def test_an_end_is_clean_when_everything_is_committed(path: Path) -> None:
    timed = Timed(path, keep_received=True)
    inbox = timed.spool.inbox
    assert inbox is not None
    enter(timed.spool, 4)
    inbox.join("a")
    timed.spool.append_together([PART, LAST], Bookmark("send:1", b"1"))
    timed.spool.mark(Bookmark("send:2", b"2"))
    close(timed.spool)
    assert is_clean(path)
    spool = opened(path, keep_received=True)
    assert spool.bookmarks == {"send:1": b"1", "send:2": b"2"} and state(store_of(spool)).consumers.keys() == {"a"}
    close(spool)


@pytest.mark.parametrize("what", ["consumers", "batches", "entries"])
def test_an_end_with_something_left_is_not_clean(path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    timed = Timed(path, keep_received=True)
    spool, inbox = timed.spool, timed.spool.inbox
    assert inbox is not None
    enter(spool, 4)
    settle(spool)
    monkeypatch.setattr(Store, "free", 0)
    if what == "batches":
        spool.append(LAST)
    else:
        monkeypatch.setattr(Changes, "commit", refuse)
        if what == "entries":
            enter(spool, 5)
        else:
            inbox.join("a")
    settle(spool)
    monkeypatch.undo()
    close(spool)
    assert not is_clean(path)


def refuse(self: Changes) -> None:
    self._txn.abort()
    raise lmdb.Error("mdb_txn_commit: Input/output error")
