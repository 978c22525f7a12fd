"""What is committed together, in which order, and what waits when there is no room."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from mysocket.core.batch import MAX_PAYLOAD, Kind, Piece
from mysocket.core.inbox import Mark
from mysocket.errors import DiskFailed, MySocketError
from mysocket.spool.committer import GROUP, RETIRE_DELAY
from mysocket.spool.disk import DiskSpool
from mysocket.spool.ledger import Entry
from mysocket.spool.space import RETRY
from mysocket.spool.store import Changes, Store
from tests.support.spools import close, kill, opened, read_all, settle, store_of

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
