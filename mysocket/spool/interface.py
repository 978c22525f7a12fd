"""The questions a link asks of the place where batches wait."""

from __future__ import annotations

from typing import Protocol as Interface

from mysocket.core.batch import Batch, Piece


class Spool(Interface):
    """A bounded log of one stream's batches, from the first unacknowledged one on.

    It is also the :class:`~mysocket.core.outbox.Backlog` of the stream. Positions are payload bytes from the stream's beginning.
    """

    retired: int
    end: int
    #: The id of the stream, 16 bytes.
    stream: bytes

    @property
    def room(self) -> int:
        """Bytes that may still be appended; not positive: the input waits."""

    def append(self, piece: Piece) -> Batch:
        """Give the piece its position and keep it."""

    def read(self, position: int) -> Batch:
        """The batch that starts at ``position``, which is in [retired, end)."""

    def chain_at(self, position: int) -> int | None:
        """The chain value at ``position``, or None if no batch that is kept starts or ends there."""

    def retire(self, position: int) -> None:
        """Forget what ends at or before ``position``."""
