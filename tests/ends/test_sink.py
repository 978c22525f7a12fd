"""What is written for a block of a stream, in every format, and that word of it comes when it is there."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket.core.batch import END_PAYLOAD, Batch, Bytes, Flag, Kind
from mysocket.core.wire import Hello
from mysocket.ends.escape import escape
from mysocket.ends.sink import EscapedFormat, Format, FormatSink, JsonFormat, LineFormat, PlainFormat
from mysocket.errors import MessageTooLong

LIMIT = 1000
#: A moment: 2023-11-14 22:13:20.123456 UTC.
NOW = 1_700_000_000.123456


class Sender:
    """Where blocks come from."""

    def __init__(self, stream: bytes = b"s" * 16, name: str = "", text: str = "192.0.2.1:9", *, greeted: bool = True) -> None:
        self.peer_text = text
        self.peer = Hello(node=b"n" * 16, stream=stream, name=name) if greeted else None
        self.stream_id = stream
        self.repeats_until = 0
        self.positions: list[int] = []

    def written(self, position: int) -> None:
        self.positions.append(position)


def lines(data: Bytes, flags: int = 0, start: int = 0) -> Batch:
    return Batch(start, Kind.LINES, flags, 0, data)


def blob(data: bytes, flags: int = 0, start: int = 0) -> Batch:
    return Batch(start, Kind.BLOB, flags, 0, data)


def end(start: int = 0) -> Batch:
    return Batch(start, Kind.END, 0, 0, END_PAYLOAD)


def written(format: Format, *blocks: tuple[Batch, Sender]) -> bytes:
    return b"".join(bytes(format.render(block, sender)) for block, sender in blocks)


# Plain --------------------------------------------------------------------------------------------------------------------------


@given(payloads=st.lists(st.tuples(st.booleans(), st.binary(min_size=1)), max_size=10))
def test_plain_output_is_byte_for_byte_what_one_sender_gave(payloads: list[tuple[bool, bytes]]) -> None:
    sender, format = Sender(), PlainFormat()
    blocks = [(blob(data) if is_blob else lines(data), sender) for is_blob, data in payloads]
    assert written(format, *blocks, (end(), sender)) == b"".join(data for _, data in payloads)


def test_a_last_line_without_its_end_stays_so_if_nobody_writes_behind_it() -> None:
    one, two = Sender(), Sender(b"t" * 16)
    assert written(PlainFormat(True), (lines(b"a\n"), two), (lines(b"x\ny", Flag.UNTERMINATED), one), (end(), one)) == b"a\nx\ny"


@pytest.mark.parametrize("other", ["another sender", "the same sender, started again"])
@pytest.mark.parametrize(("flags", "delimiter"), [(0, b"\n"), (Flag.NUL, b"\0")], ids=["lines", "null"])
def test_a_line_without_its_end_gets_one_before_another_stream_goes_on(other: str, flags: int, delimiter: bytes) -> None:
    first = Sender()
    blocks = [(lines(b"tail", flags | Flag.UNTERMINATED), first), (end(), first)]
    second = Sender(b"t" * 16) if other == "another sender" else first
    format = PlainFormat(True)
    assert written(format, *blocks) == b"tail"
    second.stream_id = b"t" * 16
    # Once, and the empty block of an END needs none.
    after = [(end(), second), (lines(memoryview(b"one\n")), second), (lines(b"two\n"), second)]
    assert written(format, *after) == delimiter + b"one\ntwo\n"


def test_raw_connections_have_no_stream_id_and_are_told_apart_too() -> None:
    one, two = Sender(b"", greeted=False), Sender(b"", greeted=False)
    assert written(PlainFormat(True), (lines(b"a", Flag.UNTERMINATED), one), (lines(b"b\n"), two)) == b"a\nb\n"


def test_a_stream_that_goes_on_behind_its_own_last_line_is_left_alone() -> None:
    sender = Sender()
    tail, more = (lines(b"x", Flag.UNTERMINATED), sender), (lines(b"y\n"), sender)
    assert written(PlainFormat(), tail, (end(), sender), more) == b"xy\n"
    assert written(PlainFormat(), tail, more) == b"x\ny\n", "two messages handed to a service: no input has ended in between"


def test_two_tails_behind_each_other_are_told_apart() -> None:
    one, two, three = Sender(b"1" * 16), Sender(b"2" * 16), Sender(b"3" * 16)
    nul = Flag.UNTERMINATED | Flag.NUL
    assert written(PlainFormat(True), (lines(b"a", nul), one), (lines(b"b", Flag.UNTERMINATED), two), (blob(b"c"), three)) == (
        b"a\0b\nc"
    )


# JSON -------------------------------------------------------------------------------------------------------------------------


def objects(*blocks: tuple[Batch, Sender], now: float = NOW) -> list[dict[str, object]]:
    found = written(JsonFormat(LIMIT, lambda: now), *blocks)
    assert found.endswith(b"\n") or not found
    return [json.loads(line) for line in found.split(b"\n")[:-1]]


def test_json_is_one_object_a_message_with_the_position_behind_it() -> None:
    sender = Sender(name="hosta")
    common = {"time": "2023-11-14T22:13:20.123456Z", "peer": "hosta", "stream": b"s".hex() * 16}
    assert objects((lines(b"one\n\nthree\n", start=100), sender), (lines(b"tail", Flag.UNTERMINATED, 111), sender)) == [
        {**common, "position": 104, "text": "one"},
        {**common, "position": 105, "text": ""},
        {**common, "position": 111, "text": "three"},
        {**common, "position": 115, "text": "tail"},
    ]
    assert objects((end(115), sender)) == []
    [found] = objects((lines(b"x\n"), sender), now=1_700_000_000.0)
    assert found["time"] == "2023-11-14T22:13:20.000000Z"


def test_json_messages_are_one_line_each_whatever_is_in_them() -> None:
    data = 'a\nb\r\n"c" \\ \x1b[31m \u2028 \u00e4\U0001f600 \x00'
    [found] = objects((blob(data.encode()), Sender()))
    assert found["text"] == data
    first, second = objects((lines(b"a\nb\0c\n\0", Flag.NUL), Sender()))
    assert (first["text"], first["position"], second["text"], second["position"]) == ("a\nb", 4, "c\n", 7)


def test_json_on_a_terminal_holds_nothing_that_it_obeys() -> None:
    data = "\x7f \x9b31m \u202ebidi\u2069 \ufeff \ue000 grüße 漢字"
    sender = Sender(name="a\x9b\u202eb\ud800")
    format = JsonFormat(LIMIT, lambda: NOW, escaped=True)
    found = bytes(format.render(lines(data.encode() + b"\n"), sender))
    assert escape(found) == found and "grüße 漢字".encode() in found
    assert json.loads(found)["text"] == data and json.loads(found)["peer"] == sender.peer.name
    [piped] = objects((lines(data.encode() + b"\n"), sender))
    assert (piped["text"], piped["peer"]) == (data, sender.peer.name)


def test_json_marks_what_an_earlier_process_may_have_written() -> None:
    sender = Sender()
    sender.repeats_until = 12
    found = objects((lines(b"one\ntwo\nthree\n", start=4), sender))
    assert [message.get("maybe_repeat", False) for message in found] == [True, True, False]
    [long] = objects((blob(b"x" * 100, start=4), sender))
    assert long["maybe_repeat"], "its beginning may have been written"


@pytest.mark.parametrize("data", [b"\xff", b"abc\xe2\x82", b"\xed\xa0\x80", b"\x80\n\x81"], ids=repr)
def test_json_shows_what_is_no_utf_8_as_base64(data: bytes) -> None:
    [found] = objects((blob(data), Sender()))
    assert "text" not in found and base64.b64decode(str(found["base64"]), validate=True) == data


def test_json_says_each_message_s_kind_by_itself() -> None:
    first, second = objects((lines(b"good\nb\xffd\n"), Sender()))
    assert first["text"] == "good" and "base64" not in first
    assert second["base64"] == base64.b64encode(b"b\xffd").decode() and "text" not in second


@pytest.mark.parametrize(
    ("sender", "shown"),
    [
        (Sender(name='ho"st\n\x1b'), 'ho"st\n\x1b'),
        (Sender(name=""), "192.0.2.1:9"),
        (Sender(greeted=False), "192.0.2.1:9"),
    ],
    ids=["name", "no-name", "raw"],
)
def test_json_names_the_sender_by_its_name_or_else_by_its_address(sender: Sender, shown: str) -> None:
    [found] = objects((blob(b"x"), sender))
    assert found["peer"] == shown


# Lines ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def local_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place two hours and a half east of Greenwich."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ-2:30")
        time.tzset()
        yield
    time.tzset()


STAMP = b"2023-11-15T00:43:20.123+02:30 "


def test_every_message_gets_the_local_time_before_it(local_time: None) -> None:
    format = LineFormat(LIMIT, escaped=False, stamp=lambda: NOW)
    sender = Sender()
    found = written(format, (lines(b"one\n\n\xff\x1b\n"), sender), (lines(b"tail", Flag.UNTERMINATED), sender), (end(), sender))
    assert found == b"".join(STAMP + rest for rest in (b"one\n", b"\n", b"\xff\x1b\n", b"tail\n"))


def test_the_time_is_asked_for_each_block_and_a_whole_second_has_its_digits_too(local_time: None) -> None:
    moments = iter([1_700_000_000.0, 1_700_000_001.5])
    format = LineFormat(LIMIT, escaped=False, stamp=lambda: next(moments))
    assert written(format, (lines(b"a\n"), Sender()), (lines(b"b\n"), Sender())) == (
        b"2023-11-15T00:43:20.000+02:30 a\n2023-11-15T00:43:21.500+02:30 b\n"
    )


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        (blob(b"text"), b"text\n"),
        (blob(b"text\n"), b"text\n"),
        (blob(b"text\n\n"), b"text\n\n"),
        (blob(b"a\nb"), b"a\nb\n"),
        (blob(b"\n"), b"\n"),
        (lines(b"a\0b\0", Flag.NUL), b"a\nb\n"),
        (lines(b"a\n\0b\0", Flag.NUL), b"a\nb\n"),
    ],
    ids=repr,
)
def test_every_message_is_a_line_of_its_own_and_no_empty_one_follows(block: Batch, shown: bytes) -> None:
    for escaped in (True, False):
        assert written(LineFormat(LIMIT, escaped=escaped), (block, Sender())) == shown


def test_what_a_terminal_would_obey_is_shown_escaped_only_if_it_goes_to_one(local_time: None) -> None:
    block = lines(b"\x1b[2J\xff\xc2\x9b\ngood\n")
    assert written(LineFormat(LIMIT, escaped=True), (block, Sender())) == rb"\x1b[2J\xff\x9b" + b"\ngood\n"
    assert written(LineFormat(LIMIT, escaped=False), (block, Sender())) == b"\x1b[2J\xff\xc2\x9b\ngood\n"
    stamped = LineFormat(LIMIT, escaped=True, stamp=lambda: NOW)
    assert written(stamped, (block, Sender())) == STAMP + rb"\x1b[2J\xff\x9b" + b"\n" + STAMP + b"good\n"


@pytest.mark.parametrize("format", [JsonFormat(LIMIT, lambda: NOW), LineFormat(LIMIT, escaped=True)], ids=["json", "lines"])
def test_formats_that_show_messages_want_them_whole_and_not_too_long(format: Format) -> None:
    assert format.whole and not PlainFormat().whole and PlainFormat(whole=True).whole
    assert len(format.render(lines(b"x" * LIMIT + b"\n"), Sender())) > LIMIT
    with pytest.raises(MessageTooLong):
        format.render(lines(b"x" * (LIMIT + 1) + b"\n"), Sender())


# Plain bytes on a terminal ------------------------------------------------------------------------------------------------------


@given(data=st.text().map(str.encode) | st.binary(), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_escaping_does_not_depend_on_where_chunks_are_cut(data: bytes, cuts: list[int]) -> None:
    """Behind a character that makes sure that nothing waits for its rest."""
    data += b"."
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[one:two] for one, two in pairwise(borders)]
    format, sender = EscapedFormat(), Sender()
    assert written(format, *((blob(chunk, Flag.CHUNK), sender) for chunk in chunks)) == escape(data)


def test_a_prompt_is_shown_at_once_and_half_a_character_when_its_rest_is_there() -> None:
    format, sender = EscapedFormat(), Sender()
    assert format.render(blob(b"login: \x07", Flag.CHUNK), sender) == rb"login: \x07"
    assert format.render(blob("ä€".encode()[:4], Flag.CHUNK), sender) == "ä".encode()
    assert format.render(blob("€".encode()[2:], Flag.CHUNK), sender) == "€".encode()
    assert format.render(blob(b"\xe2\x82", Flag.CHUNK), sender) == b""
    assert format.render(blob(b"x", Flag.CHUNK), sender) == rb"\xe2\x82x"
    assert not format.whole


# The sink -----------------------------------------------------------------------------------------------------------------------


class Slow:
    """An output that says that it has written when the test wants it to."""

    repeats = True

    def agreed(self, *, cut: bool) -> None:
        """Nothing to take back."""

    def __init__(self) -> None:
        self.data = b""
        self.waiting: list[Callable[[], None]] = []

    def write(self, data: Bytes, done: Callable[[], None]) -> None:
        self.data += bytes(data)
        self.waiting.append(done)


def test_each_sender_hears_in_order_how_much_of_its_stream_is_written() -> None:
    output, one, two = Slow(), Sender(), Sender(b"t" * 16)
    sink = FormatSink(PlainFormat(True), output)
    assert sink.whole
    for block, sender in [(lines(b"a\n"), one), (lines(b"bb\n", start=10), two), (lines(b"ccc\n", start=2), one), (end(6), one)]:
        sink.write(block, sender)
    assert output.data == b"a\nbb\nccc\n" and not one.positions and not two.positions
    heard = []
    for done in output.waiting:
        done()
        heard.append((list(one.positions), list(two.positions)))
    assert heard == [([2], []), ([2], [13]), ([2, 6], [13]), ([2, 6, 7], [13])]


def test_the_position_counts_what_came_and_not_what_is_shown() -> None:
    output, sender = Slow(), Sender()
    sink = FormatSink(LineFormat(LIMIT, escaped=True), output)
    sink.write(lines(b"\x1b\x1b\n", start=5), sender)
    output.waiting[0]()
    assert output.data == rb"\x1b\x1b" + b"\n" and sender.positions == [8]
