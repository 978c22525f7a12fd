"""How an event becomes a line of a log: as text, or as one JSON object, with systemd's mark of its level where that reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from mysocket.ends.escape import plain
from mysocket.notices import Level, Notice, Value, as_notice

#: sd-daemon(3): the journal takes the level from the beginning of a line. These are the numbers of syslog(3).
MARKS: dict[Level, str] = {"debug": "<7>", "info": "<6>", "warn": "<4>", "error": "<3>"}
#: Characters of a field, at most; a sentence has what it needs.
FIELD = 1024


def is_journal(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """Does the journal read the descriptor? systemd names it in JOURNAL_STREAM, and a redirection may have come between
    (systemd.exec(5))."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def date(seconds: float) -> str:
    """UTC, RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _clean(value: Value) -> Value:
    return plain(value[:FIELD]) if isinstance(value, str) else value


def cleaned(text: str, level: Level) -> Notice:
    """One line, whatever is in it.

    :param level: how serious it is, if it is no notice.
    """
    told = as_notice(text, level)
    return Notice(plain(told), told.event, told.level, {name: _clean(value) for name, value in told.fields.items()})


def json_line(seconds: float, level: str, event: str, message: str, /, **fields: object) -> str:
    """One object. It is ASCII, so nothing in it reaches a terminal's own language."""
    return json.dumps({"time": date(seconds), "level": level, "event": event, "message": message, **fields})


class Lines:
    """Makes lines for stderr.

    :param log_format: ``text`` or ``json``.
    :param journal: the journal reads them.
    :param now: the time in seconds since the epoch.
    """

    def __init__(self, log_format: str, *, journal: bool, now: Callable[[], float]) -> None:
        self._json = log_format == "json"
        self._journal = journal
        self._now = now

    def line(self, text: str, level: Level = "info") -> str:
        """The line, with its end."""
        told = cleaned(text, level)
        line = f"mysocket: {told}"
        if self._json:
            line = json_line(self._now(), told.level, told.event, str(told), **told.fields)
        return f"{MARKS[told.level] if self._journal else ''}{line}\n"
