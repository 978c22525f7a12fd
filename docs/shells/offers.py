"""Completions of mysocket for bash, zsh and fish, from the one table of options; docs/manual.py writes them.

What all of them know: the options with their help, as `--long value` and `--long=value`, and bundled short ones; the verbs, which
are first words, with options of their own; files, directories, hosts and words where an option takes such; nothing where it takes
a number. They need nothing but the shell itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from mysocket.options import OPTIONS, VERBS, Option
from mysocket.values import one_of

HEAD = "Completion of mysocket(1) in {}. Made by docs/manual.py from the table of options."
#: What stands after these is a file, a host; it goes on behind the colon.
PLACES = {"follow:": "a file that grows, as tail -F", "udp:": "datagrams", "tcp:": "connections", "unix:": "a Unix socket"}
INPUTS = ("follow:", "udp:", "tcp:", "unix:")
OUTPUTS = ("udp:", "tcp:", "unix:")

Table = Sequence[Option]


def tables() -> dict[str, Table]:
    """The options by verb; the empty one is none."""
    return {"": OPTIONS, **{verb.name: verb.options for verb in VERBS.values()}}


def offers(option: Option) -> str:
    """What is offered for its value: a function of the scripts, words, or nothing."""
    if isinstance(option.parse, one_of):
        return " ".join(option.parse.known)
    by_name = {"input": "@input", "output": "@output"}
    return by_name.get(option.long) or {"FILE": "@file", "DIR": "@directory", "HOST:PORT": "@peer"}.get(option.metavar or "", "")


def names(option: Option) -> list[str]:
    short = [f"-{option.short}"] if option.short else []
    return [*short, *(f"--{name}" for name in (option.long, *option.aliases))]


def quoted(text: str) -> str:
    """In single quotes of bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"
