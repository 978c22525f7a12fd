"""Batches and positions wait on disk: they outlive the process, and the machine's power.

This is the reactor thread's side. It never waits for the disk: what is to be written or read is the committer's.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import lmdb

from mysocket import failpoints
from mysocket.core.batch import Batch, Bytes, Flag, Kind, Piece, chain
from mysocket.core.wire import ID_SIZE, PLACE_SIZE
from mysocket.errors import CannotOpen, DiskFailed, MySocketError, OtherPeerWaits
from mysocket.spool.committer import GROUP, Committer
from mysocket.spool.interface import Bookmark, Recipient
from mysocket.spool.ledger import MAX_REPEAT, Entry, Ledger
from mysocket.spool.lock import LOCK, SPOOL, Directory, open_directory
from mysocket.spool.memory import BATCH_COST
from mysocket.spool.output import OutputFile
from mysocket.spool.space import RESERVE
from mysocket.spool.store import NEW, Changes, State, Store, disk_size
from mysocket.spool.work import Appended, Change, Data, Enter, Fetched, Reopen, Tail

#: Files of a spool.
FILES = (SPOOL, NEW, LOCK)
#: Bytes that wait on disk, unless said otherwise.
CAPACITY = 1024 * 1024 * 1024
#: Bytes that were read from an input and are not committed, at most: one commit on its way to the disk, one that gathers.
UNCOMMITTED = 2 * GROUP
#: Bytes, and batches, that are held in memory to be sent next.
AHEAD = 8 * 1024 * 1024
AHEAD_BATCHES = 16384
#: When less than this is ahead, more is fetched.
FETCH_BELOW = 4 * 1024 * 1024
FETCH_BELOW_BATCHES = 8192
#: Batches that were sent and are not acknowledged, at most.
IN_FLIGHT = 65536


def place_of(directory: str, host: str) -> bytes:
    """The place of a spool (:attr:`mysocket.core.wire.Hello.place`)."""
    return hashlib.sha256(f"{host}\0{os.path.realpath(directory)}".encode(errors="surrogateescape")).digest()[:PLACE_SIZE]


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


class DiskSpool:
    """A :class:`~mysocket.spool.interface.DurableSpool`. Made by :func:`open_spool`; then :meth:`start`.

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
    ) -> None:
        self.path = directory.path
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
        #: Where each input stood when this process began.
        self.bookmarks = bookmarks
        self._capacity = capacity
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
        self._committer = Committer(store, listener=self, post=post, output=output, now=now)
        self._ledger = DiskLedger(self._committer, entries, repeats=not state.clean)
        self.ledger: Ledger = self._ledger
        self.output = SpoolOutput(self._committer) if output is not None else None
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
    def room(self) -> int:
        return min(
            self._capacity + self._more * self._long - self._used,
            UNCOMMITTED - (self.end - self.committed) - BATCH_COST * self._uncommitted,
        )

    @property
    def at_end_mark(self) -> bool:
        return self._at_end_mark and self.end > self.retired

    @property
    def uncommitted(self) -> int:
        """Bytes that were read from the input and are not accepted yet; an end mark is none."""
        rest = self.end - self.committed
        return rest - (rest > 0 and self._at_end_mark)

    def append(self, piece: Piece, bookmark: Bookmark | None = None) -> Batch:
        before = self._chain
        batch = Batch(self.end, piece.kind, piece.flags, chain(piece.payload, before), piece.payload)
        self._chain = batch.checksum
        self.end = batch.end
        self._at_end_mark = piece.kind == Kind.END
        self._more = bool(piece.flags & Flag.MORE)
        size, complete = self._input
        if self._at_end_mark:
            complete = True
        else:
            # Input that was broken off before its end mark goes on with the next process's.
            size, complete = (0 if complete else size) + len(piece.payload), False
        self._input = (size, complete)
        self._used += disk_size(len(piece.payload))
        self._uncommitted += 1
        failpoints.reach("S0")
        self._committer.append(Appended(batch, before, self._wall(), self._input, bookmark))
        return batch

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

    def flush(self, done: Callable[[], None]) -> None:
        """Call ``done`` when all that was given is committed, or cannot be."""
        self._committer.flush(done)

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
        self.on_change()

    def has_retired(self, position: int, freed: int) -> None:
        # What a row takes is an estimate; that nothing is left is not.
        self._used = max(0, self._used - freed) if position < self.end else 0
        self.on_change()

    def found_full(self, where: str) -> None:
        self.on_full(where)

    def has_failed(self, error: MySocketError) -> None:
        self.on_failure(error)


def _recipient(state: State) -> Recipient | None:
    peer = state.peer
    if "node" not in peer:
        return None
    return Recipient(bytes.fromhex(peer["node"]), bytes.fromhex(peer["place"]), peer["name"])


def open_spool(
    path: str,
    *,
    role: str,
    capacity: int = CAPACITY,
    long: int = 0,
    output: str | None = None,
    accept_loss: bool = False,
    host: str,
    post: Callable[[Callable[[], None]], None],
    now: Callable[[], float],
    wall: Callable[[], float],
    random_bytes: Callable[[int], bytes],
) -> DiskSpool:
    """Open the spool in the directory ``path``; make it if there is none.

    :param role: what this process is, for others that want the spool.
    :param output: the name of an output file whose length is committed with the positions of what is in it.
    :param accept_loss: take an output file that is shorter than it was.
    :raises MySocketError: somebody else holds it, it is not safe, or it is damaged.
    """
    with ExitStack() as undo:
        directory = open_directory(path, role=role, create=True, known=FILES)
        undo.callback(directory.close)
        if not directory.check(SPOOL):
            try:
                Store.make(directory, random_bytes(ID_SIZE), random_bytes(ID_SIZE))
            except (OSError, lmdb.Error) as problem:
                raise _not_written(directory, problem) from None
        elif directory.check(NEW):
            os.unlink(NEW, dir_fd=directory.fd)  # a process was killed while it made the file smaller
        store = Store(directory, capacity)
        undo.callback(store.close)
        try:
            state, entries, bookmarks = store.state(), store.entries(), store.bookmarks()
            recipient = _recipient(state)
        except (lmdb.Error, struct.error, ValueError, LookupError) as problem:
            raise CannotOpen(f"{problem}; it is damaged", where=f"the spool {path}") from None
        file = OutputFile(output, state.output, accept_loss=accept_loss) if output is not None else None
        if file is not None:
            undo.callback(file.close)
        try:
            with store.changes() as changes:
                changes.meta("clean", b"0")
                if file is not None:
                    changes.meta("output", json.dumps(file.row).encode())
                changes.commit()
        except lmdb.Error as problem:
            raise _not_written(directory, problem) from None
        spool = DiskSpool(
            directory,
            store,
            state,
            entries,
            recipient=recipient,
            bookmarks=bookmarks,
            host=host,
            capacity=capacity,
            long=long,
            post=post,
            now=now,
            wall=wall,
            output=file,
        )
        undo.pop_all()
    return spool


def _not_written(directory: Directory, problem: Exception) -> MySocketError:
    """Why a spool could not be written: no room, or a disk that fails."""
    where, disk = f"the spool {directory.path}", os.fstatvfs(directory.fd)
    if disk.f_bavail * disk.f_frsize < RESERVE:
        return CannotOpen("its disk is full", where=where)
    return DiskFailed(str(problem).removeprefix(f"{directory.file(NEW)}: "), where=where)
