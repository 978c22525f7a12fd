"""``mysocket stop``: ends a service, and waits until it has left. What it has accepted it keeps, if it has a spool."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

from mysocket.control.client import PATIENCE, find
from mysocket.errors import NoAnswer, ServiceGone


def run(*, port: int | str | None, spool: str | None, wait: float) -> int:
    """Stop it; returns the exit status.

    :raises MySocketError: there is none, or it has not left in time.
    """
    deadline = time.monotonic() + wait
    with find(port, spool, patience=min(PATIENCE, wait)) as connection:
        asked, process = False, _open(connection.pid)
        try:
            connection.say({"do": "stop"}, max(0.0, deadline - time.monotonic()))
            while True:
                # It closes the connection when it has left.
                asked |= connection.hear(max(0.0, deadline - time.monotonic())).get("stopping") is True
        except TimeoutError:
            what = "left" if asked else "answered"
            raise NoAnswer(pid=connection.pid, what=what, seconds=wait) from None
        except ServiceGone:
            # Without an answer it may only have cut us off.
            if not asked:
                raise
        if process is not None and not _has_ended(process, max(0.0, deadline - time.monotonic())):
            raise NoAnswer(pid=connection.pid, what="left", seconds=wait)
    return 0


def _open(pid: int) -> int | None:
    """A descriptor of the process, if it can be seen from here and is not our own."""
    with suppress(OSError):
        return os.pidfd_open(pid) if pid not in (0, os.getpid()) else None
    return None


def _has_ended(process: int, seconds: float) -> bool:
    """Only then its pid file, and what else it has, is free for the next."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
