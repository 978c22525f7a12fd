"""How far a file has come, on one line. Pure."""

from __future__ import annotations

from mysocket.ends.escape import one_line
from mysocket.ends.progress import size_text
from mysocket.screen.status import clip, span

#: Cells of the bar; of a name, at most.
CELLS, NAME = 20, 40
#: Seconds after which a rate means something.
SETTLED = 0.5


class Bar:
    """One transfer's line.

    :param arrow: which way it goes.
    :param size: bytes of the file; None: nobody knows (the peer began before this process did).
    :param offset: where it stands ``now``, in seconds.
    """

    def __init__(self, arrow: str, name: str, size: int | None, offset: int, now: float) -> None:
        self._arrow = arrow
        self._name = one_line(name, NAME)
        self._size = size
        self._first = offset, now

    def line(self, offset: int, now: float, width: int) -> str:
        """The line, in at most ``width`` cells (2 or more)."""
        begun, since = self._first
        rate = (offset - begun) / (now - since) if now - since >= SETTLED else 0.0
        speed = f", {size_text(int(rate))}/s" if rate else ""
        if self._size is None:
            return clip(f"{self._arrow} {self._name}  {size_text(offset)}{speed}", width)
        # What comes is what a peer sends, however much it said that would be.
        share = min(1.0, offset / self._size) if self._size else 1.0
        full = int(share * CELLS)
        left = f", {span((self._size - offset) / rate)} left" if rate and offset < self._size else ""
        text = f"{int(share * 100):3} % of {size_text(self._size)}{speed}{left}"
        return clip(f"{self._arrow} {self._name} {'█' * full}{'░' * (CELLS - full)} {text}", width)
