"""What is said of a thing that fails again and again: each sentence now and then."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

#: Seconds after which the same may be said again, and how much is remembered for that.
SAY_AGAIN = 60.0
REMEMBERED = 64


class Seldom:
    """What is said again and again is said once in :data:`SAY_AGAIN` seconds."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}

    def due(self, text: str) -> bool:
        """May it be said now? Then it counts as said."""
        now = self._clock.seconds()
        if now - self._said.get(text, float("-inf")) < SAY_AGAIN:
            return False
        if len(self._said) >= REMEMBERED:
            self._said = {said: at for said, at in self._said.items() if now - at < SAY_AGAIN}
        if len(self._said) < REMEMBERED:
            self._said[text] = now
        return True
