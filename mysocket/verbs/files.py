"""The input of ``mysocket send --file``: files, as the pieces of transfers; and how far they have come, for people.

Rules

1. All are looked at before anything is sent: one that cannot be sent keeps the others back.
2. The ids of the transfers follow from that of the request: said again, it is the same transfers.
3. What was said of a file that is given up is followed by CANCEL. What was not said need not be taken back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from mysocket.control.protocol import REQUEST_SIZE
from mysocket.core.batch import Piece
from mysocket.core.transfer import Chunk, Part, read_chunk
from mysocket.ends.filereader import FileReader, Stamp
from mysocket.ends.progress import ProgressLine, size_text

#: Seconds between two drawings of the line.
INTERVAL = 0.2


class Files:
    """An :class:`~mysocket.control.sender.Input`, and a :class:`~mysocket.control.sender.Transfers`.

    :param request: the id of the request.
    :raises NotSendable: one cannot be sent.
    """

    def __init__(self, paths: Sequence[str], request: bytes) -> None:
        self.ended = False
        self.alone = len(paths) == 1
        self._paths = [*paths]
        self._ids = [sha256(request + number.to_bytes(8)).digest()[:REQUEST_SIZE] for number in range(len(paths))]
        self._stamps: list[Stamp] = []
        for path in paths:
            reader = FileReader(path, bytes(REQUEST_SIZE))
            self._stamps.append(reader.stamp)
            reader.close()
        #: Bytes of all of them.
        self.size = sum(stamp.size for stamp in self._stamps)
        self._at = 0
        self._reader = self._begin()

    def _begin(self) -> FileReader:
        self._offered, self._given = False, 0  # bytes of the file
        return FileReader(self._paths[self._at], self._ids[self._at], self._stamps[self._at])

    def fileno(self) -> int:
        return self._reader.fileno()

    def read(self) -> list[Piece]:
        """The next pieces.

        :raises MySocketError: a file is not what it was, or cannot be read.
        """
        reader = self._reader
        if reader.ended:
            self._reader = self._begin()
            reader.close()
            reader = self._reader
        pieces = [*([] if self._offered else [reader.offer()]), *reader.read()]
        self._offered, self._given = True, reader.offset
        if reader.ended:
            # Its descriptor still tells that there is more: of the next.
            self._at += 1
            self.ended = self._at == len(self._paths)
            if self.ended:
                reader.close()
        return pieces

    def cancel(self, why: str, dropped: Iterable[Piece]) -> list[Piece]:
        """What is to be said of what will not come, where those pieces were given and not said."""
        self.ended = True
        self._reader.close()
        begun = {self._reader.id: self._given} if self._offered and not self._reader.ended else {}
        for piece in reversed([*dropped]):
            chunk = read_chunk(piece.payload)
            if chunk.part is Part.OFFER:
                begun.pop(chunk.id, None)
            else:
                begun[chunk.id] = chunk.offset
        return [Chunk(Part.CANCEL, id, offset, text=why).piece() for id, offset in begun.items()]


class Meter:
    """Draws on a terminal how much is accepted.

    :param write: writes to it.
    """

    def __init__(self, size: int, write: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._line = ProgressLine(write)
        self._now = now
        self._begun = now()
        self._due = self._begun + INTERVAL

    def show(self, accepted: int) -> None:
        """So many bytes are; heads of pieces included."""
        now = self._now()
        if now < self._due:
            return
        self._due = now + INTERVAL
        share = min(100, 100 * accepted // self._size) if self._size else 100
        rate = accepted / (now - self._begun)
        self._line.show(f"{size_text(accepted)} of {size_text(self._size)} ({share} %) accepted, {size_text(int(rate))}/s")

    def clear(self) -> None:
        """Leave nothing of the line."""
        self._line.clear()


def write_to(fd: int) -> Callable[[str], None]:
    """Writes text there; what cannot be written is lost."""

    def write(text: str) -> None:
        try:
            os.write(fd, text.encode(errors="replace"))
        except OSError:
            pass

    return write
