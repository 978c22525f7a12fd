"""Own messages on their way: what was typed, until the peer has acknowledged it."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from itertools import islice


@dataclass(slots=True)
class Message:
    """What was typed.

    :ivar at: when, in seconds since the epoch.
    :ivar position: where the own stream stands behind it, once somebody has taken it.
    :ivar more: lines behind the first.
    """

    text: str
    at: float
    position: int = sys.maxsize
    more: int = field(init=False)

    def __post_init__(self) -> None:
        self.more = self.text.count("\n")


class Waiting:
    """Messages that are not acknowledged, in the order in which they were typed: first those that were taken, then the others."""

    def __init__(self) -> None:
        self._taken: deque[Message] = deque()
        self._untaken: deque[Message] = deque()

    def __len__(self) -> int:
        return len(self._taken) + len(self._untaken)

    @property
    def untaken(self) -> int:
        """How many nobody has taken yet."""
        return len(self._untaken)

    def add(self, message: Message) -> None:
        """It was typed."""
        self._untaken.append(message)

    def take(self) -> Message:
        """The first that nobody has taken; from here on it is taken. Its position is to be set when it is known."""
        message = self._untaken.popleft()
        self._taken.append(message)
        return message

    def acknowledged(self, position: int) -> list[Message]:
        """The peer has all before ``position``: the messages that leave with that."""
        gone = []
        while self._taken and self._taken[0].position <= position:
            gone.append(self._taken.popleft())
        return gone

    def newest(self, count: int) -> list[Message]:
        """The last ``count`` of them."""
        late = [*islice(reversed(self._untaken), count)]
        return [*reversed([*late, *islice(reversed(self._taken), count - len(late))])]

    def drain(self) -> list[Message]:
        """All of them; nothing more is known of them."""
        gone = [*self._taken, *self._untaken]
        self._taken.clear()
        self._untaken.clear()
        return gone
