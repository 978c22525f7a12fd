"""Whole messages of an input that shares the stream with others: between their parts nothing else may come."""

from __future__ import annotations

from mysocket.core.batch import Cutter, Flag, Kind, Piece


class Gather:
    """Holds the parts of a message until it is complete.

    One that is longer than the limit goes out as several messages of about that length: nothing of it is lost, and whoever waits
    behind it need not wait for its end.

    :param limit: bytes (``--max-message``).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[Piece] = []
        #: Bytes that are held.
        self.held = 0
        #: Messages that were too long.
        self.cuts = 0

    def take(self, pieces: list[Piece]) -> list[Piece]:
        """Pieces as a cutter makes them in; whole messages out."""
        if not self._parts and not any(piece.flags & Flag.MORE for piece in pieces):
            return pieces
        whole: list[Piece] = []
        for piece in pieces:
            self._parts.append(piece)
            self.held += len(piece.payload)
            if not piece.flags & Flag.MORE:
                whole += self._parts
                self._parts, self.held = [], 0
            elif self.held >= self._limit:
                self.cuts += 1
                whole += self.end()
        return whole

    def end(self) -> list[Piece]:
        """What is held, as a message that ends here."""
        parts, self._parts, self.held = self._parts, [], 0
        if parts:
            last = parts[-1]
            flags = last.flags & ~Flag.MORE
            parts[-1] = last._replace(flags=flags | Flag.UNTERMINATED if last.kind is Kind.LINES else flags)
        return parts


class Records:
    """Bytes of an input in, pieces of whole messages out.

    :param cutter: where messages end.
    :param limit: see :class:`Gather`.
    """

    def __init__(self, cutter: Cutter, limit: int) -> None:
        self._cutter = cutter
        self._gather = Gather(limit)

    @property
    def held(self) -> int:
        """Bytes of a message that is not complete."""
        return self._gather.held + self._cutter.held

    @property
    def cuts(self) -> int:
        """Messages that were too long, and went out in parts."""
        return self._gather.cuts

    def feed(self, data: bytes) -> list[Piece]:
        """The messages that ``data`` completes."""
        return self._gather.take(self._cutter.feed(data))

    def finish(self) -> list[Piece]:
        """The input ends here, and with it the message that was not complete."""
        pieces = self._gather.take(self._cutter.finish())
        return pieces + self._gather.end()
