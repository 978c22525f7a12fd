"""A long line in the prompt, as a paste may hold: only what is around the cursor is drawn, as laying out all of it at every key
would take seconds, and minutes where it is controls or combining characters.
"""

from __future__ import annotations

from prompt_toolkit.formatted_text import fragment_list_len, fragment_list_to_text
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput

#: Characters of a line that are drawn; more than the prompt has cells on most screens.
DRAWN = 4096
MARK = "…"


class AroundTheCursor(Processor):
    """Draws a piece of a line that is too long, and a mark where more of it is."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        fragments, document = transformation_input.fragments, transformation_input.document
        if fragment_list_len(fragments) <= DRAWN:
            return Transformation(fragments)
        text = fragment_list_to_text(fragments)
        at = document.cursor_position_col if transformation_input.lineno == document.cursor_position_row else 0
        begin = max(0, min(at - DRAWN // 2, len(text) - DRAWN))
        before = MARK if begin else ""
        behind = MARK if begin + DRAWN < len(text) else ""
        shift = begin - len(before)
        last = len(before) + DRAWN
        return Transformation(
            [("", before + text[begin : begin + DRAWN] + behind)],
            source_to_display=lambda position: min(max(position - shift, 0), last),
            display_to_source=lambda position: min(max(position + shift, 0), len(text)),
        )
