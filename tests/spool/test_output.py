"""The output file of a spool: its length, its tail, and who else writes to it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mysocket.core.batch import Kind, Piece
from mysocket.core.inbox import Mark
from mysocket.errors import CannotOpen, DiskFailed, MySocketError, OutputDeleted, OutputShared, OutputShortened
from mysocket.spool.changes import Changes
from mysocket.spool.disk import DiskSpool
from mysocket.spool.ledger import Entry
from mysocket.spool.output import BUFFERS, OutputFile
from mysocket.spool.store import Store
from tests.support.spools import close, has_tail, kill, opened, output_of, settle, store_of


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def enter(spool: DiskSpool, position: int) -> list[int]:
    """Commit a position behind what was written; the list gets it when that is done."""
    done: list[int] = []
    entry = Entry(b"t" * 16, b"n" * 16, b"", True, "", Mark(position, 7, False), 0.0)
    spool.ledger.commit(entry, lambda: done.append(position))
    return done


def write(spool: DiskSpool, data: bytes) -> None:
    assert spool.output is not None
    spool.output.write(data, lambda: None)


def length_of(spool: DiskSpool) -> int:
    """The committed one."""
    return int(store_of(spool).state().output["length"])


def test_the_length_is_committed_with_the_position(tmp_path: Path, out: Path) -> None:
    spool = opened(tmp_path / "spool", output=out)
    assert length_of(spool) == 0, "before the first write"
    write(spool, b"one\n")
    done = enter(spool, 4)
    assert not done and out.read_bytes() == b""
    settle(spool)
    assert done == [4] and out.read_bytes() == b"one\n" and length_of(spool) == 4
    close(spool)


def test_what_was_in_it_before_counts(tmp_path: Path, out: Path) -> None:
    out.write_bytes(b"before\n")
    spool = opened(tmp_path / "spool", output=out)
    write(spool, b"one\n")
    enter(spool, 4)
    settle(spool)
    assert out.read_bytes() == b"before\none\n" and length_of(spool) == 11
    close(spool)


@pytest.mark.parametrize(("cut", "rest"), [(True, b"one\n"), (False, b"one\nta")])
def test_a_tail_stays_until_somebody_agrees(tmp_path: Path, out: Path, cut: bool, rest: bytes) -> None:
    spool = opened(tmp_path / "spool", output=out)
    write(spool, b"one\n")
    enter(spool, 4)
    settle(spool)
    kill(spool)
    with out.open("ab") as file:
        file.write(b"ta")
    spool = opened(tmp_path / "spool", output=out)
    settle(spool)
    assert out.read_bytes() == b"one\nta" and spool.output is not None
    spool.output.agreed(cut=cut)
    write(spool, b"two\n")
    enter(spool, 8)
    settle(spool)
    assert out.read_bytes() == rest + b"two\n" and length_of(spool) == len(rest) + 4
    spool.output.agreed(cut=True)  # the next connection: there is no tail any more
    settle(spool)
    assert out.read_bytes() == rest + b"two\n"
    close(spool)


def test_data_and_its_position_are_never_parted(tmp_path: Path, out: Path) -> None:
    """More than one commit takes is written; no committed length ever exceeds the committed positions."""
    spool = opened(tmp_path / "spool", output=out)
    block, position = b"x" * 200_000, 0
    for _ in range(60):
        position += len(block)
        write(spool, block)
        enter(spool, position)
    write(spool, b"its position comes later")
    while spool.step():
        [entry] = spool.ledger
        assert length_of(spool) == entry.mark.position
    assert out.stat().st_size == length_of(spool) == position
    enter(spool, position + 24)
    settle(spool)
    assert length_of(spool) == position + 24
    close(spool)


def test_the_file_is_synced_before_the_commit(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    spool = opened(tmp_path / "spool", output=out)
    monkeypatch.setattr(OutputFile, "sync", lambda self: order.append("sync"))
    write(spool, b"one\n")
    entry = Entry(b"t" * 16, b"n" * 16, b"", True, "", Mark(4, 7, False), 0.0)
    monkeypatch.setattr(Entry, "encode", lambda self: order.append("commit") or b"x" * 64)
    spool.ledger.commit(entry, lambda: order.append("told"))
    settle(spool)
    assert order == ["sync", "commit", "told"]
    monkeypatch.undo()
    kill(spool)


def full(calls: int) -> Callable[..., int]:
    """A writev that finds room for two bytes, then for so many calls none, then for all."""
    left = [calls + 1]
    real = os.writev

    def writev(fd: int, buffers: list[bytes]) -> int:
        left[0] -= 1
        if left[0] == calls:
            return real(fd, [b"".join(buffers)[:2]])
        if left[0] >= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, buffers)

    return writev


def test_a_full_disk_is_waited_for(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time, told = [0.0], []
    spool = opened(tmp_path / "spool", output=out, now=lambda: time[0])
    spool.on_full = told.append
    monkeypatch.setattr(os, "writev", full(2))
    write(spool, b"one\n")
    done = enter(spool, 4)
    settle(spool)
    assert not done and told == [str(out)]
    for _ in range(4):
        time[0] += 1
        settle(spool)
    assert done == [4] and out.read_bytes() == b"one\n" and told == [str(out), ""]
    close(spool)


@pytest.mark.parametrize(("name", "number"), [("writev", errno.EIO), ("fdatasync", errno.EIO), ("fdatasync", errno.ENOSPC)])
def test_a_disk_that_fails_ends_it(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, "bad")

    failures: list[MySocketError] = []
    spool = opened(tmp_path / "spool", output=out)
    spool.on_failure = failures.append
    write(spool, b"one\n")
    done = enter(spool, 4)
    monkeypatch.setattr(os, name, fail)
    settle(spool)
    monkeypatch.undo()
    assert not done and [type(failure) for failure in failures] == [DiskFailed] and failures[0].status == 74
    enter(spool, 8)
    settle(spool)
    assert not done and not list(spool.ledger), "nothing is written any more"
    close(spool)


def test_somebody_else_who_writes_to_it(tmp_path: Path, out: Path) -> None:
    failures: list[MySocketError] = []
    spool = opened(tmp_path / "spool", output=out)
    spool.on_failure = failures.append
    with out.open("ab") as file:
        file.write(b"graffiti")
    write(spool, b"one\n")
    done = enter(spool, 4)
    settle(spool)
    assert not done and [type(failure) for failure in failures] == [OutputShared]
    close(spool)


def test_a_file_that_is_deleted_while_it_is_written(tmp_path: Path, out: Path) -> None:
    failures: list[MySocketError] = []
    spool = opened(tmp_path / "spool", output=out)
    spool.on_failure = failures.append
    out.unlink()
    write(spool, b"one\n")
    done = enter(spool, 4)
    settle(spool)
    assert not done and [type(failure) for failure in failures] == [OutputDeleted]
    close(spool)


def test_it_is_the_same_file_by_another_name(tmp_path: Path, out: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    spool = opened(tmp_path / "spool", output=out)
    write(spool, b"one\n")
    enter(spool, 4)
    settle(spool)
    kill(spool)
    with out.open("ab") as file:
        file.write(b"tail")
    spool = opened(tmp_path / "spool", output=tmp_path / "link" / "out")
    assert spool.output is not None
    spool.output.agreed(cut=True)
    settle(spool)
    assert out.read_bytes() == b"one\n"
    close(spool)


def test_a_file_that_is_shorter_than_it_was(tmp_path: Path, out: Path) -> None:
    row = {"path": str(out), "inode": 0, "length": 8}
    out.write_bytes(b"four")
    row["inode"] = out.stat().st_ino
    with pytest.raises(OutputShortened, match="has 4 bytes, but 8 were written"):
        OutputFile(str(out), row)
    file = OutputFile(str(out), row, accept_loss=True)
    assert file.length == 4 and "accepted" in file.news
    file.close()


@pytest.mark.parametrize("change", ["missing", "other"])
def test_another_file_of_the_name_is_appended_to(tmp_path: Path, out: Path, change: str) -> None:
    spool = opened(tmp_path / "spool", output=out)
    write(spool, b"one\n")
    enter(spool, 4)
    close(spool)
    out.rename(tmp_path / "away")
    if change == "other":
        out.write_bytes(b"x")
    spool = opened(tmp_path / "spool", output=out)
    assert "another file than before" in spool.news
    write(spool, b"two\n")
    enter(spool, 8)
    settle(spool)
    assert out.read_bytes() == (b"x" if change == "other" else b"") + b"two\n"
    close(spool)


def test_a_new_file_when_the_old_one_was_moved(tmp_path: Path, out: Path) -> None:
    spool = opened(tmp_path / "spool", output=out)
    assert spool.output is not None
    write(spool, b"one\n")
    enter(spool, 4)
    spool.output.reopen()  # it was not moved: nothing changes
    settle(spool)
    out.rename(tmp_path / "away")
    spool.output.reopen()
    settle(spool)
    assert out.read_bytes() == b"" and length_of(spool) == 0, "the first length, before the first write"
    write(spool, b"two\n")
    enter(spool, 8)
    settle(spool)
    assert (tmp_path / "away").read_bytes() == b"one\n" and out.read_bytes() == b"two\n"
    close(spool)


def test_it_cannot_be_opened(tmp_path: Path) -> None:
    for name in ("missing/out", "."):
        with pytest.raises(CannotOpen):
            opened(tmp_path / "spool", output=tmp_path / name)
    close(opened(tmp_path / "spool"))  # the spool is free again


def test_two_do_not_share_it(tmp_path: Path, out: Path) -> None:
    spool = opened(tmp_path / "spool", output=out)
    with pytest.raises(CannotOpen, match="another mysocket writes to it"):
        opened(tmp_path / "other", output=out)
    assert output_of(spool) is not None
    close(spool)


# What is written, and what of it counts -----------------------------------------------------------------------------------------


class Disk:
    """Takes so many bytes of each writev, and then has so much room."""

    def __init__(self, takes: list[int], room: int) -> None:
        self.takes = takes
        self.room = room
        self.real = os.writev

    def writev(self, fd: int, parts: list[bytes]) -> int:
        data = b"".join(parts)[: min(self.room, self.takes.pop(0) if self.takes else 10**9)]
        if not data:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        self.room -= len(data)
        return self.real(fd, [data])


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=2 * BUFFERS + 5),
    takes=st.lists(st.integers(1, 400), max_size=12),
    room=st.integers(0, 6000),
)
def test_what_fits_is_written_whole_or_not_at_all(sizes: list[int], takes: list[int], room: int) -> None:
    data: list[bytes | memoryview] = [b"%c" % (97 + number % 26) * size for number, size in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "out"
        file = OutputFile(str(path), {})
        with mock.patch.object(os, "writev", Disk(takes, room).writev):
            written = file.write(list(data))
        assert path.read_bytes() == b"".join(data[:written]) and file.length == path.stat().st_size
        assert written == len(data) or sum(sizes[: written + 1]) > room
        assert file.write(data[written:]) == len(data) - written
        assert path.read_bytes() == b"".join(data)
        file.sync()
        file.close()


def test_a_torn_write_that_cannot_be_undone_is_a_failed_disk(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    file = OutputFile(str(out), {})
    monkeypatch.setattr(os, "writev", Disk([], 3).writev)
    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(DiskFailed):
        file.write([b"one\n"])
    file.close()


def test_what_fits_counts_and_the_rest_waits_with_its_position(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time, told = [0.0], []
    told_of: list[list[int]] = []
    spool = opened(tmp_path / "spool", output=out, now=lambda: time[0])
    spool.on_full = told.append
    monkeypatch.setattr(os, "writev", Disk([], 10).writev)
    for position in (4, 8, 12, 16):
        write(spool, b"%03d\n" % position)
        told_of.append(enter(spool, position))
    settle(spool)
    assert out.read_bytes() == b"004\n008\n" and told_of == [[4], [8], [], []] and length_of(spool) == 8
    spool.append(Piece(Kind.LINES, 0, b"own input\n"))
    settle(spool)
    assert spool.committed == 10 and length_of(spool) == 8 and told == [str(out)]
    monkeypatch.undo()
    time[0] += 1
    settle(spool)
    assert out.read_bytes() == b"004\n008\n012\n016\n" and told_of == [[4], [8], [12], [16]]
    assert length_of(spool) == 16 and told == [str(out), ""]
    close(spool)


def test_a_length_is_not_committed_by_others_before_its_position(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written, and its commit found no room. What is committed first, when there is some, is not the position."""
    time: list[float] = [0.0]
    spool = opened(tmp_path / "spool", output=out, now=lambda: time[0])
    spool.append(Piece(Kind.LINES, 0, b"own input\n"))
    settle(spool)

    def refuse(self: Changes) -> None:
        raise lmdb.DiskError("mdb_txn_commit: Input/output error")

    monkeypatch.setattr(Store, "free", 0)
    monkeypatch.setattr(Changes, "commit", refuse)
    write(spool, b"one\n")
    done = enter(spool, 4)
    settle(spool)
    monkeypatch.undo()
    assert out.read_bytes() == b"one\n" and not done
    assert spool.seek(0) and spool.read(0) is not None
    spool.retire(10)
    time[0] += 0.5
    spool.step()
    assert store_of(spool).state().retired == 10 and length_of(spool) == 0 and not done
    time[0] += 1
    settle(spool)
    assert length_of(spool) == 4 and done == [4] and out.read_bytes() == b"one\n"
    close(spool)


