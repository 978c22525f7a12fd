"""Frames and bytes: golden bytes, every cut, limits, and the fuzz law of the reader."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mysocket.core.batch import MAX_PAYLOAD, Batch, Kind
from mysocket.core.reader import FrameReader
from mysocket.core.wire import (
    MAGIC,
    MAX_HELLO,
    Ack,
    Attach,
    Bye,
    Frame,
    Hello,
    Input,
    Ping,
    Pong,
    Reason,
    Resume,
    Start,
    Type,
    encode,
    shorten,
)
from mysocket.errors import NotMySocket, RemoteProtocolError

NODE, STREAM = bytes(range(16)), bytes(range(16, 32))
HELLO = Hello(node=NODE, stream=STREAM, name="a", input=Input.FINITE)

GOLDEN: list[tuple[Frame, str]] = [
    (Attach(STREAM), "00000011 02 101112131415161718191a1b1c1d1e1f"),
    (Resume(STREAM, 5, 6, 7), "00000029 03 101112131415161718191a1b1c1d1e1f 0000000000000005 0000000000000006 0000000000000007"),
    (Start(5, 6), "00000011 04 0000000000000005 0000000000000006"),
    (Batch(5, Kind.LINES, 1, 9, b"hi\n"), "00000016 05 0000000000000005 01 01 0000000000000009 68690a"),
    (Ack(8, 9), "00000011 06 0000000000000008 0000000000000009"),
    (Ping(3), "00000009 07 0000000000000003"),
    (Pong(3), "00000009 08 0000000000000003"),
    (Bye(Reason.LEFT, "gone"), "00000007 09 0001 676f6e65"),
]


def read(data: bytes, *sizes: int) -> list[Frame]:
    """The frames in `data`, given to a reader in parts of `sizes`, then whole."""
    reader, frames = FrameReader(), []
    for size in sizes:
        reader.feed(data[:size], frames)
        data = data[size:]
    reader.feed(data, frames)
    return frames


def test_magic_is_what_the_document_says() -> None:
    assert bytes.fromhex("894d534b0d0a1a01") == MAGIC


@pytest.mark.parametrize(("frame", "golden"), GOLDEN, ids=lambda value: type(value).__name__)
def test_golden_bytes_both_ways(frame: Frame, golden: str) -> None:
    assert encode(frame) == bytes.fromhex(golden)
    assert read(MAGIC + encode(HELLO) + bytes.fromhex(golden)) == [HELLO, frame]


def test_golden_hello() -> None:
    body = (
        b'{"versions":[1],"node":"000102030405060708090a0b0c0d0e0f","stream":"101112131415161718191a1b1c1d1e1f","name":"a",'
        b'"durable":false,"max_frame":262144,"input":"finite","takes":true}'
    )
    assert encode(HELLO) == len(body).__add__(1).to_bytes(4, "big") + b"\x01" + body


def test_every_frame_one_byte_at_a_time() -> None:
    data = MAGIC + encode(HELLO) + b"".join(encode(frame) for frame, _ in GOLDEN)
    assert read(data, *[1] * len(data)) == [HELLO, *(frame for frame, _ in GOLDEN)]


@given(st.lists(st.integers(0, 90), max_size=12))
def test_any_cut_gives_the_same_frames(sizes: list[int]) -> None:
    data = MAGIC + encode(HELLO) + b"".join(encode(frame) for frame, _ in GOLDEN)
    assert read(data, *sizes) == read(data)


@given(st.binary(max_size=400), st.lists(st.integers(1, 50), max_size=8), st.sampled_from([b"", MAGIC, MAGIC + encode(HELLO)]))
@settings(max_examples=600)
def test_garbage_parses_or_raises_remote_protocol_error(garbage: bytes, sizes: list[int], before: bytes) -> None:
    """The law: never any other error, however the bytes are cut."""
    with suppress(RemoteProtocolError):
        read(before + garbage, *sizes)


@given(st.data())
@settings(max_examples=300)
def test_a_changed_byte_parses_or_raises_remote_protocol_error(data: st.DataObject) -> None:
    stream = bytearray(MAGIC + encode(HELLO) + b"".join(encode(frame) for frame, _ in GOLDEN))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    with suppress(RemoteProtocolError):
        read(bytes(stream))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_as_hello(value: object) -> None:
    body = json.dumps(value).encode()[: MAX_HELLO - 1]
    with suppress(RemoteProtocolError):
        read(MAGIC + (1 + len(body)).to_bytes(4, "big") + b"\x01" + body)


def test_deeply_nested_json_is_a_protocol_error() -> None:
    body = b"[" * MAX_HELLO
    with pytest.raises(RemoteProtocolError):
        read(MAGIC + (1 + len(body)).to_bytes(4, "big") + b"\x01" + body)


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n", b"\x89PNG\r\n\x1a\n", b"hello\n", b"\n"])
def test_something_else_is_not_a_mysocket(first: bytes) -> None:
    with pytest.raises(NotMySocket):
        read(first)


@pytest.mark.parametrize("kind", list(Type))
def test_a_huge_length_is_refused_at_once_and_nothing_is_kept_for_it(kind: Type) -> None:
    reader: FrameReader = FrameReader()
    reader.feed(MAGIC + encode(HELLO), [])
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError):
        reader.feed(b"\xff\xff\xff\xff" + bytes([kind]), [])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_an_announced_batch_costs_what_was_received_of_it() -> None:
    reader = FrameReader()
    reader.feed(MAGIC + encode(HELLO), [])
    head = encode(Batch(0, Kind.LINES, 0, 0, bytes(MAX_PAYLOAD)))[:40]
    tracemalloc.start()
    reader.feed(head, [])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000


@pytest.mark.parametrize(
    "data",
    [
        encode(Ack(1, 2)),
        encode(Ping(1)),
        encode(Batch(0, Kind.LINES, 0, 0, b"x\n")),
        b"\x00\x00\x10\x02\x01",  # HELLO of 4097 bytes
        b"\x00\x00\x00\x00\x01",  # no body at all
    ],
)
def test_before_hello_nothing_else_is_taken(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read(MAGIC + data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x02\x63x",  # unknown type
        b"\x00\x00\x00\x10\x06" + bytes(15),  # ACK too short
        encode(Batch(0, Kind.LINES, 0, 0, bytes(MAX_PAYLOAD + 1))),
        encode(Batch(0, 77, 0, 0, b"x")),
        encode(Batch(0, Kind.LINES, 128, 0, b"x")),
        encode(Batch(2**64 - 2, Kind.LINES, 0, 0, b"xy")),
        encode(Batch(0, Kind.LINES, 0, 0, b"")),
        encode(Bye(0, "x"))[:4] + b"\x09",
    ],
)
def test_frames_that_cannot_be(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        frames = read(MAGIC + encode(HELLO) + data)
        if len(frames) < 2:
            raise RemoteProtocolError("incomplete")


@pytest.mark.parametrize(
    "change",
    [{"node": "00"}, {"stream": None}, {"versions": ["1"]}, {"input": "some"}, {"durable": 1}, {"max_frame": 0}, {"name": 5}],
)
def test_a_hello_with_a_wrong_field(change: dict[str, object]) -> None:
    body = json.dumps({"versions": [1], "node": NODE.hex(), "stream": STREAM.hex(), **change}).encode()
    with pytest.raises(RemoteProtocolError):
        read(MAGIC + (1 + len(body)).to_bytes(4, "big") + b"\x01" + body)


def test_unknown_hello_keys_are_ignored() -> None:
    body = json.dumps({"versions": [1, 2], "node": NODE.hex(), "stream": STREAM.hex(), "colour": "blue"}).encode()
    [hello] = read(MAGIC + (1 + len(body)).to_bytes(4, "big") + b"\x01" + body)
    assert isinstance(hello, Hello) and hello.versions == (1, 2) and hello.input is Input.OPEN


def test_text_is_cut_between_characters() -> None:
    assert shorten("äöü", 3).decode() == "ä"
    assert shorten("\ud800", 9) == b"?"
