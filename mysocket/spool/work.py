"""What is given to the committer, and what it says: the words between the reactor thread and its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple
from typing import Protocol as Interface

from mysocket.core.batch import Batch, Bytes
from mysocket.errors import MySocketError
from mysocket.spool.changes import Changes
from mysocket.spool.inbox import Consumer, Row, size_of
from mysocket.spool.interface import Bookmark
from mysocket.spool.ledger import Entry
from mysocket.spool.rows import disk_size


class Appended(NamedTuple):
    """A batch of the own stream, the chain value before it, and what is committed with it.

    ``input`` is how many bytes of the latest input are accepted with it, and whether its end mark is; ``joined``: the next batch
    is committed in the same transaction.
    """

    batch: Batch
    before: int
    time: float
    input: tuple[int, bool]
    bookmark: Bookmark | None
    joined: bool = False


class Fetched(NamedTuple):
    """Batches from ``position`` on, and the chain value before them; None: no batch starts there."""

    position: int
    before: int | None
    batches: list[Batch]


# What is committed in the order in which it is given.


class Data(NamedTuple):
    """Bytes for the output file."""

    data: Bytes


class Deposit(NamedTuple):
    """A row for the inbox."""

    row: Row
    done: Callable[[], None]


class Tail(NamedTuple):
    """What the output file has beyond what is committed is cut off, or counts from now on."""

    cut: bool


class Reopen(NamedTuple):
    """Open the output file anew, by its name."""


class Enter(NamedTuple):
    """An entry for the ledger."""

    entry: Entry
    done: Callable[[], None]


class Change(NamedTuple):
    """Another change of the tables."""

    make: Callable[[Changes], None]
    done: Callable[[], None]


Item = Data | Deposit | Tail | Reopen | Enter | Change


def is_joined(work: Appended | Item) -> bool:
    """Is it committed together with what is given next? What a peer sent counts only with its entry, which follows at once."""
    return work.joined if isinstance(work, Appended) else isinstance(work, Data | Deposit)


def cost(work: Appended | Item) -> int:
    """Bytes that it takes in the file, about; 0: not worth counting."""
    if isinstance(work, Appended):
        return disk_size(len(work.batch.payload))
    return size_of(work.row) if isinstance(work, Deposit) else 0


#: Asked between two commits; what it returns is called in the reactor thread.
Question = Callable[[], Callable[[], None]]


class Listener(Interface):
    """Who hears, in the reactor thread, what the committer has done."""

    def has_committed(self, batches: list[Batch]) -> None:
        """These batches are safe."""

    def has_retired(self, position: int, freed: int) -> None:
        """All before ``position`` is deleted, and so many bytes of the file are free again."""

    def has_trimmed(self, begin: int, freed: int) -> None:
        """The same of the inbox; 0: nothing was to be deleted."""

    def found_full(self, where: str) -> None:
        """A disk is full; what needs it waits. Empty: it has room again."""

    def has_failed(self, error: MySocketError) -> None:
        """Nothing is written any more."""


@dataclass
class Group:
    """The work of one step."""

    batches: list[Appended] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    #: How far consumers are, and who wants to know that it is committed.
    consumers: dict[str, Consumer | None] = field(default_factory=dict)
    entered: list[Callable[[], None]] = field(default_factory=list)
    #: Delete what ends at or before that: of the own stream, of the inbox.
    retire: int | None = None
    trim: int | None = None
    questions: list[Question] = field(default_factory=list)
    #: Commit something, so that what the last commit has freed in the file can be used.
    age: bool = False
    #: See whether the file is larger than it need be.
    look: bool = False

    @property
    def changes(self) -> bool:
        """Is there anything to commit?"""
        return bool(self.batches or self.items or self.consumers or self.deletes or self.age)

    @property
    def deletes(self) -> bool:
        """Is there anything to delete?"""
        return self.retire is not None or self.trim is not None

    @property
    def size(self) -> int:
        """Bytes that the rows of the group take in the file, about."""
        return sum(map(cost, self.batches)) + sum(map(cost, self.items))
