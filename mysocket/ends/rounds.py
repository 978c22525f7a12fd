"""Work that is asked for while it is under way."""

from __future__ import annotations

from collections.abc import Callable


class Rounds:
    """Does a round of work whenever it is called; if it is called within one, directly or not, once more behind that.

    What is given to others may come back at once with more to do: no call goes deeper and deeper, and nothing is forgotten.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._under_way = False
        #: Another round comes behind the one that is under way.
        self.again = False

    def __call__(self) -> None:
        self.again = True
        if self._under_way:
            return
        self._under_way = True
        try:
            while self.again:
                self.again = False
                self._work()
        finally:
            self._under_way = False
