"""The tables of a spool: what a transaction does, what is deleted, and what becomes of the file."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mysocket.core.batch import END, MAX_PAYLOAD, Batch, Flag, Kind, Piece, chain
from mysocket.core.inbox import Mark
from mysocket.errors import CannotOpen, DiskFailed
from mysocket.spool import store as module
from mysocket.spool.interface import Bookmark
from mysocket.spool.ledger import Entry
from mysocket.spool.lock import LOCK, SPOOL, open_directory
from mysocket.spool.rows import PAGE, disk_size
from mysocket.spool.store import NEW, Store

NODE, STREAM = b"n" * 16, b"s" * 16
CAPACITY = 64 * 2**20


def made(path: Path) -> Store:
    """The store in a directory, which is made if there is none."""
    directory = open_directory(str(path), role="session", create=True, known=(SPOOL, NEW, LOCK))
    try:
        if not directory.check(SPOOL):
            Store.make(directory, NODE, STREAM)
        return Store(directory, CAPACITY)
    except BaseException:
        directory.close()
        raise


def end(store: Store) -> None:
    store.close()
    store.directory.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = made(tmp_path / "spool")
    yield opened
    end(opened)


def append(store: Store, *pieces: Piece, time: float = 0.0) -> list[Batch]:
    """Keep them, in one transaction, behind what is there."""
    state = store.state()
    position, value, batches = state.end, state.end_chain, []
    with store.changes() as changes:
        for kind, flags, payload in pieces:
            before, value = value, chain(payload, value)
            batches.append(Batch(position, kind, flags, value, payload))
            changes.append(batches[-1], before, time)
            position = batches[-1].end
        changes.commit()
    return batches


def lines(*sizes: int) -> list[Piece]:
    return [Piece(Kind.LINES, 0, b"%d" % (number % 10) * size) for number, size in enumerate(sizes)]


def retire(store: Store, position: int, most: int = 4096) -> tuple[int, int]:
    with store.changes() as changes:
        found = changes.retire(position, most)
        changes.commit()
    return found


def kept(store: Store, position: int) -> list[Batch]:
    return [batch for batch, _, _ in store.batches(position)]


# Reading and writing ------------------------------------------------------------------------------------------------------------


def test_a_new_one_is_empty_and_says_who_it_is(store: Store) -> None:
    state = store.state()
    assert (state.node, state.stream, state.began) == (NODE, STREAM, 0)
    assert (state.retired, state.retired_chain, state.end, state.end_chain, state.waiting_size) == (0, 0, 0, 0, 0)
    assert (state.input_size, state.input_complete, state.at_end_mark, state.more, state.clean) == (0, False, False, False, True)
    assert not (state.peer or state.output or store.entries() or store.bookmarks() or kept(store, 0))


def test_batches_come_back_with_the_chain_value_before_them_and_their_time(tmp_path: Path) -> None:
    store = made(tmp_path / "spool")
    batches = append(store, *lines(3, 1, MAX_PAYLOAD), END, time=7.5)
    end(store)
    store = made(tmp_path / "spool")
    before = [0, *(batch.checksum for batch in batches)]
    assert list(store.batches(0)) == [(batch, value, 7.5) for batch, value in zip(batches, before, strict=False)]
    assert list(store.batches(4)) == [(batch, value, 7.5) for batch, value in zip(batches[2:], before[2:], strict=False)]
    state = store.state()
    assert (state.end, state.end_chain, state.at_end_mark) == (batches[-1].end, batches[-1].checksum, True)
    end(store)


def test_nothing_starts_where_no_batch_starts(store: Store) -> None:
    append(store, *lines(3, 3))
    assert [kept(store, position) for position in (1, 2, 5, 6, 7, 2**64 - 1)] == [[]] * 6


def test_it_tells_that_a_message_goes_on(store: Store) -> None:
    append(store, Piece(Kind.BLOB, Flag.MORE, b"x"))
    assert store.state().more
    append(store, Piece(Kind.BLOB, 0, b"x"))
    assert not store.state().more


def test_without_a_commit_nothing_happens(store: Store) -> None:
    append(store, *lines(3))
    with store.changes() as changes:
        changes.retire(3)
        changes.input(3, True)
    assert store.state().retired == 0 and store.state().input_size == 0 and len(kept(store, 0)) == 1


def test_the_other_tables(tmp_path: Path) -> None:
    store = made(tmp_path / "spool")
    entries = [Entry(bytes([number]) * 16, NODE, b"", True, "", Mark(number, 1, True), 0.0) for number in (1, 2)]
    with store.changes() as changes:
        for entry in entries:
            changes.enter(entry)
        changes.mark(Bookmark("a file", b"17"))
        changes.mark(Bookmark("a file", b"18"))
        changes.input(5, True)
        changes.identity(NODE, b"t" * 16, 3)
        changes.commit()
    with store.changes() as changes:
        changes.forget(entries[0].stream)
        changes.commit()
    end(store)
    store = made(tmp_path / "spool")
    state = store.state()
    assert store.entries() == {entries[1].stream: entries[1]} and store.bookmarks() == {"a file": b"18"}
    assert (state.input_size, state.input_complete, state.stream, state.began) == (5, True, b"t" * 16, 3)
    end(store)


@pytest.mark.parametrize("content", [b"", b"some text", b"\0" * 8192, bytes(range(256)) * 64])
def test_what_is_no_spool_is_not_opened_and_stays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    (path / SPOOL).touch(0o600)
    (path / SPOOL).write_bytes(content)
    with pytest.raises(CannotOpen, match=r"the spool .*damaged, or no spool"):
        made(path)
    assert (path / SPOOL).read_bytes() == content or not content


def test_one_of_another_version_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end(made(tmp_path / "spool"))
    monkeypatch.setattr(module, "FORMAT", b"3")
    with pytest.raises(CannotOpen, match="another version"):
        made(tmp_path / "spool")


# Deleting -----------------------------------------------------------------------------------------------------------------------


def test_only_whole_batches_are_deleted(store: Store) -> None:
    batches = append(store, *lines(4, 4, 4))
    assert retire(store, 3) == (3, 0)
    assert retire(store, 7) == (7, disk_size(4))
    state = store.state()
    assert (state.retired, state.retired_chain) == (4, batches[0].checksum) and kept(store, 4) == batches[1:]
    assert retire(store, 99) == (99, 2 * disk_size(4))
    state = store.state()
    assert (state.retired, state.retired_chain, state.end, state.end_chain) == (12, batches[2].checksum, 12, batches[2].checksum)
    assert retire(store, 99) == (99, 0)


def test_one_transaction_deletes_so_many(store: Store) -> None:
    batches = append(store, *lines(*[2] * 10))
    assert retire(store, 14, 3) == (6, 3 * disk_size(2))
    assert retire(store, 14, 3) == (12, 3 * disk_size(2))
    assert retire(store, 14, 3) == (14, disk_size(2))
    assert kept(store, 14) == batches[7:]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 50, 1500, 2040, 5000]), min_size=1, max_size=25),
    steps=st.lists(st.tuples(st.integers(0, 60_000), st.integers(1, 7)), max_size=12),
)
def test_what_is_left_is_what_was_not_deleted(sizes: list[int], steps: list[tuple[int, int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        store = made(Path(directory) / "spool")
        batches, freed = append(store, *lines(*sizes)), 0
        model = list(batches)
        for position, most in steps:
            done, size = retire(store, position, most)
            gone = [batch for batch in model if batch.end <= position][:most]
            model = model[len(gone) :]
            freed += size
            assert size == sum(disk_size(len(batch.payload)) for batch in gone)
            complete = not model or model[0].end > position
            assert done == (position if complete else gone[-1].end)
            state = store.state()
            if gone:
                assert (state.retired, state.retired_chain) == (gone[-1].end, gone[-1].checksum)
            assert kept(store, state.retired) == model
        end(store)


# The file -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 700, 1360, 1992, 1993, 3000, 4028, 4060, 10_000, MAX_PAYLOAD])
def test_how_much_room_a_batch_takes_is_known_well_enough(store: Store, size: int) -> None:
    """Within a twentieth, and a page: the quota is counted by it, and what is counted must be given back in full."""
    count = min(2000, max(20, 2**20 // size))
    append(store, *lines(*[size] * count))
    counted, real = count * disk_size(size), store.state().waiting_size
    assert abs(counted - real) <= real / 20 + PAGE


def test_a_mixture_takes_about_what_is_counted(store: Store) -> None:
    sizes = [random.Random(number).choice([1, 80, 600, 1900, 2100, 6000]) for number in range(2000)]
    append(store, *lines(*sizes))
    counted, real = sum(map(disk_size, sizes)), store.state().waiting_size
    assert counted * 0.8 < real < counted * 1.2


def test_what_is_free_in_the_file_is_known(store: Store) -> None:
    append(store, *lines(*[100_000] * 20))
    full = store.spare
    retire(store, 1_500_000)
    assert store.spare - full >= 15 * 100_000 and store.size - store.spare >= store.state().waiting_size


def filled(store: Store) -> list[Batch]:
    """A file of 8 MiB in which little is left."""
    batches = append(store, *lines(*[MAX_PAYLOAD] * 32))
    retire(store, 30 * MAX_PAYLOAD)
    with store.changes() as changes:
        changes.enter(Entry(b"t" * 16, NODE, b"", True, "", Mark(5, 6, False), 0.0))
        changes.input(9, False)
        changes.commit()
    return batches[30:]


def test_compaction_gives_the_disk_its_room_back_and_changes_nothing_else(tmp_path: Path) -> None:
    store = made(tmp_path / "spool")
    batches = filled(store)
    before, state, entries = store.size, store.state(), store.entries()
    store.compact()
    assert store.size < before / 8 and store.spare < 2**16
    assert (store.state(), store.entries(), kept(store, state.retired)) == (state, entries, batches)
    batches += append(store, *lines(10))
    end(store)
    store = made(tmp_path / "spool")
    assert kept(store, state.retired) == batches
    assert sorted(os.listdir(tmp_path / "spool")) == [LOCK, SPOOL]
    assert (tmp_path / "spool" / SPOOL).stat().st_mode & 0o777 == 0o600
    end(store)


@pytest.mark.parametrize("name", ["fsync", "copyfd"])
def test_a_copy_that_fails_leaves_all_as_it_was(store: Store, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nor does it leave a part of a copy, on a disk that is full."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device") if name == "fsync" else lmdb.Error("No space left on device")

    class Env:
        """The environment, but for what fails: its own attributes cannot be set."""

        def __init__(self, env: object) -> None:
            self._env = env

        def __getattr__(self, attribute: str) -> object:
            return fail if attribute == "copyfd" else getattr(self._env, attribute)

    batches, before = filled(store), store.size
    if name == "fsync":
        monkeypatch.setattr(os, name, fail)
    else:
        monkeypatch.setattr(store, "_env", Env(store._env))
    with pytest.raises((OSError, lmdb.Error)):
        store.compact()
    monkeypatch.undo()
    assert sorted(os.listdir(store.directory.fd)) == [LOCK, SPOOL] and store.size == before
    assert kept(store, batches[0].start) == batches
    append(store, *lines(10))


@pytest.mark.parametrize("name", ["rename", "sync"])
def test_a_copy_that_may_or_may_not_be_in_place_is_a_failed_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """After a power cut the old file might be there, and what was committed to the new one not."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    batches = filled(store)
    monkeypatch.setattr(*((os, "rename") if name == "rename" else (store.directory, "sync")), fail)
    with pytest.raises(DiskFailed):
        store.compact()
    monkeypatch.undo()
    assert kept(store, batches[0].start) == batches, "who asks about it meanwhile gets an answer"


def test_a_copy_that_was_left_half_made_is_no_hindrance(store: Store) -> None:
    fd = store.directory.open(NEW, os.O_RDWR | os.O_CREAT)
    os.write(fd, b"half")
    os.close(fd)
    batches = filled(store)
    store.compact()
    assert kept(store, batches[0].start) == batches and not store.directory.check(NEW)


def test_more_address_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAP_MARGIN", 2**20)
    monkeypatch.setattr("tests.spool.test_store.CAPACITY", 0)
    store = made(tmp_path / "spool")
    with pytest.raises(lmdb.MapFullError):
        append(store, *lines(*[MAX_PAYLOAD] * 6))
    assert not kept(store, 0)
    store.grow()
    assert len(append(store, *lines(*[MAX_PAYLOAD] * 6))) == 6
    end(store)
