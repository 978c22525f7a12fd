"""A sink over several: a block is written when all of them have it.

Rules

1. All of the first get a block at once. When they have it, the last one gets it, if there is one: the output file of a spool,
   which commits what it was given together with the next position that is reported. So that must be the position behind it.
2. What is written is reported in the order of the blocks of each origin. Origins do not wait for each other.
3. A sink may report within its ``write``, and whoever is told may write more.
4. A message that is too long is refused before anybody has taken its block, if the limit is known here. If a sink refuses for
   another reason, those before it have taken the block all the same; it is never reported, so the stream comes no further.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence

from mysocket.core.batch import Batch, split
from mysocket.core.wire import Hello
from mysocket.ends.sink import Origin, Sink
from mysocket.errors import MySocketError


class Entry:
    """A block that came, and is not reported yet.

    :param missing: how many of the first do not have it.
    """

    __slots__ = ("block", "done", "end", "missing")

    def __init__(self, block: Batch, missing: int) -> None:
        self.end = block.end
        #: What is still to be given to the last.
        self.block: Batch | None = block
        self.missing = missing
        self.done = False


class Share:
    """One sink's part of what came from an origin. To that sink it is the origin.

    :param on_written: called with each entry that the sink has.
    """

    def __init__(self, origin: Origin, *, repeats: bool, on_written: Callable[[list[Entry]], None]) -> None:
        self.peer_text = origin.peer_text
        self.peer: Hello | None = origin.peer
        self._entries: deque[Entry] = deque()
        self._origin = origin
        self._repeats = repeats
        self._on_written = on_written

    @property
    def repeats_until(self) -> int:
        # The file of a spool holds nothing that was not committed.
        return self._origin.repeats_until if self._repeats else 0

    @property
    def stream_id(self) -> bytes:
        return self._origin.stream_id

    def write(self, sink: Sink, block: Batch, entry: Entry) -> None:
        """Give a block to the sink."""
        self.peer_text, self.peer = self._origin.peer_text, self._origin.peer
        self._entries.append(entry)
        try:
            sink.write(block, self)
        except MySocketError:
            self._entries.remove(entry)
            raise

    def written(self, position: int) -> None:
        """The sink has all before ``position``, where a block ends."""
        # Of another stream of this origin, which may wait behind, the same position says nothing.
        count = next((index for index, entry in enumerate(self._entries, 1) if entry.end == position), 0)
        if count:
            self._on_written([self._entries.popleft() for _ in range(count)])


class Lane:
    """What came from one origin.

    :param over: called when all is reported.
    """

    def __init__(self, origin: Origin, first: Sequence[Sink], last: Sink | None, over: Callable[[], None]) -> None:
        self._origin = origin
        self._first = first
        self._last = last
        self._over = over
        self._ahead: deque[Entry] = deque()  # not given to the last yet
        self._behind: deque[Entry] = deque()  # given, and not reported
        self._shares = [Share(origin, repeats=sink.repeats, on_written=self._arrived) for sink in first]
        self._end = Share(origin, repeats=last is not None and last.repeats, on_written=self._finished)
        self._busy = False

    def write(self, block: Batch) -> None:
        """Give a block to the first."""
        entry = Entry(block, len(self._first))
        self._ahead.append(entry)
        busy, self._busy = self._busy, True
        try:
            for share, sink in zip(self._shares, self._first, strict=True):
                share.write(sink, block, entry)
        except MySocketError:
            # Those before it report it some day, and nobody listens.
            self._ahead.remove(entry)
            raise
        finally:
            self._busy = busy
            self._advance(within=entry)

    def _arrived(self, entries: list[Entry]) -> None:
        for entry in entries:
            entry.missing -= 1
        self._advance()

    def _finished(self, entries: list[Entry]) -> None:
        for entry in entries:
            entry.done = True
        self._advance()

    def _advance(self, within: Entry | None = None) -> None:
        """Give the last what the first have, and report what it has.

        :param within: the block that is being written: who writes it hears what is wrong with it.
        """
        if self._busy:
            return
        self._busy = True
        try:
            while self._report() or self._give_next(within):
                pass
        finally:
            self._busy = False
            if not self._ahead and not self._behind:
                self._over()

    def _report(self) -> bool:
        """True: there was something."""
        position = -1
        while self._behind and self._behind[0].done:
            position = self._behind.popleft().end
        if position < 0:
            return False
        self._origin.written(position)
        return True

    def _give_next(self, within: Entry | None) -> bool:
        """True: there was something."""
        if not self._ahead or self._ahead[0].missing:
            return False
        entry = self._ahead.popleft()
        self._behind.append(entry)
        block, entry.block = entry.block, None
        if self._last is None or block is None:
            entry.done = True
            return True
        try:
            self._end.write(self._last, block, entry)
        except MySocketError as error:
            self._behind.remove(entry)
            failed = getattr(self._origin, "failed", None)
            if entry is within or failed is None:
                raise
            failed(error)
        return True


class FanOutSink:
    """See the module.

    :param last: gets a block when all of ``first`` have it.
    :param max_message: the largest message in bytes, if one of the sinks refuses larger ones.
    """

    def __init__(self, first: Sequence[Sink], last: Sink | None, *, max_message: int | None = None) -> None:
        self._all = [*first, *([last] if last is not None else [])]
        self.whole = any(sink.whole for sink in self._all)
        self.repeats = any(sink.repeats for sink in self._all)
        self._first = list(first)
        self._last = last
        self._max_message = max_message
        self._lanes: dict[int, Lane] = {}  # by the id() of their origins, as long as something is not reported

    @property
    def room(self) -> int:
        return min((sink.room for sink in self._all), default=sys.maxsize)

    def agreed(self, *, cut: bool) -> None:
        for sink in self._all:
            sink.agreed(cut=cut)

    def write(self, block: Batch, origin: Origin) -> None:
        if self._max_message is not None and len(block.payload) > self._max_message:
            for _ in split(block, self._max_message):
                pass
        name = id(origin)
        lane = self._lanes.get(name)
        if lane is None:
            # It holds the origin, so nobody else has that name as long as it is here.
            lane = self._lanes[name] = Lane(origin, self._first, self._last, lambda: self._forget(name))
        lane.write(block)

    def _forget(self, name: int) -> None:
        self._lanes.pop(name, None)
