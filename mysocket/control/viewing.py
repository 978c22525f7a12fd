"""The service's side of ``attach``: rows of a feed, as fast as the client reads them.

Rules

1. Little waits in memory for a client that does not read, and a portion of rows for a few of all clients at a time; the rest
   waits where it is kept.
2. What a named consumer has not acknowledged is there. What a session without a name has not read may be gone: it is told, and
   goes on where a message begins.
3. Only whole messages are acknowledged: else the next session would begin in the middle of one.
"""

from __future__ import annotations

from collections.abc import Callable

from mysocket.control.protocol import Line, Malformed, number, pack
from mysocket.control.turns import Turns
from mysocket.core.batch import Flag, Kind
from mysocket.spool.disk_inbox import DiskInbox
from mysocket.spool.inbox import Feed, Row


class Viewing:
    """One session. No socket here: lines come in, and ``say`` takes those that go out.

    :param name: of the consumer, or None.
    :param position: where to begin.
    :param turns: so many of all sessions fetch rows at a time.
    :param end: ends it, and says why.
    """

    def __init__(
        self,
        feed: Feed,
        name: str | None,
        position: int,
        *,
        turns: Turns,
        say: Callable[[Line], None],
        end: Callable[[str], None],
    ) -> None:
        self.name = name
        self._feed = feed
        self._position = self._whole = position  # what was sent, and the end of the last row that was sent to its end
        self._torn = feed.is_inside(position)  # what comes next is the rest of a message whose beginning is not shown
        self._turns = turns
        self._say = say
        self._end = end
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
        if position == self._whole:
            self._acknowledge(position, True)
        else:
            self._feed.check(position, lambda is_boundary: self._acknowledge(position, is_boundary))

    def _acknowledge(self, position: int, is_boundary: bool) -> None:
        inbox = self._feed
        if self.name is None or not isinstance(inbox, DiskInbox) or self.name not in inbox.consumers:
            return
        if is_boundary or position <= inbox.consumers[self.name].position:
            inbox.acknowledge(self.name, position)
        elif not self._over:
            self._end(f"position {position} is not where a message ends")

    def pause(self) -> None:
        """The client does not read as fast as it is told."""
        self._paused = True

    def resume(self) -> None:
        """It has read."""
        self._paused = False
        self.go_on()

    def go_on(self) -> None:
        """Send on what there is."""
        if self._wants_rows and self._turns.ask(self):
            self.granted()

    @property
    def _wants_rows(self) -> bool:
        return not (self._fetching or self._paused or self._over) and self._position < self._feed.end

    def granted(self) -> None:
        """It has the turn to fetch rows."""
        if self._wants_rows:
            self._fetching = True
            self._feed.fetch(self._position, self._fetched)
        elif not self._fetching:
            self._turns.leave(self)

    def _fetched(self, rows: list[Row]) -> None:
        self._fetching = False
        if not self._over:
            self._show(rows)
        del rows[:]
        self._turns.leave(self)
        self.go_on()

    def _show(self, rows: list[Row]) -> None:
        for row in rows:
            if self._paused:
                break  # the rest is fetched again: who does not read does not have it held here
            if row.at > self._position:
                self._pass(row.at)
                self._torn = self._feed.is_inside(row.at)
            if self._torn:
                self._torn, rest = bool(row.flags & Flag.MORE), _behind_first(row)
                self._pass(row.at + rest)
                if rest == len(row.payload):
                    continue
                row = row.part(rest)
            self._position = row.end
            if not row.flags & Flag.MORE:
                self._whole = row.end
            line: Line = {"at": row.at, "stream": row.stream.hex(), "stream_position": row.stream_position, "peer": row.peer}
            self._say(line | {"time": row.time, "kind": row.kind, "flags": row.flags} | pack(bytes(row.payload)))
        if not rows and self._position < self._feed.begin:
            # All of it has gone meanwhile.
            self._pass(self._feed.begin)
            self._torn = self._feed.is_inside(self._position)

    def _pass(self, position: int) -> None:
        """What stands before ``position`` is not shown."""
        self._say({"passed": position - self._position})
        self._position = position

    def close(self) -> None:
        """The connection is gone."""
        if not self._over:
            self._over = True
            self._unlisten()
            if not self._fetching:
                self._turns.leave(self)


def _behind_first(row: Row) -> int:
    """Bytes of the row up to the end of its first message, which began before it."""
    if row.kind != Kind.LINES or row.flags & Flag.MORE:
        return len(row.payload)
    return bytes(row.payload).find(b"\0" if row.flags & Flag.NUL else b"\n") + 1 or len(row.payload)
