"""``mysocket ack NAME POSITION``: a consumer has every message up to there."""

from __future__ import annotations

from mysocket.verbs.asking import ask


def run(name: str, position: int, *, port: int | str | None, spool: str | None) -> int:
    """Acknowledge; returns the exit status.

    :raises MySocketError: it was not done, or it is not known whether it was. It may be done again.
    """
    ask({"do": "ack", "as": name, "position": position}, "acked", port=port, spool=spool)
    return 0
