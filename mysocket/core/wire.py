"""Frames and bytes, version 1 of the wire. docs/protocol.md is the normative text; tests/core/test_wire.py holds golden bytes.

Every frame is ``u32 length, u8 type, body``, big-endian; the length counts type and body. Bytes become frames in reader.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from struct import Struct

from mysocket.core.batch import MAX_PAYLOAD, Batch

#: From each side, before its first frame. The bytes catch text-mode damage, as those of PNG do (PNG specification, 5.2).
MAGIC = b"\x89MSK\r\n\x1a\x01"
#: Versions of the protocol this code speaks.
VERSIONS = (1,)
#: Bytes of a HELLO body, at most. RabbitMQ allows 8 KiB before authentication; a HELLO needs far less.
MAX_HELLO = 4096
#: Bytes of the text of a BYE, at most.
MAX_BYE_TEXT = 200
#: Bytes of a node's name, at most.
MAX_NAME = 64
#: A position that says: this stream was never seen.
NONE = 2**64 - 1
#: Bytes of a node id and of a stream id.
ID_SIZE = 16
#: Bytes of a place.
PLACE_SIZE = 8


class Reason(IntEnum):
    """Why a side says BYE. Every refusal has one."""

    #: My input has ended, and all I sent is acknowledged.
    DONE = 0
    #: I leave before my input has ended; nothing more of this stream will come from this process.
    LEFT = 1
    #: You broke the protocol.
    PROTOCOL = 2
    #: We speak no common version.
    VERSION = 3
    #: I am linked with another node; try again later.
    BUSY = 4
    #: A message is larger than what I put together.
    TOO_LONG = 5
    #: I heard nothing from you for too long.
    SILENT = 6
    #: One of us lost state: positions do not match.
    STATE_LOSS = 7
    #: Your stream is attached to another connection.
    MOVED = 8
    #: My output failed.
    OUTPUT = 9
    #: I do not take messages from you.
    REFUSED = 10


class Type(IntEnum):
    """Frame types."""

    HELLO = 1
    ATTACH = 2
    RESUME = 3
    START = 4
    BATCH = 5
    ACK = 6
    PING = 7
    PONG = 8
    BYE = 9


class Input(StrEnum):
    """What a node has to send, as its HELLO says it."""

    #: A pipe or a file: it will end.
    FINITE = "finite"
    #: A terminal or a service: nobody knows whether it will.
    OPEN = "open"
    #: Nothing.
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who one is. ``max_frame`` is the largest payload of a batch one takes, in bytes; ``takes`` is false with --send-only,
    ``files`` is true with --download-dir.

    ``place`` is the same for every spool that is ever made in the same directory of the same host: with another node id in it, a
    spool was lost there. Nothing if the node is not durable.
    """

    versions: tuple[int, ...] = VERSIONS
    node: bytes
    stream: bytes
    name: str = ""
    durable: bool = False
    max_frame: int = MAX_PAYLOAD
    input: Input = Input.OPEN
    takes: bool = True
    place: bytes = b""
    files: bool = False


@dataclass(frozen=True, slots=True)
class Attach:
    """Asks to carry this stream on this connection."""

    stream: bytes


@dataclass(frozen=True, slots=True)
class Resume:
    """The answer to ATTACH: the position *taken* (or NONE), the chain value there, and how far the sender may go."""

    stream: bytes
    position: int
    chain: int
    window: int


@dataclass(frozen=True, slots=True)
class Start:
    """The answer to RESUME: where the batches on this connection begin."""

    position: int
    chain: int


@dataclass(frozen=True, slots=True)
class Ack:
    """All before ``position`` is committed; batches that start below ``window`` may be sent."""

    position: int
    window: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a PONG with the same number."""

    number: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to PING."""

    number: int


@dataclass(frozen=True, slots=True)
class Bye:
    """The last word, or with DONE the last but acks. ``reason`` may be a number this version has no name for."""

    reason: int
    text: str = ""


Frame = Hello | Attach | Resume | Start | Batch | Ack | Ping | Pong | Bye

HEAD = Struct(">IB")
BATCH_FRAME = Struct(">IBQBBQ")
BATCH_REST = Struct(">QBBQ")
RESUME_FRAME = Struct(">IB16sQQQ")
TWO = Struct(">IBQQ")
ONE = Struct(">IBQ")
RESUME_BODY = Struct(">16sQQQ")
U16 = Struct(">H")


def batch_header(batch: Batch) -> bytes:
    """The bytes before the payload of a BATCH frame; the payload follows as it is, so that it need not be copied."""
    size = len(batch.payload)
    return BATCH_FRAME.pack(1 + BATCH_REST.size + size, Type.BATCH, batch.start, batch.kind, batch.flags, batch.checksum)


def encode(frame: Frame) -> bytes:
    """The bytes of one frame."""
    match frame:
        case Batch():
            return batch_header(frame) + bytes(frame.payload)
        case Ack():
            return TWO.pack(17, Type.ACK, frame.position, frame.window)
        case Ping():
            return ONE.pack(9, Type.PING, frame.number)
        case Pong():
            return ONE.pack(9, Type.PONG, frame.number)
        case Attach():
            return _framed(Type.ATTACH, frame.stream)
        case Resume():
            return RESUME_FRAME.pack(1 + RESUME_BODY.size, Type.RESUME, frame.stream, frame.position, frame.chain, frame.window)
        case Start():
            return TWO.pack(17, Type.START, frame.position, frame.chain)
        case Bye():
            return _framed(Type.BYE, U16.pack(frame.reason) + shorten(frame.text, MAX_BYE_TEXT))
        case Hello():
            return _framed(Type.HELLO, _hello_body(frame))


def shorten(text: str, size: int) -> bytes:
    """UTF-8 of ``text`` in at most ``size`` bytes, cut between characters."""
    return text.encode(errors="replace")[:size].decode(errors="ignore").encode()


def _framed(kind: Type, body: bytes) -> bytes:
    return HEAD.pack(1 + len(body), kind) + body


def _hello_body(hello: Hello) -> bytes:
    fields = {
        "versions": list(hello.versions),
        "node": hello.node.hex(),
        "stream": hello.stream.hex(),
        "name": shorten(hello.name, MAX_NAME).decode(),
        "durable": hello.durable,
        "max_frame": hello.max_frame,
        "input": hello.input.value,
        "takes": hello.takes,
    }
    if hello.place:
        fields["place"] = hello.place.hex()
    if hello.files:
        fields["files"] = True
    return json.dumps(fields, separators=(",", ":")).encode()
