r"""What may reach a terminal.

A terminal obeys some characters instead of drawing them, so the sender of a message could move the cursor, retitle the window,
answer for the user, or (bidi controls) make a line read as something else. Rules:

1. The terminal reads UTF-8. Only characters that are drawn pass: letters, marks, numbers, punctuation, symbols, spaces.
2. Newline and tab pass, and of the format characters ZWNJ and ZWJ: scripts and emoji are joined with them. Variation selectors
   are marks and pass by rule 1.
3. All else is shown: controls (C0, DEL, C1), the other format characters (bidi controls, U+FEFF, soft hyphen, tags), line and
   paragraph separators, private use, unassigned. Below 0x100 as ``\xNN``, above as ``\u{NNNN}``. Unassigned code points of the
   emoji blocks pass: the terminal may well know newer emoji than this Python.
4. A byte that is not part of valid UTF-8 is shown as ``\xNN``. So the raw C1 byte 0x9B and U+009B look alike; neither passes.
5. A backslash stays as it is: this is for reading, not for decoding.

Each character is judged by itself, so that a cut between two characters changes nothing. Sources: the Unicode Standard,
chapter 23; UAX 9 for bidi; ECMA-48 for C0 and C1.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

_PLAIN_BYTES = bytes([*b"\t\n", *range(0x20, 0x7F)])
_NOT_PLAIN = re.compile(r"[^\t\n -~]+")
_JOINERS = "\u200c\u200d"
#: Bytes that are escaped at once.
_PIECE = 64 * 1024


class Escaper:
    """Escapes a stream of bytes that arrives in chunks, cut anywhere, also within a character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._between_characters = True

    def feed(self, data: bytes) -> bytes:
        """The bytes of `data` that may be written. Up to three bytes of an unfinished character wait for the next chunk."""
        if self._between_characters and not data.translate(None, _PLAIN_BYTES):
            return data
        text = self._decoder.decode(data)
        self._between_characters = not self._decoder.getstate()[0]
        return _drawn(text)

    def finish(self) -> bytes:
        """What waited for the rest of its character, which does not come. The escaper is as new after it."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._between_characters = True
        return _drawn(text)


def escape(data: bytes) -> bytes:
    """A whole message, as it may be written to a terminal."""
    if not data.translate(None, _PLAIN_BYTES):
        return data
    if len(data) <= _PIECE:
        return _drawn(data.decode("utf-8", "surrogateescape"))
    # In pieces: each character that is shown is a string of its own for a while, a hundred times as large.
    escaper = Escaper()
    return b"".join([*(escaper.feed(data[at : at + _PIECE]) for at in range(0, len(data), _PIECE)), escaper.finish()])


def one_line(text: str, limit: int = 128) -> str:
    """`text` from a peer as part of one line of a log: newline and tab are shown too; at most `limit` (1 or more) characters."""
    shown = [character if " " <= character <= "~" else _character(character) for character in text[: limit + 1]]
    if sum(map(len, shown)) <= limit:
        return "".join(shown)
    room = limit - 1
    kept = []
    for piece in shown:
        room -= len(piece)
        if room < 0:
            break
        kept.append(piece)
    return "".join(kept) + "…"


def plain(text: str) -> str:
    """`text` as one line of a log, all of it: whatever is no part of a line, newline and tab too, is shown."""
    return text if text.isprintable() else "".join(map(_character, text))


def drawn_json(text: str) -> str:
    """One line of JSON as it may be written to a terminal: the same value, for whoever pastes it into a program, and as readable.

    What is not drawn can only be within a string of it, where ``\\uNNNN`` stands for it (RFC 8259, section 7).
    """
    return _NOT_PLAIN.sub(_json_run, text)


def _json_run(match: re.Match[str]) -> str:
    run = match[0]
    return run if run.isprintable() else "".join(map(_json_character, run))


def _json_character(character: str) -> str:
    if _character(character) == character:
        return character
    # Beyond U+FFFF: two surrogates.
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[index : index + 2].hex()}" for index in range(0, len(units), 2))


def _drawn(text: str) -> bytes:
    return _NOT_PLAIN.sub(_run, text).encode("utf-8")


def _run(match: re.Match[str]) -> str:
    run = match[0]
    return run if run.isprintable() else "".join(map(_character, run))


def _character(character: str) -> str:
    code = ord(character)
    if character.isprintable() or character in _JOINERS:
        return character
    category = unicodedata.category(character)
    if category == "Zs" or (category == "Cn" and 0x1F000 <= code <= 0x1FAFF):
        return character
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:04x}}}"
