"""The service's side of ``send``: pieces of a request, until they are accepted.

Rules

1. Only whole messages are given to the own stream, all parts of one at once: nothing of another client comes between, and nothing
   is half accepted.
2. A piece may begin below the window. The window opens only while there is room; so a client that is told of none has said
   nothing that it would have to take back.
3. One client at a time holds the floor: puts a message together that is longer than the window. The others' messages go on.
4. What is answered is what is committed.
"""

from __future__ import annotations

from collections.abc import Callable

from mysocket.control.outcomes import Outcomes
from mysocket.control.protocol import WINDOW, Line, Malformed, read_piece
from mysocket.core.batch import Flag, Piece
from mysocket.errors import MessageTooLong


class Floor:
    """Who may put a long message together."""

    def __init__(self) -> None:
        self._holder: Taking | None = None
        self._waiting: list[Taking] = []

    def ask(self, taking: Taking) -> bool:
        """May ``taking`` have it? If not, it is called (:meth:`Taking.go_on`) when it may."""
        if self._holder is None:
            self._holder = taking
        elif self._holder is not taking and taking not in self._waiting:
            self._waiting.append(taking)
        return self._holder is taking

    def leave(self, taking: Taking) -> None:
        """``taking`` does not need it any more."""
        if taking in self._waiting:
            self._waiting.remove(taking)
        if self._holder is taking:
            self._holder = None
            if self._waiting:
                self._holder = self._waiting.pop(0)
                self._holder.go_on()


class Taking:
    """One request on one connection. No socket here: lines come in, and ``say`` takes those that go out.

    :param limit: bytes of the longest message (``--max-message``).
    """

    def __init__(self, id: bytes, outcomes: Outcomes, floor: Floor, limit: int, say: Callable[[Line], None]) -> None:
        self.id = id
        self._outcomes = outcomes
        self._floor = floor
        self._limit = limit
        self._say = say
        self._parts: list[Piece] = []  # of the message that goes on
        self._ready: list[list[Piece]] = []  # whole messages that wait for room
        self._begun = False  # the first answer was given
        self._received = outcomes.find(id).accepted
        self._said = -1, -1, False
        self._window = 0
        self._ended = outcomes.find(id).ended
        self._end_given = self._ended
        self._wants_delivery = self._told_delivery = self._withdrawing = self._over = False

    # What the client says -------------------------------------------------------------------------------------------------------

    def hear(self, line: Line) -> None:
        """A line of the client; when all that came with it are heard, :meth:`go_on` is called.

        :raises Malformed: it breaks a rule.
        :raises MessageTooLong: a message is larger than the limit.
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
            if self._is_settled:
                self._outcomes.forget(self.id)
        else:
            raise Malformed("a line that means nothing behind a send")

    def _piece(self, piece: Piece) -> None:
        if not self._begun or self._ended or self._withdrawing or self._received >= self._window:
            raise Malformed("a piece that was not asked for")
        if self._parts and (piece.kind, piece.flags & ~Flag.MORE) != (self._parts[0].kind, self._parts[0].flags & ~Flag.MORE):
            # The last part may say that the message has no delimiter.
            if piece.kind != self._parts[0].kind or piece.flags & Flag.MORE:
                raise Malformed("a part of another kind than the one before")
        self._received += len(piece.payload)
        self._parts.append(piece)
        size = sum(len(part.payload) for part in self._parts)
        if piece.flags & Flag.MORE:
            if size > self._limit:
                raise MessageTooLong(limit=self._limit, position=self._received - size)
            return
        self._ready.append(self._parts)
        self._parts = []

    # What goes on ---------------------------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Give what can be given, and answer what can be answered. To be called when the own stream has come further."""
        if self._over:
            return
        if not self._begun and not self._outcomes.is_committed(self.id):
            return  # another connection's part of the request is on its way to the disk
        self._give()
        self._answer()

    def _give(self) -> None:
        outgoing = self._outcomes.outgoing
        while self._ready and outgoing.room > 0:
            pieces = self._ready.pop(0)
            last = self._ended and not self._ready
            self._end_given = last
            self._outcomes.accept(self.id, pieces, ended=last)
            # Not before: until then all of it is held in memory.
            self._floor.leave(self)
        if self._ended and not self._ready and not self._end_given and not self._withdrawing:
            self._end_given = True
            self._outcomes.finish(self.id, self.go_on)

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
        if settled and self._withdrawing:
            self._over = True
            outcome = self._outcomes.find(self.id)
            self._say({"withdrawn": True, "accepted": outcome.accepted, "position": outcome.position})
        elif settled and self._wants_delivery and not self._told_delivery and self._outcomes.is_delivered(self.id):
            self._told_delivery = True
            self._say({"delivered": self._outcomes.find(self.id).position})

    def _open(self) -> int:
        """Where the window ends now; it never closes again."""
        if not self._ended and not self._withdrawing and not self._ready:
            if self._parts:
                # All of the message is held, so it needs the floor to be longer than the window.
                if self._floor.ask(self):
                    self._window = max(self._window, self._received + 1)
            elif self._outcomes.outgoing.room > 0:
                self._window = max(self._window, self._received + WINDOW)
        return self._window

    @property
    def _is_settled(self) -> bool:
        """All that was given is committed."""
        return self._outcomes.is_committed(self.id)

    @property
    def in_message(self) -> bool:
        """Has a message begun that goes on?"""
        return bool(self._parts)

    def _drop(self) -> None:
        self._parts, self._ready = [], []
        self._floor.leave(self)

    def close(self) -> None:
        """The connection is gone, or the request goes on on another."""
        self._over = True
        self._drop()
