"""A :class:`twisted.internet.task.Clock` for thousands of timers.

Twisted's own sorts all its calls whenever one is added or made: with 10,000 of them that is a millisecond each time. This one has
a heap. tests/carriers/test_storm.py lets both do the same, and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock


class HeapClock(Clock):
    """A Clock whose calls are in a heap; those that were cancelled or moved are passed over when their old time comes."""

    def __init__(self) -> None:
        super().__init__()
        self._heap: list[tuple[float, int, DelayedCall]] = []
        self._numbers = count()

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> IDelayedCall:
        call = DelayedCall(self.seconds() + delay, callable, args, kw, _nothing, self._push, self.seconds)
        self._push(call)
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        return list({id(call): call for _, _, call in sorted(self._heap) if call.active()}.values())

    def advance(self, amount: float) -> None:
        self.rightNow += amount
        while (call := self._due(self.rightNow)) is not None:
            self._make(call)

    def run(self, until: float = float("inf"), done: Callable[[], bool] = lambda: False) -> None:
        """Go from call to call, up to the time ``until``, until nothing is left to do, or ``done``.

        In one step of Twisted's ``advance`` every call sees the time of its end; here each sees its own.
        """
        while not done():
            call = self._due(until)
            if call is None:
                if until != float("inf"):
                    self.rightNow = max(self.rightNow, until)
                return
            self.rightNow = max(self.rightNow, call.getTime())
            self._make(call)

    def _push(self, call: DelayedCall) -> None:
        heappush(self._heap, (call.getTime(), next(self._numbers), call))

    def _due(self, until: float) -> DelayedCall | None:
        """Take the next call whose time comes by then."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            time, _, call = heappop(heap)
            if call.cancelled or call.called:
                continue
            if call.getTime() > time:
                self._push(call)  # it was put off
                continue
            return call
        return None

    @staticmethod
    def _make(call: DelayedCall) -> None:
        call.called = 1
        call.func(*call.args, **call.kw)  # type: ignore[misc]


def _nothing(call: Any) -> None:
    """A call that was cancelled stays in the heap until its time."""
