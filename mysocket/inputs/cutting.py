"""Cuts what was read of a file into pieces of whole messages."""

from __future__ import annotations

from mysocket.core.batch import MAX_PAYLOAD, Flag, Kind, Piece


def parts(block: bytes, kind: Kind, flags: int = 0, *, last: int = 0) -> list[Piece]:
    """One message.

    :param flags: of all pieces.
    :param last: further ones of the last piece.
    """
    if len(block) <= MAX_PAYLOAD:
        return [Piece(kind, flags | last, block)] if block else []
    return [
        Piece(kind, flags | (Flag.MORE if at + MAX_PAYLOAD < len(block) else last), block[at : at + MAX_PAYLOAD])
        for at in range(0, len(block), MAX_PAYLOAD)
    ]


class Lines:
    """Lines, or what ends in NUL.

    :param longest: bytes of the longest message; a longer one goes out as several.
    """

    def __init__(self, delimiter: bytes, longest: int) -> None:
        self.delimiter = delimiter
        self.longest = longest
        self._flags = Flag.NUL.value if delimiter == b"\0" else 0
        #: One was too long.
        self.cut_some = False

    def whole(self, block: bytes) -> list[Piece]:
        """The pieces of complete messages; ``block`` ends with a delimiter.

        No message is looked at by itself where none of them can be too long.
        """
        delimiter, window = self.delimiter, min(MAX_PAYLOAD, self.longest + 1)
        if len(block) <= window:
            return [Piece(Kind.LINES, self._flags, block)]
        pieces: list[Piece] = []
        start = at = 0
        while at < len(block):
            end = block.rfind(delimiter, at, min(at + window, start + MAX_PAYLOAD)) + 1
            if end:
                at = end
                continue
            if start < at:
                pieces.append(Piece(Kind.LINES, self._flags, block[start:at]))
            else:
                at = block.find(delimiter, at + window, at + self.longest + 1) + 1
                if at:
                    pieces += parts(block[start:at], Kind.LINES, self._flags)
                else:
                    at = start + self.longest
                    pieces += self.unfinished(block[start:at])
                    self.cut_some = True
            start = at
        if start < at:
            pieces.append(Piece(Kind.LINES, self._flags, block[start:at]))
        return pieces

    def unfinished(self, block: bytes) -> list[Piece]:
        """A message that has no delimiter, or not here."""
        return parts(block, Kind.LINES, self._flags, last=Flag.UNTERMINATED)
