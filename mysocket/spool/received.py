"""What is received, on its way to the disk by the committer: positions for the ledger, bytes for the output file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from mysocket.core.batch import Bytes
from mysocket.spool.changes import Changes
from mysocket.spool.committer import Committer
from mysocket.spool.ledger import MAX_REPEAT, Entry
from mysocket.spool.work import Change, Data, Enter, Reopen, Tail


class DiskLedger:
    """The :class:`~mysocket.spool.ledger.Ledger` of a spool."""

    def __init__(self, committer: Committer, entries: dict[bytes, Entry], *, repeats: bool) -> None:
        self.repeats = repeats
        self._committer = committer
        self._entries = entries
        #: Streams of which nothing was committed since; of the others the entries say what may be repeated.
        self._untouched = set(entries) if repeats else set()
        for stream in self._untouched:
            entry = entries[stream]
            until = max(entry.repeats_until, entry.mark.position + MAX_REPEAT)
            entries[stream] = replace(entry, repeats_until=until)

    def find(self, stream: bytes) -> Entry | None:
        return self._entries.get(stream)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def commit(self, entry: Entry, done: Callable[[], None]) -> None:
        def entered() -> None:
            self._entries[entry.stream] = entry
            done()

        self._untouched.discard(entry.stream)
        self._committer.give(Enter(entry, entered))

    @property
    def knows_repeats(self) -> bool:
        """Do the entries say all that may be repeated? Not of a stream that was killed before it had one."""
        return bool(self._entries) or not self.repeats

    def keep_repeats(self) -> None:
        """Keep what may still be repeated of streams that did not come in this process."""
        for stream in self._untouched & self._entries.keys():
            entry = self._entries[stream]
            self._committer.give(Change(partial(Changes.enter, entry=entry), lambda: None))

    def forget(self, stream: bytes) -> None:
        if self._entries.pop(stream, None) is not None:
            self._committer.give(Change(lambda changes: changes.forget(stream), lambda: None))


class SpoolOutput:
    """The output file as an :class:`~mysocket.ends.sink.Output`.

    What it is given counts as written at once: it gets to the file, and is synced, before anything that is committed later.
    """

    repeats = False

    def __init__(self, committer: Committer) -> None:
        self._committer = committer

    def write(self, data: Bytes, done: Callable[[], None]) -> None:
        """Write, then call ``done``."""
        if data:
            self._committer.give(Data(data))
        done()

    def agreed(self, *, cut: bool) -> None:
        self._committer.give(Tail(cut))

    def reopen(self) -> None:
        """The file was moved away: go on in a new one of its name."""
        self._committer.give(Reopen())
