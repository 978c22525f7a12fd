"""What a service keeps of what it receives, until its consumers have it.

Rules

1. A block is committed in the same transaction as the position of the stream it came in: it is in the inbox exactly once.
2. Positions in the inbox count payload bytes from its beginning. A row keeps its position as long as it is kept.
3. A row goes when every named consumer has acknowledged all of it; without any consumer nothing goes.
4. What a consumer acknowledges is committed soon; rows are deleted with it or later, in passing or at the next start, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple
from typing import Protocol as Interface

from mysocket.core.batch import MAX_PAYLOAD, Bytes, Flag, Kind
from mysocket.core.wire import ID_SIZE
from mysocket.spool.changes import DELETED_AT_ONCE, Changes
from mysocket.spool.rows import row_size

if TYPE_CHECKING:
    from mysocket.spool.store import Store

#: Bytes of payload that are read at once, about.
FETCH = 512 * 1024
#: Rows that are read at once, at most.
FETCH_ROWS = 4096

_KEY = Struct(">Q")
_HEAD = Struct(f">{ID_SIZE}sQdBBH")
_CONSUMER = Struct(">Qd")


class Row(NamedTuple):
    """A block of whole messages, or with :attr:`Flag.MORE` a part of one.

    :param at: the position of the first byte of the payload in the inbox.
    :param stream: the id of the stream it came in.
    :param stream_position: where that stream stood behind it.
    :param peer: names the sender for people.
    :param time: when it came, in seconds since the epoch.
    """

    at: int
    stream: bytes
    stream_position: int
    peer: str
    time: float
    kind: int
    flags: int
    payload: Bytes

    @property
    def end(self) -> int:
        return self.at + len(self.payload)

    def part(self, offset: int, most: int = MAX_PAYLOAD) -> Row:
        """What stands ``offset`` bytes behind its beginning, ``most`` bytes of it at the most."""
        if not offset and len(self.payload) <= most:
            return self
        payload = self.payload[offset : offset + most]
        left = len(self.payload) - offset - len(payload)
        flags = self.flags | Flag.MORE if left else self.flags
        return self._replace(
            at=self.at + offset, stream_position=self.stream_position - left, flags=flags, payload=bytes(payload)
        )


class Consumer(NamedTuple):
    """Who reads the inbox under a name: all before ``position`` is acknowledged, at ``time`` (seconds since the epoch) the last
    of it."""

    position: int
    time: float


class Feed(Interface):
    """What can be read by position: what a service receives, kept or in passing."""

    #: The oldest that is there, and where the next will be.
    begin: int
    end: int

    def fetch(self, position: int, done: Callable[[list[Row]], None]) -> None:
        """Read from ``position`` on, which is in [begin, end]; ``done`` gets rows without a gap, or what has replaced them."""

    def is_inside(self, position: int) -> bool:
        """Does what comes at ``position``, which is :attr:`begin` or :attr:`end`, go on with a message that began before?"""

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call ``changed`` whenever there is more; the answer ends that."""


# The tables ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InboxState:
    """What the tables say: positions in bytes, and what is kept takes ``used`` bytes of the file."""

    begin: int
    end: int
    used: int
    consumers: dict[str, Consumer]


def state(store: Store) -> InboxState:
    """What the inbox of a spool holds."""
    begin = end = _KEY.unpack(store.meta("trimmed") or _KEY.pack(0))[0]
    with store.cursor("inbox") as cursor:
        if cursor.first():
            begin = _start(cursor)
        if cursor.last():
            end = _end(cursor)
    with store.cursor("consumers") as cursor:
        consumers = {bytes(name).decode(): Consumer(*_CONSUMER.unpack(row)) for name, row in cursor}
    return InboxState(begin, end, store.table_size("inbox"), consumers)


