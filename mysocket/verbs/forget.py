"""``mysocket forget NAME``: nothing is kept for a consumer any more."""

from __future__ import annotations

from mysocket.verbs.asking import ask


def run(name: str, *, port: int | str | None, spool: str | None) -> int:
    """Forget; returns the exit status.

    :raises MySocketError: it was not done, or it is not known whether it was. It may be done again.
    """
    ask({"do": "forget", "as": name}, "forgotten", port=port, spool=spool)
    return 0
