"""What prompt_toolkit draws of a message that is being typed is as harmless as what is shown of one."""

from __future__ import annotations

import sys
import unicodedata

from prompt_toolkit.layout.screen import Char

import mysocket.screen.prompt
from mysocket.ends.escape import escape

assert mysocket.screen.prompt


def test_every_character_that_could_be_obeyed_is_drawn_as_something_else() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp"):
            continue
        shown = Char(character).char
        assert escape(shown.encode()) == shown.encode(), f"U+{code:04X}"
        assert character in "\u200c\u200d" or shown != character


def test_what_is_drawn_stays_as_it_is() -> None:
    for character in "aäß漢字👩\u0301\u200d\u200c\ufe0fש":
        assert Char(character).char == character
