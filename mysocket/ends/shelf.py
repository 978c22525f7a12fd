"""Where a service puts what it receives: into the inbox of its spool, or in passing before those who look on."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from itertools import takewhile

from mysocket.core.batch import Batch, Flag, Kind
from mysocket.ends.sink import Origin, Sink
from mysocket.spool.disk_inbox import DiskInbox
from mysocket.spool.inbox import FETCH, FETCH_ROWS, Row

#: Bytes of what has passed that are held for those who look on, and the rows they take at the most.
HELD, HELD_ROWS = 4 * 1024 * 1024, 4096


def _sender(origin: Origin) -> str:
    return (origin.peer.name if origin.peer is not None else "") or origin.peer_text


class InboxSink:
    """A link's sink: the inbox. Only whole messages are kept, for several senders share it."""

    whole = True
    #: What was not committed is not there.
    repeats = False

    def __init__(self, inbox: DiskInbox) -> None:
        self._inbox = inbox

    @property
    def room(self) -> int:
        return self._inbox.room

    def write(self, block: Batch, origin: Origin) -> None:
        if block.kind != Kind.END:
            self._inbox.deposit(block, stream=origin.stream_id, peer=_sender(origin))
        # The entry that this gives is committed with the row.
        origin.written(block.end)

    def agreed(self, *, cut: bool) -> None:
        """Nothing is there that was not committed."""


class Passing:
    """A :class:`~mysocket.spool.inbox.Feed` of what has passed last, held in memory.

    :param now: the time in seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.begin = 0
        self.end = 0
        self._now = now
        # A message was going on there.
        self._begins_inside = self._ends_inside = False
        self._rows: deque[Row] = deque()
        self._listeners: list[Callable[[], None]] = []

    def is_inside(self, position: int) -> bool:
        return self._begins_inside if position == self.begin else self._ends_inside

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(changed)
        return lambda: self._listeners.remove(changed)

    def show(self, block: Batch, *, stream: bytes, peer: str) -> None:
        """A block has come."""
        self._ends_inside = bool(block.flags & Flag.MORE)
        if not self._listeners:
            # Nobody looks: only the position goes on.
            self._rows.clear()
            self.begin = self.end = self.end + len(block.payload)
            self._begins_inside = self._ends_inside
            return
        row = Row(self.end, stream, block.end, peer, self._now(), block.kind, block.flags, block.payload)
        self.end = row.end
        self._rows.append(row)
        while len(self._rows) > HELD_ROWS or self.end - self.begin > HELD and len(self._rows) > 1:
            gone = self._rows.popleft()
            self.begin, self._begins_inside = gone.end, bool(gone.flags & Flag.MORE)
        for changed in list(self._listeners):
            changed()

    def fetch(self, position: int, done: Callable[[list[Row]], None]) -> None:
        # Mostly only the last is new.
        wanted = list(takewhile(lambda row: row.end > position, reversed(self._rows)))
        found: list[Row] = []
        size = 0
        while wanted and size < FETCH and len(found) < FETCH_ROWS:
            row = wanted.pop()
            offset = max(0, position - row.at)
            while offset < len(row.payload) and size < FETCH:
                part = row.part(offset)
                offset += len(part.payload)
                size += len(part.payload)
                found.append(part)
        done(found)


class PassingSink:
    """A link's sink that shows what it gives to another."""

    room = sys.maxsize

    def __init__(self, sink: Sink, passing: Passing) -> None:
        self.whole = sink.whole
        self.repeats = sink.repeats
        self._sink = sink
        self._passing = passing

    def write(self, block: Batch, origin: Origin) -> None:
        if block.kind != Kind.END:
            self._passing.show(block, stream=origin.stream_id, peer=_sender(origin))
        self._sink.write(block, origin)

    def agreed(self, *, cut: bool) -> None:
        self._sink.agreed(cut=cut)
