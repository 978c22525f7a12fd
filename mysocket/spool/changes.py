"""What one transaction changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mysocket.core.batch import Batch
from mysocket.spool.interface import Bookmark
from mysocket.spool.ledger import Entry
from mysocket.spool.rows import IDENTITY, INPUT, KEY, MARK, OWN, ROW, disk_size

#: Rows that one transaction deletes, at most.
DELETED_AT_ONCE = 4096


class Changes:
    """What one transaction changes."""

    def __init__(self, txn: Any, tables: Mapping[bytes, Any]) -> None:
        self._txn = txn
        self._tables = tables

    def commit(self) -> None:
        """Make it durable.

        :raises lmdb.Error: it is unknown whether it is.
        """
        self._txn.commit()

    def put(self, table: str, key: bytes, row: bytes, *, append: bool = False) -> None:
        """Keep a row; ``append``: behind all others."""
        self._txn.put(key, row, db=self._tables[table.encode()], append=append)

    def delete(self, table: str, key: bytes) -> None:
        """Keep no row of that key."""
        self._txn.delete(key, db=self._tables[table.encode()])

    def cursor(self, table: str) -> Any:
        """An LMDB cursor, to be used with ``with``."""
        return self._txn.cursor(db=self._tables[table.encode()])

    def append(self, batch: Batch, before: int, time: float) -> None:
        """Keep a batch of the own stream. ``before`` is the chain value at its start."""
        row = b"".join((ROW.pack(before, batch.checksum, batch.kind, batch.flags, time), batch.payload))
        self.put("outbox", KEY.pack(OWN, batch.start), row, append=True)

    def retire(self, position: int, most: int = DELETED_AT_ONCE) -> tuple[int, int]:
        """Delete batches that end at or before ``position``, ``most`` of them at the most.

        :return: the position up to which all is deleted now, and how many bytes that frees in the file.
        """
        with self.cursor("outbox") as cursor:
            goal, freed, count = self._boundary(cursor, position), 0, 0
            found = cursor.first()
            chain = done = None
            while found and count < most:
                start = KEY.unpack(cursor.key())[1]
                if start >= goal:
                    break
                row = cursor.value()
                _, chain, _, _, _ = ROW.unpack_from(row)
                size = len(row) - ROW.size
                done = start + size
                freed += disk_size(size)
                count += 1
                cursor.delete()
                found = bool(cursor.key())
        if done is None or chain is None:
            return position, 0
        self.meta("retired", MARK.pack(done, chain))
        return (done if done < goal else position), freed

    @staticmethod
    def _boundary(cursor: Any, position: int) -> int:
        """The end of a batch at or before ``position``."""
        if cursor.set_range(KEY.pack(OWN, position)):
            if KEY.unpack(cursor.key())[1] == position or not cursor.prev():
                return position
        elif not cursor.last():
            return position
        start = int(KEY.unpack(cursor.key())[1])
        end = start + len(cursor.value()) - ROW.size
        return end if end <= position else start

    def enter(self, entry: Entry) -> None:
        """Keep an entry of the ledger."""
        self.put("received", entry.stream, entry.encode())

    def forget(self, stream: bytes) -> None:
        """Keep no entry of ``stream``."""
        self.delete("received", stream)

    def mark(self, bookmark: Bookmark) -> None:
        """Keep where an input stands."""
        self.put("bookmarks", bookmark.name.encode(), bookmark.value)

    def unmark(self, name: str) -> None:
        """Keep no bookmark of ``name``."""
        self.delete("bookmarks", name.encode())

    def input(self, size: int, complete: bool) -> None:
        """Keep how much of the latest input is accepted, in bytes, and whether its end mark is."""
        self.meta("input", INPUT.pack(size, complete))

    def identity(self, node: bytes, stream: bytes, began: int) -> None:
        """Keep who we are, and the stream that begins at ``began``."""
        self.meta("identity", IDENTITY.pack(node, stream, began))

    def meta(self, name: str, value: bytes) -> None:
        """Keep a row of the table ``meta``."""
        self.put("meta", name.encode(), value)
