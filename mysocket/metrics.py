"""Counters as values: what has passed, and how fast. Plain Python; whoever counts brings the time along."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp

#: Seconds in which a rate forgets all but 1/e of what was.
TAU = 10.0


class Meter:
    """So much per second, of late: each amount counts less the longer ago it was, by a factor of e in ``tau`` seconds.

    What comes evenly shows its rate after a few ``tau``. There is no timer: the time between two calls is made up for by the
    second. A clock that goes back counts as one that stands still.

    :param tau: in seconds.
    """

    def __init__(self, tau: float = TAU) -> None:
        if not tau > 0:
            raise ValueError(f"tau must be above 0, not {tau}")
        self._tau = tau
        self._rate = 0.0
        self._at: float | None = None

    def add(self, n: float, now: float) -> None:
        """So much has passed just now (seconds, on the clock that all calls use)."""
        self._rate = self.rate(now) + n / self._tau
        self._at = now if self._at is None else max(self._at, now)

    def rate(self, now: float) -> float:
        """Per second."""
        if self._at is None or now <= self._at:
            return self._rate
        return self._rate * exp((self._at - now) / self._tau)


@dataclass(slots=True)
class Counters:
    """What has passed since the beginning, and the bytes per second of late. ``in`` is from the peer, ``out`` to it.

    Whoever moves batches adds to the numbers; :meth:`tick`, once for many batches, makes rates of what was added.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    batches_in: int = 0
    batches_out: int = 0
    connections: int = 0
    rate_in: Meter = field(default_factory=Meter)
    rate_out: Meter = field(default_factory=Meter)
    _seen_in: int = 0
    _seen_out: int = 0

    def tick(self, now: float) -> None:
        """The numbers stand as they do at the time ``now`` (seconds)."""
        if self.bytes_in != self._seen_in:
            self.rate_in.add(self.bytes_in - self._seen_in, now)
            self._seen_in = self.bytes_in
        if self.bytes_out != self._seen_out:
            self.rate_out.add(self.bytes_out - self._seen_out, now)
            self._seen_out = self.bytes_out
