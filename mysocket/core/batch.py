"""Batches: the unit that travels and is stored, and the two ways across its border.

* :class:`LineCutter`, :class:`ChunkCutter` and :class:`WholeCutter` turn the bytes of an input into pieces of a stream.
* :class:`Assembler` and :func:`split` turn batches back into whole messages, for sinks which need them whole.

Rules

1. A batch is never changed once it is made, and never holds more than :data:`MAX_PAYLOAD` bytes.
2. Nothing here looks at single messages on the way from a pipe to a pipe: one ``rfind`` finds the last message boundary in what
   was read. Counting newlines costs more than all the rest of the data path together.
3. A message longer than a batch travels as several, all but the last flagged MORE. A batch flagged MORE holds a part of one
   message and nothing else; the batch that ends the message may hold further whole ones behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple
from typing import Protocol as Interface

from xxhash import xxh3_64_intdigest

from mysocket.errors import MessageTooLong

#: Bytes of payload in one batch, at most. Large enough that the cost of a batch does not count, small enough that a link which
#: breaks every megabyte still gets on.
MAX_PAYLOAD = 256 * 1024

Bytes = bytes | memoryview


class Kind(IntEnum):
    """What the payload of a batch is (a byte on the wire)."""

    #: Messages which each end in LF, or in NUL by a flag; the delimiters are in the payload.
    LINES = 1
    #: One message of any bytes, or with MORE a part of one.
    BLOB = 2
    #: The input that was being sent has ended here. One byte of payload, so that it has a position and is acknowledged.
    END = 3
    #: A chunk of a file (transfer.py).
    FILE = 4


class Flag(IntFlag):
    """Flags of a batch (a byte on the wire)."""

    #: The message goes on in the next batch.
    MORE = 1
    #: Messages end in NUL, not in LF.
    NUL = 2
    #: The very last line of the input had no delimiter.
    UNTERMINATED = 4
    #: The BLOB is what one read gave (``--stream``): no message boundary is meant.
    CHUNK = 8


#: The payload of an END.
END_PAYLOAD = b"\x04"
#: The first byte of a chunk behind which nothing more of its file comes (transfer.py).
FILE_ENDS = (b"\x03", b"\x04")
KNOWN_FLAGS = int(Flag.MORE | Flag.NUL | Flag.UNTERMINATED | Flag.CHUNK)


def chain(payload: Bytes, before: int) -> int:
    """The chain value behind ``payload``: its XXH3-64, seeded with the chain value ``before`` it (0 at position 0)."""
    return xxh3_64_intdigest(payload, before)


@dataclass(frozen=True, slots=True)
class Batch:
    """The bytes ``[start, end)`` of a stream. Positions count payload bytes from 0; ``checksum`` is the chain value at end."""

    start: int
    kind: int
    flags: int
    checksum: int
    payload: Bytes

    @property
    def end(self) -> int:
        return self.start + len(self.payload)


class Piece(NamedTuple):
    """A batch before it has a position: what a cutter makes and a stream takes."""

    kind: Kind
    flags: int
    payload: bytes


END = Piece(Kind.END, 0, END_PAYLOAD)


class Cutter(Interface):
    """Bytes of an input in, pieces out."""

    @property
    def held(self) -> int:
        """Bytes held back until more is known; read at most ``MAX_PAYLOAD - held`` to get one piece for one read."""

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that ``data`` completes."""

    def finish(self) -> list[Piece]:
        """The pieces left when the input has ended, without the END."""


class LineCutter:
    """One line, one message: cuts at the last delimiter of what was read and keeps the rest for the next read."""

    def __init__(self, delimiter: bytes = b"\n") -> None:
        self._delimiter = delimiter
        self._flags = Flag.NUL.value if delimiter == b"\0" else 0
        self._tail = b""

    @property
    def held(self) -> int:
        return len(self._tail)

    def feed(self, data: bytes) -> list[Piece]:
        cut = data.rfind(self._delimiter) + 1
        if not cut:
            block, self._tail = self._tail + data, b""
            return self._parts(block)
        if cut == len(data) and not self._tail:
            block = data
        else:
            block = b"".join((self._tail, memoryview(data)[:cut]))
        self._tail = data[cut:]
        if len(block) <= MAX_PAYLOAD:
            return [Piece(Kind.LINES, self._flags, block)]
        return self._blocks(block)

    def finish(self) -> list[Piece]:
        tail, self._tail = self._tail, b""
        return [Piece(Kind.LINES, self._flags | Flag.UNTERMINATED, tail)] if tail else []

    def _parts(self, block: bytes) -> list[Piece]:
        # At least one byte stays behind, for the piece that says how the message ends.
        pieces, at, more = [], 0, self._flags | Flag.MORE
        while len(block) - at > MAX_PAYLOAD:
            pieces.append(Piece(Kind.LINES, more, block[at : at + MAX_PAYLOAD]))
            at += MAX_PAYLOAD
        self._tail = block[at:]
        return pieces

    def _blocks(self, block: bytes) -> list[Piece]:
        pieces, at = [], 0
        while at < len(block):
            end = block.rfind(self._delimiter, at, at + MAX_PAYLOAD) + 1
            flags = self._flags if end else self._flags | Flag.MORE
            end = end or at + MAX_PAYLOAD
            pieces.append(Piece(Kind.LINES, flags, block[at:end]))
            at = end
        return pieces


