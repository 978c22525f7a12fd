"""Whole messages of an input that shares the stream with others: between their parts nothing else may come."""

from __future__ import annotations

from mysocket.core.batch import Piece
from mysocket.inputs.cutting import Lines


class Records:
    """Bytes of an input in, pieces of whole messages out; what has no end yet is held.

    One that is longer than the limit goes out as several messages of that length, for a receiver with the same limit would
    refuse it. Nothing of it is lost, and whoever waits behind it need not wait for its end.

    :param delimiter: what messages end in.
    :param limit: bytes (``--max-message``).
    """

    def __init__(self, delimiter: bytes, limit: int) -> None:
        self._lines = Lines(delimiter, limit)
        self._tail = bytearray()  # whoever sends single bytes is not to cost an object for each

    @property
    def held(self) -> int:
        """Bytes of a message that is not complete."""
        return len(self._tail)

    @property
    def cut_some(self) -> bool:
        """One was too long, and went out in parts."""
        return self._lines.cut_some

    def feed(self, data: bytes) -> list[Piece]:
        """The messages that ``data`` completes."""
        lines, tail = self._lines, self._tail
        end = data.rfind(lines.delimiter) + 1
        pieces: list[Piece] = []
        if end:
            pieces = lines.whole(bytes(tail) + data[:end])
            tail.clear()
        tail += data[end:]
        while len(tail) > lines.longest:
            lines.cut_some = True
            pieces += lines.unfinished(bytes(tail[: lines.longest]))
            del tail[: lines.longest]
        return pieces

    def finish(self) -> list[Piece]:
        """The input ends here, and with it the message that was not complete."""
        rest = bytes(self._tail)
        self._tail.clear()
        return self._lines.unfinished(rest)
