"""When the screen is drawn, and how a drawing gets to the terminal.

Rules

1. Nothing here ever waits for the terminal. A whole drawing goes to a :class:`~mysocket.ends.descriptors.Writer`; what that has
   not written yet holds back further lines from above, and with them the peer.
2. Lines from above come in batches, each drawn once with the prompt below it: RATE a second, or as many as the terminal takes
   while more of them wait. They are made when they are drawn. So a flood costs a drawing per batch and not per line, and a key is
   never behind more than one of them.
3. What came from a peer and is not drawn when the session ends is not acknowledged, and still the peer's: a flood of it keeps
   nobody from leaving. What this side has to say is always drawn.
"""

from __future__ import annotations

import fcntl
import math
import struct
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
    :param failed: called when a line cannot be made; see :meth:`give_up`.
    """

    def __init__(
        self,
        clock: IReactorTime,
        writer: Writer,
        canvas: Canvas,
        *,
        erase: Callable[[], None],
        redraw: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._clock = clock
        self._writer = writer
        self._canvas = canvas
        self._erase = erase
        self._redraw = redraw
        self._failed = failed
        self._above: deque[tuple[Iterator[str], Callable[[], None] | None]] = deque()
        self._done: list[Callable[[], None]] = []
        self._drawing = False
        self._stale = False  # what is drawn is not what it would be now
        self._crowded = False  # more lines wait than one drawing takes
        self._given_up = False
        self._last = float("-inf")
        self._next: IDelayedCall | None = None
        self._tick: IDelayedCall | None = None

    def show(self, lines: Iterable[str], done: Callable[[], None] | None = None) -> None:
        """Show whole lines above the prompt.

        :param done: for what came from a peer: called when the terminal has it.
        """
        if done is None or not self._given_up:
            self._above.append((iter(lines), done))
            self._schedule()

    def give_up(self) -> None:
        """Something could not be drawn: nothing that came from a peer is called written any more; it may be what is missing."""
        self._given_up = True
        self._done.clear()
        self._above = deque((lines, done) for lines, done in self._above if done is None)

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
            try:
                self._draw_above()
            except Exception as problem:
                self._failed(problem)
        self._redraw()

    def _draw_above(self) -> None:
        size = 0
        while self._above and size < BATCH:
            lines, done = self._above[0]
            drawn = self._draw_lines(lines, BATCH - size)
            size += drawn
            if size < BATCH:
                self._above.popleft()
                if done is not None:
                    self._done.append(done)
        self._crowded = bool(self._above)

    def _draw_lines(self, lines: Iterable[str], most: float) -> int:
        """Draw the next of them, until it is ``most`` characters; how many it were."""
        size = 0
        for line in lines:
            self._canvas.write(line.replace("\n", "\r\n"))
            size += len(line)
            if size >= most:
                break
        return size

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
        self._draw_above()
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
        """The prompt is gone: draw the lines that are left; ``done`` is called when everything is written."""
        room = BATCH
        for lines, call in self._above:
            if call is None:
                self._draw_lines(lines, math.inf)
            elif room > 0:
                room -= self._draw_lines(lines, room)
                if room > 0:
                    self._done.append(call)
        self._above.clear()
        self._done.append(done)
        self._canvas.write("\x1b[0m")
        self.push()