def test_a_tail_that_counts_is_not_forgotten_on_a_full_disk(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path / "spool", output=out)
    write(spool, b"one\n")
    enter(spool, 4)
    settle(spool)
    kill(spool)
    with out.open("ab") as file:
        file.write(b"tail")
    time: list[float] = [0.0]
    spool = opened(tmp_path / "spool", output=out, now=lambda: time[0])
    assert spool.output is not None

    def refuse(self: Changes) -> None:
        raise lmdb.DiskError("mdb_txn_commit: Input/output error")

    monkeypatch.setattr(Store, "free", 0)
    monkeypatch.setattr(Changes, "commit", refuse)
    spool.output.agreed(cut=False)
    settle(spool)
    monkeypatch.undo()
    time[0] += 1
    settle(spool)
    assert length_of(spool) == 8, "before the next write"
    close(spool)


def test_what_came_before_belongs_to_the_file_before(tmp_path: Path, out: Path) -> None:
    spool = opened(tmp_path / "spool", output=out)
    assert spool.output is not None
    write(spool, b"one\n")
    enter(spool, 4)
    out.rename(tmp_path / "away")
    spool.output.reopen()
    write(spool, b"two\n")
    enter(spool, 8)
    settle(spool)
    assert (tmp_path / "away").read_bytes() == b"one\n" and out.read_bytes() == b"two\n" and length_of(spool) == 4
    kill(spool)
    spool = opened(tmp_path / "spool", output=out)
    output = output_of(spool)
    assert not spool.news and output is not None and not has_tail(output)
    close(spool)


