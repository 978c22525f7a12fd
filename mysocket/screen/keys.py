"""What each key does, where that is not what prompt_toolkit does by itself (which is what Emacs and readline do)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from wcwidth import grapheme_boundary_before, iter_graphemes

_Pressed = TypeVar("_Pressed", bound=Callable[[KeyPressEvent], None])

#: Code points that one character of a person's may have, at most; more are several.
CLUSTER = 256


def bindings(
    buffer: Buffer, *, interrupt: Callable[[], None], end: Callable[[], None], suspend: Callable[[], None]
) -> KeyBindings:
    """The keys, while ``buffer`` is typed in.

    :param interrupt: Ctrl-C. :param end: Ctrl-D, with nothing typed. :param suspend: Ctrl-Z.
    """
    found = KeyBindings()
    typing = has_focus(buffer)
    empty = Condition(lambda: not buffer.text)

    def bind(*keys: str, filter: Any = typing) -> Callable[[_Pressed], _Pressed]:
        return found.add(*keys, filter=filter)

    @bind("enter")
    def accept(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bind("escape", "enter")
    def another_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bind("c-c")
    def clear(event: KeyPressEvent) -> None:
        interrupt()

    @bind("c-d", filter=typing & empty)
    def leave(event: KeyPressEvent) -> None:
        end()

    @bind("c-z")
    def to_the_shell(event: KeyPressEvent) -> None:
        suspend()

    @bind("left")
    @bind("c-b")
    def left(event: KeyPressEvent) -> None:
        buffer.cursor_position = before(buffer)

    @bind("right")
    @bind("c-f")
    def right(event: KeyPressEvent) -> None:
        buffer.cursor_position = behind(buffer)

    @bind("backspace")
    def delete_before(event: KeyPressEvent) -> None:
        buffer.delete_before_cursor(buffer.cursor_position - before(buffer))

    @bind("delete")
    @bind("c-d", filter=typing & ~empty)
    def delete_behind(event: KeyPressEvent) -> None:
        buffer.delete(behind(buffer) - buffer.cursor_position)

    return found


# What a person takes for a character may be several code points (UAX 29): a letter with its accents, a family of emoji.


def before(buffer: Buffer) -> int:
    """Where the character before the cursor begins."""
    position = buffer.cursor_position
    return grapheme_boundary_before(buffer.text, position) if position else 0


def behind(buffer: Buffer) -> int:
    """Where the character behind the cursor ends."""
    position = buffer.cursor_position
    return position + len(next(iter_graphemes(buffer.text[position : position + CLUSTER]), ""))
