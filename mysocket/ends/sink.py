"""Where messages go: blocks of a stream -> bytes of a descriptor, and word when they are there."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol as Interface

from mysocket.core.batch import Batch, Bytes, Flag, Kind, split
from mysocket.core.wire import Hello
from mysocket.ends.escape import Escaper, drawn_json, escape


class Origin(Interface):
    """Where a block comes from."""

    peer_text: str
    peer: Hello | None

    @property
    def repeats_until(self) -> int:
        """Messages up to this position may have been written by an earlier process."""

    @property
    def stream_id(self) -> bytes:
        """The stream's id."""

    def written(self, position: int) -> None:
        """All before ``position`` is safe."""


class Sink(Interface):
    """Where a link puts what it receives."""

    #: Parts of long messages must be put together first.
    whole: bool
    #: What was written and not committed stays there when this process dies, and comes again.
    repeats: bool

    @property
    def room(self) -> int:
        """Bytes that it can take; what is granted to peers is not more."""

    def write(self, block: Batch, origin: Origin) -> None:
        """Take a batch, or with :attr:`whole` a block of whole messages; call ``origin.written(block.end)`` when it is safe,
        in the order of the blocks.

        :raises MessageTooLong: it holds a message that is larger than the sink puts together.
        """

    def agreed(self, *, cut: bool) -> None:
        """A peer and this side have agreed where its stream goes on.

        :param cut: the peer holds what an earlier process wrote and did not commit, so that may go; else it stays.
        """


class Output(Interface):
    """Takes bytes, and says when they are written."""

    #: What was written and not committed stays there when this process dies, and comes again.
    repeats: bool

    def write(self, data: Bytes, done: Callable[[], None]) -> None:
        """Write, then call ``done``."""

    def agreed(self, *, cut: bool) -> None:
        """A peer and this side have agreed where its stream goes on.

        :param cut: the peer holds what an earlier process wrote and did not commit, so that may go; else it stays.
        """


class Format(Interface):
    """How blocks are written."""

    #: Whole messages are needed.
    whole: bool

    def render(self, block: Batch, origin: Origin) -> Bytes:
        """The bytes for a block."""


class PlainFormat:
    """Byte for byte.

    :param whole: several senders share the output, so that messages must not be torn apart.
    """

    def __init__(self, whole: bool = False) -> None:
        self.whole = whole
        self._open: Origin | None = None
        self._open_stream = b""
        self._whole_line = False  # what is open is all of a line; another message behind it is another line
        self._delimiter = b"\n"

    def render(self, block: Batch, origin: Origin) -> Bytes:
        if block.kind == Kind.END:
            self._whole_line = False
            return b""
        data = block.payload
        # A line without a delimiter, the last of an input or one broken off, stays as it was: the next input goes on behind it,
        # as with cat. But not another stream, nor another message that was handed to the same service.
        if self._open is not None and (self._whole_line or not self._goes_on(origin)):
            data = self._delimiter + bytes(data)
        self._open = None
        if block.flags & Flag.UNTERMINATED or block.kind == Kind.LINES and block.flags & Flag.MORE:
            self._open, self._open_stream = origin, origin.stream_id
            self._whole_line = bool(block.flags & Flag.UNTERMINATED)
            self._delimiter = b"\0" if block.flags & Flag.NUL else b"\n"
        return data

    def _goes_on(self, origin: Origin) -> bool:
        """Is it the stream whose line is open? It may come on another link; one without an id is known by where it comes from."""
        return self._open_stream == origin.stream_id if origin.stream_id else self._open is origin


class EscapedFormat:
    """Plain bytes on a terminal, as they come: a prompt without an end of line is shown at once."""

    whole = False

    def __init__(self) -> None:
        self._escaper = Escaper()

    def render(self, block: Batch, origin: Origin) -> Bytes:
        if block.kind == Kind.END:
            return self._escaper.finish()
        return self._escaper.feed(bytes(block.payload))


class JsonFormat:
    """One JSON object a message, one line each.

    :param now: the time in seconds since the epoch.
    :param escaped: what may not reach a terminal is written as an escape of JSON.
    """

    whole = True

    def __init__(self, max_message: int, now: Callable[[], float], *, escaped: bool = False) -> None:
        self._max_message = max_message
        self._now = now
        self._escaped = escaped

    def render(self, block: Batch, origin: Origin) -> Bytes:
        time = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        lines = []
        for message in split(block, self._max_message):
            fields: dict[str, object] = {
                "time": time,
                "peer": (origin.peer.name if origin.peer is not None else "") or origin.peer_text,
                "stream": origin.stream_id.hex(),
                "position": message.position,
            }
            try:
                fields["text"] = message.payload.decode()
            except UnicodeDecodeError:
                fields["base64"] = base64.b64encode(message.payload).decode()
            if message.position - len(message.payload) <= origin.repeats_until:
                fields["maybe_repeat"] = True
            line = json.dumps(fields, ensure_ascii=False)
            lines.append((drawn_json(line) if self._escaped else line) + "\n")
        # A name may hold half of a surrogate pair, which is no UTF-8.
        return "".join(lines).encode(errors="backslashreplace")


class LineFormat:
    """A line of its own for each message: for a terminal, or with the local time before each.

    :param escaped: what may not reach a terminal is shown escaped.
    :param stamp: the local time in seconds since the epoch, or None for no time before the line.
    """

    whole = True

    def __init__(self, max_message: int, *, escaped: bool, stamp: Callable[[], float] | None = None) -> None:
        self._max_message = max_message
        self._escaped = escaped
        self._stamp = stamp

    def render(self, block: Batch, origin: Origin) -> Bytes:
        before = b""
        if self._stamp is not None:
            before = datetime.fromtimestamp(self._stamp()).astimezone().isoformat(timespec="milliseconds").encode() + b" "
        lines = []
        for message in split(block, self._max_message):
            payload = escape(message.payload) if self._escaped else message.payload
            lines.append(before + payload.removesuffix(b"\n") + b"\n")
        return b"".join(lines)


class FormatSink:
    """A link's sink: renders blocks and writes them to an output."""

    #: An output that is slow holds up what is granted by itself.
    room = sys.maxsize

    def __init__(self, format: Format, output: Output) -> None:
        self.whole = format.whole
        self.repeats = output.repeats
        self._format = format
        self._output = output

    def write(self, block: Batch, origin: Origin) -> None:
        position = block.end
        self._output.write(self._format.render(block, origin), lambda: origin.written(position))

    def agreed(self, *, cut: bool) -> None:
        self._output.agreed(cut=cut)
