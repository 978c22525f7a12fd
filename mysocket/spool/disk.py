"""Batches and positions wait on disk: they outlive the process, and the machine's power.

This is the reactor thread's side. It never waits for the disk: what is to be written or read is the committer's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import chain as chained

from mysocket import failpoints
from mysocket.core.batch import Batch, Flag, Kind, Piece, chain, count
from mysocket.core.wire import PLACE_SIZE
from mysocket.errors import MySocketError, OtherPeerWaits
from mysocket.spool.changes import Changes
from mysocket.spool.committer import Committer
from mysocket.spool.disk_inbox import DiskInbox
from mysocket.spool.inbox import InboxState
from mysocket.spool.interface import Bookmark, Recipient
from mysocket.spool.ledger import Entry, Ledger
from mysocket.spool.lock import Directory
from mysocket.spool.memory import BATCH_COST
from mysocket.spool.output import OutputFile
from mysocket.spool.queue import GROUP
from mysocket.spool.received import DiskLedger, SpoolOutput
from mysocket.spool.rows import disk_size
from mysocket.spool.store import State, Store
from mysocket.spool.work import Appended, Change, Fetched

#: Bytes that were read from an input and are not committed, at most: one commit on its way to the disk, one that gathers.
UNCOMMITTED = 2 * GROUP
#: Bytes, and batches, that are held in memory to be sent next.
AHEAD = 8 * 1024 * 1024
AHEAD_BATCHES = 16384
#: When less than this is ahead, more is fetched.
FETCH_BELOW = 4 * 1024 * 1024
FETCH_BELOW_BATCHES = 8192
#: Bytes whose messages are counted for somebody who only wants to know.
SURVEYED = 8 * 1024 * 1024
#: Batches that were sent and are not acknowledged, at most.
IN_FLIGHT = 65536


def place_of(directory: str, host: str) -> bytes:
    """The place of a spool (:attr:`mysocket.core.wire.Hello.place`)."""
    return hashlib.sha256(f"{host}\0{os.path.realpath(directory)}".encode(errors="surrogateescape")).digest()[:PLACE_SIZE]


class DiskSpool:
    """A :class:`~mysocket.spool.interface.DurableSpool`. Made by :func:`mysocket.spool.opening.open_spool`; then :meth:`start`.

    :param capacity: bytes that may wait; exceeded by less than two commits.
    :param long: bytes that a message may have beyond that once it has begun (see :class:`~mysocket.spool.memory.MemorySpool`).
    :param post: calls its argument in the reactor thread, soon. The only thing here that another thread uses.
    :param wall: the time in seconds since the epoch.
    """

    def __init__(
        self,
        directory: Directory,
        store: Store,
        state: State,
        entries: dict[bytes, Entry],
        *,
        recipient: Recipient | None,
        bookmarks: dict[str, bytes],
        host: str,
        capacity: int,
        long: int,
        post: Callable[[Callable[[], None]], None],
        now: Callable[[], float],
        wall: Callable[[], float],
        output: OutputFile | None = None,
        inbox: InboxState | None = None,
    ) -> None:
        self.path = directory.path
        self.directory = directory
        self.node = state.node
        self.place = place_of(directory.path, host)
        self.stream = state.stream
        self.began = state.began
        self.retired = state.retired
        self.committed = self.end = state.end
        self.recipient = recipient
        self.peer_text = state.peer.get("text", "")
        self.on_change: Callable[[], None] = lambda: None
        self.on_full: Callable[[str], None] = lambda where: None
        self.on_failure: Callable[[MySocketError], None] = lambda error: None
        #: Where each input stands, as far as that was committed when this process began, or changed without any of the input.
        self.bookmarks = bookmarks
        self.capacity = capacity
        self._long = long
        self._more = state.more
        self._wall = wall
        self._at_end_mark = state.at_end_mark
        self._input = (state.input_size, state.input_complete)
        self._chain = self._committed_chain = state.end_chain
        self._used = state.waiting_size
        self._uncommitted = 0  # batches
        # Committed batches that are held to be read next: those from _next to _ahead_end.
        self._ahead: dict[int, Batch] = {}
        self._ahead_size = 0
        self._next = self._ahead_end = state.retired
        self._next_chain: int | None = state.retired_chain
        self._fetching: int | None = None
        # Boundaries that a peer may acknowledge, from what is retired to what was read, and the chain values there.
        self._boundaries = deque([state.retired])
        self._chains = {state.retired: state.retired_chain}
        self._resumed = state.retired
        self._closed = False
        self._behind: deque[tuple[int, Change]] = deque()  # what is to be committed behind a position
        self._committer = Committer(store, listener=self, post=post, output=output, now=now)
        #: How long commits take.
        self.times = self._committer.times
        self._ledger = DiskLedger(self._committer, entries, repeats=not state.clean)
        self.ledger: Ledger = self._ledger
        self.output = SpoolOutput(self._committer) if output is not None else None
        #: What is received and kept for consumers, if it is.
        self.inbox = DiskInbox(self._committer, inbox, capacity=capacity, now=wall) if inbox is not None else None
        #: What to tell the user of the output file, or nothing.
        self.news = output.news if output is not None else ""

    def start(self) -> None:
        """Start the committer's thread."""
        self._committer.start()

    def step(self) -> bool:
        """Commit one group in the calling thread, which must be the only one; True if there was anything to do."""
        return self._committer.step(wait=False)

    def close(self, done: Callable[[], None], *, all_written: bool = True) -> None:
        """Commit what can be committed, close everything, then call ``done``. Nothing may be given any more.

        :param all_written: what is not committed was not written, either.
        """
        self._closed = True
        self._ledger.keep_repeats()
        self._committer.close(done, clean=all_written and self._ledger.knows_repeats)

    # The own stream -------------------------------------------------------------------------------------------------------------

    @property
    def left(self) -> int:
        return max(0, self.capacity - self._used)

    @property
    def room(self) -> int:
        return min(
            self.capacity + self._more * self._long - self._used,
            UNCOMMITTED - (self.end - self.committed) - BATCH_COST * self._uncommitted,
        )

    @property
    def at_end_mark(self) -> bool:
        return self._at_end_mark and self.end > self.retired

    @property
    def in_message(self) -> bool:
        return self._more

    @property
    def uncommitted(self) -> int:
        """Bytes that were read from the input and are not accepted yet; an end mark is none."""
        rest = self.end - self.committed
        return rest - (rest > 0 and self._at_end_mark)

    def append(self, piece: Piece, bookmark: Bookmark | None = None) -> Batch:
        if bookmark is None:
            self._count_input(piece)
        return self._append(piece, bookmark)

    def append_together(self, pieces: Sequence[Piece], bookmark: Bookmark | None) -> None:
        for piece in pieces[:-1]:
            self._append(piece, joined=True)
        self._append(pieces[-1], bookmark)

    def _append(self, piece: Piece, bookmark: Bookmark | None = None, *, joined: bool = False) -> Batch:
        before = self._chain
        batch = Batch(self.end, piece.kind, piece.flags, chain(piece.payload, before), piece.payload)
        self._chain = batch.checksum
        self.end = batch.end
        self._at_end_mark = piece.kind == Kind.END
        self._more = bool(piece.flags & Flag.MORE)
        self._used += disk_size(len(piece.payload))
        self._uncommitted += 1
        failpoints.reach("S0")
        self._committer.append(Appended(batch, before, self._wall(), self._input, bookmark, joined))
        return batch

    def _count_input(self, piece: Piece) -> None:
        """What has no bookmark, and comes alone, is of the one input that the user may have to give again."""
        before, complete = self._input
        # Input that was broken off before its end mark goes on with the next process's.
        size = 0 if complete else before
        self._input = (before, True) if piece.kind == Kind.END else (size + len(piece.payload), False)

    def mark(self, bookmark: Bookmark, done: Callable[[], None] = lambda: None) -> None:
        """Keep where an input stands, with none of it; behind what was appended before, which may be part of it."""
        self.bookmarks[bookmark.name] = bookmark.value
        self._give_behind(Change(lambda changes: changes.mark(bookmark), done))

    def unmark(self, names: Collection[str]) -> None:
        """Forget where inputs stood."""
        for name in names:
            self.bookmarks.pop(name, None)

        def forget(changes: Changes) -> None:
            for name in names:
                changes.unmark(name)

        self._give_behind(Change(forget, lambda: None))

    def _give_behind(self, change: Change) -> None:
        # Batches and other changes may find room at different times.
        if self._behind or self.committed < self.end:
            self._behind.append((self.end, change))
        else:
            self._committer.give(change)

    def retire(self, position: int) -> None:
        if position <= self.retired:
            return
        while len(self._boundaries) > 1 and self._boundaries[1] <= position:
            del self._chains[self._boundaries.popleft()]
        self.retired = position
        self._committer.retire(position, soon=self.room <= GROUP)

    def seek(self, position: int) -> bool:
        if not self.retired <= position <= self.committed:
            return True
        if position == self._next:
            return self._next_chain is not None or self._fetching is None
        self._ahead.clear()
        self._ahead_size = 0
        self._next_chain = None
        self._next = self._ahead_end = self._resumed = position
        while self._boundaries and self._boundaries[-1] > position:
            del self._chains[self._boundaries.pop()]
        self._next_chain = self.chain_at(position)
        self._fetching = None
        if self._next_chain is None:
            self._fetch()
        return self._next_chain is not None

    def _fetch(self) -> None:
        if self._fetching is None and not self._closed:
            self._fetching = self._ahead_end
            self._committer.fetch(self._ahead_end, self._fetched)

    def _fetched(self, fetched: Fetched) -> None:
        if fetched.position != self._fetching:
            return  # somebody has sought another place meanwhile
        self._fetching = None
        if fetched.position == self._next:
            self._next_chain = fetched.before
        for batch in fetched.batches:
            self._hold(batch)
        self.on_change()

    def _hold(self, batch: Batch) -> None:
        if batch.start == self._ahead_end and self._ahead_size < AHEAD and len(self._ahead) < AHEAD_BATCHES:
            self._ahead[batch.start] = batch
            self._ahead_size += len(batch.payload)
            self._ahead_end = batch.end

    def read(self, position: int) -> Batch | None:
        if len(self._boundaries) >= IN_FLIGHT:
            return None
        batch = self._ahead.pop(position, None)
        if batch is not None:
            self._ahead_size -= len(batch.payload)
            self._next, self._next_chain = batch.end, batch.checksum
            self._boundaries.append(batch.end)
            self._chains[batch.end] = batch.checksum
        few = self._ahead_size < FETCH_BELOW and len(self._ahead) < FETCH_BELOW_BATCHES
        if few and self._ahead_end < self.committed:
            self._fetch()
        return batch

    def chain_at(self, position: int) -> int | None:
        if position == self._next and self._next_chain is not None:
            return self._next_chain
        return self._committed_chain if position == self.committed else self._chains.get(position)

    def is_boundary(self, position: int) -> bool:
        # What an earlier process sent is not looked up: the committer retires whole batches only.
        return position <= self._resumed or position in self._chains

    def messages(self) -> int | None:
        return None

    def count(self, done: Callable[[int | None], None]) -> None:
        """Count the messages that wait and are accepted; ``done`` gets None if they are too many bytes."""
        self._committer.count(self.retired, self.committed - self.retired, done)

    def survey(self, done: Callable[[int | None, float | None], None]) -> None:
        """Find out how many messages wait, unless they are too many bytes, and when the oldest was accepted (seconds since the
        epoch)."""
        position, few = self.retired, self.committed - self.retired <= SURVEYED

        def look(store: Store) -> tuple[int | None, float | None]:
            batches = store.batches(position)
            first = next(batches, None)
            messages = None
            if few:
                messages = sum(count(batch) for batch, _, _ in chained([first] if first else [], batches))
            return messages, first[2] if first else None

        self._committer.read(look, lambda found: done(*found))

    def flush(self, done: Callable[[], None]) -> None:
        """Call ``done`` when all that was given is committed, or cannot be."""
        self._committer.flush(done)

    @property
    def abandoned(self) -> bool:
        """Will nothing ever be committed any more, though nobody has closed it?"""
        return self._committer.abandoned

    # Who we are, and whom this is for -------------------------------------------------------------------------------------------

    def remember(self, recipient: Recipient) -> None:
        self.recipient = recipient
        self._keep_peer()

    def address(self, text: str) -> None:
        """What waits is for the peer that is dialled as ``text``.

        :raises OtherPeerWaits: it is for another.
        """
        if self.peer_text and text != self.peer_text and self.end > self.retired:
            waiting = f"{self.end - self.retired} bytes"
            raise OtherPeerWaits(waiting=waiting, spool=self.path, ours=self.peer_text, theirs=text)
        if text != self.peer_text:
            if self.peer_text:
                self.recipient = None
                self.begin_here()
            self.peer_text = text
            self._keep_peer()

    def begin_here(self) -> None:
        node, stream, began = self.node, self.stream, self.retired
        self.began = began
        self._committer.give(Change(lambda changes: changes.identity(node, stream, began), lambda: None))

    def _keep_peer(self) -> None:
        fields = {"text": self.peer_text}
        if self.recipient is not None:
            node, place, name = self.recipient
            fields.update(node=node.hex(), place=place.hex(), name=name)
        row = json.dumps(fields).encode()
        self._committer.give(Change(lambda changes: changes.meta("peer", row), lambda: None))

    def renew(self, stream: bytes, done: Callable[[], None]) -> None:
        node, began = self.node, self.retired

        def renewed() -> None:
            self.stream, self.began = stream, began
            done()

        self._committer.give(Change(lambda changes: changes.identity(node, stream, began), renewed))

    # What the committer says ----------------------------------------------------------------------------------------------------

    def has_committed(self, batches: list[Batch]) -> None:
        self._uncommitted -= len(batches)
        for batch in batches:
            self._hold(batch)
        self.committed, self._committed_chain = batches[-1].end, batches[-1].checksum
        while self._behind and self._behind[0][0] <= self.committed:
            self._committer.give(self._behind.popleft()[1])
        self.on_change()

    def has_retired(self, position: int, freed: int) -> None:
        # What a row takes is an estimate; that nothing is left is not.
        self._used = max(0, self._used - freed) if position < self.end else 0
        self.on_change()

    def has_trimmed(self, begin: int, freed: int) -> None:
        if self.inbox is not None:
            self.inbox.was_trimmed(begin, freed)

    def found_full(self, where: str) -> None:
        self.on_full(where)

    def has_failed(self, error: MySocketError) -> None:
        self.on_failure(error)
