"""The control socket's language: JSON objects, one a line. docs/control.md has it for those who write a client of their own.

Rules

1. The service speaks first: one :class:`Greeting`. Then the client asks, and the service answers in the order of the questions.
2. A line is at most :data:`MAX_LINE` bytes. What is no JSON object, or says nothing that is known, ends the connection: the last
   line of the service is then an error.
3. ``send``: pieces of the input, cut as on the wire, and chunks of files, may begin below ``window``; ``accepted`` counts the
   bytes that are committed together with the id of the request. Whoever asks again with that id learns how far it had come, and
   goes on from there.
4. ``attach``: rows of the inbox, each a block of whole messages. One of more than :data:`MAX_PAYLOAD` bytes comes in parts, all
   but the last flagged MORE. ``at`` is the position in the inbox where the payload begins, in bytes.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any, NamedTuple

from mysocket.core.batch import KNOWN_FLAGS, MAX_PAYLOAD, Kind, Piece
from mysocket.errors import FAILED, MySocketError, RemoteProtocolError

VERSION = 1
#: Bytes of a line with its end, at most. What a piece of 256 KiB takes in base64, and as much again.
MAX_LINE = 1024 * 1024
#: Bytes of a request that may be sent and not accepted yet, at most; a piece may begin below that.
WINDOW = MAX_PAYLOAD
#: Bytes of the id of a request.
REQUEST_SIZE = 16
#: Lists and objects in a line, at most.
MAX_THINGS = 1024
#: Names of consumers: so many of these characters.
MAX_NAME = 64
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")

Line = dict[str, Any]

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class Malformed(RemoteProtocolError):
    """The control connection broke its protocol: {text}."""


class Refused(MySocketError):
    """{text}."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status


#: How a chunk of a file is said: the rest is base64, of hundreds of kilobytes, which no parser of JSON need look through.
_FILE_BEGINS, _FILE_ENDS = b'{"piece":4,"flags":0,"base64":"', b'"}'


def encode(line: Line) -> bytes:
    """A line."""
    if isinstance(line.get("base64"), bytes):
        return b"".join((_FILE_BEGINS, line["base64"], _FILE_ENDS, b"\n"))
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogateescape") + b"\n"


def decode(line: bytes) -> Line:
    """What a line says.

    :raises Malformed: it is no JSON object, or one with very many things in it: they would take many times the room.
    """
    if line.startswith(_FILE_BEGINS) and line.endswith(_FILE_ENDS, len(_FILE_BEGINS)):
        coded = line[len(_FILE_BEGINS) : -len(_FILE_ENDS)]
        if b'"' not in coded and b"\\" not in coded:
            return {"piece": int(Kind.FILE), "flags": 0, "base64": coded}
    if line.count(b"[") + line.count(b"{") > MAX_THINGS and len(_STRING.sub(b"", line)) > MAX_THINGS:
        raise Malformed("a line of too many parts")
    try:
        # Paths may be no UTF-8: they come as they went, byte for byte.
        found = json.loads(line.decode(errors="surrogateescape"))
    except (ValueError, RecursionError) as problem:
        raise Malformed(f"a line that is no JSON ({type(problem).__name__})") from None
    if not isinstance(found, dict):
        raise Malformed("a line that is no JSON object")
    return found


class LineReader:
    """Bytes in, lines out.

    :param limit: bytes of the longest line with its end.
    """

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._data = bytearray()
        self._at = 0  # where the next line begins
        self._last = 0  # where the one begins that has not ended

    @property
    def held(self) -> int:
        """Bytes of the line that has not ended yet."""
        return len(self._data) - self._last

    def feed(self, data: bytes) -> list[Line]:
        """What the lines say that ``data`` completes.

        :raises Malformed: one is too long, or no JSON object; those before it are lost as well.
        """
        self.add(data)
        return [decode(line) for line in iter(self.take, None)]

    def add(self, data: bytes) -> None:
        """Hold ``data``, for :meth:`take`: what lines say takes many times their room.

        :raises Malformed: a line is too long; those before it are lost as well.
        """
        del self._data[: self._at]
        self._last -= self._at
        self._at = 0
        if found := data.rfind(b"\n") + 1:
            self._last = len(self._data) + found
        self._data += data
        self._check(self.held)

    def take(self) -> bytes | None:
        """The next line, or None: it has not ended yet.

        :raises Malformed: it is too long.
        """
        if self._at == self._last:
            return None
        end = self._data.index(b"\n", self._at)
        self._check(end - self._at)
        line = bytes(memoryview(self._data)[self._at : end])
        self._at = end + 1
        return line

    def _check(self, size: int) -> None:
        if size >= self._limit:
            raise Malformed(f"a line of more than {self._limit} bytes")


