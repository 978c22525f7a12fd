"""How much of a finite input has been delivered, on one line of a terminal that is drawn again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Verbs draw such lines, too, and import no Twisted.
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds between two drawings.
INTERVAL = 0.5
CLEAR = "\r\x1b[K"


class ProgressLine:
    """The last line of a terminal; whoever else writes there clears it first.

    :param write: writes to the terminal.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._shown = False

    def show(self, text: str) -> None:
        """Draw the line."""
        self._write(CLEAR + text)
        self._shown = True

    def clear(self) -> None:
        """Leave nothing of it."""
        if self._shown:
            self._write(CLEAR)
            self._shown = False


class ProgressDisplay:
    """Draws the line until it is stopped.

    :param delivered: gives the bytes that are acknowledged.
    :param total: bytes of the whole input, or None if nobody knows.
    """

    def __init__(self, clock: IReactorTime, line: ProgressLine, delivered: Callable[[], int], total: int | None) -> None:
        self._clock = clock
        self._line = line
        self._delivered = delivered
        self._total = total
        self._begun = clock.seconds()
        self._call: IDelayedCall | None = clock.callLater(INTERVAL, self._draw)

    def _draw(self) -> None:
        self._call = self._clock.callLater(INTERVAL, self._draw)
        self._line.show(self.text())

    def text(self) -> str:
        """What the line says now."""
        delivered = self._delivered()
        rate = delivered / max(INTERVAL, self._clock.seconds() - self._begun)
        share = f" of {size_text(self._total)} ({min(100, 100 * delivered // self._total)} %)" if self._total else ""
        return f"{size_text(delivered)}{share} delivered, {size_text(int(rate))}/s"

    def stop(self) -> None:
        """Draw no more, and leave the terminal clean."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        self._line.clear()


def size_text(size: int) -> str:
    """Bytes, for people: ``1.5 MB``, in powers of 1000."""
    for unit, scale in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} byte{'s' * (size != 1)}"
