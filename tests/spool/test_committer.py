"""What is committed together, in which order, and what waits when there is no room."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from mysocket.core.batch import MAX_PAYLOAD, Kind, Piece
from mysocket.core.inbox import Mark
from mysocket.errors import DiskFailed, MySocketError
from mysocket.spool import queue as queues
from mysocket.spool.changes import Changes
from mysocket.spool.disk import DiskSpool
from mysocket.spool.ledger import Entry
from mysocket.spool.queue import GROUP, RETIRE_DELAY
from mysocket.spool.space import RETRY
from mysocket.spool.store import Store
from tests.support.spools import close, committer_of, kill, opened, read_all, settle, store_of

BLOCK = Piece(Kind.LINES, 0, b"x" * (MAX_PAYLOAD - 1) + b"\n")


class Timed:
    """A spool whose time a test tells, and what it says."""

    def __init__(self, path: Path, **options: int) -> None:
        self.time = 0.0
        self.spool = opened(path, now=lambda: self.time, **options)  # type: ignore[arg-type]
        self.full: list[str] = []
        self.failures: list[MySocketError] = []
        self.spool.on_full = self.full.append
        self.spool.on_failure = self.failures.append


@pytest.fixture
def timed(tmp_path: Path) -> Timed:
    return Timed(tmp_path / "spool")


def enter(spool: DiskSpool, position: int) -> list[int]:
    done: list[int] = []
    entry = Entry(b"t" * 16, b"n" * 16, b"", True, "", Mark(position, 7, False), 0.0)
    spool.ledger.commit(entry, lambda: done.append(position))
    return done


def retired_on_disk(spool: DiskSpool) -> int:
    return store_of(spool).state().retired


def test_one_commit_takes_so_much_and_the_next_the_rest(timed: Timed) -> None:
    spool = timed.spool
    for _ in range(20):
        spool.append(BLOCK)
    assert spool.step()
    assert spool.committed == GROUP
    assert spool.step() and spool.committed == spool.end
    assert not spool.step()
    close(spool)


def test_everything_that_is_there_goes_into_one_commit(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, commits = timed.spool, []
    real = Changes.commit
    monkeypatch.setattr(Changes, "commit", lambda self: (commits.append(1), real(self))[1])
    spool.append(BLOCK)
    settle(spool)
    read_all(spool, 0)
    commits.clear()
    spool.append(BLOCK)
    spool.retire(MAX_PAYLOAD)
    done = enter(spool, 5)
    assert spool.step()
    assert (len(commits), spool.committed, retired_on_disk(spool), done) == (1, 2 * MAX_PAYLOAD, MAX_PAYLOAD, [5])
    close(spool)


def test_what_is_retired_waits_for_company_but_not_for_ever(timed: Timed) -> None:
    spool = timed.spool
    spool.append(Piece(Kind.LINES, 0, b"one\n"))
    settle(spool)
    read_all(spool, 0)
    spool.retire(4)
    assert not spool.step() and retired_on_disk(spool) == 0
    timed.time += RETIRE_DELAY
    assert spool.step() and retired_on_disk(spool) == 4
    close(spool)


def test_batches_wait_for_room_and_the_rest_goes_on(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = timed.spool
    spool.append(BLOCK)
    settle(spool)
    read_all(spool, 0)
    monkeypatch.setattr(Store, "free", 0)
    spool.append(BLOCK)
    done = enter(spool, 5)
    spool.retire(MAX_PAYLOAD)
    settle(spool)
    assert (spool.committed, done, retired_on_disk(spool)) == (MAX_PAYLOAD, [5], MAX_PAYLOAD)
    assert len(timed.full) == 1 and "spool" in timed.full[0]
    monkeypatch.undo()
    timed.time += RETRY
    settle(spool)
    assert spool.committed == spool.end and timed.full[-1] == "" and not timed.failures
    close(spool)


def refuse(self: Changes) -> None:
    self._txn.abort()
    raise lmdb.Error("mdb_txn_commit: Input/output error")


def test_a_commit_that_fails_without_room_is_a_full_disk(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = timed.spool
    spool.append(BLOCK)
    done = enter(spool, 5)
    monkeypatch.setattr(Store, "free", 0)
    monkeypatch.setattr(Changes, "commit", refuse)
    settle(spool)
    assert not timed.failures and not done and spool.committed == 0 and timed.full
    monkeypatch.undo()
    timed.time += RETRY
    settle(spool)
    assert done == [5] and spool.committed == spool.end
    close(spool)


def test_a_commit_that_fails_with_room_is_a_disk_that_fails(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = timed.spool
    spool.append(BLOCK)
    monkeypatch.setattr(Changes, "commit", refuse)
    settle(spool)
    monkeypatch.undo()
    assert [type(failure) for failure in timed.failures] == [DiskFailed] and spool.committed == 0
    spool.append(BLOCK)
    settle(spool)
    assert spool.committed == 0, "never again: nobody knows what is on the disk"
    close(spool)


def test_a_file_that_is_more_scattered_than_was_thought_grows(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, refusals = timed.spool, [1, 1]
    real = Changes.append

    def append(self: Changes, *batch: object) -> None:
        if refusals:
            refusals.pop()
            raise lmdb.MapFullError("full")
        real(self, *batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Changes, "append", append)
    before = store_of(spool)._env.info()["map_size"]
    spool.append(BLOCK)
    settle(spool)
    assert spool.committed == spool.end and store_of(spool)._env.info()["map_size"] > before and not timed.failures
    close(spool)


def test_a_capacity_that_is_used_to_the_end_loses_nothing(tmp_path: Path) -> None:
    """The map is larger than what may wait, whatever the sizes of the batches."""
    timed = Timed(tmp_path / "spool", capacity=3 * 2**20)
    spool = timed.spool
    for size in (100, 1900, 2100, 5000, 70_000, MAX_PAYLOAD):
        for _ in range(3):
            while spool.room > 0:
                spool.append(Piece(Kind.BLOB, 0, b"x" * size))
            settle(spool)
            assert spool.committed == spool.end and not timed.failures
            batches = read_all(spool, spool.retired)
            spool.retire(batches[len(batches) // 2].end)
            settle(spool)
    assert store_of(spool).size < 12 * 2**20
    close(spool)


def test_closing_with_a_full_disk_keeps_what_is_committed(timed: Timed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spool = timed.spool
    spool.append(BLOCK)
    settle(spool)
    monkeypatch.setattr(Store, "free", 0)
    spool.append(BLOCK)
    settle(spool)
    close(spool)
    monkeypatch.undo()
    spool = opened(tmp_path / "spool")
    assert spool.end == MAX_PAYLOAD
    kill(spool)


def test_many_small_ones_are_retired_in_several_transactions(timed: Timed) -> None:
    spool = timed.spool
    for _ in range(10_000):
        spool.append(Piece(Kind.LINES, 0, b"x\n"))
    settle(spool)
    read_all(spool, 0)
    spool.retire(20_000)
    timed.time += 1
    assert spool.step()
    assert 0 < retired_on_disk(spool) < 20_000
    settle(spool)
    assert retired_on_disk(spool) == 20_000
    close(spool)


# Order, and what waits ----------------------------------------------------------------------------------------------------------


def test_what_was_refused_keeps_its_order(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, done = timed.spool, []
    monkeypatch.setattr(Store, "free", 0)
    monkeypatch.setattr(Changes, "commit", refuse)
    for position in (5, 6):
        entry = Entry(b"t" * 16, b"n" * 16, b"", True, "", Mark(position, 7, False), 0.0)
        spool.ledger.commit(entry, lambda position=position: done.append(position))  # type: ignore[misc]
        settle(spool)
    monkeypatch.undo()
    assert not done
    done += enter(spool, 7)
    timed.time += RETRY
    settle(spool)
    assert done == [5, 6] and store_of(spool).entries()[b"t" * 16].mark.position == 7
    assert timed.full == [timed.full[0], ""] and str(spool.path) in timed.full[0]
    close(spool)


def test_what_is_retired_is_deleted_though_it_was_refused_once(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = timed.spool
    for _ in range(3):
        spool.append(Piece(Kind.LINES, 0, b"one\n"))
    settle(spool)
    read_all(spool, 0)
    monkeypatch.setattr(Store, "free", 0)
    monkeypatch.setattr(Changes, "commit", refuse)
    spool.retire(8)
    timed.time += RETIRE_DELAY
    settle(spool)
    monkeypatch.undo()
    assert retired_on_disk(spool) == 0 and not timed.failures
    timed.time += RETRY
    settle(spool)
    assert retired_on_disk(spool) == 8
    close(spool)


def test_entries_and_small_things_are_bounded_as_well(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that sends single letters must not make one commit of a million of them."""
    monkeypatch.setattr(queues, "GROUP_ITEMS", 5)
    spool = timed.spool
    for position in range(1, 13):
        enter(spool, position)
    found = []
    while spool.step():
        found.append(store_of(spool).entries()[b"t" * 16].mark.position)
    assert found[:3] == [5, 10, 12]
    close(spool)


