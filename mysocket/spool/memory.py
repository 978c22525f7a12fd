"""Batches wait in memory: bounded, and gone with the process."""

from __future__ import annotations

from collections import deque

from mysocket.core.batch import Batch, Piece, chain

#: Bytes that wait unacknowledged, at most; then the input is not read. As large as the window one receiver grants.
CAPACITY = 8 * 1024 * 1024
#: Bytes a batch takes besides its payload, about: what bounds a backlog of tiny messages.
BATCH_COST = 400


class MemorySpool:
    """A :class:`~mysocket.spool.interface.Spool` in memory.

    :param stream: the id of the stream, 16 random bytes.
    :param capacity: bytes that may wait; exceeded by less than one batch.
    """

    def __init__(self, stream: bytes, capacity: int = CAPACITY) -> None:
        self.stream = stream
        self.retired = 0
        self.end = 0
        self._capacity = capacity
        self._batches: dict[int, Batch] = {}
        self._order: deque[int] = deque()
        #: The chain value at every boundary that is kept.
        self._chains = {0: 0}

    @property
    def room(self) -> int:
        return self._capacity - (self.end - self.retired) - BATCH_COST * len(self._order)

    def append(self, piece: Piece) -> Batch:
        batch = Batch(self.end, piece.kind, piece.flags, chain(piece.payload, self._chains[self.end]), piece.payload)
        self._batches[batch.start] = batch
        self._order.append(batch.start)
        self.end = batch.end
        self._chains[batch.end] = batch.checksum
        return batch

    def read(self, position: int) -> Batch:
        return self._batches[position]

    def chain_at(self, position: int) -> int | None:
        return self._chains.get(position)

    def retire(self, position: int) -> None:
        while self._order and self._batches[self._order[0]].end <= position:
            batch = self._batches.pop(self._order.popleft())
            del self._chains[batch.start]
            self.retired = batch.end
