"""What peers cause to be said: a line or two about each thing, but one that does thousands of them does not fill a log."""

from __future__ import annotations

from collections.abc import Callable

from mysocket.notices import notice

#: Lines that are said in so many seconds, at most.
LINES = 1000
INTERVAL = 60.0


class Words:
    """Says lines, and how many it has left out.

    :param tell: takes a line.
    :param now: time in seconds.
    :param about: what they are about.
    """

    def __init__(self, tell: Callable[[str], None], now: Callable[[], float], *, about: str = "files") -> None:
        self._about = about
        self._tell = tell
        self._now = now
        self._since = float("-inf")
        self._said = 0

    def say(self, text: str) -> None:
        """Say it, if there is room."""
        now = self._now()
        if now - self._since >= INTERVAL:
            left_out = self._said - LINES
            self._since, self._said = now, 0
            if left_out > 0:
                summary = f"{left_out} more lines about {self._about} were left out"
                self._tell(notice("left_out", summary, count=left_out))
        self._said += 1
        if self._said <= LINES:
            self._tell(text)
