"""What is shown above the prompt: received messages, own ones with their marks, and sentences of this program.

Rules

1. A line that was shown is never changed: it belongs to the terminal's scrollback. So an own message gets there when its mark is
   final, and waits below until then (own.py).
2. What a peer sent or is called is escaped; what is written here is the only markup.
3. NO_COLOR takes the colours (no-color.org). Dim and bold are none.
4. A message is made line by line: one of a million lines is drawn in many drawings, between which one sees what one types.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from textwrap import wrap

from mysocket.ends.escape import escape, one_line

#: The marks of own messages: not acknowledged; acknowledged by the peer.
WAITING, ACKNOWLEDGED = "·", "✓"
#: Characters of a peer's name that are shown.
NAME_WIDTH = 32


@dataclass(frozen=True, slots=True)
class Palette:
    """Escape sequences (ECMA-48, 8.3.117 SGR) that switch a look on, and the one that switches all off."""

    dim: str = "\x1b[2m"
    name: str = "\x1b[36m"
    mark: str = "\x1b[32m"
    problem: str = "\x1b[33m"
    off: str = "\x1b[0m"


COLOURS = Palette()
NO_COLOURS = Palette(name="\x1b[1m", mark="", problem="\x1b[1m")


class Lines:
    """Makes them.

    :param full_time: show the date, the fraction and the offset too (RFC 3339), as ``--timestamps`` asks for.
    :param local: the local time of a number of seconds since the epoch.
    """

    def __init__(
        self,
        palette: Palette = COLOURS,
        *,
        full_time: bool = False,
        local: Callable[[float], datetime] = lambda seconds: datetime.fromtimestamp(seconds).astimezone(),
    ) -> None:
        self._palette = palette
        self._full_time = full_time
        self._local = local
        self._day: object = None

    def received(self, message: bytes, name: str, at: float) -> Iterator[str]:
        """The lines of a message of a peer.

        :param at: seconds since the epoch.
        """
        look = self._palette
        text = escape(message.removesuffix(b"\n")).decode("utf-8", "backslashreplace")
        return self._lines(f"{look.name}{one_line(name, NAME_WIDTH)}:{look.off} ", text, at)

    def own(self, text: str, at: float, mark: str) -> Iterator[str]:
        """The lines of an own message, and how far it has come."""
        look = self._palette
        shown = escape(text.encode("utf-8", "surrogateescape")).decode("utf-8", "backslashreplace")
        return self._lines(f"{look.mark if mark == ACKNOWLEDGED else look.dim}{mark}{look.off} ", shown, at)

    def note(self, text: str, width: int = 80, *, problem: bool = False) -> str:
        """A sentence of this program, wrapped between words; it may have several lines.

        It may name what others have named: it is escaped too.
        """
        look = self._palette
        on = look.problem if problem else look.dim
        wrapped = (
            wrap(one_line(line, sys.maxsize), max(20, width), break_long_words=False, break_on_hyphens=False) or [""]
            for line in text.split("\n")
        )
        return "".join(f"{on}{line}{look.off}\n" for lines in wrapped for line in lines)

    def _lines(self, before: str, text: str, at: float) -> Iterator[str]:
        look, time = self._palette, self._local(at)
        stamp = time.isoformat(timespec="milliseconds") if self._full_time else time.strftime("%H:%M:%S")
        if self._day != time.date():
            # Of a session over midnight one wants to know which day it was.
            if self._day is not None and not self._full_time:
                yield self.note(time.strftime("%Y-%m-%d"))
            self._day = time.date()
        start, begin = f"{look.dim}{stamp}{look.off} {before}", 0
        while (end := text.find("\n", begin)) >= 0:
            yield f"{start}{text[begin:end]}\n"
            start, begin = " " * (len(stamp) + 1), end + 1
        yield f"{start}{text[begin:]}\n"
