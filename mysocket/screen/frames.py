"""When the screen is drawn, and how a drawing gets to the terminal.

Rules

1. Nothing here ever waits for the terminal. A whole drawing goes to a :class:`~mysocket.ends.descriptors.Writer`; what that has
   not written yet holds back further lines from above, and with them the peer.
2. Lines from above come in batches, each drawn once with the prompt below it: RATE a second, or as many as the terminal takes
   while more of them wait. They are made when they are drawn. So a flood costs a drawing per batch and not per line, and a key is
   never behind more than one of them.
"""

from __future__ import annotations

import fcntl
import struct
import sys
import termios
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mysocket.ends.descriptors import Writer

#: Drawings a second but for what is typed, while lines from above do not pile up; and characters in one of them, about.
RATE = 30
BATCH = 64 * 1024
#: Seconds between two drawings when nothing happens: times that are shown go on.
TICK = 1.0


class Size(NamedTuple):
    """Of a terminal, in cells."""

    rows: int
    columns: int


def terminal_size(fd: int) -> Size:
    """The size of a terminal; 24 and 80 where it does not know."""
    rows = columns = 0
    with suppress(OSError):
        rows, columns = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))[:2]
    return Size(rows or 24, columns or 80)


class Canvas:
    """Stands for the terminal as a text file, and collects a drawing."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._drawn: list[str] = []

    def write(self, text: str) -> None:
        self._drawn.append(text)

    def flush(self) -> None:
        """What is drawn goes out when the drawing is finished."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError("a canvas has no descriptor")

    def take(self) -> bytes:
        """The drawing; the canvas is empty behind it."""
        drawn, self._drawn = self._drawn, []
        return "".join(drawn).encode("utf-8", "replace")


class Frames:
    """Draws on ``canvas``, and writes what is drawn.

    :param erase: takes the prompt off the canvas, with all below.
    :param redraw: asks for it to be drawn again; :meth:`push` is to be called when that is done.
    """

    def __init__(
        self, clock: IReactorTime, writer: Writer, canvas: Canvas, *, erase: Callable[[], None], redraw: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._writer = writer
        self._canvas = canvas
        self._erase = erase
        self._redraw = redraw
        self._above: deque[tuple[Iterator[str], Callable[[], None]]] = deque()
        self._done: list[Callable[[], None]] = []
        self._drawing = False
        self._stale = False  # what is drawn is not what it would be now
        self._crowded = False  # more lines wait than one drawing takes
        self._last = float("-inf")
        self._next: IDelayedCall | None = None
        self._tick: IDelayedCall | None = None

    def show(self, lines: Iterable[str], done: Callable[[], None] = lambda: None) -> None:
        """Show whole lines above the prompt; ``done`` is called when the terminal has them."""
        self._above.append((iter(lines), done))
        self._schedule()

    def refresh(self) -> None:
        """What stands around the prompt may have changed."""
        self._stale = True
        self._schedule()

    def _schedule(self) -> None:
        if self._next is None and self._drawing:
            delay = 0.0 if self._crowded else max(0.0, self._last + 1 / RATE - self._clock.seconds())
            self._next = self._clock.callLater(delay, self._frame)

    def _frame(self) -> None:
        self._next = None
        if not self._writer.idle:
            return  # what is being written calls again
        self._last = self._clock.seconds()
        self._stale = False
        if self._above:
            self._erase()
            self._draw_above(BATCH)
        self._redraw()

    def _draw_above(self, most: int) -> None:
        size = 0
        while self._above and size < most:
            lines, done = self._above[0]
            for line in lines:
                self._canvas.write(line.replace("\n", "\r\n"))
                size += len(line)
                if size >= most:
                    break
            else:
                self._above.popleft()
                self._done.append(done)
        self._crowded = bool(self._above)

    def push(self) -> None:
        """A drawing is finished: write it."""
        drawn = self._canvas.take()
        if not drawn and not self._done:
            return
        done, self._done = self._done, []

        def written() -> None:
            for call in done:
                call()
            if self._above or self._stale:
                self._schedule()

        self._writer.write(drawn, written)

    def start(self) -> None:
        """Draw what there is, and from now on what comes."""
        self._drawing = True
        self._draw_above(BATCH)
        self._ticked()

    def _ticked(self) -> None:
        self._tick = self._clock.callLater(TICK, self._ticked)
        self.refresh()

    def stop(self) -> None:
        """Draw nothing more by itself."""
        self._drawing = False
        for call in (self._next, self._tick):
            if call is not None and call.active():
                call.cancel()
        self._next = self._tick = None

    def finish(self, done: Callable[[], None]) -> None:
        """The prompt is gone: draw all lines that are left; ``done`` is called when everything is written."""
        self._draw_above(sys.maxsize)
        self._done.append(done)
        self._canvas.write("\x1b[0m")
        self.push()
