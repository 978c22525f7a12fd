"""One question to a service, and its answer."""

from __future__ import annotations

from mysocket.control.client import find
from mysocket.control.protocol import Line, Malformed
from mysocket.errors import NoAnswer

#: Seconds that a service may take to answer.
PATIENCE = 30.0


def ask(line: Line, answer: str, *, port: int | str | None, spool: str | None) -> object:
    """What the answer says under the name ``answer``.

    :raises MySocketError: there is no service, or no answer, or another.
    """
    with find(port, spool) as connection:
        try:
            connection.say(line, PATIENCE)
            found = connection.hear(PATIENCE)
        except TimeoutError:
            raise NoAnswer(pid=connection.pid, what="answered", seconds=PATIENCE) from None
        if answer not in found:
            raise Malformed(f"an answer without {answer!r}")
        return found[answer]