class ChunkCutter:
    """``--stream``: what one read gives goes out at once; nothing is held back and no boundary is meant."""

    held = 0

    def feed(self, data: bytes) -> list[Piece]:
        return [Piece(Kind.BLOB, Flag.CHUNK, data[at : at + MAX_PAYLOAD]) for at in range(0, len(data), MAX_PAYLOAD)]

    def finish(self) -> list[Piece]:
        return []


class WholeCutter:
    """``--whole``: the whole input is one message. The last part is held back until it is known to be the last."""

    def __init__(self) -> None:
        self._tail = b""

    @property
    def held(self) -> int:
        return len(self._tail)

    def feed(self, data: bytes) -> list[Piece]:
        block, at = self._tail + data, 0
        pieces = []
        while len(block) - at > MAX_PAYLOAD:
            pieces.append(Piece(Kind.BLOB, Flag.MORE, block[at : at + MAX_PAYLOAD]))
            at += MAX_PAYLOAD
        self._tail = block[at:]
        return pieces

    def finish(self) -> list[Piece]:
        tail, self._tail = self._tail, b""
        return [Piece(Kind.BLOB, 0, tail)] if tail else []


def cutter(cut: str) -> Cutter:
    """The cutter for ``lines``, ``null``, ``stream`` or ``whole``."""
    if cut == "stream":
        return ChunkCutter()
    if cut == "whole":
        return WholeCutter()
    return LineCutter(b"\0" if cut == "null" else b"\n")


class Assembler:
    """Puts the parts of long messages together again: batches in, blocks of whole messages out.

    ``limit`` is the largest message in bytes that is put together (``--max-message``).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[Bytes] = []
        self._start = 0
        self._last: Batch | None = None
        #: Bytes of an unfinished message that are held.
        self.held = 0

    def feed(self, batch: Batch) -> Batch | None:
        """The block of whole messages that ``batch`` completes, if it does.

        :raises MessageTooLong: a message is larger than the limit; nothing of it may be acknowledged.
        """
        if not self.held and not batch.flags & Flag.MORE:
            return batch
        size = self.held + _message_size(batch)
        if size > self._limit:
            raise MessageTooLong(limit=self._limit, position=self._start if self.held else batch.start)
        if not self.held:
            self._start = batch.start
        self._parts.append(batch.payload)
        self.held += len(batch.payload)
        if batch.flags & Flag.MORE:
            self._last = batch
            return None
        payload, start = b"".join(self._parts), self._start
        self.clear()
        return Batch(start, batch.kind, batch.flags, batch.checksum, payload)

    def end(self) -> Batch | None:
        """The block of an unfinished message, as far as it came, if there is one: an END follows, so its rest will not come."""
        last = self._last
        if last is None:
            return None
        flags = last.flags & ~Flag.MORE
        if last.kind == Kind.LINES:
            flags |= Flag.UNTERMINATED
        block = Batch(self._start, last.kind, flags, last.checksum, b"".join(self._parts))
        self.clear()
        return block

    def clear(self) -> None:
        """Forget the parts: their stream does not go on."""
        self._parts, self.held, self._last = [], 0, None


class Message(NamedTuple):
    """One message. ``position`` is where the stream stands behind it; ``payload`` has no delimiter."""

    position: int
    payload: bytes


def split(block: Batch, limit: int) -> Iterator[Message]:
    """The messages of a block which an :class:`Assembler` gave out; none for an END.

    :raises MessageTooLong: one is larger than ``limit`` bytes.
    """
    if block.kind == Kind.END:
        return
    data, at = bytes(block.payload), 0
    if block.kind == Kind.BLOB:
        ends = [len(data)]
        delimiter_size = 0
    else:
        ends = []
        delimiter_size = 1
        delimiter = _delimiter(block.flags)
        while (found := data.find(delimiter, at)) >= 0:
            at = found + 1
            ends.append(at)
        if at < len(data):
            ends.append(len(data) + 1)
        at = 0
    for end in ends:
        if end - at > limit + delimiter_size:
            raise MessageTooLong(limit=limit, position=block.start + at)
        yield Message(block.start + min(end, len(data)), data[at : end - delimiter_size])
        at = end


def _delimiter(flags: int) -> bytes:
    return b"\0" if flags & Flag.NUL else b"\n"


def _message_size(batch: Batch) -> int:
    """Bytes of the message that begins or goes on in ``batch``, without its delimiter."""
    if batch.kind != Kind.LINES or batch.flags & Flag.MORE:
        return len(batch.payload)
    found = bytes(batch.payload).find(_delimiter(batch.flags))
    return found if found >= 0 else len(batch.payload)


def count(batch: Batch) -> int:
    """How many messages end in a batch. For people, when a link has ended; never on the way of the data."""
    if batch.kind == Kind.END or batch.flags & Flag.MORE:
        return 0
    if batch.kind == Kind.FILE:
        return int(bytes(batch.payload[:1]) in FILE_ENDS)
    if batch.kind == Kind.BLOB:
        return 1
    return bytes(batch.payload).count(_delimiter(batch.flags)) + bool(batch.flags & Flag.UNTERMINATED)
