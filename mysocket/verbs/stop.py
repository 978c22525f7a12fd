"""``mysocket stop``: ends a service, and waits until it has left. What it has accepted it keeps, if it has a spool."""

from __future__ import annotations

import time

from mysocket.control.client import PATIENCE, find
from mysocket.errors import NoAnswer, ServiceGone


def run(*, port: int | str | None, spool: str | None, wait: float) -> int:
    """Stop it; returns the exit status.

    :raises MySocketError: there is none, or it has not left in time.
    """
    deadline = time.monotonic() + wait
    with find(port, spool, patience=min(PATIENCE, wait)) as connection:
        asked = False
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
    return 0
