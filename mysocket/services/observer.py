"""twistd's log, where this program writes it: the same lines as on stderr, as text in the form of Twisted or as JSON.

Who gives twistd a ``--logger`` of his own finds the name and the fields of an event in what that is called with; ``--syslog`` is
Twisted's.
What Twisted says of ports, of factories and of its own attempts to connect is left out below a warning: our own lines tell it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatEventAsClassicLogText,
    globalLogBeginner,
)
from twisted.python.logfile import LogFile

from mysocket.ends.escape import plain
from mysocket.logs import MARKS, is_journal, json_line
from mysocket.notices import NOTE, Level, Notice

#: Loggers of Twisted whose news is ours, or nobody's.
NOISE = ("log_legacy", "twisted.application", "twisted.internet.protocol", "twisted.web")
LEVELS: dict[Any, Level] = {LogLevel.debug: "debug", LogLevel.info: "info", LogLevel.warn: "warn"}


def writer(log: Logger) -> Callable[[Notice], None]:
    """What a voice writes to Twisted's log with: the name and the fields of an event are the log event's own."""

    def write(told: Notice) -> None:
        log.emit(LogLevel.levelWithName(told.level), "{text}", text=told, event=told.event, **told.fields)

    return write


def level_of(event: LogEvent) -> Level:
    """How serious it is."""
    return LEVELS.get(event.get("log_level", LogLevel.info), "error")


def as_json(event: LogEvent) -> str | None:
    """One line; None: there is nothing to say."""
    at, level, told = event.get("log_time", time.time()), level_of(event), event.get("text")
    if isinstance(told, Notice):
        return json_line(at, level, told.event, str(told), **told.fields) + "\n"
    fields = {"logger": str(event.get("log_namespace", ""))}
    failure = event.get("log_failure")
    if failure is not None:
        fields["traceback"] = failure.getTraceback()
    text = eventAsText(event, includeTraceback=False, includeTimestamp=False, includeSystem=False)
    return json_line(at, level, NOTE, plain(text), **fields) + "\n" if text or failure is not None else None


def marked(render: Callable[[LogEvent], str | None]) -> Callable[[LogEvent], str | None]:
    """Each line behind the mark of its level: for the journal."""

    def form(event: LogEvent) -> str | None:
        text, mark = render(event), MARKS[level_of(event)]
        return "".join(mark + line for line in text.splitlines(keepends=True)) if text else None

    return form


def make_observer(file: IO[Any], log_format: str, *, journal: bool = False) -> ILogObserver:
    """Writes the log to ``file``."""
    render = as_json if log_format == "json" else formatEventAsClassicLogText
    # There may be more levels of our own than of Twisted's.
    levels = LogLevelFilterPredicate(defaultLogLevel=LogLevel.debug)
    for name in NOISE:
        levels.setLogLevelForNamespace(name, LogLevel.warn)
    return cast(ILogObserver, FilteringLogObserver(FileLogObserver(file, marked(render) if journal else render), [levels]))


def begin_json() -> None:
    """In a session of the script, what Twisted would write to stderr (its own mistakes, and unhandled ones) is JSON as well."""
    critical = LogLevelFilterPredicate(defaultLogLevel=LogLevel.critical)
    observer = FilteringLogObserver(FileLogObserver(sys.__stderr__ or sys.stderr, as_json), [critical])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


def find_observer(parent: Mapping[str, Any] | None, log_format: str, reactor: Any) -> ILogObserver | None:
    """The observer for a twistd with these options, or None: twistd has one.

    twistd -n would write to stdout, which belongs to the messages: it is stderr.
    """
    if parent is None or parent.get("logger") or parent.get("syslog"):
        return None
    foreground, name = bool(parent.get("nodaemon")), parent.get("logfile")
    if foreground and not name:
        return make_observer(sys.__stderr__ or sys.stderr, log_format, journal=is_journal(os.environ))
    if name == "-":
        return make_observer(sys.stdout, log_format) if foreground else None
    try:
        file = LogFile.fromFullPath(name or "twistd.log")
    except OSError:
        return None  # twistd tries it, too, and says what it meets
    if not signal.getsignal(signal.SIGUSR1):
        # As twistd's own.
        signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(file.rotate))
    return make_observer(file, log_format)
