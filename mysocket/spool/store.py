"""The tables of a spool, in one LMDB file. What is written when, and why, is the business of the committer.

| table     | key                   | row                                                                    |
|-----------|-----------------------|------------------------------------------------------------------------|
| outbox    | stream number, start  | chain before, chain behind, kind, flags, time; the payload             |
| received  | stream id             | an :class:`~mysocket.spool.ledger.Entry`                               |
| bookmarks | name of an input      | what the input wrote                                                   |
| meta      | a name                | identity, what is retired, the input, the peer, the output file        |

Rules (LMDB documentation, "Caveats", and what was measured)

1. All is done by one thread at a time, under the lock of the directory; so LMDB's own lock file is not needed.
2. A commit is synced, data and meta page. Never WRITEMAP or MAPASYNC: a crash would lose what was acknowledged.
3. A row that is deleted needs pages of its own until the commit, so much is deleted in several small transactions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from struct import Struct
from typing import Any

import lmdb

from mysocket.core.batch import Batch, Flag, Kind
from mysocket.core.wire import ID_SIZE
from mysocket.errors import CannotOpen, DiskFailed
from mysocket.spool.interface import Bookmark
from mysocket.spool.ledger import Entry
from mysocket.spool.lock import LOCK, SPOOL, Directory

#: A spool that is being made, or made smaller; it is renamed into place when it is complete.
NEW = "spool.mdb.new"
#: Every file of a spool.
FILES = (SPOOL, NEW, LOCK)
FORMAT = b"1"
#: Bytes of address space beyond what may wait: for what is not yet deleted, and for LMDB's own pages.
MAP_MARGIN = 64 * 1024 * 1024
#: Rows that one transaction deletes, at most.
DELETED_AT_ONCE = 4096
#: Bytes of a page, of its header, and what each entry on it takes besides its key and its row.
PAGE, PAGE_HEADER, NODE_HEADER = 4096, 16, 10
#: The number of the own stream. A number, so that the stream can go on under another id without a change of the rows.
OWN = 0

_KEY = Struct(">IQ")
_ROW = Struct(">QQBBd")
_IDENTITY = Struct(f">{ID_SIZE}s{ID_SIZE}sQ")
_MARK = Struct(">QQ")
_INPUT = Struct(">Q?")


def disk_size(size: int) -> int:
    """Bytes that a batch of ``size`` bytes takes in the file, among others like it.

    A page holds whole rows, behind its header; a row of more than half a page gets pages of its own, and a place on a shared one.
    """
    row = size + _ROW.size
    entry = _KEY.size + row + NODE_HEADER
    if entry <= (PAGE - PAGE_HEADER) // 2:
        return PAGE // ((PAGE - PAGE_HEADER) // entry)
    return -(-(PAGE_HEADER + row) // PAGE) * PAGE + _KEY.size + 8 + NODE_HEADER


@dataclass(frozen=True, slots=True)
class State:
    """What a spool says when it is opened. Positions and chain values are those of the own stream."""

    node: bytes
    stream: bytes
    began: int
    retired: int
    retired_chain: int
    end: int
    end_chain: int
    at_end_mark: bool
    #: The last batch is a part of a message that goes on.
    more: bool
    #: Bytes of the latest input that are accepted, and whether its end mark is.
    input_size: int
    input_complete: bool
    #: Bytes that what waits takes in the file.
    waiting_size: int
    #: The last process left nothing between the output and the ledger.
    clean: bool
    peer: dict[str, str]
    output: dict[str, Any]


class Store:
    """An open spool file.

    :param capacity: bytes that may wait.
    :param readonly: only look.
    :raises CannotOpen: it is no spool, or one of another version.
    """

    def __init__(self, directory: Directory, capacity: int, *, readonly: bool = False) -> None:
        self.directory = directory
        self._capacity = capacity
        self._readonly = readonly
        try:
            self._open()
            if self.meta("format") != FORMAT:
                self._env.close()
                raise CannotOpen("it was made by another version of MySocket", where=f"the spool {directory.path}")
        except lmdb.Error as problem:
            # LMDB puts before it the name it was given, which means nothing to a user.
            text = str(problem).removeprefix(f"{directory.file(SPOOL)}: ")
            raise CannotOpen(f"{text}; it is damaged, or no spool", where=f"the spool {directory.path}") from None

    @classmethod
    def make(cls, directory: Directory, node: bytes, stream: bytes) -> None:
        """Make an empty spool: beside, then renamed into place, so that there is never half of one."""
        if directory.check(NEW):
            os.unlink(NEW, dir_fd=directory.fd)
        os.close(directory.open(NEW, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        env = lmdb.open(directory.file(NEW), map_size=MAP_MARGIN, subdir=False, lock=False, max_dbs=4)
        with env.begin(write=True) as txn:
            for name in (b"outbox", b"received", b"bookmarks"):
                env.open_db(name, txn)
            meta = env.open_db(b"meta", txn)
            txn.put(b"format", FORMAT, db=meta)
            txn.put(b"identity", _IDENTITY.pack(node, stream, 0), db=meta)
            txn.put(b"retired", _MARK.pack(0, 0), db=meta)
            txn.put(b"clean", b"1", db=meta)
        env.close()
        _put_in_place(directory)

    def _open(self) -> None:
        self._env = lmdb.open(
            self.directory.file(SPOOL),
            map_size=self._capacity + self._capacity // 16 + MAP_MARGIN,
            subdir=False,
            readonly=self._readonly,
            lock=False,
            max_dbs=4,
        )
        # A file that was cut short would kill this process where it is read (SIGBUS: it is mapped). Zeros are an error to LMDB.
        if self.size < (whole := (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]):
            os.truncate(self.directory.file(SPOOL), whole)
        self._outbox, self._received, self._bookmarks, self._meta = (
            self._env.open_db(name, create=False) for name in (b"outbox", b"received", b"bookmarks", b"meta")
        )

    def close(self) -> None:
        """Close the file. What was committed is safe."""
        self._env.close()

    # Reading --------------------------------------------------------------------------------------------------------------------

    def meta(self, name: str) -> bytes | None:
        """A row of the table ``meta``."""
        with self._env.begin(db=self._meta) as txn:
            row: bytes | None = txn.get(name.encode())
            return row

    def state(self) -> State:
        """What the spool says."""
        node, stream, began = _IDENTITY.unpack(self.meta("identity") or b"")
        retired, retired_chain = _MARK.unpack(self.meta("retired") or b"")
        end, end_chain, kind, flags = retired, retired_chain, 0, 0
        with self._env.begin(db=self._outbox, buffers=True) as txn, txn.cursor() as cursor:
            if cursor.last():
                row = cursor.value()
                _, end_chain, kind, flags, _ = _ROW.unpack_from(row)
                end = _KEY.unpack(cursor.key())[1] + len(row) - _ROW.size
                del row
            pages = txn.stat(self._outbox)
        size, complete = _INPUT.unpack(self.meta("input") or _INPUT.pack(0, False))
        return State(
            node=node,
            stream=stream,
            began=began,
            retired=retired,
            retired_chain=retired_chain,
            end=end,
            end_chain=end_chain,
            at_end_mark=kind == Kind.END,
            more=bool(flags & Flag.MORE),
            input_size=size,
            input_complete=complete,
            waiting_size=PAGE * (pages["leaf_pages"] + pages["overflow_pages"]),
            clean=self.meta("clean") == b"1",
            peer=json.loads(self.meta("peer") or b"{}"),
            output=json.loads(self.meta("output") or b"{}"),
        )

    def entries(self) -> dict[bytes, Entry]:
        """The table ``received``."""
        with self._env.begin(db=self._received) as txn:
            return {stream: Entry.decode(stream, row) for stream, row in txn.cursor()}

    def bookmarks(self) -> dict[str, bytes]:
        """The table ``bookmarks``."""
        with self._env.begin(db=self._bookmarks) as txn:
            return {name.decode(): value for name, value in txn.cursor()}

    def batches(self, position: int) -> Iterator[tuple[Batch, int, float]]:
        """The batches from ``position`` on: each, the chain value before it, and when it was accepted. Nothing, if none starts
        there."""
        with self._env.begin(db=self._outbox, buffers=True) as txn, txn.cursor() as cursor:
            found = cursor.set_key(_KEY.pack(OWN, position))
            while found:
                row = cursor.value()
                before, checksum, kind, flags, time = _ROW.unpack_from(row)
                batch = Batch(_KEY.unpack(cursor.key())[1], kind, flags, checksum, bytes(row[_ROW.size :]))
                del row
                yield batch, before, time
                found = cursor.next()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.stat(SPOOL, dir_fd=self.directory.fd, follow_symlinks=False).st_size

    @property
    def spare(self) -> int:
        """Bytes of the file that nothing is in."""
        with self._env.begin() as txn:
            tables = [txn.stat(table) for table in (self._outbox, self._received, self._bookmarks, self._meta)]
        used = sum(table["branch_pages"] + table["leaf_pages"] + table["overflow_pages"] for table in tables)
        return max(0, self.size - PAGE * used)

    @property
    def free(self) -> int:
        """Bytes that its file system has left for us."""
        disk = os.fstatvfs(self.directory.fd)
        return disk.f_bavail * disk.f_frsize

    # Writing --------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def changes(self) -> Iterator[Changes]:
        """A transaction. Without :meth:`Changes.commit` nothing of it happens."""
        txn = self._env.begin(write=True)
        try:
            yield Changes(txn, self._outbox, self._received, self._bookmarks, self._meta)
        finally:
            txn.abort()  # does nothing behind a commit

    def grow(self) -> None:
        """Take more address space: the file is more scattered than was thought."""
        self._env.set_mapsize(self._env.info()["map_size"] + MAP_MARGIN)

    def compact(self) -> None:
        """Give the disk what is free in the file back: copy what is in use, and put the copy in its place.

        :raises OSError, lmdb.Error: nothing has changed.
        :raises DiskFailed: nobody knows which of the two a power cut would leave.
        """
        if self.directory.check(NEW):
            os.unlink(NEW, dir_fd=self.directory.fd)
        fd = self.directory.open(NEW, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            self._env.copyfd(fd, compact=True)
            os.fsync(fd)
        except (OSError, lmdb.Error):
            # A part of a copy must not take the room that is missing.
            os.unlink(NEW, dir_fd=self.directory.fd)
            raise
        finally:
            os.close(fd)
        self._env.close()
        try:
            _put_in_place(self.directory)
        except OSError as problem:
            raise DiskFailed(problem.strerror or str(problem), where=f"the spool {self.directory.path}") from None
        finally:
            self._open()


def _put_in_place(directory: Directory) -> None:
    os.rename(NEW, SPOOL, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
    directory.sync()


class Changes:
    """What one transaction changes."""

    def __init__(self, txn: Any, outbox: Any, received: Any, bookmarks: Any, meta: Any) -> None:
        self._txn = txn
        self._outbox = outbox
        self._received = received
        self._bookmarks = bookmarks
        self._meta = meta

    def commit(self) -> None:
        """Make it durable.

        :raises lmdb.Error: it is unknown whether it is.
        """
        self._txn.commit()

    def append(self, batch: Batch, before: int, time: float) -> None:
        """Keep a batch of the own stream. ``before`` is the chain value at its start."""
        row = b"".join((_ROW.pack(before, batch.checksum, batch.kind, batch.flags, time), batch.payload))
        self._txn.put(_KEY.pack(OWN, batch.start), row, db=self._outbox, append=True)

    def retire(self, position: int, most: int = DELETED_AT_ONCE) -> tuple[int, int]:
        """Delete batches that end at or before ``position``, ``most`` of them at the most.

        :return: the position up to which all is deleted now, and how many bytes that frees in the file.
        """
        with self._txn.cursor(db=self._outbox) as cursor:
            goal, freed, count = self._boundary(cursor, position), 0, 0
            found = cursor.first()
            chain = done = None
            while found and count < most:
                start = _KEY.unpack(cursor.key())[1]
                if start >= goal:
                    break
                row = cursor.value()
                _, chain, _, _, _ = _ROW.unpack_from(row)
                size = len(row) - _ROW.size
                done = start + size
                freed += disk_size(size)
                count += 1
                cursor.delete()
                found = bool(cursor.key())
        if done is None or chain is None:
            return position, 0
        self.meta("retired", _MARK.pack(done, chain))
        return (done if done < goal else position), freed

    @staticmethod
    def _boundary(cursor: Any, position: int) -> int:
        """The end of a batch at or before ``position``."""
        if cursor.set_range(_KEY.pack(OWN, position)):
            if _KEY.unpack(cursor.key())[1] == position or not cursor.prev():
                return position
        elif not cursor.last():
            return position
        start = int(_KEY.unpack(cursor.key())[1])
        end = start + len(cursor.value()) - _ROW.size
        return end if end <= position else start

    def enter(self, entry: Entry) -> None:
        """Keep an entry of the ledger."""
        self._txn.put(entry.stream, entry.encode(), db=self._received)

    def forget(self, stream: bytes) -> None:
        """Keep no entry of ``stream``."""
        self._txn.delete(stream, db=self._received)

    def mark(self, bookmark: Bookmark) -> None:
        """Keep where an input stands."""
        self._txn.put(bookmark.name.encode(), bookmark.value, db=self._bookmarks)

    def input(self, size: int, complete: bool) -> None:
        """Keep how much of the latest input is accepted, in bytes, and whether its end mark is."""
        self.meta("input", _INPUT.pack(size, complete))

    def identity(self, node: bytes, stream: bytes, began: int) -> None:
        """Keep who we are, and the stream that begins at ``began``."""
        self.meta("identity", _IDENTITY.pack(node, stream, began))

    def meta(self, name: str, value: bytes) -> None:
        """Keep a row of the table ``meta``."""
        self._txn.put(name.encode(), value, db=self._meta)
