"""Batches wait in memory: bounded, and gone with the process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from mysocket.core.batch import Batch, Flag, Kind, Piece, chain, count
from mysocket.spool.interface import Bookmark, Recipient

#: Bytes that wait unacknowledged, at most; then the input is not read. As large as the window one receiver grants.
CAPACITY = 8 * 1024 * 1024
#: Bytes a batch takes besides its payload, about: what bounds a backlog of tiny messages.
BATCH_COST = 400


class MemorySpool:
    """A :class:`~mysocket.spool.interface.Spool` in memory.

    :param stream: the id of the stream, 16 random bytes.
    :param capacity: bytes that may wait; exceeded by less than one batch.
    :param long: bytes that a message may have beyond that once it has begun: a receiver that needs it whole acknowledges its
        parts together.
    """

    def __init__(self, stream: bytes, capacity: int = CAPACITY, long: int = 0) -> None:
        self.stream = stream
        self.began = 0
        self.retired = 0
        self.committed = 0
        self.end = 0
        self.recipient: Recipient | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.capacity = capacity
        self._long = long
        self._more = False  # the last piece was a part of a message that goes on
        self._batches: dict[int, Batch] = {}
        self._order: deque[int] = deque()
        #: The chain value at every boundary that is kept.
        self._chains = {0: 0}

    @property
    def left(self) -> int:
        return max(0, self.room)

    @property
    def room(self) -> int:
        return self.capacity + self._more * self._long - (self.end - self.retired) - BATCH_COST * len(self._order)

    @property
    def at_end_mark(self) -> bool:
        return bool(self._order) and self._batches[self._order[-1]].kind == Kind.END

    @property
    def in_message(self) -> bool:
        return self._more

    def append(self, piece: Piece, bookmark: Bookmark | None = None) -> Batch:
        """Keep the piece. A bookmark has no use here: the input is gone with the process as well."""
        batch = Batch(self.end, piece.kind, piece.flags, chain(piece.payload, self._chains[self.end]), piece.payload)
        self._batches[batch.start] = batch
        self._more = bool(piece.flags & Flag.MORE)
        self._order.append(batch.start)
        self.end = self.committed = batch.end
        self._chains[batch.end] = batch.checksum
        return batch

    def append_together(self, pieces: Sequence[Piece], bookmark: Bookmark | None) -> None:
        for piece in pieces:
            self.append(piece)

    def seek(self, position: int) -> bool:
        return True

    def read(self, position: int) -> Batch | None:
        return self._batches[position]

    def chain_at(self, position: int) -> int | None:
        return self._chains.get(position)

    def is_boundary(self, position: int) -> bool:
        return position in self._chains

    def retire(self, position: int) -> None:
        while self._order and self._batches[self._order[0]].end <= position:
            batch = self._batches.pop(self._order.popleft())
            del self._chains[batch.start]
            self.retired = batch.end

    def remember(self, recipient: Recipient) -> None:
        self.recipient = recipient

    def begin_here(self) -> None:
        self.began = self.retired

    def messages(self) -> int | None:
        return sum(count(batch) for batch in self._batches.values())
