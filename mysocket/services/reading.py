"""Reading a file that is sent, elsewhere than in the reactor's thread: blocks of pieces, each with where it ends in the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar
from typing import Protocol as Interface

from mysocket.core.batch import Piece
from mysocket.core.transfer import HEAD_SIZE, Part
from mysocket.ends.filereader import BLOCK, FileReader
from mysocket.ends.worker import Outcome
from mysocket.services.upload import Mark

T = TypeVar("T")


class Hand(Interface):
    """Who reads: :class:`mysocket.ends.worker.Worker`."""

    def do(self, work: Callable[[], T], done: Callable[[Outcome[T]], None]) -> None:
        """Do ``work`` elsewhere, then call ``done`` here."""


class Read(NamedTuple):
    """What was read in one go: the pieces, each with the bytes of the file up to its end."""

    reader: FileReader
    pieces: list[tuple[Piece, int]]


def open_file(id: bytes, mark: Mark, begun: bool) -> Read:
    """Open the file, come to where it stands, and read on."""
    reader = FileReader(mark.path, id, mark.stamp)
    try:
        while reader.offset < mark.offset:
            reader.skip(min(BLOCK, mark.offset - reader.offset))
        found = read_on(reader)
    except BaseException:
        reader.close()
        raise
    return found if begun else Read(reader, [(reader.offer(), 0), *found.pieces])


def read_on(reader: FileReader) -> Read:
    """The next block."""
    at, found = reader.offset, []
    for piece in reader.read():
        if piece.payload[0] == Part.DATA:
            at += len(piece.payload) - HEAD_SIZE
        found.append((piece, at))
    return Read(reader, found)
