"""A file as an input: read once to its end, or followed as ``tail -F`` does. No Twisted here; everything may wait for a disk.

Rules

1. The first time from the start. A :class:`~mysocket.inputs.place.Place` says how far it was read, and is committed together with
   what was read; the next process goes on there. So each byte is given once, also of a file that is read once and has grown.
2. The place stands behind whole messages: a last line without its end waits for it, in the file. Read once, the file ends with
   that line; what is written behind it later is a message of its own.
3. A message is given as a whole, with all its pieces. One that is longer than the limit goes out as several, each but the last
   without its end, and that is said once of each file.
4. A followed file that was renamed or deleted is read to its end first; what is unfinished there is a message. Then comes the
   next (succession.py).
5. A file in which that is gone which was read is read from its start. If somebody has copied it before, as ``copytruncate``
   does, and the copy lies beside it, its rest comes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from mysocket.core.batch import MAX_PAYLOAD, Flag, Kind, Piece
from mysocket.errors import InputUnread, WholeTooLong
from mysocket.inputs.cutting import Lines, parts
from mysocket.inputs.openfile import OpenFile, Truncated
from mysocket.inputs.place import Place, bookmark_name
from mysocket.inputs.succession import Report, Succession

__all__ = ["Follower", "Found", "bookmark_name"]

#: The least that is read at once, in bytes.
LEAST_READ = 4096


class Found(NamedTuple):
    """What one look has found.

    :param pieces: whole messages.
    :param place: where the file stands behind them, encoded; empty: nowhere yet.
    :param news: what a user may want to know, a sentence each.
    :param ended: all is read (of a file that is not followed).
    :param losses: what one must know: something is missing, or cannot be read.
    """

    pieces: list[Piece]
    place: bytes
    news: list[str]
    ended: bool
    losses: list[str]


class Follower:
    """See the module. One thread at a time; nothing is opened before the first look.

    :param cut: ``lines`` or ``null``; or, of a file that is not followed, ``stream`` or ``whole``.
    :param max_message: bytes of the longest message.
    :param place: where an earlier process stood, as it was given with the pieces.
    :param now: time in seconds.
    :raises PlaceUnknown: that cannot be understood.
    """

    def __init__(
        self,
        path: str,
        *,
        follow: bool,
        cut: str,
        max_message: int,
        place: bytes | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if follow and cut not in ("lines", "null"):
            raise ValueError(f"a file that is followed has no end, so it cannot be cut as {cut}")
        self._report = Report()
        self._files = Succession(path, follow=follow, report=self._report, now=now)
        if place:
            self._files.remembered = Place.decode(place, self._files.shown)
        self.path, self.shown, self.follow = self._files.path, self._files.shown, follow
        self._cut = cut
        self._lines = Lines(b"\0" if cut == "null" else b"\n", max_message)
        self._row = place or b""
        self._closed = self._ended = False
        self._told_long: OpenFile | None = None

    # For users ------------------------------------------------------------------------------------------------------------------

    def read(self, limit: int) -> Found:
        """The next whole messages: about ``limit`` bytes, or one that is longer; none: there are none now.

        :raises InputMissing: there is no such file, and it is not waited for.
        :raises InputRefused: it is nothing that can be read so.
        :raises InputUnread: the system says why.
        :raises WholeTooLong:
        """
        pieces: list[Piece] = []
        try:
            self._look()
            size = 0
            # A little room at the end would give a little piece.
            while (file := self._files.current) is not None and not self._ended and (not pieces or limit - size >= LEAST_READ):
                try:
                    more = self._step(file, max(LEAST_READ, min(limit - size, MAX_PAYLOAD)))
                except Truncated:
                    more = self._was_truncated(file)
                if more is None:
                    break
                pieces += more
                size += sum(len(piece.payload) for piece in more)
        except OSError as problem:
            raise InputUnread(problem.strerror or str(problem), where=self.shown) from None
        return self._found(pieces)

    def look(self) -> Found:
        """Only see whether another file has the name now, and hold it. To be called again and again while nothing is read.

        :raises MySocketError: as :meth:`read`.
        """
        try:
            self._look()
        except OSError as problem:
            raise InputUnread(problem.strerror or str(problem), where=self.shown) from None
        return self._found([])

    def close(self) -> None:
        """Give all descriptors back; nothing is read any more."""
        self._closed = True
        self._files.close()

    def _look(self) -> None:
        if not self._closed and not self._ended:
            self._files.look()

    def _found(self, pieces: list[Piece]) -> Found:
        if self._files.current is not None:
            self._row = self._files.current.place().encode()
        return Found(pieces, self._row, *self._report.take(self._ended))

    # Reading --------------------------------------------------------------------------------------------------------------------

    def _step(self, file: OpenFile, size: int) -> list[Piece] | None:
        """Read once; None: there is nothing to read now."""
        if file.held <= size - LEAST_READ:
            size -= file.held  # so that what becomes complete fits into one piece
        data = file.take(size)
        if not data:
            return self._at_end(file)
        before = file.held
        file.hold(data)
        if self._cut == "stream":
            return parts(file.give(), Kind.BLOB, Flag.CHUNK)
        if self._cut == "whole":
            if file.held > self._lines.longest:
                raise WholeTooLong(where=self.shown, limit=self._lines.longest)
            return []
        return self._cut_lines(file, before + data.rfind(self._lines.delimiter) + 1 if self._lines.delimiter in data else 0)

    def _cut_lines(self, file: OpenFile, complete: int) -> list[Piece]:
        lines = self._lines
        pieces = lines.whole(file.give(complete)) if complete else []
        while file.held > lines.longest:
            lines.cut_some = True
            pieces += lines.unfinished(file.give(lines.longest))
        if lines.cut_some:
            lines.cut_some = False
            if self._told_long is not file:
                self._told_long = file
                self._report.tell(
                    f"{self.shown} has a message longer than --max-message ({lines.longest} bytes), which goes out as several"
                )
        return pieces

    def _at_end(self, file: OpenFile) -> list[Piece] | None:
        if self.follow:
            return self._unfinished(file) if self._files.leave() else None
        self._ended = True
        return self._unfinished(file)

    def _unfinished(self, file: OpenFile) -> list[Piece]:
        """What is held of a file that has ended, as a message."""
        if self._cut == "whole":
            return parts(file.give(), Kind.BLOB)
        return self._lines.unfinished(file.give())

    def _was_truncated(self, file: OpenFile) -> list[Piece] | None:
        """What was read is not in it any more: the rest of what it was, then it is read from its start."""
        found = self._files.go_on_with_copy()
        if found is None:
            return None
        pieces = [] if found or self._cut == "whole" else self._unfinished(file)
        file.reset()
        return pieces
