"""The questions a link asks of the place where batches wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from typing import Protocol as Interface

from mysocket.core.batch import Batch, Piece
from mysocket.spool.ledger import Ledger


class Bookmark(NamedTuple):
    """Where an input stands behind a piece: committed with it, so that a restart neither loses nor repeats any of the input."""

    name: str
    value: bytes


class Recipient(NamedTuple):
    """The durable node a stream is for."""

    node: bytes
    place: bytes
    name: str


class Spool(Interface):
    """A bounded log of one stream's batches, from the first unacknowledged one on.

    It is also the :class:`~mysocket.core.outbox.Backlog` of the stream. Positions are payload bytes from the stream's beginning:
    ``retired`` <= ``committed`` <= ``end``.
    """

    stream: bytes
    began: int
    retired: int
    committed: int
    end: int
    #: Bytes that may wait.
    capacity: int
    #: Whom the stream is for, once a durable node has said to be it.
    recipient: Recipient | None
    #: Called when more is committed, has been fetched, or there is room again.
    on_change: Callable[[], None]

    @property
    def left(self) -> int:
        """Bytes that may still wait; :attr:`room` may be less for a moment."""

    @property
    def room(self) -> int:
        """Bytes that may still be appended; not positive: the input waits."""

    @property
    def at_end_mark(self) -> bool:
        """Is the last batch that waits an end mark?"""

    @property
    def in_message(self) -> bool:
        """Was the last piece a part of a message that goes on? Then nothing else may come between."""

    def append(self, piece: Piece, bookmark: Bookmark | None = None) -> Batch:
        """Give the piece its position and keep it. It may be sent, and counts as accepted, once ``committed`` is behind it."""

    def append_together(self, pieces: Sequence[Piece], bookmark: Bookmark | None) -> None:
        """Append pieces that are committed together, and with the bookmark. Without one nobody can give them again."""

    def seek(self, position: int) -> bool:
        """Prepare to :meth:`read` from ``position``. False: what is there is not at hand; ask again at the next ``on_change``."""

    def read(self, position: int) -> Batch | None:
        """The batch that starts at ``position``, which is in [retired, committed), or None while it is being fetched."""

    def chain_at(self, position: int) -> int | None:
        """The chain value at ``position``, or None if no batch that is known starts or ends there."""

    def is_boundary(self, position: int) -> bool:
        """Can a batch end at ``position``, as far as is known at once?"""

    def retire(self, position: int) -> None:
        """Forget what ends at or before ``position``."""

    def remember(self, recipient: Recipient) -> None:
        """Keep whom the stream is for."""

    def begin_here(self) -> None:
        """The stream goes to somebody else from now on, who need not know what is retired."""

    def messages(self) -> int | None:
        """How many messages wait, if that can be told at once."""


class DurableSpool(Spool, Interface):
    """A spool that outlives the process, with all that a node must know of itself and its peers.

    ``node`` and ``place`` are what its HELLO says (:class:`mysocket.core.wire.Hello`).
    """

    node: bytes
    place: bytes
    ledger: Ledger

    def renew(self, stream: bytes, done: Callable[[], None]) -> None:
        """What waits goes on as a new stream, from the position it has; ``done`` is called when that is committed."""
