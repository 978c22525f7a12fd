"""Data without a protocol on its way to a sink, which wants batches of a stream and an origin for them."""

from __future__ import annotations

from collections.abc import Callable

from mysocket.core.batch import END, Assembler, Batch, Bytes, Flag, Kind, LineCutter, Piece
from mysocket.core.wire import Hello
from mysocket.ends.sink import Sink


class RawOrigin:
    """What a sink knows of raw data: where it comes from, and how much of it is written."""

    peer: Hello | None = None
    repeats_until = 0
    stream_id = b""

    def __init__(self, sink: Sink, *, cut_lines: bool, max_message: int, on_written: Callable[[], None]) -> None:
        self.peer_text = "the peer"
        self.given = 0
        self.safe = 0
        self._sink = sink
        self._cutter = LineCutter() if cut_lines else None
        self._assembler = Assembler(max_message)
        self._on_written = on_written

    @property
    def waiting(self) -> int:
        """Bytes that the output has not taken yet."""
        return self.given - self.safe

    def give(self, data: bytes) -> None:
        """Give bytes of a stream to the sink."""
        if self._cutter is None:
            self._write(Kind.BLOB, Flag.CHUNK, data)
        else:
            self._pieces(self._cutter.feed(data))

    def end(self) -> None:
        """The stream has ended."""
        if self._cutter is not None:
            self._pieces(self._cutter.finish())
        self._write(END.kind, END.flags, END.payload)

    def message(self, data: bytes) -> None:
        """Give one message."""
        self._write(Kind.BLOB, 0, data)

    def _pieces(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            block = self._assembler.feed(Batch(self.given, piece.kind, piece.flags, 0, piece.payload))
            if block is not None:
                self._write(block.kind, block.flags, block.payload)

    def _write(self, kind: Kind | int, flags: int, data: Bytes) -> None:
        block = Batch(self.given, kind, flags, 0, data)
        self.given = block.end
        self._sink.write(block, self)

    def written(self, position: int) -> None:
        self.safe = position
        self._on_written()
