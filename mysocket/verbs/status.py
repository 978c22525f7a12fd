"""``mysocket status``: how a running service is, on one screen.

Rules

1. The exit status is the health: 0 linked with a peer, 1 not, or no such service. With ``--watch`` it is that of the last look,
   also after Ctrl-C, which is the way to leave.
2. ``--watch`` begins with a service that is there. One that goes away meanwhile is looked for again, every second.
3. On a terminal ``--watch`` draws over what it has drawn, one write for each screen. It changes nothing that would have to be set
   back: whatever ends it, the terminal is as it was.
"""

from __future__ import annotations

import json as jsons
import os
import time
from contextlib import suppress
from typing import Any

from mysocket.control.client import Connection, find
from mysocket.ends.escape import drawn_json
from mysocket.errors import FAILED, INTERRUPTED, OK, MySocketError, NoAnswer
from mysocket.verbs.health import Row, healthy, rows, wrapped
from mysocket.verbs.waiting import STDOUT, Signals, Stdout, Stopped

#: Seconds between two looks, and in which a service has to answer.
INTERVAL, PATIENCE = 1.0, 5.0
HOME, CLEAR, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"
#: A line that is wider than it seems is cut by the terminal while a screen is drawn: every row stays where it belongs.
NO_WRAP, WRAP = "\x1b[?7l", "\x1b[?7h"


def run(*, port: int | str | None, spool: str | None, json: bool, watch: bool) -> int:
    """Show it; returns the exit status.

    :raises MySocketError: there is no service, it does not answer, or stdout cannot be written.
    """
    with find(port, spool) as connection:
        first = _ask(connection)
    with Signals() as signals:
        stdout = Stdout(signals)
        try:
            if watch:
                return Watch(stdout, port=port, spool=spool, json=json).run(first, signals)
            stdout.write(_object(first) if json else _text(rows(first, time.time())))
        except Stopped as signal:
            return signal.status
        finally:
            stdout.close()
    return _health(first)


def _ask(connection: Connection) -> object:
    """The status.

    :raises MySocketError: there is no answer.
    """
    try:
        connection.put({"do": "status"})
        while True:
            line = connection.hear(PATIENCE)
            if "status" in line:
                return line["status"]
    except TimeoutError:
        raise NoAnswer(pid=connection.pid, what="answered", seconds=PATIENCE) from None


def _health(status: object) -> int:
    return OK if healthy(status) else FAILED


def _object(status: object) -> bytes:
    # DEL is the one ASCII character that JSON takes as it is, and a terminal does not.
    return drawn_json(jsons.dumps(status)).encode() + b"\n"


def _text(screen: list[Row]) -> bytes:
    return "".join(f"{row}\n" for row in screen).encode()


class Watch:
    """Looks again and again."""

    def __init__(self, stdout: Stdout, *, port: int | str | None, spool: str | None, json: bool) -> None:
        self._stdout = stdout
        self._which: dict[str, Any] = {"port": port, "spool": spool}
        self._json = json
        self._connection: Connection | None = None
        self._drawn = False

    def run(self, status: object, signals: Signals) -> int:
        """Until a signal comes; returns the exit status."""
        health, problem = FAILED, None
        try:
            while True:
                health = _health(status) if problem is None else FAILED
                self._stdout.write(self._shown(status, problem))
                self._stdout.check(signals.wait(self._stdout.watched, INTERVAL))
                status, problem = self._look()
        except Stopped as signal:
            return health if signal.status == INTERRUPTED else signal.status
        finally:
            self._close()

    def _look(self) -> tuple[object, MySocketError | None]:
        try:
            if self._connection is None:
                self._connection = find(**self._which, patience=INTERVAL)
            return _ask(self._connection), None
        except MySocketError as problem:
            self._close()
            return None, problem

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _shown(self, status: object, problem: MySocketError | None) -> bytes:
        if self._json:
            return _object(status if problem is None else {"linked": False, "error": str(problem)})
        screen = rows(status, time.time()) if problem is None else [Row("no service", f"{problem} Looking again every second.")]
        if not self._stdout.terminal:
            return _text(screen) + b"\n"
        return self._drawing(screen)

    def _drawing(self, screen: list[Row]) -> bytes:
        columns, height = 80, 24
        with suppress(OSError):
            columns, height = os.get_terminal_size(STDOUT)
        lines = list(wrapped(screen, columns))
        if len(lines) >= height > 2:
            lines[height - 2 :] = [f"… {len(lines) - height + 2} more lines; a higher window shows them"]
        first, self._drawn = ("" if self._drawn else CLEAR), True
        drawn = "".join(f"{line}{CLEAR_LINE}\r\n" for line in lines)
        return f"{first}{HOME}{NO_WRAP}{drawn}{WRAP}{CLEAR_BELOW}".encode()
