"""The inbox of an open spool, as the reactor thread sees it: what is kept, for whom, and how much more there is room for.

The rules are those of :mod:`mysocket.spool.inbox`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from mysocket.core.batch import Batch
from mysocket.spool.inbox import Consumer, InboxState, Row, is_boundary, rows, size_of

if TYPE_CHECKING:
    from mysocket.spool.store import Store


class Clerk(Interface):
    """The committer, as the inbox sees it."""

    def deposit(self, row: Row, done: Callable[[], None]) -> None:
        """Commit the row, with the ledger's entry that is given next."""

    def enter_consumers(self, consumers: Mapping[str, Consumer | None], done: Callable[[], None]) -> None:
        """Commit how far they are."""

    def trim(self, position: int) -> None:
        """Delete, some time, what ends at or before ``position``; :meth:`DiskInbox.was_trimmed` is called as it goes on."""

    def read(self, question: Callable[[Store], Any], done: Callable[[Any], None]) -> None:
        """Ask the store between two commits."""


class DiskInbox:
    """The inbox of an open spool: a :class:`Feed`, and whose it is.

    :param capacity: bytes that may be kept; exceeded by what is on its way when it is reached.
    :param now: the time in seconds since the epoch.
    """

    def __init__(self, clerk: Clerk, found: InboxState, *, capacity: int, now: Callable[[], float]) -> None:
        self.begin = found.begin
        self.end = found.end
        #: Who reads it, by name.
        self.consumers = dict(found.consumers)
        self.capacity = capacity
        #: Called when rows were deleted: there may be room again.
        self.on_room: Callable[[], None] = lambda: None
        self._clerk = clerk
        self._now = now
        self._used = found.used
        self._given = found.end
        self._listeners: list[Callable[[], None]] = []
        self._unsaved: dict[str, Consumer | None] = {}
        self._waiting: list[Callable[[], None]] = []
        self._saving = False
        self._trimmed = found.begin
        self._trim()

    @property
    def room(self) -> int:
        """Bytes that may still come."""
        return self.capacity - self._used

    @property
    def kept(self) -> int:
        """Bytes of payload that are there."""
        return self.end - self.begin

    def is_inside(self, position: int) -> bool:
        return False  # rows hold whole messages, and go as they came

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(changed)
        return lambda: self._listeners.remove(changed)

    # What comes -----------------------------------------------------------------------------------------------------------------

    def deposit(self, block: Batch, *, stream: bytes, peer: str) -> None:
        """Keep a block of whole messages; it is committed with the ledger's entry that is given next."""
        row = Row(self._given, stream, block.end, peer[:255], self._now(), block.kind, block.flags, block.payload)
        self._given = row.end
        self._used += size_of(row)

        def committed() -> None:
            self.end = row.end
            for changed in list(self._listeners):
                changed()

        self._clerk.deposit(row, committed)

    def fetch(self, position: int, done: Callable[[list[Row]], None]) -> None:
        self._clerk.read(lambda store: rows(store, position), done)

    # Who has it -----------------------------------------------------------------------------------------------------------------

    def join(self, name: str, *, now: bool = False) -> Consumer:
        """The consumer of that name; a new one begins at the oldest that is kept, or ``now``."""
        consumer = self.consumers.get(name)
        if consumer is None:
            # What all others have may be on its way out.
            consumer = Consumer(self.end if now else max(self.begin, self._trimmed), self._now())
            self._set(name, consumer)
        return consumer

    def acknowledge(self, name: str, position: int, done: Callable[[], None] = lambda: None) -> None:
        """The consumer has all before ``position``; ``done`` is called when that is committed.

        :raises LookupError: there is no such consumer.
        :raises ValueError: nothing has come so far.
        """
        if position > self.end:
            raise ValueError(f"position {position} is behind the end of the inbox, {self.end}")
        if position > self.consumers[name].position:
            self._set(name, Consumer(position, self._now()))
        self._when_saved(done)

    def check(self, position: int, done: Callable[[bool], None]) -> None:
        """Find out whether a message ends at ``position``."""
        self._clerk.read(lambda store: is_boundary(store, position), done)

    def forget(self, name: str, done: Callable[[], None] = lambda: None) -> None:
        """Remove the consumer.

        :raises LookupError: there is none of that name.
        """
        del self.consumers[name]
        self._unsaved[name] = None
        self._when_saved(done)
        self._save()

    @property
    def holder(self) -> str | None:
        """The consumer that has least."""
        return min(self.consumers, key=lambda name: self.consumers[name].position, default=None)

    def _set(self, name: str, consumer: Consumer) -> None:
        self.consumers[name] = consumer
        self._unsaved[name] = consumer
        self._save()

    def _when_saved(self, done: Callable[[], None]) -> None:
        if self._saving or self._unsaved:
            self._waiting.append(done)
        else:
            done()

    def _save(self) -> None:
        # One at a time: what is acknowledged while one is committed is committed together.
        if self._saving or not self._unsaved:
            return
        unsaved, self._unsaved = self._unsaved, {}
        waiting, self._waiting = self._waiting, []
        self._saving = True

        def saved() -> None:
            self._saving = False
            if not self._unsaved:
                waiting.extend(self._waiting)  # they have come meanwhile, for something that was on its way already
                self._waiting = []
            for done in waiting:
                done()
            self._save()

        self._clerk.enter_consumers(unsaved, saved)
        # Not before: who comes back after a crash must find what it has not acknowledged, as far as the tables know.
        self._trim()

    def _trim(self) -> None:
        position = min((consumer.position for consumer in self.consumers.values()), default=0)
        if position > self._trimmed:
            self._trimmed = position
            self._clerk.trim(position)

    def was_trimmed(self, begin: int, freed: int) -> None:
        """Rows before ``begin`` are deleted, if that is not 0, and so many bytes of the file are free."""
        self.begin = max(self.begin, begin)
        # What a row takes is an estimate; that nothing is left is not.
        self._used = max(0, self._used - freed) if self.begin < self._given else 0
        self.on_room()
