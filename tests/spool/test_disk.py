"""What only a spool on disk does: it is there again."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mysocket.core.batch import END, MAX_PAYLOAD, Kind, Piece
from mysocket.core.inbox import Mark
from mysocket.errors import CannotOpen, OtherPeerWaits
from mysocket.spool import committer, disk
from mysocket.spool.committer import FETCH_BATCHES
from mysocket.spool.disk import AHEAD, UNCOMMITTED, DiskSpool, place_of
from mysocket.spool.interface import Bookmark, Recipient
from mysocket.spool.ledger import MAX_REPEAT, Entry
from mysocket.spool.memory import BATCH_COST
from mysocket.spool.store import Store
from tests.support.spools import close, committer_of, kill, opened, read_all, settle, store_of

STREAM = b"t" * 16


def line(text: bytes) -> Piece:
    return Piece(Kind.LINES, 0, text)


def entry(position: int, *, stream: bytes = STREAM, until: int = 0) -> Entry:
    return Entry(stream, b"n" * 16, b"place678", True, "näme", Mark(position, 7, False), 5.0, until)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_what_is_committed_is_there_again_and_what_is_not_is_not(path: Path) -> None:
    spool = opened(path)
    identity = spool.node, spool.stream, spool.place
    first = spool.append(line(b"one\n"))
    settle(spool)
    spool.append(line(b"two\n"))
    assert (spool.committed, spool.end, spool.uncommitted) == (4, 8, 4)
    kill(spool)
    spool = opened(path, seed=2)
    assert (spool.node, spool.stream, spool.place) == identity
    assert (spool.retired, spool.committed, spool.end) == (0, 4, 4)
    assert read_all(spool, 0) == [first]
    second = spool.append(line(b"zwei\n"))
    settle(spool)
    assert second.start == 4 and read_all(spool, 0) == [first, second]
    close(spool)


def test_what_is_retired_stays_so_with_its_chain_value(path: Path) -> None:
    spool = opened(path)
    first, second = spool.append(line(b"one\n")), spool.append(line(b"two\n"))
    settle(spool)
    read_all(spool, 0)
    spool.retire(4)
    close(spool)
    spool = opened(path)
    assert (spool.retired, spool.chain_at(4)) == (4, first.checksum)
    assert read_all(spool, 4) == [second]
    close(spool)


def test_an_acknowledgement_within_a_batch_retires_whole_ones_only(path: Path) -> None:
    spool = opened(path)
    for text in (b"one\n", b"two\n"):
        spool.append(line(text))
    settle(spool)
    spool.retire(6)
    close(spool)
    spool = opened(path)
    assert spool.retired == 4
    close(spool)


def test_a_place_that_is_asked_for_twice_before_it_is_fetched_is_not_known_yet(path: Path) -> None:
    """A commit says that something has changed, too; the link asks again, and must not take that for an answer."""
    spool = opened(path)
    batches = [spool.append(line(b"%d\n" % number)) for number in range(3)]
    settle(spool)
    close(spool)
    spool = opened(path)
    position = batches[1].start
    assert not spool.seek(position)
    assert not spool.seek(position), "the fetch has not come yet"
    settle(spool)
    assert spool.seek(position) and spool.chain_at(position) == batches[0].checksum
    assert read_all(spool, position) == batches[1:]
    close(spool)


def test_a_place_where_no_batch_begins_has_no_chain_value(path: Path) -> None:
    spool = opened(path)
    spool.append(line(b"one\n"))
    settle(spool)
    assert not spool.seek(2)
    settle(spool)
    assert spool.seek(2) and spool.chain_at(2) is None
    assert spool.seek(99) and spool.chain_at(99) is None
    assert spool.seek(0) and read_all(spool, 0)
    close(spool)


def test_what_waits_is_held_in_part_only_and_comes_in_order(path: Path) -> None:
    spool = opened(path)
    batches = []
    while spool.end < 5 * AHEAD:
        batches.append(spool.append(line(b"x" * (MAX_PAYLOAD - 1) + b"\n")))
        if spool.room <= 0:
            settle(spool)
    settle(spool)
    held = sum(len(batch.payload) for batch in spool._ahead.values())
    assert held <= AHEAD + MAX_PAYLOAD
    assert [batch.start for batch in read_all(spool, 0)] == [batch.start for batch in batches]
    close(spool)


def test_the_input_waits_while_two_commits_are_not_done(path: Path) -> None:
    spool = opened(path)
    while spool.room > 0:
        spool.append(line(b"x" * (MAX_PAYLOAD - 1) + b"\n"))
    assert UNCOMMITTED <= spool.uncommitted < UNCOMMITTED + MAX_PAYLOAD
    spool.step()
    assert spool.room > 0
    close(spool)


# The latest input ---------------------------------------------------------------------------------------------------------------


def input_of(path: Path) -> tuple[int, bool]:
    spool = opened(path)
    state = store_of(spool).state()
    close(spool)
    return state.input_size, state.input_complete


def give(path: Path, *pieces: Piece) -> None:
    spool = opened(path)
    for piece in pieces:
        spool.append(piece)
    settle(spool)
    kill(spool)


def test_how_much_of_the_latest_input_is_accepted(path: Path) -> None:
    assert_that = []
    for pieces in ((), (line(b"one\n"),), (line(b"two\n"),), (END,), (END,), (line(b"x\n"),), (line(b"y\n"), END)):
        give(path, *pieces)
        assert_that.append(input_of(path))
    # Broken off, it goes on; complete, it stays, also behind an empty one; it starts again with the first byte of the next.
    assert assert_that == [(0, False), (4, False), (8, False), (8, True), (8, True), (2, False), (4, True)]


def test_a_bookmark_is_committed_with_its_piece(path: Path) -> None:
    spool = opened(path)
    spool.append(line(b"one\n"), Bookmark("file", b"4"))
    settle(spool)
    spool.append(line(b"two\n"), Bookmark("file", b"8"))
    kill(spool)
    spool = opened(path)
    assert spool.bookmarks == {"file": b"4"}
    close(spool)


# Others -------------------------------------------------------------------------------------------------------------------------


def test_entries_of_the_ledger_are_there_again(path: Path) -> None:
    spool, done = opened(path), []
    spool.ledger.commit(entry(10), lambda: done.append(10))
    assert not done and spool.ledger.find(STREAM) is None
    settle(spool)
    assert done == [10] and spool.ledger.find(STREAM) == entry(10)
    spool.ledger.commit(entry(30, stream=b"u" * 16), lambda: None)
    settle(spool)
    spool.ledger.forget(b"u" * 16)
    close(spool)
    spool = opened(path)
    assert list(spool.ledger) == [entry(10)] and not spool.ledger.repeats
    close(spool)


def test_what_a_killed_process_may_have_written_is_remembered_until_it_is_passed(path: Path) -> None:
    spool = opened(path)
    spool.ledger.commit(entry(10), lambda: None)
    settle(spool)
    kill(spool)
    for _ in range(2):  # a run that leaves cleanly settles nothing
        spool = opened(path)
        assert spool.ledger.find(STREAM) == entry(10, until=10 + MAX_REPEAT)
        close(spool)
    assert not opened(path).ledger.repeats


def test_it_remembers_whom_it_is_for(path: Path) -> None:
    spool = opened(path)
    spool.address("hub:9001")
    spool.remember(Recipient(b"n" * 16, b"p" * 8, "hub"))
    spool.append(line(b"x\n"))
    settle(spool)
    kill(spool)
    spool = opened(path)
    assert spool.recipient == Recipient(b"n" * 16, b"p" * 8, "hub")
    spool.address("hub:9001")
    with pytest.raises(OtherPeerWaits, match="wait for hub:9001; not sent to other:9001"):
        spool.address("other:9001")
    spool.retire(2)
    spool.address("other:9001")
    close(spool)


def test_a_new_stream_goes_on_at_the_position_of_the_old_one(path: Path) -> None:
    spool = opened(path)
    old, done = spool.stream, []
    first, second = spool.append(line(b"one\n")), spool.append(line(b"two\n"))
    settle(spool)
    read_all(spool, 0)
    spool.retire(4)
    spool.renew(b"new stream 56789", lambda: done.append(spool.stream))
    assert spool.stream == old
    settle(spool)
    assert done == [b"new stream 56789"] and spool.began == 4
    kill(spool)
    spool = opened(path)
    assert (spool.stream, spool.began, spool.retired) == (b"new stream 56789", 4, 4)
    assert spool.chain_at(4) == first.checksum and read_all(spool, 4) == [second]
    close(spool)


def test_a_place_is_a_directory_of_a_host(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    same = place_of(str(tmp_path / "a"), "host")
    assert len(same) == 8 and same == place_of(str(tmp_path / "link" / "a"), "host")
    assert same != place_of(str(tmp_path / "b"), "host") and same != place_of(str(tmp_path / "a"), "other")


# The file -----------------------------------------------------------------------------------------------------------------------


def fill(spool: DiskSpool, size: int) -> None:
    goal = spool.end + size
    while spool.end < goal:
        spool.append(line(b"x" * (MAX_PAYLOAD - 1) + b"\n"))
        if spool.room <= 0:
            settle(spool)
    settle(spool)


def test_the_file_gives_the_disk_its_space_back(path: Path) -> None:
    time = [0.0]
    spool = opened(path, now=lambda: time[0])
    fill(spool, 40 * 2**20)
    assert store_of(spool).size > 40 * 2**20
    while spool.retired < spool.end:
        for batch in read_all(spool, spool.retired)[:16]:
            spool.retire(batch.end)
        time[0] += 1
        settle(spool)
    time[0] += 10
    settle(spool)
    assert store_of(spool).size < 2**20
    close(spool)
    spool = opened(path)
    assert spool.retired == spool.end == 40 * 2**20
    fill(spool, 1)
    close(spool)


def test_what_is_retired_is_used_again(path: Path) -> None:
    spool = opened(path)
    for _ in range(20):
        fill(spool, 4 * 2**20)
        read_all(spool, spool.retired)
        spool.retire(spool.end)
        settle(spool)
    assert store_of(spool).size < 24 * 2**20
    close(spool)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_files_are_ours_alone_whatever_the_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        spool = opened(path)
        fill(spool, 20 * 2**20)
        spool.retire(spool.end)
        close(spool)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in path.iterdir()} == {"lock": 0o600, "spool.mdb": 0o600}


def test_one_that_was_half_made_is_made_again(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / "spool.mdb.new").write_bytes(b"half")
    (path / "spool.mdb.new").chmod(0o600)
    spool = opened(path)
    fill(spool, 1)
    close(spool)
    assert sorted(os.listdir(path)) == ["lock", "spool.mdb"]


def test_messages_are_counted_when_asked_for(path: Path) -> None:
    spool = opened(path)
    counts: list[int | None] = []
    spool.append(line(b"one\ntwo\n"))
    spool.append(END)
    settle(spool)
    assert spool.messages() is None
    spool.count(counts.append)
    settle(spool)
    assert counts == [2]
    close(spool)


def test_flush_waits_for_what_was_given(path: Path) -> None:
    spool, flushed = opened(path), []
    spool.append(line(b"one\n"))
    spool.flush(lambda: flushed.append(spool.committed))
    settle(spool)
    assert flushed == [4]
    close(spool)


def test_the_thread_commits_by_itself(path: Path) -> None:
    import threading

    committed = threading.Event()
    spool = opened(path)
    spool.on_change = committed.set
    spool.start()
    spool.append(line(b"one\n"))
    assert committed.wait(30) and spool.committed == 4
    closed = threading.Event()
    spool.close(closed.set)
    assert closed.wait(30)
    assert committer_of(spool)._thread is not None
    assert isinstance(store_of(spool), Store)


# Fetching -----------------------------------------------------------------------------------------------------------------------


def later(path: Path, **options: int) -> tuple[DiskSpool, deque[Callable[[], None]]]:
    """A spool with ten batches of ten bytes that an earlier process left, and what it has to tell the reactor."""
    spool = opened(path)
    for number in range(10):
        spool.append(line(b"%d" % number * 9 + b"\n"))
    close(spool)
    posted: deque[Callable[[], None]] = deque()
    return opened(path, post=posted.append, **options), posted


def end(spool: DiskSpool, posted: deque[Callable[[], None]]) -> None:
    """End a spool whose posts wait."""
    spool.close(lambda: None)
    settle(spool)


def test_what_was_fetched_for_another_place_is_no_answer(path: Path) -> None:
    """Two connections, one after the other, resume at two places: the first answer comes when the second is waited for."""
    spool, posted = later(path)
    assert not spool.seek(30)
    settle(spool)
    assert not spool.seek(60)
    posted.popleft()()
    assert not spool.seek(60), "what is known of 30 says nothing of 60"
    settle(spool)
    posted.popleft()()
    assert spool.seek(60) and spool.chain_at(60) is not None
    assert [batch.start for batch in read_all(spool, 60)] == [60, 70, 80, 90]
    end(spool, posted)


def test_a_place_that_is_asked_for_again_after_another(path: Path) -> None:
    spool, posted = later(path)
    for position in (30, 60, 30):
        assert not spool.seek(position)
    settle(spool)
    while posted:
        posted.popleft()()
    assert spool.seek(30) and [batch.start for batch in read_all(spool, 30)][:3] == [30, 40, 50]
    end(spool, posted)


def test_who_waits_hears_when_it_is_fetched(path: Path) -> None:
    spool, posted = later(path)
    changes: list[bool] = []
    spool.on_change = lambda: changes.append(spool.seek(30))
    assert not spool.seek(30)
    settle(spool)
    assert not changes
    posted.popleft()()
    assert changes == [True]
    end(spool, posted)


def test_what_is_committed_while_older_ones_are_fetched_comes_behind_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "FETCH", 20)
    spool, posted = later(path)
    assert spool.seek(0) and spool.read(0) is None
    spool.append(line(b"the eleventh\n"))
    settle(spool)
    for call in (posted.pop, posted.popleft):  # the reactor hears of the commit first
        call()()
    starts = []
    for _ in range(20):
        while (batch := spool.read(starts[-1] + 10 if starts else 0)) is not None:
            starts.append(batch.start)
        settle(spool)
        while posted:
            posted.popleft()()
    assert starts == list(range(0, 101, 10))
    end(spool, posted)


def test_a_long_backlog_is_fetched_in_portions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of bytes, and of batches: a backlog of single letters must not take all memory."""
    read: list[int] = []
    real = Store.batches

    def batches(self: Store, position: int) -> Iterator[Any]:
        for found in real(self, position):
            read.append(found[0].start)
            yield found

    monkeypatch.setattr(Store, "batches", batches)
    spool = opened(path)
    for number in range(FETCH_BATCHES + 100):
        spool.append(line(b"\n"))
        if number % 5000 == 0:
            settle(spool)
    close(spool)
    assert not read
    spool = opened(path)
    assert not read, "starting again takes no longer with a backlog"
    assert spool.seek(0) and spool.read(0) is None
    settle(spool)
    assert read == list(range(FETCH_BATCHES)) and len(spool._ahead) == FETCH_BATCHES
    assert len(read_all(spool, 0)) == spool.end
    assert len(read) < 2 * spool.end
    close(spool)


