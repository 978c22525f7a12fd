"""Who of many clients goes on while the others wait, and how much all of them may have left with the service.

Rules

1. So many have a turn at a time. The others get theirs in the order in which they asked.
2. What is held for all is bounded, but for those who are told to go on so that something of it can go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Asker(Protocol):
    """Who may have to wait for a turn."""

    def granted(self) -> None:
        """It has the turn that it has asked for."""


class Turns:
    """See rule 1.

    :param most: that are had at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._holders: list[Asker] = []
        self._waiting: list[Asker] = []

    def ask(self, who: Asker) -> bool:
        """Does ``who`` have a turn? If not, it is told when it has."""
        if who in self._holders:
            return True
        if len(self._holders) < self._most:
            self._holders.append(who)
            return True
        if who not in self._waiting:
            self._waiting.append(who)
        return False

    def has(self, who: Asker) -> bool:
        """Does it have one?"""
        return who in self._holders

    @property
    def are_wanted(self) -> bool:
        """Does anybody wait for one?"""
        return bool(self._waiting)

    def leave(self, who: Asker) -> None:
        """``who`` needs none any more."""
        if who in self._waiting:
            self._waiting.remove(who)
        if who in self._holders:
            self._holders.remove(who)
            if self._waiting:
                self._holders.append(self._waiting.pop(0))
                self._holders[-1].granted()


class Held:
    """See rule 2.

    :param most: bytes; exceeded by what is on its way when they are reached.

    :ivar on_room: called when there is room again.
    """

    def __init__(self, most: int) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self._most = most
        self._size = 0

    @property
    def is_full(self) -> bool:
        return self._size >= self._most

    def change(self, by: int) -> None:
        """So many bytes more are held, or less."""
        before, self._size = self.is_full, self._size + by
        if before and not self.is_full:
            self.on_room()
