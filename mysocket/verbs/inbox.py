"""A service's inbox, as one consumer or view gets it: over restarts of the service, written to stdout, and acknowledged.

Rules

1. A position is acknowledged when everything up to it was written, and not before.
2. As long as it is the same inbox (the ``node`` of the greeting), nothing is written twice, whatever the service has committed of
   our acknowledgements: what was written is left out, and acknowledged again.
3. A view has no position at the service. After a restart it goes on where it was: from the oldest, what it knows left out.
4. An inbox that ends before our position was put back: better something twice than something never.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

from mysocket.control.client import Connection
from mysocket.control.protocol import Line, Malformed, number
from mysocket.ends.progress import size_text
from mysocket.errors import MySocketError, ServiceGone
from mysocket.verbs.rows import Form, Row, Rows, is_row, read_row
from mysocket.verbs.waiting import IN, OUT, Stdout

#: Bytes that are gathered for one write and one acknowledgement. What has come is never kept waiting for more.
GATHERED = 256 * 1024
#: Seconds in which the service may read our last words.
PARTING = 1.0


class Inbox:
    """See the module.

    :param consumer: its name, or None for a view.
    :param begin: ``oldest``, ``now`` or None, as in the protocol.
    :param acknowledge: what was written is acknowledged here.
    :ivar kept: bytes that were kept when the session began, and come before what it shows; None until the service has answered.
    :ivar passed: bytes that were gone before this view could show them, since that was asked last.
    """

    def __init__(self, consumer: str | None, begin: str | None, *, acknowledge: bool) -> None:
        self.kept: int | None = None
        self.passed = 0
        self._consumer = consumer
        self._begin = begin
        self._acknowledge = acknowledge and consumer is not None
        self._rows = Rows()
        self._node = ""
        self._connection: Connection | None = None
        self._acknowledged: int | None = None

    @property
    def is_view(self) -> bool:
        """Without a name: nothing is acknowledged, and nothing kept for it."""
        return self._consumer is None

    def attach(self, connection: Connection) -> None:
        """Begin, or go on, on a connection."""
        if self._node != connection.greeting.node:
            # Another inbox: all in it is new, to a view that has seen another one as well.
            if self._node:
                self._begin = "oldest" if self.is_view else self._begin
            self._rows = Rows()
            self._node = connection.greeting.node
        elif self.is_view and self.kept is not None:
            self._begin = "oldest"
        self._rows.clear()
        self._acknowledged = None
        self._connection = connection
        connection.put({"do": "attach", "as": self._consumer, "from": self._begin})

    def wanted(self) -> dict[int, int]:
        """What a wait is to hear of."""
        connection = self._connection
        return {} if connection is None else {connection.fileno(): IN | (OUT if connection.unsaid else 0)}

    def pump(self, form: Form, stdout: Stdout) -> bool:
        """Write what has come, then acknowledge it; returns whether there may be more.

        :raises MySocketError: what ended the connection, or why stdout cannot be written.
        """
        connection = self._connection
        if connection is None:
            return False
        gathered: list[bytes] = []
        size, more = 0, False
        problem: MySocketError | None = None
        try:
            for row in self._heard(connection.take()):
                gathered.append(bytes(form.render(row)))
                size += len(row.batch.payload)
                if size >= GATHERED:
                    more = True
                    break
        except MySocketError as found:
            # What came before it is still good.
            problem = found
        stdout.write(b"".join(gathered))
        try:
            if self._acknowledge and self._acknowledged is not None and self._rows.seen > self._acknowledged:
                self._acknowledged = self._rows.seen
                connection.put({"ack": self._acknowledged})
            connection.flush()
        except ServiceGone as found:
            problem = problem or found
        if problem is not None:
            raise problem
        return more

    def _heard(self, lines: Iterator[Line]) -> Iterator[Row]:
        for line in lines:
            if "attached" in line:
                self._begun(number(line, "position"), number(line, "begin"), number(line, "end"))
            elif is_row(line):
                if self._acknowledged is None:
                    raise Malformed("a row before anything was attached")
                row = self._rows.feed(read_row(line))
                if row is not None:
                    yield row
            elif "passed" in line:
                self.passed += number(line, "passed")
                self._rows.clear()  # the rest of a message that had begun is among it

    def _begun(self, position: int, begin: int, end: int) -> None:
        if self._rows.position > end:
            self._rows = Rows(position)
        if self.kept is None:
            self.kept = max(0, position - begin)
        elif self.is_view:
            self.passed += max(0, position - self._rows.position)
        self._rows.position = max(self._rows.position, position)
        self._acknowledged = self._rows.seen = position

    def forgo(self) -> None:
        """The service shows nothing, and has ended the connection."""
        self._connection = None

    def leave(self) -> None:
        """End the connection, when the service has read what was said: the last acknowledgement must not be lost."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with connection, suppress(OSError, MySocketError), socket.socket(fileno=os.dup(connection.fileno())) as other:
            deadline = time.monotonic() + PARTING
            other.settimeout(PARTING)
            while connection.unsaid and time.monotonic() < deadline:
                connection.flush()
                time.sleep(0.01)
            other.shutdown(socket.SHUT_WR)
            # The service closes when it has read all, but may be speaking until then.
            while time.monotonic() < deadline and other.recv(65536):
                pass


def passed_text(inbox: Inbox) -> str:
    """What was gone before it could be read, told once."""
    passed, inbox.passed = inbox.passed, 0
    return f"{size_text(passed)} had gone before they could be read here"