def test_so_many_are_in_flight_and_no_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "IN_FLIGHT", 4)
    spool, posted = later(path)
    spool.on_change = lambda: None

    def readable() -> list[int]:
        settle(spool)
        while posted:
            posted.popleft()()
        return [batch.start for batch in read_all(spool, spool._next)]

    spool.read(0)
    assert readable() == [0, 10, 20]
    assert readable() == []
    spool.retire(20)
    assert readable() == [30, 40]
    end(spool, posted)


def test_a_peer_may_acknowledge_what_an_earlier_process_sent(path: Path) -> None:
    """Its RESUME names what it has taken; what it has committed may be less, at a boundary that nobody here has looked up."""
    spool, posted = later(path)
    spool.seek(50)
    settle(spool)
    while posted:
        posted.popleft()()
    assert spool.seek(50) and spool.is_boundary(20) and not spool.is_boundary(60)
    spool.retire(20)
    read_all(spool, 50)
    assert spool.is_boundary(60) and not spool.is_boundary(65)
    end(spool, posted)
    spool = opened(path)
    assert spool.retired == 20 and [batch.start for batch in read_all(spool, 20)] == list(range(20, 100, 10))
    close(spool)


# Room ---------------------------------------------------------------------------------------------------------------------------


def test_tiny_batches_that_are_not_committed_are_bounded_by_what_they_cost(path: Path) -> None:
    """A disk that is full for hours must not fill the memory."""
    spool, count = opened(path), 0
    while spool.room > 0:
        spool.append(line(b"\n"))
        count += 1
    assert count <= UNCOMMITTED // BATCH_COST + 1
    settle(spool)
    assert spool.room > UNCOMMITTED // 2
    close(spool)


