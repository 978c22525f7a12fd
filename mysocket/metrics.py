"""Counters as values: what has passed, and how fast. Plain Python; whoever counts brings the time along."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import StrEnum
from math import exp
from typing import NamedTuple

#: Seconds in which a rate forgets all but 1/e of what was.
TAU = 10.0
#: Upper bounds in seconds: from a memory disk and a loopback to a disk that hangs and a satellite.
BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


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


class Observed(NamedTuple):
    """What a histogram has seen: how often each bound was the lowest that is not exceeded, and last how often none was; and the
    sum."""

    counts: tuple[int, ...]
    sum: float


class Histogram:
    """How long something took, in counts.

    One thread observes. What any other reads is whole at every moment: an observation puts a new value in the place of the old.

    :param bounds: in seconds, rising.
    """

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self.bounds = bounds
        self.observed = Observed((0,) * (len(bounds) + 1), 0.0)

    def observe(self, seconds: float) -> None:
        """Once more; a clock that went back meanwhile counts as one that stood still."""
        seconds = max(0.0, seconds)
        counts, place = self.observed.counts, bisect_left(self.bounds, seconds)
        self.observed = Observed((*counts[:place], counts[place] + 1, *counts[place + 1 :]), self.observed.sum + seconds)


class CommitTimes:
    """How long the disk takes: for the output file, written and synced, and for the transaction of the spool, synced."""

    def __init__(self) -> None:
        self.output = Histogram()
        self.spool = Histogram()


class Rejected(StrEnum):
    """Why a connection was not taken, or with UDP a datagram."""

    #: Its address may not connect.
    NOT_ALLOWED = "not_allowed"
    #: Too many wait: for their handshake, a look-up, or their turn.
    TOO_MANY = "too_many"
    #: It ended, or said nothing for too long, before it had said who it is.
    HANDSHAKE = "handshake"
    #: It speaks something else, or breaks the rules.
    PROTOCOL = "protocol"
    #: It speaks another version only.
    VERSION = "version"
    #: This side has its one peer.
    BUSY = "busy"
    #: It was left on purpose, or what waits here is for another.
    REFUSED = "refused"
    #: What it has, and what is known of it, do not fit.
    STATE_LOSS = "state_loss"
    #: A datagram larger than messages may be.
    TOO_LONG = "too_long"


@dataclass(slots=True)
class Counters:
    """What has passed since the beginning, and the bytes per second of late. ``in`` is from the peer, ``out`` to it.

    Whoever moves batches adds to the numbers; :meth:`tick`, once for many batches, makes rates of what was added.

    Laws: what is sent again counts in ``out``, too, so ``bytes_out - bytes_resent`` is how far the own stream has come on the
    wire; what comes again counts in neither, so ``bytes_in`` is how far the peers' streams have come.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    batches_in: int = 0
    batches_out: int = 0
    bytes_resent: int = 0
    batches_resent: int = 0
    connections: int = 0
    reconnects: int = 0
    dials_failed: int = 0
    rejected: dict[Rejected, int] = field(default_factory=lambda: dict.fromkeys(Rejected, 0))
    #: Seconds from PING to PONG.
    round_trips: Histogram = field(default_factory=Histogram)
    rate_in: Meter = field(default_factory=Meter)
    rate_out: Meter = field(default_factory=Meter)
    _seen_in: int = 0
    _seen_out: int = 0

    def reject(self, why: Rejected) -> None:
        """One more was not taken."""
        self.rejected[why] += 1

    def tick(self, now: float) -> None:
        """The numbers stand as they do at the time ``now`` (seconds)."""
        if self.bytes_in != self._seen_in:
            self.rate_in.add(self.bytes_in - self._seen_in, now)
            self._seen_in = self.bytes_in
        if self.bytes_out != self._seen_out:
            self.rate_out.add(self.bytes_out - self._seen_out, now)
            self._seen_out = self.bytes_out