# Bytes in a line ----------------------------------------------------------------------------------------------------------------


def pack(payload: bytes) -> Line:
    """The payload as ``text``, or as ``base64`` where it is no UTF-8 or would take more room as text."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(payload).decode()}
    controls = len(payload) - len(payload.translate(None, _CONTROLS))
    if 6 * controls > len(payload) and controls > 256:
        return {"base64": base64.b64encode(payload).decode()}
    return {"text": text}


#: What JSON writes as six characters; the newline takes two.
_CONTROLS = bytes(set(range(32)) - {10})


def unpack(line: Line) -> bytes:
    """The payload of a line.

    :raises Malformed: there is none.
    """
    text, coded = line.get("text"), line.get("base64")
    try:
        if isinstance(text, str):
            return text.encode()
        if isinstance(coded, str | bytes):
            return base64.b64decode(coded, validate=True)
    except ValueError:
        pass
    raise Malformed("a line without a payload")


def number(line: Line, name: str) -> int:
    """A number from 0 to 2**63 - 1.

    :raises Malformed: there is none of that name.
    """
    found = line.get(name)
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**63:
        return found
    raise Malformed(f"a line whose {name!r} is no number, or out of range")


# What is said -------------------------------------------------------------------------------------------------------------------


class Greeting(NamedTuple):
    """The first line of a service: who it is.

    :param node: the id of its node, in hexadecimal.
    :param port: the number of the port it listens on, an endpoint string, or None.
    :param peer: whom it dials (``--peer``), or None.
    :param spool: the real path of its spool, or None: it keeps what it accepts in memory.
    :param inbox: it keeps what it receives for its consumers.
    """

    version: str
    pid: int
    node: str
    port: int | str | None
    peer: str | None
    spool: str | None
    inbox: bool

    def line(self) -> Line:
        return {"mysocket": VERSION, **self._asdict()}

    @classmethod
    def read(cls, line: Line) -> Greeting:
        """The greeting in a line.

        :raises Malformed: it is none, or one of another version.
        """
        if line.get("mysocket") != VERSION:
            raise Malformed("no greeting of a version that is known here")
        pid, inbox = line.get("pid"), line.get("inbox")
        texts = [line.get(name) for name in ("version", "node", "peer", "spool")]
        port = line.get("port")
        if not isinstance(pid, int) or not isinstance(inbox, bool) or not isinstance(port, int | str | None):
            raise Malformed("a greeting with parts missing")
        version, node, peer, spool = texts
        if not isinstance(version, str) or not isinstance(node, str):
            raise Malformed("a greeting with parts missing")
        if not isinstance(peer, str | None) or not isinstance(spool, str | None):
            raise Malformed("a greeting with parts missing")
        return cls(version, pid, node, port, peer, spool, inbox)


def piece_line(piece: Piece) -> Line:
    """A piece of the input of ``send``."""
    if piece.kind is Kind.FILE:
        # Its head holds any bytes: nearly none of them is UTF-8.
        return {"piece": int(Kind.FILE), "flags": 0, "base64": base64.b64encode(piece.payload)}
    return {"piece": int(piece.kind), "flags": int(piece.flags), **pack(piece.payload)}


def read_piece(line: Line) -> Piece:
    """The piece in a line.

    :raises Malformed: it is none, or breaks a rule of batches.
    """
    kind, flags, payload = number(line, "piece"), number(line, "flags"), unpack(line)
    if kind == Kind.FILE and not flags:
        return _chunk(payload)
    if kind not in (Kind.LINES, Kind.BLOB) or flags & ~KNOWN_FLAGS or not 0 < len(payload) <= MAX_PAYLOAD:
        raise Malformed("a piece of unknown kind, or empty, or too large")
    return Piece(Kind(kind), flags, payload)


def _chunk(payload: bytes) -> Piece:
    from mysocket.core.transfer import read_chunk  # what most clients do not need, they do not import

    try:
        if len(payload) <= MAX_PAYLOAD:
            read_chunk(payload)
            return Piece(Kind.FILE, 0, payload)
    except RemoteProtocolError as problem:
        raise Malformed(problem.text) from None
    raise Malformed("a piece of a file that is too large")


def error_line(text: str, status: int = FAILED) -> Line:
    """Why the service ends the connection, and the exit status that fits."""
    return {"error": text, "status": status}


def check_name(text: str) -> str:
    """The name of a consumer.

    :raises ValueError: it is none.
    """
    if not 0 < len(text) <= MAX_NAME or not set(text) <= NAME_CHARACTERS or text.startswith((".", "-")):
        raise ValueError(
            f"{text!r} is no name of a consumer; that has up to {MAX_NAME} letters, digits or '-_.', and no '-' or '.' in front"
        )
    return text
