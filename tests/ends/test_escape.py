"""Nothing that a terminal obeys gets through, however the bytes are cut; what it draws does."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mysocket.ends.escape import Escaper, drawn_json, escape, one_line

BIDI = [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C]
NEVER = {*range(0x20), 0x7F, *range(0x80, 0xA0), *BIDI, 0x2028, 0x2029, 0xFEFF} - {0x09, 0x0A}

# Bytes and characters that matter, more often than chance would bring them together.
NASTY = st.sampled_from(
    [b"\x1b", b"\x9b", b"\xc2", b"\xe2\x80", b"\xe2\x80\xae", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\r", b"\x7f"]
)
PIECES = st.lists(NASTY | st.binary(max_size=6) | st.text(max_size=6).map(lambda text: text.encode("utf-8", "surrogatepass")))
MESSAGES = PIECES.map(b"".join)


def in_chunks(chunks: list[bytes]) -> bytes:
    escaper = Escaper()
    return b"".join(escaper.feed(chunk) for chunk in chunks) + escaper.finish()


def assert_harmless(shown: bytes) -> None:
    text = shown.decode("utf-8")
    assert not NEVER & set(map(ord, text)), ascii(text)


def test_the_check_itself_can_fail() -> None:
    for code in NEVER:
        with pytest.raises(AssertionError):
            assert_harmless(f"a{chr(code)}".encode())
    with pytest.raises(UnicodeDecodeError):
        assert_harmless(b"\x9b31m")


def test_every_byte() -> None:
    for byte in range(256):
        shown = escape(bytes([byte]))
        plain = 0x20 <= byte <= 0x7E or byte in b"\t\n"
        assert shown == (bytes([byte]) if plain else b"\\x%02x" % byte)
        assert in_chunks([bytes([byte])]) == shown


def test_every_pair_of_bytes_whole_and_cut() -> None:
    for first in range(256):
        for second in range(256):
            pair = bytes([first, second])
            shown = escape(pair)
            assert in_chunks([pair[:1], pair[1:]]) == shown
            assert_harmless(shown)


def test_every_character() -> None:
    for code in range(0x110000):
        if 0xD800 <= code <= 0xDFFF:
            continue
        character = chr(code)
        shown = escape(character.encode())
        if shown != character.encode():
            assert shown == (b"\\x%02x" % code if code < 0x100 else b"\\u{%04x}" % code)
            assert unicodedata.category(character) in {"Cc", "Cf", "Cn", "Co", "Zl", "Zp"}
        else:
            assert code not in NEVER


@given(MESSAGES)
def test_no_message_gets_a_forbidden_byte_through(message: bytes) -> None:
    assert_harmless(escape(message))


@given(MESSAGES)
def test_a_cut_anywhere_changes_nothing(message: bytes) -> None:
    shown = escape(message)
    for cut in range(len(message) + 1):
        assert in_chunks([message[:cut], message[cut:]]) == shown
    assert in_chunks([bytes([byte]) for byte in message]) == shown


@given(MESSAGES, MESSAGES)
def test_an_escaper_is_as_new_after_finish(first: bytes, second: bytes) -> None:
    escaper = Escaper()
    assert escaper.feed(first) + escaper.finish() == escape(first)
    assert escaper.feed(second) + escaper.finish() == escape(second)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.sampled_from("\n\t")))
def test_plain_text_is_left_alone(text: str) -> None:
    assert escape(text.encode()) == text.encode()


@pytest.mark.parametrize(
    "text",
    [
        "grüße, 漢字, שלום, مرحبا, ไทย, हिन्दी",
        "👩‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 ❤️ 1️⃣ 🇩🇪",
        "می\u200cخواهم",
        "no\u00a0break\u2009thin\u3000wide",
        "e\u0301 C:\\temp \\x1b",
        "\ufffd",
    ],
)
def test_what_is_drawn_passes(text: str) -> None:
    assert escape(text.encode()) == text.encode()
    assert in_chunks([bytes([byte]) for byte in text.encode()]) == text.encode()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (b"\x1b[2J\x1b]0;title\x07", rb"\x1b[2J\x1b]0;title\x07"),
        (b"50%\r100%\n", b"50%\\x0d100%\n"),
        (b"\x9b2J", rb"\x9b2J"),
        ("\u009b2J".encode(), rb"\x9b2J"),
        ("abc\u202edef\u2069".encode(), rb"abc\u{202e}def\u{2069}"),
        ("a\u2028b\ufeffc\u00add\ue000e\U000e0041".encode(), rb"a\u{2028}b\u{feff}c\xadd\u{e000}e\u{e0041}"),
        (b"\xc3(\xe2\x82", rb"\xc3(\xe2\x82"),
        (b"\xc0\x9b\xe0\x80\x9b", rb"\xc0\x9b\xe0\x80\x9b"),
        (b"\xed\xa0\x80", rb"\xed\xa0\x80"),
        (b"\x00", rb"\x00"),
        (b"", b""),
    ],
)
def test_what_is_obeyed_is_shown(message: bytes, shown: bytes) -> None:
    assert escape(message) == shown


def test_an_unfinished_character_waits_and_then_is_shown() -> None:
    escaper = Escaper()
    assert escaper.feed("a€".encode()[:3]) == b"a"
    assert escaper.feed("€".encode()[2:]) == "€".encode()
    assert escaper.feed(b"\xf0\x9f") == b""
    assert escaper.feed(b"plain") == rb"\xf0\x9fplain"
    assert escaper.feed(b"\xf0\x9f") == b""
    assert escaper.finish() == rb"\xf0\x9f"
    assert escaper.finish() == b""


def test_emoji_newer_than_this_python_pass() -> None:
    unassigned = [chr(code) for code in range(0x1F000, 0x1FB00) if unicodedata.category(chr(code)) == "Cn"]
    assert unassigned
    for character in unassigned:
        assert escape(character.encode()) == character.encode()


@given(st.text(max_size=300), st.integers(1, 200))
def test_one_line_is_one_short_line(text: str, limit: int) -> None:
    shown = one_line(text, limit)
    assert len(shown) <= limit
    assert not any(code in (0x09, 0x0A) for code in map(ord, shown))
    assert_harmless(shown.encode())


@given(st.text(st.characters(categories=["Cs"]) | st.sampled_from("\n\tx\x1b\x85"), max_size=10))
def test_one_line_takes_lone_surrogates(text: str) -> None:
    assert_harmless(one_line(text).encode())


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("short", 5, "short"),
        ("longer", 5, "long…"),
        ("two\nlines\tand\r", 40, r"two\x0alines\x09and\x0d"),
        ("\x1b[31m", 8, r"\x1b[31m"),
        ("\x1b[31mx", 8, r"\x1b[31…"),
        ("ab\x1bc", 5, "ab…"),
        ("\udc9b\ud800", 128, r"\x9b\u{d800}"),
        ("x" * 10**6, 4, "xxx…"),
        ("", 1, ""),
    ],
)
def test_one_line_shortens_between_escapes(text: str, limit: int, shown: str) -> None:
    assert one_line(text, limit) == shown


# JSON on a terminal -------------------------------------------------------------------------------------------------------------


def test_every_character_in_json_is_drawn_or_an_escape_and_stays_what_it_is() -> None:
    characters = [chr(code) for code in range(0x110000)]
    drawn = drawn_json(json.dumps(characters, ensure_ascii=False))
    assert json.loads(drawn) == characters
    assert escape(drawn.encode()) == drawn.encode()
    for character, text in zip(characters, drawn[2:-2].split('", "'), strict=True):
        if text.isascii() and not character.isascii():
            data = character.encode("utf-8", "surrogatepass")
            assert escape(data) != data, "only what is not drawn is escaped"


@given(st.dictionaries(st.text(), st.text() | NASTY.map(lambda data: data.decode("latin-1")) | st.floats(allow_nan=False)))
def test_json_on_a_terminal_is_the_same_object_on_one_line(fields: dict[str, object]) -> None:
    for ascii_only in (False, True):
        shown = drawn_json(json.dumps(fields, ensure_ascii=ascii_only))
        assert json.loads(shown) == fields
        assert "\n" not in shown
        assert_harmless(shown.encode())


def test_json_on_a_terminal_stays_readable() -> None:
    assert drawn_json('"grüße, 漢字 👩‍👩‍👧 \\u001b[31m"') == '"grüße, 漢字 👩‍👩‍👧 \\u001b[31m"'
    assert drawn_json('"\x7f \x9b \u202e \U000e0001"') == '"\\u007f \\u009b \\u202e \\udb40\\udc01"'


@given(st.binary(min_size=1, max_size=9) | st.text(min_size=1, max_size=5).map(str.encode))
@settings(max_examples=20)
def test_a_long_message_is_escaped_as_a_short_one(piece: bytes) -> None:
    """It is escaped in pieces, which may end within a character."""
    message = piece * (200_000 // len(piece))
    assert escape(message) == _whole(message)


def _whole(message: bytes) -> bytes:
    escaper = Escaper()
    return escaper.feed(message) + escaper.finish()
