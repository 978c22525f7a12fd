"""Bytes to frames.

The law: garbage either parses or raises :class:`~mysocket.errors.RemoteProtocolError`, never anything else, and what is held
grows by what was received, never by what was announced.
"""

from __future__ import annotations

import json
from struct import Struct
from typing import Any

from mysocket.core.batch import KNOWN_FLAGS, MAX_PAYLOAD, Batch, Bytes, Kind
from mysocket.core.wire import (
    BATCH_FRAME,
    BATCH_REST,
    HEAD,
    ID_SIZE,
    MAGIC,
    MAX_BYE_TEXT,
    MAX_HELLO,
    MAX_NAME,
    NONE,
    PLACE_SIZE,
    RESUME_BODY,
    U16,
    Ack,
    Attach,
    Bye,
    Frame,
    Hello,
    Input,
    Ping,
    Pong,
    Resume,
    Start,
    Type,
    shorten,
)
from mysocket.errors import NotMySocket, RemoteProtocolError

_U64 = Struct(">Q")
_U64_U64 = Struct(">QQ")


class FrameReader:
    """Bytes in, frames out, however the bytes are cut.

    A payload is copied once if it arrives in several reads and not at all if it arrives in one.

    ``max_payload`` bounds the payload of a batch in bytes. The first frame must be HELLO or BYE.
    """

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self._max_payload = max_payload
        self._handshake = True
        self._magic = 0  # bytes of the magic that have been seen
        self._head = bytearray()
        self._head_size = HEAD.size
        self._type = 0
        self._parts: list[Bytes] = []
        self._missing = 0
        self._fields: tuple[int, int, int, int] = (0, 0, 0, 0)

    def feed(self, data: bytes, frames: list[Frame]) -> None:
        """Append the frames that ``data`` completes to ``frames``.

        :raises NotMySocket: the first bytes are not the magic.
        :raises RemoteProtocolError: the bytes are no frames; what stood before them is in ``frames``.
        """
        at, size = 0, len(data)
        if self._magic < len(MAGIC):
            at = self._match_magic(data)
        view = memoryview(data)
        while at < size:
            if self._missing:
                part = view[at : at + self._missing]
                at += len(part)
                self._missing -= len(part)
                self._parts.append(part)
                if not self._missing:
                    frames.append(self._complete())
                continue
            wanted = self._head_size - len(self._head)
            self._head += view[at : at + wanted]
            at += wanted
            if len(self._head) == self._head_size:
                self._read_head(frames)

    def _match_magic(self, data: bytes) -> int:
        expected = MAGIC[self._magic : self._magic + len(data)]
        if data[: len(expected)] != expected:
            raise NotMySocket((MAGIC[: self._magic] + data)[:60].decode("latin-1"))
        self._magic += len(expected)
        return len(expected)

    def _read_head(self, frames: list[Frame]) -> None:
        if self._head_size == HEAD.size:
            length, self._type = HEAD.unpack(self._head)
            self._check(length - 1)
            if self._type == Type.BATCH:
                self._head_size += BATCH_REST.size
                return
            self._missing = length - 1
            self._head.clear()
            return
        length, _, start, kind, flags, checksum = BATCH_FRAME.unpack(self._head)
        self._head.clear()
        self._head_size = HEAD.size
        self._missing = length - 1 - BATCH_REST.size
        if start + self._missing >= NONE or kind not in _KINDS or flags & ~KNOWN_FLAGS:
            raise RemoteProtocolError("a batch that cannot be")
        self._fields = (start, kind, flags, checksum)

    def _check(self, size: int) -> None:
        """Is ``size`` a possible size of the body of a frame of this type? Asked before a byte of it is taken."""
        bounds = _SIZES.get(self._type)
        if self._handshake and self._type not in (Type.HELLO, Type.BYE):
            raise RemoteProtocolError("the first frame is not HELLO")
        if bounds is None:
            raise RemoteProtocolError(f"a frame of unknown type {self._type}")
        smallest, largest = bounds
        if self._type == Type.BATCH:
            largest = BATCH_REST.size + self._max_payload
        if not smallest <= size <= largest:
            raise RemoteProtocolError(f"a {Type(self._type).name} frame of {size} bytes")

    def _complete(self) -> Frame:
        parts, self._parts = self._parts, []
        body: Bytes = parts[0] if len(parts) == 1 else b"".join(parts)
        if self._type == Type.BATCH:
            return Batch(*self._fields, body)
        self._handshake = False
        return _decode(self._type, bytes(body))


_KINDS = frozenset(Kind)
#: Type -> smallest and largest body. A batch holds at least one byte: what has no length has no position.
_SIZES: dict[int, tuple[int, int]] = {
    Type.HELLO: (2, MAX_HELLO),
    Type.ATTACH: (16, 16),
    Type.RESUME: (40, 40),
    Type.START: (16, 16),
    Type.BATCH: (BATCH_REST.size + 1, 0),
    Type.ACK: (16, 16),
    Type.PING: (8, 8),
    Type.PONG: (8, 8),
    Type.BYE: (2, 2 + MAX_BYE_TEXT),
}


def _decode(kind: int, body: bytes) -> Frame:
    match kind:
        case Type.ACK:
            return Ack(*_U64_U64.unpack(body))
        case Type.PING:
            return Ping(*_U64.unpack(body))
        case Type.PONG:
            return Pong(*_U64.unpack(body))
        case Type.ATTACH:
            return Attach(body)
        case Type.RESUME:
            return Resume(*RESUME_BODY.unpack(body))
        case Type.START:
            return Start(*_U64_U64.unpack(body))
        case Type.BYE:
            return Bye(U16.unpack_from(body)[0], body[2:].decode(errors="replace"))
        case _:
            return _decode_hello(body)


def _decode_hello(body: bytes) -> Hello:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise RemoteProtocolError("a HELLO that is no JSON") from None
    if not isinstance(fields, dict):
        raise RemoteProtocolError("a HELLO that is no JSON object")
    versions = _field(fields, "versions", list, None)
    if not all(type(version) is int for version in versions):
        raise RemoteProtocolError("a HELLO whose versions are no numbers")
    try:
        kind = Input(_field(fields, "input", str, Input.OPEN.value))
    except ValueError:
        raise RemoteProtocolError("a HELLO with an unknown kind of input") from None
    max_frame = _field(fields, "max_frame", int, MAX_PAYLOAD)
    if max_frame < 1:
        raise RemoteProtocolError("a HELLO that takes no frames")
    return Hello(
        versions=tuple(versions),
        node=_id(fields, "node"),
        stream=_id(fields, "stream"),
        name=shorten(_field(fields, "name", str, ""), MAX_NAME).decode(),
        durable=_field(fields, "durable", bool, False),
        max_frame=max_frame,
        input=kind,
        takes=_field(fields, "takes", bool, True),
        files=_field(fields, "files", bool, False),
        place=_id(fields, "place", PLACE_SIZE) if "place" in fields else b"",
    )


def _field(fields: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = fields.get(name, default)
    if type(value) is not kind:
        raise RemoteProtocolError(f"a HELLO without a proper {name!r}")
    return value


def _id(fields: dict[str, Any], name: str, size: int = ID_SIZE) -> bytes:
    try:
        value = bytes.fromhex(_field(fields, name, str, None))
    except ValueError:
        value = b""
    if len(value) != size:
        raise RemoteProtocolError(f"a HELLO without a proper {name!r}")
    return value
