"""The console script: parse, dispatch, one ladder of errors, exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mysocket.errors import MySocketError
from mysocket.options import Settings, parse_command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status (docs/promise.md)."""
    from mysocket.ends.descriptors import fill_closed

    closed = fill_closed()
    settings = parse_command_line(sys.argv[1:] if argv is None else argv)
    try:
        return run(settings, closed)
    except MySocketError as error:
        say(str(error))
        return error.status


def say(text: str) -> None:
    """One line for people."""
    say_plainly(f"mysocket: {text}")


def say_plainly(text: str) -> None:
    """A line without the program's name before it. A stderr that cannot take it loses it; the messages are more important."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="replace"))


def run(settings: Settings, closed: set[int]) -> int:
    """Run a session with this process's stdin and stdout."""
    from twisted.internet import reactor as installed

    from mysocket.service import make_service, use_monotonic_time
    from mysocket.watch import Voice

    reactor: Any = installed
    use_monotonic_time(reactor)
    voice = Voice(say, quiet=settings.quiet, verbose=settings.verbose)
    service = make_service(settings, reactor, voice=voice, closed=closed, banner=say_plainly)
    status: list[int] = []

    def finished(found: int) -> None:
        status.append(found)
        reactor.stop()

    def start() -> None:
        signal.signal(signal.SIGINT, lambda *_: reactor.callFromThread(service.watch.interrupt))
        signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(service.watch.terminate))
        service.finished.addCallback(finished)
        service.startService()

    reactor.callWhenRunning(start)
    reactor.run(installSignalHandlers=False)
    return status[0] if status else 1
