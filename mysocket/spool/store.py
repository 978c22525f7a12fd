"""The tables of a spool, in one LMDB file. What is written when, and why, is the business of the committer.

| table     | key                   | row                                                                    |
|-----------|-----------------------|------------------------------------------------------------------------|
| outbox    | stream number, start  | chain before, chain behind, kind, flags, time; the payload             |
| received  | stream id             | an :class:`~mysocket.spool.ledger.Entry`                               |
| bookmarks | name of an input      | what the input wrote                                                   |
| inbox     | position in the inbox | a :class:`~mysocket.spool.inbox.Row`                                   |
| consumers | name                  | a :class:`~mysocket.spool.inbox.Consumer`                              |
| meta      | a name                | identity, what is retired and trimmed, the input, the peer, the output |

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
from typing import Any

import lmdb

from mysocket.core.batch import Batch, Flag, Kind
from mysocket.errors import CannotOpen, DiskFailed
from mysocket.spool.changes import Changes
from mysocket.spool.ledger import Entry
from mysocket.spool.lock import LOCK, SPOOL, Directory
from mysocket.spool.rows import IDENTITY, INPUT, KEY, MARK, OWN, PAGE, ROW

#: A spool that is being made, or made smaller; it is renamed into place when it is complete.
NEW = "spool.mdb.new"
#: Every file of a spool.
FILES = (SPOOL, NEW, LOCK)
#: The control socket of the service that holds the spool.
CONTROL = "control"
FORMAT = b"2"
#: Bytes of address space beyond what may wait: for what is not yet deleted, and for LMDB's own pages.
MAP_MARGIN = 64 * 1024 * 1024
TABLES = ("outbox", "received", "bookmarks", "inbox", "consumers", "meta")


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

    :param capacity: bytes that may wait in each direction.
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
        env = lmdb.open(directory.file(NEW), map_size=MAP_MARGIN, subdir=False, lock=False, max_dbs=len(TABLES))
        with env.begin(write=True) as txn:
            for name in TABLES:
                env.open_db(name.encode(), txn)
            meta = env.open_db(b"meta", txn)
            txn.put(b"format", FORMAT, db=meta)
            txn.put(b"identity", IDENTITY.pack(node, stream, 0), db=meta)
            txn.put(b"retired", MARK.pack(0, 0), db=meta)
            txn.put(b"clean", b"1", db=meta)
        env.close()
        _put_in_place(directory)

    def _open(self) -> None:
        self._env = lmdb.open(
            self.directory.file(SPOOL),
            map_size=2 * (self._capacity + self._capacity // 16) + MAP_MARGIN,
            subdir=False,
            readonly=self._readonly,
            lock=False,
            max_dbs=len(TABLES),
        )
        # A file that was cut short would kill this process where it is read (SIGBUS: it is mapped). Zeros are an error to LMDB.
        if self.size < (whole := (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]):
            os.truncate(self.directory.file(SPOOL), whole)
        self._tables = {b"meta": self._env.open_db(b"meta", create=False)}
        if self.meta("format") == FORMAT:
            self._tables = {name.encode(): self._env.open_db(name.encode(), create=False) for name in TABLES}

    def close(self) -> None:
        """Close the file. What was committed is safe."""
        self._env.close()

    # Reading --------------------------------------------------------------------------------------------------------------------

    def meta(self, name: str) -> bytes | None:
        """A row of the table ``meta``."""
        with self._env.begin(db=self._tables[b"meta"]) as txn:
            row: bytes | None = txn.get(name.encode())
            return row

    @contextmanager
    def cursor(self, table: str) -> Iterator[Any]:
        """An LMDB cursor to read a table with; keys and rows are buffers, gone with it."""
        with self._env.begin(db=self._tables[table.encode()], buffers=True) as txn, txn.cursor() as cursor:
            yield cursor

    def state(self) -> State:
        """What the spool says."""
        node, stream, began = IDENTITY.unpack(self.meta("identity") or b"")
        retired, retired_chain = MARK.unpack(self.meta("retired") or b"")
        end, end_chain, kind, flags = retired, retired_chain, 0, 0
        with self.cursor("outbox") as cursor:
            if cursor.last():
                row = cursor.value()
                _, end_chain, kind, flags, _ = ROW.unpack_from(row)
                end = KEY.unpack(cursor.key())[1] + len(row) - ROW.size
                del row
        size, complete = INPUT.unpack(self.meta("input") or INPUT.pack(0, False))
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
            waiting_size=self.table_size("outbox"),
            clean=self.meta("clean") == b"1",
            peer=json.loads(self.meta("peer") or b"{}"),
            output=json.loads(self.meta("output") or b"{}"),
        )

    def entries(self) -> dict[bytes, Entry]:
        """The table ``received``."""
        with self._env.begin(db=self._tables[b"received"]) as txn:
            return {stream: Entry.decode(stream, row) for stream, row in txn.cursor()}

    def bookmarks(self) -> dict[str, bytes]:
        """The table ``bookmarks``."""
        with self._env.begin(db=self._tables[b"bookmarks"]) as txn:
            return {name.decode(): value for name, value in txn.cursor()}

    def batches(self, position: int) -> Iterator[tuple[Batch, int, float]]:
        """The batches from ``position`` on: each, the chain value before it, and when it was accepted. Nothing, if none starts
        there."""
        with self.cursor("outbox") as cursor:
            found = cursor.set_key(KEY.pack(OWN, position))
            while found:
                row = cursor.value()
                before, checksum, kind, flags, time = ROW.unpack_from(row)
                batch = Batch(KEY.unpack(cursor.key())[1], kind, flags, checksum, bytes(row[ROW.size :]))
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
        return max(0, self.size - self.used)

    @property
    def used(self) -> int:
        """Bytes of the file that something is in."""
        return sum(map(self.table_size, TABLES))

    def table_size(self, table: str) -> int:
        """Bytes that the rows of a table take in the file."""
        with self._env.begin() as txn:
            pages = txn.stat(self._tables[table.encode()])
        return PAGE * sum(pages[kind] for kind in ("branch_pages", "leaf_pages", "overflow_pages"))

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
            yield Changes(txn, self._tables)
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
