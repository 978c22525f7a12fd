"""The service's side of ``send``: pieces of a request, until they are accepted.

Rules

1. Only whole messages are given to the own stream, all parts of one at once: nothing of another client comes between, and nothing
   is half accepted.
2. A piece may begin below the window. The window opens only while there is room; so a client that is told of none has said
   nothing that it would have to take back. One that does not mind may say the beginning of a new request unasked.
3. One client at a time holds the floor: puts a message together that is longer than the window. The others' messages go on.
4. What is answered is what is committed. That a request has ended is committed after what came before the end, never with less.
5. A chunk of a file is a whole message. A file is not begun while the peer that is linked takes none.
6. What is held for all clients together is bounded: beyond that only those are read who hold the floor, or
   who hold nothing and bring little.
"""

from __future__ import annotations

from collections.abc import Callable

from mysocket.control.outcomes import Outcome, Outcomes
from mysocket.control.protocol import WINDOW, Line, Malformed, Refused, read_piece
from mysocket.control.turns import Held, Turns
from mysocket.core.batch import Flag, Kind, Piece
from mysocket.errors import REFUSED

#: Bytes that are held for all clients, about, but for the message of the one that holds the floor.
HELD = 2 * 1024 * 1024
#: Bytes that a piece takes besides its payload, about.
PIECE_COST = 256
#: How a chunk begins that offers a file (core/transfer.py).
_OFFER = b"\x01"


class Floor(Turns):
    """Who may put a long message together; and what is held for all who send."""

    def __init__(self, held: int = HELD) -> None:
        super().__init__(1)
        self.held = Held(held)

    @property
    def is_crowded(self) -> bool:
        """Do others wait for what goes on?"""
        return self.are_wanted or self.held.is_full


