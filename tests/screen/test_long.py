"""Long lines in the prompt: what is drawn of them is around the cursor, and the cursor is where it belongs."""

from __future__ import annotations

import pytest
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import fragment_list_to_text
from prompt_toolkit.layout import BufferControl
from prompt_toolkit.layout.processors import Transformation, TransformationInput

from mysocket.screen.long import DRAWN, MARK, AroundTheCursor


def drawn(text: str, at: int) -> tuple[str, Transformation]:
    """What is drawn of a line with the cursor at ``at``."""
    document = Document(text, at)
    given = TransformationInput(BufferControl(Buffer()), document, 0, lambda position: position, [("", text)], 80, 24)
    made = AroundTheCursor().apply_transformation(given)
    return fragment_list_to_text(made.fragments), made


@pytest.mark.parametrize("length", [0, 1, DRAWN])
def test_a_line_that_is_not_long_is_drawn_whole(length: int) -> None:
    text = "x" * length
    assert drawn(text, length)[0] == text


@pytest.mark.parametrize("length", [DRAWN + 1, DRAWN + 2, 3 * DRAWN])
def test_the_cursor_stands_before_its_character(length: int) -> None:
    text = "".join(chr(0x4E00 + index) for index in range(length))
    for at in {0, 1, DRAWN // 2, DRAWN // 2 + 1, DRAWN, length // 2, length - DRAWN // 2, length - 1, length}:
        shown, made = drawn(text, at)
        assert len(shown) <= DRAWN + 2
        position = made.source_to_display(at)
        assert (shown[position] if position < len(shown) else "") == text[at : at + 1]
        assert made.display_to_source(position) == at
        assert shown.startswith(MARK) == (text[0] not in shown) and shown.endswith(MARK) == (text[-1] not in shown)
