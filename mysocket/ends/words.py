"""What is said about files: a line or two for each, but a peer that sends thousands does not fill a log."""

from __future__ import annotations

from collections.abc import Callable

#: Lines that are said in so many seconds, at most.
LINES = 1000
INTERVAL = 60.0


class Words:
    """Says lines, and how many it has left out.

    :param tell: takes a line.
    :param now: time in seconds.
    """

    def __init__(self, tell: Callable[[str], None], now: Callable[[], float]) -> None:
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
                self._tell(f"{left_out} more lines about files were left out")
        self._said += 1
        if self._said <= LINES:
            self._tell(text)
