"""Rows of the inbox: whatever way they are cut, and wherever a session begins, what is written is what was sent."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket.control.protocol import Line, Malformed
from mysocket.core.batch import Batch, Flag, Kind, split
from mysocket.ends.escape import escape
from mysocket.verbs.rows import Form, Json, Lines, Plain, Row, Rows, is_row, read_row
from tests.verbs.scripted import STREAM, row


def rendered(lines: Iterable[Line], form: Form, rows: Rows | None = None) -> bytes:
    rows = rows or Rows()
    found = (rows.feed(read_row(line)) for line in lines)
    return b"".join(bytes(form.render(block)) for block in found if block is not None)


def objects(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def payload_of(found: dict[str, Any]) -> bytes:
    return str(found["text"]).encode() if "text" in found else base64.b64decode(found["base64"])


# Any inbox ----------------------------------------------------------------------------------------------------------------------


@st.composite
def blocks(draw: st.DrawFn) -> list[tuple[int, int, bytes]]:
    """What an inbox may hold: kind, flags and payload of rows, each of whole messages."""
    found = []
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.booleans()):
            flag = draw(st.sampled_from([0, int(Flag.CHUNK)]))
            found.append((int(Kind.BLOB), flag, draw(st.binary(min_size=1, max_size=40))))
            continue
        flag = draw(st.sampled_from([0, int(Flag.NUL)]))
        delimiter = b"\0" if flag else b"\n"
        alphabet = st.sampled_from([b"a", b"\n", b"\0", b"\xff", "é".encode(), b"\r"])
        texts = draw(st.lists(st.lists(alphabet, max_size=6).map(b"".join), min_size=1, max_size=5))
        data = delimiter.join(text.replace(delimiter, b"x") for text in texts)
        if draw(st.booleans()) and data and not data.endswith(delimiter):
            found.append((int(Kind.LINES), flag | Flag.UNTERMINATED, data))
        else:
            found.append((int(Kind.LINES), flag, data + delimiter))
    return found


@st.composite
def cut_rows(draw: st.DrawFn) -> tuple[list[tuple[int, int, bytes]], list[Line]]:
    """An inbox, and its lines, each row in parts cut anywhere."""
    inbox = draw(blocks())
    lines, at = [], 0
    for kind, flags, payload in inbox:
        cuts = sorted(draw(st.sets(st.integers(1, max(1, len(payload) - 1)), max_size=3)) - {len(payload)})
        edges = [0, *cuts, len(payload)]
        for begin, end in pairwise(edges):
            more = Flag.MORE if end < len(payload) else 0
            lines.append(row(payload[begin:end], at=at + begin, kind=Kind(kind), flags=(flags & ~Flag.UNTERMINATED) | more))
            if not more:
                lines[-1]["flags"] = flags
        at += len(payload)
    return inbox, lines


def plain(inbox: list[tuple[int, int, bytes]]) -> bytes:
    """What plain output is, said anew: the payloads, with the delimiter behind an open line on which something follows."""
    out, missing = b"", b""
    for _, flags, payload in inbox:
        out += missing + payload
        missing = (b"\0" if flags & Flag.NUL else b"\n") if flags & Flag.UNTERMINATED else b""
    return out


def messages(inbox: list[tuple[int, int, bytes]]) -> Iterator[tuple[int, bytes]]:
    at = 0
    for kind, flags, payload in inbox:
        for message in split(Batch(at, kind, flags, 0, payload), 2**30):
            yield message.position, message.payload
        at += len(payload)


@given(cut_rows())
def test_plain_output_is_byte_for_byte(made: tuple[list[tuple[int, int, bytes]], list[Line]]) -> None:
    inbox, lines = made
    assert rendered(lines, Plain()) == plain(inbox)


@given(cut_rows(), st.booleans())
def test_json_has_each_message_once_with_its_position(
    made: tuple[list[tuple[int, int, bytes]], list[Line]], escaped: bool
) -> None:
    inbox, lines = made
    data = rendered(lines, Json(escaped=escaped))
    found = objects(data)
    assert [(each["position"], payload_of(each)) for each in found] == list(messages(inbox))
    assert all(each["stream_position"] == each["position"] for each in found)
    if escaped:
        assert escape(data) == data


@given(cut_rows(), st.data())
def test_a_session_that_begins_anywhere_goes_on_there(
    made: tuple[list[tuple[int, int, bytes]], list[Line]], data: st.DataObject
) -> None:
    """The connection is lost behind any line, and the next one begins at any position that was reached, or before it."""
    inbox, lines = made
    rows, first = Rows(), Plain()
    upto = data.draw(st.integers(0, len(lines)))
    out = rendered(lines[:upto], first, rows)
    rows.clear()
    again = data.draw(st.integers(0, rows.position))
    rest = []
    for line in lines:
        payload = read_row(line).batch.payload
        if line["at"] + len(payload) > again:
            behind = bytes(payload)[max(0, again - line["at"]) :]
            rest.append({**row(behind, at=max(again, line["at"]), kind=Kind(line["kind"]), flags=line["flags"])})
    # A row of the service is cut at its beginning only, so a part of a row is only read together with what follows it.
    assert out + rendered(rest, first, rows) == plain(inbox)


@given(cut_rows())
def test_lines_never_reach_a_terminal_unescaped(made: tuple[list[tuple[int, int, bytes]], list[Line]]) -> None:
    inbox, lines = made
    data = rendered(lines, Lines(escaped=True, stamped=False, named=True))
    assert b"\0" not in data and b"\r" not in data and b"\xff" not in data
    # A message is a line or, with newlines in it, several.
    assert data.count(b"\n") == sum(message.removesuffix(b"\n").count(b"\n") + 1 for _, message in messages(inbox))


# Single cases -------------------------------------------------------------------------------------------------------------------


def test_a_row_that_begins_in_the_middle_of_a_block_is_the_rest_of_it() -> None:
    (found,) = objects(rendered([row(b"two\n", at=4, stream_position=108)], Json(escaped=False)))
    assert found == {
        "time": "2025-10-09T08:53:20.250000Z",
        "peer": "hosta",
        "stream": STREAM,
        "position": 8,
        "stream_position": 108,
        "text": "two",
    }


def test_the_position_in_the_stream_is_that_behind_each_message() -> None:
    found = objects(rendered([row(b"a\nbb\nc", at=100, stream_position=16, flags=Flag.UNTERMINATED)], Json(escaped=False)))
    assert [(each["position"], each["stream_position"], each["text"]) for each in found] == [
        (102, 12, "a"),
        (105, 15, "bb"),
        (106, 16, "c"),
    ]


def test_two_requests_of_one_stream_are_two_messages() -> None:
    """The second is not the rest of the first, though both came in the same stream."""
    lines = [row(b"one", flags=Flag.UNTERMINATED), row(b"two", at=3, flags=Flag.UNTERMINATED)]
    assert rendered(lines, Plain()) == b"one\ntwo"


def test_what_was_written_is_left_out() -> None:
    rows, form = Rows(), Plain()
    assert rendered([row(b"one\ntwo\n")], form, rows) == b"one\ntwo\n"
    assert rendered([row(b"one\ntwo\n"), row(b"three\n", at=8)], form, rows) == b"three\n"
    assert rendered([row(b"three\nfour\n", at=8)], form, rows) == b"four\n"


def test_a_part_that_is_not_the_next_one_is_refused() -> None:
    rows = Rows()
    assert rows.feed(read_row(row(b"one", flags=Flag.MORE))) is None
    with pytest.raises(Malformed, match="not the next one"):
        rows.feed(read_row(row(b"two\n", at=4)))


def test_parts_of_a_lost_connection_are_forgotten() -> None:
    rows = Rows()
    assert rows.feed(read_row(row(b"one", flags=Flag.MORE))) is None
    rows.clear()
    found = rows.feed(read_row(row(b"one two\n")))
    assert found is not None and found.batch.payload == b"one two\n"


def test_the_time_before_a_line_is_that_when_it_came_in() -> None:
    data = rendered(
        [row(b"one\ntwo\n"), row(b"three", at=8, time=0, flags=Flag.UNTERMINATED)], Lines(escaped=False, stamped=True)
    )
    first, second, third = data.decode().splitlines()
    assert (first[:-4], first[-4:], second[-4:], third[-6:]) == (second[:-4], " one", " two", " three")
    assert first.startswith("2025-10-0") and third[:4] in ("1969", "1970")


def test_the_sender_is_named_when_a_second_one_comes() -> None:
    form = Lines(escaped=True, stamped=False, named=True)
    lines = [row(b"one\n"), row(b"two\nthree\n", at=4, peer="host\x1bb"), row(b"four\rx\n", at=14)]
    assert rendered(lines, form) == b"one\nhost\\x1bb: two\nhost\\x1bb: three\nhosta: four\\x0dx\n"


def test_no_message_speaks_for_another_sender() -> None:
    form = Lines(escaped=False, stamped=False, named=True)
    lines = [row(b"x\n"), row(b"hi\nhosta: pay", at=2, kind=Kind.BLOB, peer="hostb")]
    assert rendered(lines, form) == b"x\nhostb: hi\nhostb: hosta: pay\n"


def test_a_name_that_is_no_text_for_utf_8_is_written_all_the_same() -> None:
    (found,) = objects(rendered([row(b"x\n", peer="\ud800")], Json(escaped=False)))
    assert found["peer"] == "\ud800"


@pytest.mark.parametrize(
    "change",
    [
        {"at": None},
        {"at": -1},
        {"kind": 3},
        {"kind": None},
        {"flags": 128},
        {"text": ""},
        {"text": None},
        {"stream": None},
        {"stream_position": "6"},
        {"peer": 7},
        {"time": None},
        {"time": True},
        {"time": float("nan")},
        {"time": 1e300},
        {"time": -1},
    ],
)
def test_what_is_no_row_is_refused(change: dict[str, object]) -> None:
    line = {**row(b"x\n"), **change}
    assert is_row(line)
    with pytest.raises(Malformed):
        read_row(line)


def test_other_lines_are_no_rows() -> None:
    assert not is_row({"passed": 6})


def test_a_row_is_a_value() -> None:
    assert read_row(row(b"x\n")) == Row(Batch(0, Kind.LINES, 0, 0, b"x\n"), STREAM, 2, "hosta", 1760000000.25)
