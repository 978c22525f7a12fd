"""What of files is on its way to a peer, and how much may be: what it takes in a moment, so that a message does not wait longer
behind a file."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from mysocket.services.upload import State, Upload

#: Seconds that a message may wait behind a file, about.
MOMENT = 0.5
#: Bytes on their way, at least and at most. The least keeps a fast link busy until it has shown how fast it is; the most leaves
#: room in the memory of a session, and in the window of its peer.
LEAST = 512 * 1024
MOST = 6 * 1024 * 1024


class Pace:
    """Counts what a peer acknowledges."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()  # when, and how many bytes
        self._size = 0

    def acknowledged(self, now: float, size: int) -> None:
        """So many bytes more, at ``now`` (seconds)."""
        self._seen.append((now, size))
        self._size += size
        self._forget(now)

    def allowance(self, now: float) -> int:
        """Bytes that may be on their way."""
        self._forget(now)
        return max(LEAST, min(MOST, self._size))

    def _forget(self, now: float) -> None:
        while self._seen and self._seen[0][0] <= now - MOMENT:
            self._size -= self._seen.popleft()[1]


class Sent(NamedTuple):
    """Pieces that were given to the stream, which stands at ``position`` behind them."""

    position: int
    size: int
    upload: Upload
    offset: int
    last: bool


class Flight:
    """Pieces of files that are not acknowledged, over all uploads. They hear from here how far they are."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._sent: deque[Sent] = deque()
        self._size = 0
        self._retired: int | None = None

    def gave(self, position: int, size: int, upload: Upload, offset: int, *, last: bool) -> None:
        """Pieces of so many bytes are in the stream, which stands at ``position`` behind them, the file at ``offset``."""
        self._sent.append(Sent(position, size, upload, offset, last))
        self._size += size

    def acknowledged(self, now: float, position: int) -> None:
        """The peer has everything before ``position``."""
        if self._retired is not None and position > self._retired:
            self._pace.acknowledged(now, position - self._retired)
        self._retired = position
        while self._sent and self._sent[0].position <= position:
            _, size, upload, offset, last = self._sent.popleft()
            self._size -= size
            upload.acknowledged = max(upload.acknowledged, offset)
            if last and upload.state is State.SENT:
                upload.delivered = True
                upload.tell_now()
            elif upload.state in (State.SENDING, State.SENT):
                upload.tell()

    def allowance(self, now: float) -> int:
        """Bytes that may be given now, so that a message that comes behind them does not wait long."""
        return self._pace.allowance(now) - self._size

    def quiet(self) -> None:
        """The uploads say no more of what has changed so far."""
        for one in self._sent:
            one.upload.quiet()
