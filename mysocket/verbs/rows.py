"""Rows of the inbox, as ``attach`` gets them: lines of the control socket -> whole messages -> bytes to show or to write.

Rules

1. A message is never torn: a row that comes in parts is written when its last part is here, or not at all.
2. Nothing is written twice: what lies below the position that was reached before, on this connection or an earlier one, is left
   out, also when a row begins below it and ends behind it.
3. Positions are those of the inbox, behind the message: what ``mysocket ack NAME POSITION`` takes.
"""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple
from typing import Protocol as Interface

from mysocket.control.protocol import Line, Malformed, number, read_piece
from mysocket.core.batch import Assembler, Batch, Bytes, split
from mysocket.core.wire import Hello
from mysocket.ends.escape import drawn_json, one_line
from mysocket.ends.sink import LineFormat, PlainFormat

#: The latest time a row can name, in seconds since the epoch: the end of the year 9998, in every time zone a time of this era.
LATEST = 253_370_764_800
#: Messages are not limited here: the service has limited what it keeps.
UNLIMITED = sys.maxsize


class Row(NamedTuple):
    """A line of the inbox, or a part of one.

    :param batch: the payload, its ``start`` being the position in the inbox.
    :param stream: the id of the stream it came in, in hexadecimal, and the position there behind the payload.
    :param time: when it came in, in seconds since the epoch.
    """

    batch: Batch
    stream: str
    stream_position: int
    peer: str
    time: float


def is_row(line: Line) -> bool:
    """Whether a line is a row at all."""
    return "at" in line


def read_row(line: Line) -> Row:
    """The row in a line.

    :raises Malformed: it is none.
    """
    piece = read_piece({**line, "piece": line.get("kind")})
    batch = Batch(number(line, "at"), piece.kind, piece.flags, 0, piece.payload)
    stream, peer, time = line.get("stream"), line.get("peer"), line.get("time")
    if not isinstance(stream, str) or not isinstance(peer, str | None):
        raise Malformed("a row with parts missing")
    if isinstance(time, bool) or not isinstance(time, int | float) or not 0 <= time < LATEST:
        raise Malformed("a row whose time is none")
    return Row(batch, stream, number(line, "stream_position"), peer or "", time)


class Rows:
    """Puts rows together, and leaves out what was there before.

    :ivar position: all below was given out, or is not wanted.
    :ivar seen: all below is whole, has come on this connection, and was given out on this one or an earlier one.
    """

    def __init__(self, position: int = 0) -> None:
        self.position = self.seen = position
        self._assembler = Assembler(UNLIMITED)
        self._next = 0

    def feed(self, row: Row) -> Row | None:
        """The row of whole messages that ``row`` completes, if it does and it is new.

        :raises Malformed: a part does not go on where the last one ended.
        """
        if self._assembler.held and row.batch.start != self._next:
            raise Malformed("a part of a row that is not the next one")
        self._next = row.batch.end
        block = self._assembler.feed(row.batch)
        if block is None:
            return None
        self.seen = block.end
        if block.end <= self.position:
            return None
        if block.start < self.position:
            block = replace(block, start=self.position, payload=bytes(block.payload)[self.position - block.start :])
        self.position = block.end
        return row._replace(batch=block)

    def clear(self) -> None:
        """Forget the parts: their connection is gone, and the next one gives them all."""
        self._assembler.clear()


# Writing ------------------------------------------------------------------------------------------------------------------------


class Form(Interface):
    """How rows are written."""

    def render(self, row: Row) -> Bytes:
        """The bytes for a row of whole messages."""


class _Nowhere:
    """The origin of one row for :mod:`mysocket.ends.sink`: no row goes on in the next, whatever stream that comes in."""

    peer_text = ""
    peer: Hello | None = None
    repeats_until = 0
    stream_id = b""

    def written(self, position: int) -> None:
        """Nobody asks."""


class Plain:
    """Byte for byte. A last line without its delimiter gets it when something follows."""

    def __init__(self) -> None:
        self._format = PlainFormat(whole=True)

    def render(self, row: Row) -> Bytes:
        return self._format.render(row.batch, _Nowhere())


class Json:
    """One object a message, one a line.

    :param escaped: what may not reach a terminal is written as an escape of JSON.
    """

    def __init__(self, *, escaped: bool) -> None:
        self._escaped = escaped

    def render(self, row: Row) -> Bytes:
        time = datetime.fromtimestamp(row.time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        behind = row.stream_position - row.batch.end
        lines = []
        for message in split(row.batch, UNLIMITED):
            fields: dict[str, object] = {
                "time": time,
                "peer": row.peer,
                "stream": row.stream,
                "position": message.position,
                "stream_position": behind + message.position,
            }
            try:
                fields["text"] = message.payload.decode()
            except UnicodeDecodeError:
                fields["base64"] = base64.b64encode(message.payload).decode()
            line = json.dumps(fields, ensure_ascii=False)
            lines.append((drawn_json(line) if self._escaped else line) + "\n")
        return "".join(lines).encode(errors="backslashreplace")


class Lines:
    """A line of its own for each message: for a terminal, or with the local time when it came in before each.

    :param escaped: what may not reach a terminal is shown escaped.
    :param named: once a second sender, or stream, has come, each line names its sender.
    """

    def __init__(self, *, escaped: bool, stamped: bool, named: bool = False) -> None:
        self._time = 0.0
        self._format = LineFormat(UNLIMITED, escaped=escaped, stamp=(lambda: self._time) if stamped else None)
        self._named = named
        self._senders: set[tuple[str, str]] = set()

    def render(self, row: Row) -> Bytes:
        self._time = row.time
        data = self._format.render(row.batch, _Nowhere())
        if not self._named:
            return data
        if len(self._senders) < 2:
            self._senders.add((row.peer, row.stream))
        if len(self._senders) < 2:
            return data
        name = one_line(row.peer or row.stream[:8]).encode(errors="backslashreplace")
        # Each line, so that no message with newlines in it can speak for another sender.
        return b"".join(name + b": " + line + b"\n" for line in bytes(data).removesuffix(b"\n").split(b"\n"))
