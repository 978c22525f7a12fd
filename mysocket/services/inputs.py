"""Several inputs of one session: what each has read waits here until the own stream has room for it.

Rules

1. Whole messages only, and in turns: an input that has much to give does not hold up another.
2. What comes with a bookmark is committed in one transaction with it. What comes without (connections, datagrams) is accepted as
   soon as there is room; until then it lives in this process only, and so not much of it is read ahead.
3. An input that is full is not read; what cannot wait (datagrams) is dropped, counted and told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from mysocket.carriers.admission import RateLimitedLog
from mysocket.core.batch import MAX_PAYLOAD, Flag, Kind, Piece
from mysocket.ends.intake import InputFacts, Source
from mysocket.ends.rounds import Rounds
from mysocket.inputs.records import Records
from mysocket.metrics import Rejected
from mysocket.notices import notice
from mysocket.services.outlet import Outlet
from mysocket.spool.interface import Bookmark

#: Bytes that wait for room, of one input, above which it is full.
HIGH_WATER = 1024 * 1024
#: Bytes that are given at once, before it is the turn of the next.
TURN = 256 * 1024


class Portion(NamedTuple):
    """What is committed together. ``marked`` is called when a bookmark that comes alone is."""

    pieces: list[Piece]
    size: int
    bookmark: Bookmark | None
    marked: Callable[[], None] | None = None


def joined(pieces: list[Piece]) -> list[Piece]:
    """The same messages in as few pieces as can be: a line each of a thousand connections is not to be a thousand batches."""
    if len(pieces) < 2:
        return pieces
    found: list[Piece] = []
    run: list[bytes] = []
    size = flags = 0

    def close() -> None:
        if run:
            found.append(Piece(Kind.LINES, flags, b"".join(run)))
            run.clear()

    for piece in pieces:
        if piece.kind is not Kind.LINES or piece.flags & (Flag.MORE | Flag.UNTERMINATED):
            close()
            found.append(piece)
            continue
        if not run or piece.flags != flags or size + len(piece.payload) > MAX_PAYLOAD:
            close()
            size = 0
        run.append(piece.payload)
        flags, size = piece.flags, size + len(piece.payload)
    close()
    return found


class Waiting:
    """The :class:`~mysocket.ends.intake.Intake` of one input.

    :param name: the input, as the user calls it.
    """

    def __init__(self, name: str, inputs: Inputs, high_water: int = HIGH_WATER) -> None:
        self.name = name
        self.on_room: Callable[[], None] = lambda: None
        #: There will be no more.
        self.ended = False
        self.source: Source | None = None
        #: Bytes that were accepted by the own stream; things that were lost, and connections that were turned away.
        self.accepted = 0
        self.dropped = 0
        self.rejected = 0
        self._inputs = inputs
        self._high_water = high_water
        self._portions: deque[Portion] = deque()
        self._size = 0

    @property
    def full(self) -> bool:
        return self._size >= self._high_water

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return self._size

    def give(self, pieces: list[Piece], bookmark: Bookmark | None = None) -> None:
        if not pieces:
            return
        size = sum(len(piece.payload) for piece in pieces)
        self._portions.append(Portion(pieces, size, bookmark))
        self._size += size
        self._inputs.go_on()

    def mark(self, bookmark: Bookmark, done: Callable[[], None]) -> None:
        self._portions.append(Portion([], 0, bookmark, done))
        self._inputs.go_on()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self._inputs.go_on()

    def drop(self, text: str) -> None:
        self.dropped += 1
        self._inputs.say((self.name, "drop"), notice("input_dropped", text, input=self.name))

    def reject(self, key: object, text: str, *, address: str, why: Rejected) -> None:
        """A connection or a datagram of a stranger is not taken."""
        self.rejected += 1
        self._inputs.say((self.name, key), notice("rejected", text, address=address, reason=why.value, input=self.name))

    def tell(self, text: str) -> None:
        self._inputs.tell(notice("input", text, input=self.name))

    def complain(self, text: str) -> None:
        self._inputs.complain(notice("input", text, input=self.name))

    def pop(self, budget: int) -> Portion | None:
        """What is given next: as much as fits into so many bytes, but not nothing; None: nothing waits.

        What has no bookmark may be put together, for a commit each would cost more than the messages.
        """
        if not self._portions:
            return None
        portion = self._portions.popleft()
        size, pieces = portion.size, [*portion.pieces]
        while portion.bookmark is None and self._portions:
            after = self._portions[0]
            if after.bookmark is not None or size + after.size > budget:
                break
            self._portions.popleft()
            pieces += after.pieces
            size += after.size
        self._size -= size
        self.accepted += size
        return portion._replace(pieces=joined(pieces), size=size)

    @property
    def lost(self) -> int:
        """Bytes that wait and that nobody else has, if the process ends now; a file still has what comes with a bookmark."""
        return 0 if any(portion.bookmark for portion in self._portions) else self._size

    @property
    def facts(self) -> InputFacts:
        connections = self.source.connections if self.source is not None else 0
        return InputFacts(self.name, self.accepted, self.dropped, self.rejected, connections, self._size, self.ended)


class Inputs:
    """See the module.

    :param outlet: the own stream.
    :param ended: called once, when every input has ended and all of it is accepted.
    """

    def __init__(
        self,
        outlet: Outlet,
        *,
        log: RateLimitedLog,
        tell: Callable[[str], None],
        complain: Callable[[str], None],
        ended: Callable[[], None],
    ) -> None:
        self.tell = tell
        self.complain = complain
        self.say = log.say
        self._outlet = outlet
        self._on_end = ended
        self._waiting: list[Waiting] = []
        self._turn = 0
        self._rounds = Rounds(self._round)
        self._started = self._stopped = self._told_end = False

    def add(self, name: str, *, high_water: int = HIGH_WATER) -> Waiting:
        """The intake of one more input; before :meth:`start`."""
        waiting = Waiting(name, self, high_water)
        self._waiting.append(waiting)
        return waiting

    def start(self) -> None:
        """Begin to read all of them."""
        self._started = True
        for waiting in self._waiting:
            if waiting.source is not None:
                waiting.source.start()
        self.go_on()

    def stop(self) -> None:
        """Read no more. What was read is accepted as far as there is room."""
        if self._stopped:
            return
        self._stopped = True
        for waiting in self._waiting:
            if waiting.source is not None:
                waiting.source.stop()
        self.go_on()

    @property
    def ended(self) -> bool:
        """Has every input ended, and is all of it accepted?"""
        return all(waiting.ended and not waiting.size for waiting in self._waiting)

    @property
    def facts(self) -> list[InputFacts]:
        """How they are."""
        return [waiting.facts for waiting in self._waiting if waiting.source is not None]

    def left(self) -> list[str]:
        """What was read and is not accepted, a sentence each, when the session leaves; a file still has it."""
        return [
            f"{waiting.name}: {waiting.lost} bytes were read and found no room; they are lost"
            for waiting in self._waiting
            if waiting.lost
        ]

    def go_on(self) -> None:
        """Give what can be given. To be called when the own stream has room, or there is one."""
        if self._started:
            self._rounds()

    def _round(self) -> None:
        self._give_all()
        if self.ended and not self._told_end and not self._stopped:
            self._told_end = True
            self._on_end()

    def _give_all(self) -> None:
        outlet, idle = self._outlet, 0
        while idle < len(self._waiting):
            stream = outlet.stream
            if stream is None or stream.in_message or outlet.closed or outlet.room <= 0:
                return
            waiting = self._waiting[self._turn % len(self._waiting)]
            self._turn += 1
            full = waiting.full
            portion = waiting.pop(TURN)
            if portion is None:
                idle += 1
                continue
            idle = 0
            if portion.marked is None:
                outlet.accept(portion.pieces, portion.bookmark)
            elif portion.bookmark is not None:
                outlet.mark(portion.bookmark, portion.marked)
            if full and not waiting.full and not self._stopped:
                waiting.on_room()


class StandardTaker:
    """stdin as one of several inputs: a :class:`~mysocket.ends.source.Taker` that gives whole messages to an intake.

    :param delimiter: what messages end in.
    :param limit: bytes of the longest message; a longer one goes on in parts.
    """

    def __init__(self, waiting: Waiting, delimiter: bytes, limit: int) -> None:
        self._waiting = waiting
        self._records = Records(delimiter, limit)

    @property
    def room(self) -> int:
        return 0 if self._waiting.full else HIGH_WATER

    def when_room(self, call: Callable[[], None]) -> None:
        """Call ``call`` whenever there is room again."""
        self._waiting.on_room = call

    def accept(self, pieces: list[Piece]) -> int:
        """Take pieces of the input."""
        self._waiting.give(self._records.feed(b"".join(piece.payload for piece in pieces)))
        return 0

    def end_input(self, *, wanted: bool = True) -> None:
        """There will be no more."""
        self._waiting.give(self._records.finish())
        self._waiting.end()