def test_room_comes_back_in_full_after_a_restart_too(path: Path) -> None:
    """What waits is counted in pages then, what is deleted in bytes."""
    spool = opened(path, capacity=2**20)
    for size in (1, 700, 1300, 2000, 5000) * 20:
        spool.append(line(b"x" * (size - 1) + b"\n"))
    close(spool)
    spool = opened(path, capacity=2**20)
    before = spool.room
    assert 2**19 < before < 2**20
    for batch in read_all(spool, 0):
        spool.retire(batch.end)
    settle(spool)
    assert spool.room == 2**20
    close(spool)


def test_a_copy_that_was_left_beside_is_removed(path: Path) -> None:
    """A process was killed while it made the file smaller; what it left must not take the room that is missing."""
    spool = opened(path)
    fill(spool, 1)
    kill(spool)
    (path / "spool.mdb.new").write_bytes(b"x" * 5000)
    (path / "spool.mdb.new").chmod(0o600)
    spool = opened(path)
    assert sorted(os.listdir(path)) == ["lock", "spool.mdb"] and spool.end == MAX_PAYLOAD
    close(spool)


@pytest.mark.parametrize(("name", "row"), [("identity", b"short"), ("retired", b""), ("peer", b"{"), ("output", b"\xff")])
def test_rows_that_make_no_sense_are_an_error_with_a_sentence(path: Path, name: str, row: bytes) -> None:
    spool = opened(path)
    with store_of(spool).changes() as changes:
        changes.meta(name, row)
        changes.commit()
    kill(spool)
    for _ in range(2):  # and the spool is free again
        with pytest.raises(CannotOpen, match="it is damaged"):
            opened(path)


def test_nothing_waits_so_the_stream_may_begin_for_somebody_else(path: Path) -> None:
    spool = opened(path)
    spool.address("hub:9001")
    spool.remember(Recipient(b"n" * 16, b"p" * 8, "hub"))
    spool.append(line(b"x\n"))
    settle(spool)
    read_all(spool, 0)
    spool.retire(2)
    settle(spool)
    spool.address("other:9001")
    close(spool)
    spool = opened(path)
    assert (spool.began, spool.retired, spool.recipient, spool.peer_text) == (2, 2, None, "other:9001")
    close(spool)
