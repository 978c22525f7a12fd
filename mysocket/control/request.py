"""A request to send: what of an input the service has accepted, and what is to be said next.

Rules

1. What is not accepted is kept, so that it can be said again on another connection. What is accepted is dropped.
2. The id makes a request said twice one request: the service begins its answer with what it had accepted already.
3. A service that had accepted more than it knows now has lost it: nobody can tell what of the request the peer will get.
4. Only whole messages are accepted. A service that says otherwise breaks the protocol.

No socket here and no clock: lines come in and go out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mysocket.control.protocol import Line, Malformed, number, piece_line
from mysocket.core.batch import Flag, Piece


class _Kept(NamedTuple):
    end: int
    piece: Piece


class Request:
    """See the module.

    :param id: 16 random bytes.

    :ivar accepted: bytes of the request that are accepted.
    :ivar position: where the stream of the service stands behind them.
    :ivar delivered: the peer has acknowledged them.
    :ivar withdrawn: the service accepts no more of it.
    """

    def __init__(self, id: bytes) -> None:
        self._id = id
        self.accepted = 0
        self.position = 0
        self.delivered = False
        self.withdrawn = False
        #: Bytes that were given, and whether that is all.
        self.given = 0
        self._whole = 0  # bytes of them that are whole messages
        self.complete = False
        self._ended = False
        self._kept: deque[_Kept] = deque()
        self._unsaid: deque[_Kept] = deque()
        # Where the last piece ends that was said on this connection, and the last message that was said on any.
        self._said = self._most_said = 0
        self._end_said = False
        self._window: int | None = None
        self._answered = False

    # The input ------------------------------------------------------------------------------------------------------------------

    def give(self, pieces: Iterable[Piece]) -> None:
        """More of the input."""
        for piece in pieces:
            self.given += len(piece.payload)
            if not piece.flags & Flag.MORE:
                self._whole = self.given
            kept = _Kept(self.given, piece)
            self._kept.append(kept)
            self._unsaid.append(kept)

    def finish(self) -> None:
        """There is no more."""
        self.complete = True

    def drop(self) -> list[Piece]:
        """Take back the whole messages that were never said, on any connection; they are returned."""
        dropped: list[Piece] = []
        while self._kept and self._kept[-1].end > self._most_said:
            dropped.insert(0, self._kept.pop().piece)
        while self._unsaid and self._unsaid[-1].end > self._most_said:
            self._unsaid.pop()
        self.given = self._whole = self._kept[-1].end if self._kept else self.accepted
        return dropped

    @property
    def unsaid(self) -> int:
        """Bytes that were given and may not be said yet."""
        return self.given - self._said

    # The connection -------------------------------------------------------------------------------------------------------------

    def begin(self) -> Line:
        """The first line on a connection. Nothing but this may be said until it is answered."""
        self._window = None
        self._end_said = self._ended = False
        self._unsaid = self._kept.copy()
        self._said = self.accepted
        return {"do": "send", "id": self._id.hex()}

    def lines(self) -> Iterator[Line]:
        """What may be said now."""
        if self._window is None:
            return
        while self._unsaid and self._said < self._window:
            kept = self._unsaid.popleft()
            self._said = kept.end
            if not kept.piece.flags & Flag.MORE:  # a part alone is never accepted
                self._most_said = max(self._most_said, self._said)
            yield piece_line(kept.piece)
        if self.complete and not self._unsaid and not self._end_said:
            self._end_said = True
            yield {"end": True}

    def hear(self, line: Line) -> bool:
        """An answer of the service; True if the request has come further by it.

        :raises Forgotten: it has lost what it had accepted.
        :raises Malformed: it is none.
        """
        before = self._state
        if "accepted" in line:
            self._accept(number(line, "accepted"), first=self._window is None)
            self.position = number(line, "position")
            self._answered = True
        if "window" in line:
            self._window = number(line, "window")
        if line.get("ended") is True:
            if not self.complete or self.accepted != self.given:
                raise Malformed("a request that ended before its end")
            self._ended = self._end_said = True
        if line.get("withdrawn") is True:
            self.withdrawn = True
        if "delivered" in line:
            self.delivered = number(line, "delivered") >= self.position
        return self._state != before

    @property
    def _state(self) -> tuple[object, ...]:
        return self.accepted, self._window, self._ended, self.withdrawn, self.delivered

    @property
    def is_idle(self) -> bool:
        """The service has accepted all that it can, and waits for more of the input."""
        if self._window is None or self.complete or self.accepted != self._whole:
            return False
        # It has taken the parts of a message that has begun, if there are any: it wants the next.
        return self.accepted == self.given or not self._unsaid and self._said < self._window

    @property
    def is_known(self) -> bool:
        """What is not accepted will not be: it was never said, or it is withdrawn."""
        return self.withdrawn or self._most_said <= self.accepted

    @property
    def is_safe(self) -> bool:
        """All of it is committed."""
        return self.complete and self.accepted == self.given and self._answered

    @property
    def is_accepted(self) -> bool:
        """All of it is committed, and the service knows that it is all."""
        return self.is_safe and (self._ended or self.withdrawn)

    def _accept(self, accepted: int, *, first: bool) -> None:
        if accepted < self.accepted:
            if first:
                raise Forgotten(self.accepted, accepted)
            raise Malformed(f"{accepted} bytes accepted, which were {self.accepted} before")
        while self._kept and self._kept[0].end <= accepted:
            end, piece = self._kept.popleft()
            self.accepted = end
            if end == accepted and piece.flags & Flag.MORE:
                raise Malformed(f"{accepted} bytes accepted, which ends in the middle of a message")
        if self.accepted != accepted:
            raise Malformed(f"{accepted} bytes accepted, which is not where a piece ends")
        while self._unsaid and self._unsaid[0].end <= accepted:
            self._said = self._unsaid.popleft().end


class Forgotten(Exception):
    """The service had accepted ``before`` bytes, and knows of ``now``."""

    def __init__(self, before: int, now: int) -> None:
        super().__init__(before, now)
        self.before = before
        self.now = now
