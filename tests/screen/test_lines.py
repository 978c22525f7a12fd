"""Lines above the prompt: whatever is in a message, a name or a sentence, a terminal gets nothing to obey but our own looks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from mysocket.ends.escape import escape
from mysocket.screen.lines import ACKNOWLEDGED, COLOURS, NO_COLOURS, WAITING, Lines, Palette

#: 2023-11-14 22:13:20 UTC.
NOW = 1_700_000_000.123
LOOK = re.compile(r"\x1b\[\d*m")
NASTY = st.sampled_from([b"\x1b[2J", b"\x9b", b"\xe2\x80\xae", b"\r", b"\n", b"\x7f", b"\xff", "漢".encode(), b"\t", b"\x1b[0m"])
MESSAGES = st.lists(NASTY | st.binary(max_size=6), max_size=8).map(b"".join)
NAMES = st.text(st.characters() | st.sampled_from("\x1b\x9b\u202e\n\r\ud800"), max_size=60)


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def lines(palette: Palette = COLOURS, full_time: bool = False) -> Lines:
    return Lines(palette, full_time=full_time, local=utc)


def plain(text: str | Iterable[str]) -> str:
    return LOOK.sub("", "".join(text))


def assert_safe(text: str, palette: Palette) -> None:
    """Whole lines, with looks of the palette only, each of which is switched off before its line ends."""
    assert text.endswith("\n")
    for line in text.split("\n"):
        used = LOOK.findall(line)
        assert set(used) <= {palette.dim, palette.name, palette.mark, palette.problem, palette.off}
        assert not used or used[-1] == palette.off
    bare = plain(text).encode("utf-8", "surrogatepass")
    assert escape(bare) == bare


def test_a_message_with_its_time_and_its_sender() -> None:
    assert plain(lines().received(b"hello\n", "hostb", NOW)) == "22:13:20 hostb: hello\n"
    assert next(lines().received(b"hello\n", "hostb", NOW)).startswith("\x1b[2m22:13:20\x1b[0m "), "the time is faint"
    assert plain(lines(full_time=True).received(b"x\n", "h", NOW)) == "2023-11-14T22:13:20.123+00:00 h: x\n"


def test_lines_of_one_message_stand_below_each_other() -> None:
    assert plain(
        lines().received(b"one\ntwo\n\nfour\n", "h", NOW)
    ) == "22:13:20 h: one\n" + " " * 9 + "two\n" + " " * 9 + "\n" + (" " * 9 + "four\n")
    # So that no message can bring a line that looks like one of somebody else.
    shown = plain(lines().received(b"x\n22:13:20 hosta: I owe you\n", "h", NOW))
    assert not re.search("^22:13:20 hosta", shown, re.MULTILINE)


def test_a_message_of_many_lines_is_made_line_by_line() -> None:
    """So that a drawing can end behind any of them; and one message does not become twelve times as large in memory."""
    made = lines().received(b"\n" * 1_000_000, "h", NOW)
    assert [plain([next(made)]) for _ in range(3)] == ["22:13:20 h: \n", " " * 9 + "\n", " " * 9 + "\n"]
    assert sum(1 for line in made if line == " " * 9 + "\n") == 1_000_000 - 3


def test_own_messages_and_their_marks() -> None:
    assert plain(lines().own("mine", NOW, ACKNOWLEDGED)) == "22:13:20 ✓ mine\n"
    assert plain(lines().own("mine\ntoo", NOW, WAITING)) == "22:13:20 · mine\n" + " " * 9 + "too\n"


def test_another_day_is_named_once() -> None:
    made = lines()
    day = 86400
    shown = "".join(plain(made.received(b"x\n", "h", at)) for at in (NOW, NOW + 1, NOW + day, NOW + day + 1))
    assert shown == "22:13:20 h: x\n22:13:21 h: x\n2023-11-15\n22:13:20 h: x\n22:13:21 h: x\n"
    made = lines(full_time=True)
    assert plain([*made.received(b"x\n", "h", NOW), *made.received(b"x\n", "h", NOW + day)]).count("\n") == 2


def test_a_message_with_nothing_in_it_is_a_line() -> None:
    assert plain(lines().received(b"\n", "h", NOW)) == "22:13:20 h: \n"
    assert plain(lines().received(b"", "h", NOW)) == "22:13:20 h: \n"


@given(MESSAGES, NAMES, st.booleans(), st.booleans())
def test_nothing_of_a_peer_is_obeyed(message: bytes, name: str, colours: bool, full_time: bool) -> None:
    palette = COLOURS if colours else NO_COLOURS
    shown = "".join(lines(palette, full_time).received(message, name, NOW))
    assert_safe(shown, palette)
    assert shown.count("\n") == message.removesuffix(b"\n").count(b"\n") + 1
    assert plain(shown)[:2] in ("22", "20")


@given(MESSAGES, st.sampled_from([WAITING, ACKNOWLEDGED]))
def test_nothing_that_was_typed_is_obeyed(message: bytes, mark: str) -> None:
    assert_safe("".join(lines().own(message.decode("utf-8", "surrogateescape"), NOW, mark)), COLOURS)


@given(st.lists(NAMES | st.just("a word"), max_size=9).map(" ".join), st.integers(1, 200), st.booleans())
def test_nothing_in_a_sentence_is_obeyed(text: str, width: int, problem: bool) -> None:
    """Sentences name peers, files and commands that somebody else may have written."""
    assert_safe(lines().note(text, width, problem=problem), COLOURS)


def test_a_sentence_is_wrapped_between_words() -> None:
    shown = plain(lines().note("word " * 30 + "\nand a second line", 40))
    assert all(len(line) <= 40 for line in shown.split("\n"))
    assert shown.split() == ["word"] * 30 + ["and", "a", "second", "line"]
    assert plain(lines().note("")) == "\n"


def test_no_color_takes_the_colours_only() -> None:
    made = lines(NO_COLOURS)
    messages = [*made.received(b"x\n", "h", NOW), *made.own("x", NOW, ACKNOWLEDGED)]
    shown = "".join([*messages, made.note("x"), made.note("x", problem=True)])
    assert set(LOOK.findall(shown)) <= {"\x1b[0m", "\x1b[1m", "\x1b[2m"}