def rows(store: Store, position: int, most: int = FETCH) -> list[Row]:
    """About ``most`` bytes from ``position`` on, or from the oldest if that is gone, in parts of at most :data:`MAX_PAYLOAD`."""
    found: list[Row] = []
    size = 0
    with store.cursor("inbox") as cursor:
        there = _seek(cursor, position)
        while there and size < most and len(found) < FETCH_ROWS:
            row = _decode(cursor)
            offset = max(0, position - row.at)
            while offset < len(row.payload) and size < most:
                part = row.part(offset)
                offset += len(part.payload)
                size += len(part.payload)
                found.append(part._replace(payload=bytes(part.payload)))
            del row
            there = cursor.next()
    return found


def is_boundary(store: Store, position: int) -> bool:
    """Does a message end at ``position``, which is in [begin, end]?"""
    with store.cursor("inbox") as cursor:
        if not _seek(cursor, position):
            return True  # nothing stands behind it
        row = _decode(cursor)
        delimiter = 0 if row.flags & Flag.NUL else 10
        fits = position == row.at or row.kind == Kind.LINES and row.payload[position - row.at - 1] == delimiter
        del row
        return fits


def _seek(cursor: Any, position: int) -> bool:
    """Go to the row that holds the byte at ``position``, or to the next one; False: there is none."""
    if cursor.set_range(_KEY.pack(position)):
        if _start(cursor) == position:
            return True
        if not cursor.prev():
            return bool(cursor.first())
    elif not cursor.last():
        return False
    return _end(cursor) > position or bool(cursor.next())


def _start(cursor: Any) -> int:
    return int(_KEY.unpack(cursor.key())[0])


def _end(cursor: Any) -> int:
    return _start(cursor) + _payload_size(cursor.value())


def _payload_size(row: Bytes) -> int:
    return len(row) - _HEAD.size - int(_HEAD.unpack_from(row)[5])


def _decode(cursor: Any) -> Row:
    """The row at the cursor; its payload is a buffer of the file."""
    row = cursor.value()
    stream, stream_position, time, kind, flags, name = _HEAD.unpack_from(row)
    payload = _HEAD.size + name
    peer = bytes(row[_HEAD.size : payload]).decode(errors="replace")
    return Row(_start(cursor), stream, stream_position, peer, time, kind, flags, row[payload:])


def deposit(changes: Changes, row: Row) -> None:
    """Keep a row, behind all others."""
    peer = row.peer.encode(errors="replace")
    head = _HEAD.pack(row.stream, row.stream_position, row.time, row.kind, row.flags, len(peer))
    changes.put("inbox", _KEY.pack(row.at), b"".join((head, peer, row.payload)), append=True)


def size_of(row: Row) -> int:
    """Bytes that the row takes in the file, about."""
    return row_size(_KEY.size, _HEAD.size + len(row.peer.encode(errors="replace")) + len(row.payload))


def trim(changes: Changes, position: int, most: int = DELETED_AT_ONCE) -> tuple[int, int, bool]:
    """Delete rows that end at or before ``position``, ``most`` of them at the most.

    :return: where the inbox begins now, or 0 if nothing was deleted; how many bytes that frees in the file; whether that is all.
    """
    begin = freed = count = 0
    with changes.cursor("inbox") as cursor:
        there = cursor.first()
        while there and count < most:
            row = cursor.value()
            end = _start(cursor) + _payload_size(row)
            if end > position:
                break
            begin = end
            count += 1
            freed += row_size(_KEY.size, len(row))
            cursor.delete()
            there = bool(cursor.key())
    if begin:
        changes.meta("trimmed", _KEY.pack(begin))
    return begin, freed, count < most


def enter(changes: Changes, consumers: Mapping[str, Consumer | None]) -> None:
    """Keep how far consumers are; None: that one is no more."""
    for name, consumer in consumers.items():
        if consumer is None:
            changes.delete("consumers", name.encode())
        else:
            changes.put("consumers", name.encode(), _CONSUMER.pack(*consumer))
