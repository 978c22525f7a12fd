"""The service's side of ``attach``: rows of a feed, as fast as the client reads them.

Rules

1. No more than one portion of rows waits for the client in memory; the rest waits where it is kept.
2. What a named consumer has not acknowledged is there. What a session without a name has not read may be gone: it is told.
"""

from __future__ import annotations

from collections.abc import Callable

from mysocket.control.protocol import Line, Malformed, number, pack
from mysocket.spool.inbox import DiskInbox, Feed, Row


class Viewing:
    """One session. No socket here: lines come in, and ``say`` takes those that go out.

    :param name: of the consumer, or None.
    :param position: where to begin.
    """

    def __init__(self, feed: Feed, name: str | None, position: int, say: Callable[[Line], None]) -> None:
        self.name = name
        self._feed = feed
        self._position = position
        self._say = say
        self._fetching = False
        self._paused = False
        self._over = False
        self._unlisten = feed.listen(self.go_on)

    def hear(self, line: Line) -> None:
        """A line of the client.

        :raises Malformed: it breaks a rule.
        """
        position = number(line, "ack")
        if self.name is None or not isinstance(self._feed, DiskInbox):
            raise Malformed("an acknowledgement without the name of a consumer")
        if position > self._position:
            raise Malformed("an acknowledgement of what was not sent")
        if self.name in self._feed.consumers:
            self._feed.acknowledge(self.name, position)

    def pause(self) -> None:
        """The client does not read as fast as it is told."""
        self._paused = True

    def resume(self) -> None:
        """It has read."""
        self._paused = False
        self.go_on()

    def go_on(self) -> None:
        """Send on what there is."""
        if self._fetching or self._paused or self._over or self._position >= self._feed.end:
            return
        self._fetching = True
        self._feed.fetch(self._position, self._fetched)

    def _fetched(self, rows: list[Row]) -> None:
        self._fetching = False
        if self._over:
            return
        for row in rows:
            if row.at > self._position:
                self._say({"passed": row.at - self._position})
            self._position = row.end
            line: Line = {"at": row.at, "stream": row.stream.hex(), "stream_position": row.stream_position, "peer": row.peer}
            self._say(line | {"time": row.time, "kind": row.kind, "flags": row.flags} | pack(bytes(row.payload)))
        if not rows and self._position < self._feed.begin:
            # All of it has gone meanwhile.
            self._say({"passed": self._feed.begin - self._position})
            self._position = self._feed.begin
        self.go_on()

    def close(self) -> None:
        """The connection is gone."""
        if not self._over:
            self._over = True
            self._unlisten()
