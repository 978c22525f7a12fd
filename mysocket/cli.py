"""The console script: parse, dispatch, one ladder of errors, exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from mysocket.commandline import parse_command_line, parse_verb
from mysocket.ends.closed import fill_closed
from mysocket.errors import INTERRUPTED, CannotOpen, MySocketError
from mysocket.options import VERBS, Verb

if TYPE_CHECKING:
    from mysocket.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status (docs/promise.md)."""
    closed = fill_closed()
    words = sys.argv[1:] if argv is None else argv
    verb = VERBS.get(words[0]) if words else None
    try:
        if verb is not None:
            return run_verb(verb, words[1:], closed)
        return run(parse_command_line(words), closed)
    except MySocketError as error:
        say(str(error))
        return error.status
    except KeyboardInterrupt:
        return INTERRUPTED


def say(text: str) -> None:
    """One line for people."""
    write(f"mysocket: {text}\n")


def write(text: str) -> None:
    """Write to stderr. One that cannot take it loses it; the messages are more important."""
    with suppress(OSError):
        os.write(2, text.encode(errors="replace"))


def run_verb(verb: Verb, argv: Sequence[str], closed: set[int]) -> int:
    """Run a verb: ``run`` of the module of its name, which imports no more than it needs."""
    words, options = parse_verb(verb, argv)
    if 1 in closed and verb.prints:
        raise CannotOpen("it is closed; redirect it", where="stdout")
    if 0 in closed and verb.rest and not words and not options.get("file"):
        raise CannotOpen(f"it is closed; redirect it, or give {verb.rest}", where="stdin")
    status: int = import_module(f"mysocket.verbs.{verb.name}").run(*words, **options)
    return status


def run(settings: Settings, closed: set[int]) -> int:
    """Run a session with this process's stdin and stdout."""
    if 1 in closed and settings.writes_stdout:
        raise CannotOpen("it is closed; redirect it, or give --output FILE or --send-only", where="stdout")
    from mysocket.foreground import run as run_session

    return run_session(settings, closed, write)
