"""Own messages on their way: what was typed, until the peer has acknowledged it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class Message:
    """What was typed.

    :ivar at: when, in seconds since the epoch.
    :ivar position: where the own stream stands behind it; None: nobody has taken it yet.
    """

    text: str
    at: float
    position: int | None = None


class Waiting:
    """Messages that are not acknowledged, in the order in which they were typed."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: Message) -> None:
        """It was typed."""
        self._messages.append(message)

    def untaken(self) -> list[Message]:
        """Those that nobody has taken yet."""
        return [message for message in self._messages if message.position is None]

    def acknowledged(self, position: int) -> list[Message]:
        """The peer has all before ``position``: the messages that leave with that."""
        gone = []
        while self._messages:
            first = self._messages[0].position
            if first is None or first > position:
                break
            gone.append(self._messages.popleft())
        return gone

    def newest(self, count: int) -> list[Message]:
        """The last ``count`` of them."""
        start = max(0, len(self._messages) - count)
        return [self._messages[index] for index in range(start, len(self._messages))]

    def drain(self) -> list[Message]:
        """All of them; nothing more is known of them."""
        gone = list(self._messages)
        self._messages.clear()
        return gone