class Taking:
    """One request on one connection. No socket here: lines come in, and ``say`` takes those that go out.

    :param limit: bytes of the longest message (``--max-message``).
    :param no_files: says why a file cannot be sent now, if it cannot.
    """

    def __init__(
        self,
        id: bytes,
        outcomes: Outcomes,
        floor: Floor,
        limit: int,
        say: Callable[[Line], None],
        no_files: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.id = id
        #: Bytes of the request that have come, on this connection or before.
        self.received = outcomes.find(id).accepted
        self._outcomes = outcomes
        self._floor = floor
        self._limit = limit
        self._say = say
        self._no_files = no_files
        self._parts: list[Piece] = []  # of the message that goes on
        self._size = 0  # of its parts
        self._ready: list[list[Piece]] = []  # whole messages that wait for room
        self._begun = False  # the first answer was given
        self._said = -1, -1, False
        self._window = 0
        self._unasked = WINDOW if outcomes.find(id) == Outcome() else 0
        self._ended = outcomes.find(id).ended
        self._end_given = self._ended
        self._wants_delivery = self._withdrawing = self._told_withdrawal = self._over = False

    # What the client says -------------------------------------------------------------------------------------------------------

    def hear(self, line: Line) -> None:
        """A line of the client; when all that came with it are heard, :meth:`go_on` is called.

        :raises Malformed: it breaks a rule.
        :raises Refused: a message is larger than the limit, or the peer takes no files.
        """
        if "piece" in line:
            self._piece(read_piece(line))
        elif line.get("end") is True:
            if self._parts:
                raise Malformed("an end in the middle of a message")
            self._ended = True
        elif line.get("deliver") is True:
            self._wants_delivery = True
        elif line.get("withdraw") is True:
            self._withdrawing = True
            self._drop()
        elif line.get("confirm") is True:
            if self._begun and self._is_settled:
                self._outcomes.forget(self.id)
                self.close()
        else:
            raise Malformed("a line that means nothing behind a send")

    def _piece(self, piece: Piece) -> None:
        if self._ended or self._withdrawing or self._over or self.received >= max(self._window, self._unasked):
            raise Malformed("a piece that was not asked for")
        more = bool(piece.flags & Flag.MORE)
        if self._parts and (piece.kind, piece.flags & ~Flag.MORE) != (self._parts[0].kind, self._parts[0].flags & ~Flag.MORE):
            # The last part may say that the message has no delimiter.
            if piece.kind != self._parts[0].kind or more:
                raise Malformed("a part of another kind than the one before")
        ends = more or piece.flags & Flag.UNTERMINATED or piece.kind is not Kind.LINES or piece.payload.endswith(_end_of(piece))
        if not ends:
            # The next message, which may be another client's, would become a part of it.
            raise Malformed("lines whose last one has no end")
        if piece.kind is Kind.FILE and piece.payload[:1] == _OFFER and (why := self._no_files()) is not None:
            raise Refused(why, REFUSED)
        size = len(piece.payload)
        self.received += size
        if self._parts or more:
            # As the receiver counts, which takes no longer ones: without the delimiter.
            rest = piece.payload.find(_end_of(piece)) if piece.kind is Kind.LINES and not more else size
            if self._size + (rest if rest >= 0 else size) > self._limit:
                raise Refused(
                    f"a message is larger than --max-message ({self._limit} bytes) of this service, and is not taken; start it, "
                    "and its peer, with a larger one"
                )
        self._parts.append(piece)
        self._size += size
        self._floor.held.change(size + PIECE_COST)
        if not more:
            self._ready.append(self._parts)
            self._parts, self._size = [], 0

    # What goes on ---------------------------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Give what can be given, and answer what can be answered. To be called when the own stream has come further."""
        if self._over:
            return
        if not self._begun:
            if not self._outcomes.is_committed(self.id):
                return  # another connection's part of the request is on its way to the disk
            self._answer()
        self._give()
        self._answer()

    def granted(self) -> None:
        """It has the floor."""
        self.go_on()

    def _give(self) -> None:
        outgoing = self._outcomes.outgoing
        while self._ready and outgoing.room > 0:
            pieces = self._ready.pop(0)
            last = self._ended and not self._ready
            self._end_given = last
            self._outcomes.accept(self.id, pieces, ended=last)
            # Not before: until then all of it is held in memory.
            self._floor.leave(self)
            self._let_go(pieces)
        if self._ended and not (self._end_given or self._ready or self._withdrawing or self._over) and self._is_settled:
            self._end_given = True
            self._outcomes.finish(self.id, self.go_on)

    def _let_go(self, pieces: list[Piece]) -> None:
        self._floor.held.change(-sum(len(piece.payload) + PIECE_COST for piece in pieces))

    def _answer(self) -> None:
        window = self._open()
        settled = self._is_settled
        if settled or not self._begun:
            outcome = self._outcomes.find(self.id)
            said = outcome.accepted, window, outcome.ended
            if said != self._said:
                self._said, self._begun = said, True
                line: Line = {"accepted": outcome.accepted, "position": outcome.position, "window": window}
                self._say(line | {"ended": outcome.ended, "durable": self._outcomes.outgoing.durable})
        elif window != self._said[1]:
            self._said = self._said[0], window, self._said[2]
            self._say({"window": window})
        if settled and self._withdrawing and not self._told_withdrawal:
            self._told_withdrawal = True
            outcome = self._outcomes.find(self.id)
            self._say({"withdrawn": True, "accepted": outcome.accepted, "position": outcome.position})
        elif settled and self._wants_delivery and self._outcomes.is_delivered(self.id):
            self._wants_delivery = False
            self._say({"delivered": self._outcomes.find(self.id).position})

    def _open(self) -> int:
        """Where the window ends now; it never closes again."""
        if not self._ended and not self._withdrawing and not self._ready:
            if self._parts:
                # All of the message is held, so it needs the floor to be longer than the window.
                if self._floor.ask(self):
                    self._window = max(self._window, self.received + 1)
            elif self._outcomes.outgoing.room > 0:
                self._window = max(self._window, self.received + WINDOW)
        return self._window

    @property
    def _is_settled(self) -> bool:
        """All that was given is committed."""
        return self._outcomes.is_committed(self.id)

    @property
    def answers(self) -> bool:
        """Is something still to be answered to a client that says no more? What is not given by then is not accepted."""
        if self._over or self._parts or self._ready:
            return False
        return self._wants_delivery or self._ended and not self._said[2]

    @property
    def wants_more(self) -> bool:
        """Has a message begun whose next part may come?"""
        return bool(self._parts) and self.received < self._window

    def is_welcome(self, *, much: bool) -> bool:
        """May more come now, for all that is held? ``much``: it is known not to be little."""
        held = self._floor.held
        return not held.is_full or self._floor.has(self) or not (much or self._parts or self._ready)

    def _drop(self) -> None:
        dropped = [self._parts, *self._ready]
        self._parts, self._size, self._ready = [], 0, []
        for pieces in dropped:
            self._let_go(pieces)
        self._floor.leave(self)

    def close(self) -> None:
        """The connection is gone, or the request goes on on another; or nothing more is to be said of it."""
        self._over = True
        self._drop()


def _end_of(piece: Piece) -> bytes:
    return b"\0" if piece.flags & Flag.NUL else b"\n"