def test_questions_are_answered_between_commits(timed: Timed) -> None:
    """They see what is committed before, whatever has come since."""
    spool, counts = timed.spool, []
    spool.append(Piece(Kind.LINES, 0, b"one\n"))
    settle(spool)
    spool.append(Piece(Kind.LINES, 0, b"two\n"))
    spool.count(counts.append)
    settle(spool)
    assert counts == [1] and spool.committed == 8
    close(spool)


def test_a_disk_that_has_failed_is_not_asked_again_and_nobody_waits_for_it(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, told = timed.spool, []
    spool.append(BLOCK)
    monkeypatch.setattr(Changes, "commit", refuse)
    settle(spool)
    monkeypatch.undo()
    spool.retire(spool.end)
    spool.flush(lambda: told.append("flushed"))
    settle(spool)
    assert told == ["flushed"] and len(timed.failures) == 1
    assert committer_of(spool).patience() is None, "there is nothing to wait for"
    spool.close(lambda: told.append("closed"))
    settle(spool)
    assert told == ["flushed", "closed"]


def test_who_flushes_is_not_kept_waiting_by_a_full_disk(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, told = timed.spool, []
    monkeypatch.setattr(Store, "free", 0)
    spool.append(BLOCK)
    spool.flush(lambda: told.append(spool.committed))
    settle(spool)
    assert told == [0] and spool.uncommitted == MAX_PAYLOAD
    assert committer_of(spool).patience() == RETRY
    close(spool)


def test_an_end_with_work_left_is_not_clean(timed: Timed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was printed may then be printed again."""
    spool = timed.spool
    enter(spool, 4)
    settle(spool)
    monkeypatch.setattr(Store, "free", 0)
    monkeypatch.setattr(Changes, "commit", refuse)
    enter(spool, 5)
    settle(spool)
    monkeypatch.undo()
    close(spool)
    spool = opened(tmp_path / "spool")
    assert spool.ledger.repeats and store_of(spool).entries()[b"t" * 16].mark.position == 4
    close(spool)
    spool = opened(tmp_path / "spool")
    assert not spool.ledger.repeats
    close(spool)


def test_it_sleeps_until_there_is_something_to_do(timed: Timed) -> None:
    spool, patience = timed.spool, committer_of(timed.spool).patience
    settle(spool)
    assert patience() is None
    spool.append(Piece(Kind.LINES, 0, b"one\n"))
    settle(spool)
    read_all(spool, 0)
    timed.time += 100
    settle(spool)
    spool.retire(4)
    assert patience() == pytest.approx(RETIRE_DELAY)
    timed.time += 100
    settle(spool)
    timed.time += 100
    settle(spool)
    assert patience() is None and retired_on_disk(spool) == 4
    close(spool)


def test_a_thread_that_breaks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may wait for ever for a thread that is no more."""
    posted: queue.Queue[Callable[[], None]] = queue.Queue()
    failures: list[MySocketError] = []
    spool = opened(tmp_path / "spool", post=posted.put)
    spool.on_failure = failures.append
    monkeypatch.setattr(threading, "excepthook", lambda problem: None)

    def break_down(self: Store, position: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Store, "batches", break_down)
    spool.start()
    spool.count(lambda count: None)
    posted.get(timeout=30)()
    assert "ZeroDivisionError" in str(failures[0])
    thread = committer_of(spool)._thread
    assert thread is not None
    thread.join(30)
    assert not thread.is_alive()
    kill(spool)


def test_the_thread_wakes_for_everything(tmp_path: Path) -> None:
    """Each kind of work, given to a thread that sleeps."""
    posted: queue.Queue[Callable[[], None]] = queue.Queue()
    spool = opened(tmp_path / "spool", post=posted.put, now=time.monotonic, output=tmp_path / "out", capacity=10_000)
    spool.start()
    assert spool.output is not None
    told: list[object] = []

    def until(condition: Callable[[], object]) -> None:
        while not condition():
            posted.get(timeout=30)()

    spool.append(Piece(Kind.LINES, 0, b"one\n"))
    until(lambda: spool.committed == 4)
    spool.append(Piece(Kind.LINES, 0, b"two\n"))
    until(lambda: spool.committed == 8)
    spool.count(told.append)
    until(lambda: told == [2])
    spool.output.write(b"three\n", lambda: None)
    done = enter(spool, 6)
    until(lambda: done)
    room = spool.room
    assert spool.seek(0) and spool.read(0) is not None
    spool.retire(4)
    until(lambda: spool.room > room)
    spool.flush(lambda: told.append("flushed"))
    until(lambda: "flushed" in told)
    (tmp_path / "out").rename(tmp_path / "away")
    spool.output.reopen()
    spool.flush(lambda: told.append("reopened"))
    until(lambda: "reopened" in told)
    assert (tmp_path / "out").read_bytes() == b"" and (tmp_path / "away").read_bytes() == b"three\n"
    spool.close(lambda: told.append("closed"))
    until(lambda: "closed" in told)
    spool = opened(tmp_path / "spool")
    assert (spool.retired, spool.end) == (4, 8)
    kill(spool)
