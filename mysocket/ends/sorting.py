"""A link's sink that sorts: chunks of files go to the downloads, all else to another sink.

Rules

1. What is written is reported in the order in which it came, over both.
2. Chunks are written as they come. All else waits until every chunk before it is reported: an output with a spool commits what it
   was given with the next position of any stream, and that must be the one behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import NamedTuple, cast
from typing import Protocol as Interface

from mysocket.core.batch import Batch, Kind
from mysocket.core.transfer import Part, read_chunk
from mysocket.core.wire import Hello
from mysocket.ends.downloads import Downloads
from mysocket.ends.escape import one_line
from mysocket.ends.sink import Origin, Sink
from mysocket.errors import MySocketError


class FileOrigin(Origin, Interface):
    """Where chunks of files come from: a link."""

    def written(self, position: int, then: Callable[[], None] | None = None) -> None:
        """All before ``position`` is safe; call ``then`` when that is committed."""

    def failed(self, error: MySocketError) -> None:
        """The stream cannot be taken any further: nothing that came behind what was reported will be."""


class Entry:
    """What came, and is not reported yet."""

    __slots__ = ("block", "done", "end", "is_file", "then")

    def __init__(self, block: Batch, is_file: bool) -> None:
        self.end = block.end
        self.is_file = is_file
        #: What is still to be given to the other sink.
        self.block: Batch | None = None if is_file else block
        self.done = False
        self.then: Callable[[], None] | None = None


class Line:
    """What came from one origin and is not reported yet; to the other sink it is the origin.

    :param over: called when all is reported.
    """

    def __init__(self, origin: FileOrigin, inner: Sink, over: Callable[[], None]) -> None:
        self.origin = origin
        self.peer_text = origin.peer_text
        self.peer: Hello | None = origin.peer
        self.entries: deque[Entry] = deque()
        self._inner = inner
        self._over = over
        self._files = 0  # in entries
        self._advancing = False
        self._dead = False

    @property
    def repeats_until(self) -> int:
        return self.origin.repeats_until

    @property
    def stream_id(self) -> bytes:
        return self.origin.stream_id

    def add(self, block: Batch, *, is_file: bool) -> Entry:
        """A block has come."""
        self.peer_text, self.peer = self.origin.peer_text, self.origin.peer
        entry = Entry(block, is_file)
        self.entries.append(entry)
        self._files += is_file
        return entry

    def write(self, block: Batch) -> None:
        """Give a block to the other sink, or let it wait."""
        entry = self.add(block, is_file=False)
        if not self._files:
            self._give(entry)

    def _give(self, entry: Entry) -> None:
        block, entry.block = entry.block, None
        if block is not None:
            self._inner.write(block, self)

    def written(self, position: int) -> None:
        """The other sink has all that it was given before ``position``."""
        for entry in self.entries:
            if entry.end > position:
                break
            entry.done = entry.done or not entry.is_file
        self.advance()

    def advance(self) -> None:
        """Report what is written, and give the other sink what waited for that."""
        if self._advancing or self._dead:
            return
        self._advancing = True
        try:
            going = True
            while going:
                reported = self._report()
                going = self._give_waiting() or reported
        except MySocketError as error:
            self.fail(error)
        finally:
            self._advancing = False
        if not self.entries:
            self._over()

    def _report(self) -> bool:
        """True: there was something."""
        position = -1
        calls: list[Callable[[], None]] = []
        while self.entries and self.entries[0].done:
            entry = self.entries.popleft()
            self._files -= entry.is_file
            position = entry.end
            if entry.then is not None:
                calls.append(entry.then)
        if position < 0:
            return False
        if not calls:
            self.origin.written(position)
        else:
            self.origin.written(position, lambda: _call(calls))
        return True

    def _give_waiting(self) -> bool:
        """True: there was something."""
        if not self.entries or self.entries[0].is_file:
            return False
        given = False
        for entry in list(takewhile(lambda entry: not entry.is_file, self.entries)):
            if entry.block is not None:
                self._give(entry)
                given = True
                # With a spool each is done by now, and is reported before the next is given.
                self._report()
        return given

    def fail(self, error: MySocketError) -> None:
        """Nothing more is reported, for ``error``."""
        if not self._dead:
            self.end()
            self.origin.failed(error)

    def end(self) -> None:
        """Nothing more is reported."""
        self._dead = True
        self.entries.clear()
        self._over()


def _call(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


class Ended(NamedTuple):
    """The last chunk of a transfer, which the sender may send again."""

    position: int
    node: bytes
    id: bytes


class SortingSink:
    """See the module.

    :param behind: bytes that a sender may go back, at most, when it meets another process of this node; None: what is committed
        never comes again.
    """

    def __init__(self, inner: Sink, downloads: Downloads, *, behind: int | None = None) -> None:
        self.whole = inner.whole
        self.repeats = inner.repeats
        self._inner = inner
        self._downloads = downloads
        self._lines: dict[int, Line] = {}  # by the id() of their origins, as long as something is not reported
        self._written: dict[Line, None] = {}  # those of which chunks were written now
        self._behind = behind
        self._ended: dict[bytes, deque[Ended]] = {}  # by stream
        downloads.on_written = self._report

    @property
    def room(self) -> int:
        return self._inner.room

    def agreed(self, *, cut: bool) -> None:
        self._inner.agreed(cut=cut)

    def write(self, block: Batch, origin: Origin) -> None:
        if self._ended and (ended := self._ended.get(origin.stream_id)):
            # So far no sender comes without having heard of what was acknowledged there.
            while ended and ended[0].position + (self._behind or 0) < block.start:
                _, node, transfer = ended.popleft()
                self._downloads.forget(node, transfer)
        name = id(origin)
        line = self._lines.get(name)
        if line is None:
            # Whoever gives chunks of files is such an origin.
            line = self._lines[name] = Line(cast(FileOrigin, origin), self._inner, lambda: self._forget(name))
        if block.kind == Kind.FILE:
            self._take(line, block)
            return
        try:
            line.write(block)
        except MySocketError:
            line.end()
            raise

    def finished(self, stream: bytes) -> None:
        """The sender of a stream has heard that everything is acknowledged."""
        for _, node, transfer in self._ended.pop(stream, ()):
            self._downloads.forget(node, transfer)

    def _forget(self, name: int) -> None:
        self._lines.pop(name, None)

    def _take(self, line: Line, block: Batch) -> None:
        chunk = read_chunk(block.payload)
        entry = line.add(block, is_file=True)
        node = line.peer.node if line.peer is not None else bytes(16)
        peer = one_line((line.peer.name if line.peer is not None else "") or line.peer_text, 64)
        if chunk.part in (Part.END, Part.CANCEL):
            entry.then = lambda: self._has_ended(line.stream_id, Ended(block.end, node, chunk.id))

        def done() -> None:
            entry.done = True
            self._written[line] = None

        self._downloads.take(node, peer, chunk, done, line.fail)

    def _has_ended(self, stream: bytes, ended: Ended) -> None:
        if self._behind is None:
            self._downloads.forget(ended.node, ended.id)
        else:
            self._downloads.retire(ended.node, ended.id)
            self._ended.setdefault(stream, deque()).append(ended)

    def _report(self) -> None:
        """A group of chunks is written: one report for all of one origin."""
        written, self._written = self._written, {}
        for line in written:
            line.advance()
