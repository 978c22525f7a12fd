"""A sender of files, without the product's own sending side: a stream of pieces over a plain socket, on which nothing waits for
anything but what a test asks for. It lives on when a connection, or the receiver, is lost."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from types import TracebackType
from typing import Final, Self

from mysocket.core import wire
from mysocket.core.batch import END, Batch, Flag, Kind, Piece, chain
from mysocket.core.reader import FrameReader
from mysocket.core.transfer import CHUNK, Chunk, Part
from tests.support.processes import TIMEOUT

#: Nodes and streams have ids of their own.
_ids = random.Random(20251)


def content(size: int, seed: int = 0) -> bytes:
    """The bytes of a file."""
    return random.Random(seed).randbytes(size)


def chunks(data: bytes, name: str = "report.csv", *, id: bytes = b"", size: int = CHUNK) -> list[Chunk]:
    """The chunks of a file, with so many bytes in each."""
    id = id or _ids.randbytes(16)
    body = [Chunk(Part.DATA, id, at, data[at : at + size]) for at in range(0, len(data), size)]
    end = Chunk(Part.END, id, len(data), text=name, digest=sha256(data).digest())
    return [Chunk(Part.OFFER, id, len(data), text=name), *body, end]


def pieces(data: bytes, name: str = "report.csv", *, id: bytes = b"", size: int = CHUNK) -> list[Piece]:
    """The pieces of a file."""
    return [chunk.piece() for chunk in chunks(data, name, id=id, size=size)]


def line(text: str) -> Piece:
    """A message."""
    return Piece(Kind.LINES, 0, text.encode() + b"\n")


class FileSender:
    """Sends a stream of pieces to 127.0.0.1:`port`, in a HELLO of its own.

    :param durable: says that it keeps its stream.
    """

    def __init__(self, port: int, *, durable: bool = False, name: str = "hosta") -> None:
        self.port = port
        node, stream = _ids.randbytes(16), _ids.randbytes(16)
        place = _ids.randbytes(8) if durable else b""
        self.hello: Final = wire.Hello(
            node=node, stream=stream, name=name, durable=durable, input=wire.Input.FINITE, takes=False, place=place
        )
        #: The whole stream, and how much of it is acknowledged.
        self.batches: list[Batch] = []
        self.acknowledged = 0
        #: What the receiver said of itself, and its last word.
        self.peer: wire.Hello | None = None
        self.bye: wire.Bye | None = None
        self._socket: socket.socket | None = None
        self._reader = FrameReader()
        self._frames: list[wire.Frame] = []
        self._window = 0
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.disconnect()

    @property
    def end(self) -> int:
        """The position behind all that was given."""
        return self.batches[-1].end if self.batches else 0

    def give(self, *given: Piece) -> int:
        """Append to the stream; the position behind it."""
        for piece in given:
            before = self.batches[-1].checksum if self.batches else 0
            self.batches.append(Batch(self.end, piece.kind, piece.flags, chain(piece.payload, before), piece.payload))
        return self.end

    def end_input(self) -> int:
        """Append the end mark."""
        return self.give(END)

    # The connection

    def connect(self) -> None:
        """Connect, and attach the stream."""
        self.disconnect()
        self._socket = socket.create_connection(("127.0.0.1", self.port), TIMEOUT)
        self._socket.settimeout(TIMEOUT)
        self._reader, self._frames, self.bye = FrameReader(), [], None
        self._say(wire.MAGIC + wire.encode(self.hello))
        hello = self.hear()
        assert isinstance(hello, wire.Hello), hello
        self.peer = hello
        self._say(wire.encode(wire.Attach(self.hello.stream)))
        resume = self._wait(wire.Resume)
        if resume.position == wire.NONE:
            start = self.acknowledged
        else:
            start = resume.position
        value = next((batch.checksum for batch in self.batches if batch.end == start), 0)
        assert resume.position == wire.NONE or resume.chain == value
        self._window = resume.window
        self._sent = start
        self._say(wire.encode(wire.Start(start, value)))

    def disconnect(self) -> None:
        """Close the connection, at once."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _say(self, data: bytes) -> None:
        assert self._socket is not None
        self._socket.sendall(data)

    def hear(self) -> wire.Frame:
        """The next frame."""
        assert self._socket is not None
        while not self._frames:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("closed")
            self._reader.feed(data, self._frames)
        return self._frames.pop(0)

    def _listen(self) -> wire.Frame:
        """Take one frame, whatever it says."""
        frame = self.hear()
        if isinstance(frame, wire.Ack):
            self.acknowledged = max(self.acknowledged, frame.position)
            self._window = max(self._window, frame.window)
        elif isinstance(frame, wire.Ping):
            self._say(wire.encode(wire.Pong(frame.number)))
        elif isinstance(frame, wire.Bye):
            self.bye = frame
        return frame

    def _wait(self, kind: type[wire.Resume]) -> wire.Resume:
        while not isinstance(frame := self._listen(), kind):
            pass
        return frame

    def _next(self) -> Iterator[Batch]:
        for batch in self.batches:
            if batch.start >= self._sent:
                yield batch

    def send(self, until: int | None = None) -> None:
        """Send what was given, up to a position, as far as the window goes and further when it opens."""
        goal = self.end if until is None else until
        for batch in self._next():
            if batch.start >= goal:
                return
            while batch.start >= self._window:
                self._listen()
                if self.bye is not None:
                    raise ConnectionResetError(str(self.bye))
            self._say(wire.batch_header(batch))
            self._say(bytes(batch.payload))
            self._sent = batch.end

    def wait_acknowledged(self, position: int | None = None) -> None:
        """Wait until all before a position is acknowledged."""
        goal = self.end if position is None else position
        while self.acknowledged < goal:
            self._listen()
            if self.bye is not None:
                raise ConnectionResetError(str(self.bye))

    def wait_bye(self) -> wire.Bye:
        """Wait for the last word of the receiver."""
        while self.bye is None:
            self._listen()
        return self.bye

    def finish(self) -> None:
        """All is acknowledged: say so, and close the connection as a node does, or the other side would wait for that."""
        assert self._socket is not None
        self._say(wire.encode(wire.Bye(wire.Reason.DONE)))
        self._socket.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while self._socket.recv(65536):
                pass
        self.disconnect()


def in_parts(message: bytes) -> Piece:
    """A message that goes on."""
    return Piece(Kind.LINES, Flag.MORE, message)
