"""Where a source puts what it reads, in a test."""

from __future__ import annotations

from collections.abc import Callable

from mysocket.core.batch import Piece
from mysocket.metrics import Rejected
from mysocket.spool.interface import Bookmark


class Taking:
    """An intake that keeps everything."""

    def __init__(self) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self.full = False
        self.pieces: list[Piece] = []
        self.dropped: list[str] = []
        self.rejected: list[tuple[object, str]] = []
        self.told: list[str] = []
        self.ended = False

    def give(self, pieces: list[Piece], bookmark: Bookmark | None = None) -> None:
        assert bookmark is None
        self.pieces += pieces

    def end(self) -> None:
        self.ended = True

    def drop(self, text: str) -> None:
        self.dropped.append(text)

    def reject(self, key: object, text: str, *, address: str, why: Rejected) -> None:
        self.rejected.append((why, text))
        assert address in text

    def tell(self, text: str) -> None:
        self.told.append(text)

    complain = tell

    @property
    def bytes(self) -> bytes:
        return b"".join(piece.payload for piece in self.pieces)
