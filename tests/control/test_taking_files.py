"""The service's side of `send`: chunks of files, well formed and hostile ones."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket.control.protocol import Line, Malformed, decode, encode, piece_line, read_piece
from mysocket.core.batch import MAX_PAYLOAD, Kind, Piece
from mysocket.core.transfer import CHUNK, Chunk, Part
from tests.control.bench import Kept, Service, Wire, lines, send

ID = b"i" * 16
DATA = b"x" * CHUNK


def offer(size: int = CHUNK, id: bytes = ID) -> Piece:
    return Chunk(Part.OFFER, id, size, text="report.csv").piece()


def data(offset: int = 0, data: bytes = DATA) -> Piece:
    return Chunk(Part.DATA, ID, offset, data).piece()


def end(size: int = CHUNK) -> Piece:
    return Chunk(Part.END, ID, size, text="report.csv", digest=bytes(32)).piece()


def begun(service: Service, number: int = 0) -> Wire:
    wire = service.connect()
    wire.say(send(number))
    return wire


def last(wire: Wire, name: str) -> Any:
    wire.flush()
    return [line[name] for line in wire.heard if name in line][-1]


@pytest.mark.parametrize(
    "piece", [offer(), offer(0), data(), data(data=b"\n"), end(), Chunk(Part.CANCEL, ID, 5, text="why").piece()]
)
def test_a_chunk_is_said_and_read(piece: Piece) -> None:
    line = encode(piece_line(piece))
    assert read_piece(decode(line[:-1])) == piece
    # It is JSON, as any other line.
    said = json.loads(line)
    assert said == {"piece": 4, "flags": 0, "base64": base64.b64encode(piece.payload).decode()}
    assert read_piece(decode(json.dumps(said).encode())) == piece, "in another spelling"
    assert read_piece(decode(json.dumps({"base64": said["base64"], "flags": 0, "piece": 4, "more": []}).encode())) == piece


def test_a_chunk_of_text_may_come_as_text() -> None:
    payload = bytes([Part.DATA]) + b"i" * 16 + bytes(8) + b"hello"
    assert read_piece({"piece": 4, "flags": 0, "text": payload.decode()}) == Piece(Kind.FILE, 0, payload)


def coded(payload: bytes) -> str:
    return base64.b64encode(payload).decode()


HEAD = b"i" * 16 + bytes(8)


@pytest.mark.parametrize(
    "line",
    [
        {"piece": 4, "flags": 0, "base64": ""},
        {"piece": 4, "flags": 0, "base64": coded(b"\1" + HEAD[:-1])},
        {"piece": 4, "flags": 0, "base64": coded(b"\2" + HEAD)},
        {"piece": 4, "flags": 0, "base64": coded(b"\0" + HEAD + b"x")},
        {"piece": 4, "flags": 0, "base64": coded(b"\5" + HEAD + b"x")},
        {"piece": 4, "flags": 0, "base64": coded(b"\3" + HEAD + b"x" * 31)},
        {"piece": 4, "flags": 0, "base64": coded(b"\1" + HEAD + b"x" * 1025)},
        {"piece": 4, "flags": 0, "base64": coded(b"\4" + HEAD + b"x" * 1025)},
        {"piece": 4, "flags": 0, "base64": coded(b"\2" + HEAD + b"x" * (MAX_PAYLOAD - 24))},
        {"piece": 4, "flags": 1, "base64": coded(data().payload)},
        {"piece": 4, "flags": 4, "base64": coded(offer().payload)},
        {"piece": 4, "flags": -1, "base64": coded(offer().payload)},
        {"piece": 4, "base64": coded(offer().payload)},
        {"piece": 4, "flags": 0},
        {"piece": 4, "flags": 0, "base64": coded(offer().payload)[:-1]},
        {"piece": 4, "flags": 0, "base64": coded(offer().payload) + "="},
        {"piece": 4, "flags": 0, "base64": "\n" + coded(offer().payload)},
        {"piece": 4, "flags": 0, "base64": ["x"]},
        {"piece": 5, "flags": 0, "base64": coded(offer().payload)},
    ],
)
def test_what_is_no_chunk_ends_the_connection_and_no_other(line: Line) -> None:
    with Service() as service:
        good, bad = begun(service, 1), begun(service, 2)
        good.say(piece_line(offer()))
        bad.say(line)
        assert "broke its protocol" in bad.error and bad.closed
        good.say(piece_line(data()), piece_line(end()), {"end": True})
        assert last(good, "ended") is True
        assert service.kept.pieces == [offer(), data(), end()]


@given(st.binary(max_size=60), st.sampled_from([b"", b'{"piece":4,"flags":0,"base64":"']), st.sampled_from([b"", b'"}', b'"']))
def test_garbage_is_malformed_or_read(middle: bytes, before: bytes, behind: bytes) -> None:
    line = before + middle + behind
    try:
        found = decode(line)
    except Malformed:
        return
    try:
        piece = read_piece(found)
    except Malformed:
        return
    assert read_piece(json.loads(line)) == piece


@given(st.binary(min_size=26, max_size=100))
def test_the_short_way_reads_what_the_long_way_does(payload: bytes) -> None:
    line = json.dumps({"piece": 4, "flags": 0, "base64": coded(payload)}, separators=(",", ":")).encode()
    quick, slow = decode(line), json.loads(line)
    for found in (quick, slow):
        try:
            assert read_piece(found).payload == payload
        except Malformed:
            assert payload[0] not in (1, 2, 3, 4) or payload[0] == 3 and len(payload) < 57


def test_a_file_is_accepted_chunk_by_chunk() -> None:
    with Service(at_once=False) as service:
        wire = begun(service)
        wire.say(piece_line(offer()))
        service.log.commit()
        assert last(wire, "accepted") == len(offer().payload)
        wire.say(piece_line(data()))
        service.log.commit()
        assert last(wire, "accepted") == len(offer().payload) + len(data().payload)


def test_the_largest_message_is_no_bound_for_files() -> None:
    with Service(max_message=10) as service:
        wire = begun(service)
        wire.say(piece_line(offer()))
        wire.say(piece_line(data()))
        wire.say(piece_line(end()), {"end": True})
        assert last(wire, "ended") is True and service.kept.pieces == [offer(), data(), end()]


def test_a_chunk_within_a_message_is_refused() -> None:
    with Service() as service:
        wire = begun(service)
        wire.say({"piece": 1, "flags": 1, "text": "a part"}, piece_line(offer()))
        assert "a part of another kind" in wire.error and service.kept.pieces == []


def test_messages_of_others_come_between_chunks() -> None:
    with Service() as service:
        wire, other = begun(service, 1), begun(service, 2)
        wire.say(piece_line(offer()))
        other.say(lines(b"hello\n"))
        wire.say(piece_line(data()))
        assert [piece.kind for piece in service.kept.pieces] == [Kind.FILE, Kind.LINES, Kind.FILE]


def test_a_file_is_refused_at_once_where_the_peer_takes_none() -> None:
    with Service() as service:
        service.no_files = "hub takes no files"
        wire = begun(service)
        wire.say(piece_line(offer()))
        wire.flush()
        assert wire.closed and wire.heard[-1] == {"error": "hub takes no files.", "status": 4}
        assert service.kept.pieces == []
        other = begun(service, 2)
        other.say(lines(b"messages go on\n"))
        assert last(other, "accepted") == 15


def test_one_that_has_begun_goes_on_whatever_the_peer_says_now() -> None:
    kept = Kept()
    with Service(kept) as service:
        wire = begun(service)
        wire.say(piece_line(offer()))
        service.no_files = "hub takes no files"
        wire.say(piece_line(data()))
        assert last(wire, "accepted") == len(offer().payload) + len(data().payload)
        again = begun(service)
        assert last(again, "accepted") == len(offer().payload) + len(data().payload)
        again.say(piece_line(end()), {"end": True})
        assert last(again, "ended") is True


def test_a_client_that_is_lost_goes_on_behind_what_is_accepted() -> None:
    kept = Kept()
    with Service(kept) as service:
        wire = begun(service)
        wire.say(piece_line(offer()))
        wire.say(piece_line(data()))
        wire.flush()
        service.log.settle()
    with Service(kept) as service:
        wire = begun(service)
        assert last(wire, "accepted") == len(offer().payload) + len(data().payload)
        wire.say(piece_line(end()), {"end": True})
        assert last(wire, "ended") is True
    assert kept.pieces == [offer(), data(), end()]


def test_random_files_are_said_in_lines_that_are_short_enough() -> None:
    assert len(encode(piece_line(data(data=os.urandom(CHUNK))))) < 400_000
