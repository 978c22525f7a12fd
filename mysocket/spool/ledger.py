"""What was received, by stream: how far each has come, and from whom. The questions, and the form of an entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Protocol as Interface

from mysocket.core.inbox import Mark

#: Bytes that may be in a sink that cannot be cut back and not in the ledger: what a crash may repeat. One commit's worth.
MAX_REPEAT = 4 * 1024 * 1024

_ROW = Struct(">16s8sQQ??dQ")


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream: everything before ``mark`` is where the mode promises.

    :param node: the id of the node that sends it.
    :param place: where that node keeps its spool (:attr:`mysocket.core.wire.Hello.place`), or nothing.
    :param durable: whether the sender keeps the stream on disk.
    :param time: when it was committed, in seconds since the epoch.
    :param repeats_until: what comes up to this position may have been written by a process that was killed before its commit.
    """

    stream: bytes
    node: bytes
    place: bytes
    durable: bool
    name: str
    mark: Mark
    time: float
    repeats_until: int = 0

    def encode(self) -> bytes:
        """The row of the entry; the stream is its key."""
        position, chain, at_end = self.mark
        return (
            _ROW.pack(self.node, self.place, position, chain, at_end, self.durable, self.time, self.repeats_until)
            + self.name.encode()
        )

    @classmethod
    def decode(cls, stream: bytes, row: bytes) -> Entry:
        """The entry of a row."""
        node, place, position, chain, at_end, durable, time, until = _ROW.unpack_from(row)
        name = row[_ROW.size :].decode(errors="replace")
        return cls(stream, node, place if any(place) else b"", durable, name, Mark(position, chain, at_end), time, until)


class Ledger(Interface):
    """Positions that outlive the process."""

    def find(self, stream: bytes) -> Entry | None:
        """The entry of ``stream``."""

    def __iter__(self) -> Iterator[Entry]:
        """Every entry."""

    @property
    def repeats(self) -> bool:
        """Was the last process killed? Then what it wrote behind its last entries may come again."""

    def commit(self, entry: Entry, done: Callable[[], None]) -> None:
        """Keep the entry, then call ``done``; in the order of the calls, and after what was written to the spool's own output."""

    def forget(self, stream: bytes) -> None:
        """Keep nothing of ``stream``."""