def test_a_new_file_that_cannot_be_made_ends_it(tmp_path: Path) -> None:
    failures: list[MySocketError] = []
    place = tmp_path / "place"
    place.mkdir()
    spool = opened(tmp_path / "spool", output=place / "out")
    spool.on_failure = failures.append
    assert spool.output is not None
    place.rename(tmp_path / "away")
    spool.output.reopen()
    settle(spool)
    assert [type(failure) for failure in failures] == [CannotOpen]
    close(spool)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_it_is_an_ordinary_file_of_the_user(out: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        OutputFile(str(out), {}).close()
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == mode


def test_what_is_agreed_is_committed_before_anything_is_written(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash may come between: what is then behind the committed length must be of one stream, and its position known."""
    spool = opened(tmp_path / "spool", output=out)
    write(spool, b"one\n")
    enter(spool, 4)
    settle(spool)
    kill(spool)
    with out.open("ab") as file:
        file.write(b"tail")
    spool = opened(tmp_path / "spool", output=out)
    assert spool.output is not None
    spool.output.agreed(cut=False)
    enter(spool, 100)
    write(spool, b"two\n")
    enter(spool, 104)
    spool.step()
    assert length_of(spool) == 8 == out.stat().st_size and store_of(spool).entries()[b"t" * 16].mark.position == 100
    settle(spool)
    assert length_of(spool) == 12 and out.read_bytes() == b"one\ntailtwo\n"
    close(spool)
