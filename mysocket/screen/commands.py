"""What a line that was typed means: a message, a command, or the end. Only a person has commands; piped input is data.

Rules

1. EXIT alone ends the session, as at every terminal.
2. One line that begins with a slash is a command. Two slashes stand for one: ``//x`` is the message ``/x``.
3. Several lines are a message, whatever they begin with: nobody types a command of several lines, but one may paste a listing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import NamedTuple

EXIT = "EXIT"
#: Names of files that are offered at once.
MAX_LISTED = 200


@dataclass(frozen=True, slots=True)
class Say:
    """A message."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its name without the slash, and the rest of the line."""

    name: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A slash, and then something that is no command.

    :ivar form: how the command is written, if it is only written otherwise.
    """

    name: str
    form: str = ""


#: The commands: what may follow each, and what each does.
COMMANDS = {
    "send": ("FILE", "send a file"),
    "cancel": ("", "send no more of the file that is being sent"),
    "status": ("", "how things stand"),
    "help": ("", "this"),
    "quit": ("", "leave, like EXIT and Ctrl-D"),
}

HELP = "\n".join(
    [
        *(f"/{f'{name} {argument}'.ljust(12)} {does}" for name, (argument, does) in COMMANDS.items()),
        "//TEXT        send a line that begins with a slash",
        "Enter sends. Alt-Enter begins another line of the same message; what is pasted is one message too.",
        "Up and Down find earlier messages, Ctrl-R searches them, Tab completes commands and file names.",
        "Ctrl-C clears the line; again it leaves. EXIT, or Ctrl-D on an empty line, leaves when all is delivered.",
        "Marks: · waits, ✓ the other side has it.",
    ]
)


def meaning(text: str) -> Say | Command | Unknown:
    """What was typed means."""
    if text == EXIT:
        return Command("quit")
    if not text.startswith("/") or "\n" in text:
        return Say(text)
    if text.startswith("//"):
        return Say(text[1:])
    name, _, argument = text[1:].partition(" ")
    argument = re.sub(r"(?<!\\)\s+$", "", argument.lstrip())  # a space behind a backslash belongs to a name
    known = COMMANDS.get(name)
    if known is None:
        return Unknown(name)
    if bool(argument) != bool(known[0]):
        return Unknown(name, f"{name} {known[0]}".rstrip())
    return Command(name, argument)


def file_name(argument: str) -> str:
    """The path that was typed behind a command: ``~`` is the home directory, a backslash or quotes keep a space."""
    import shlex

    try:
        words = shlex.split(argument)
    except ValueError:
        words = []
    # Who pastes a path with spaces in it means all of it.
    path = words[0] if len(words) == 1 else argument
    return os.path.expanduser(path)


class Completion(NamedTuple):
    """``text`` for the last ``replaced`` characters; ``shown`` is what stands in the list."""

    text: str
    shown: str
    replaced: int


def complete(text: str) -> list[Completion]:
    """How a line could go on; ``text`` is what stands before the cursor."""
    if not text.startswith("/") or "\n" in text:
        return []
    name, space, argument = text[1:].partition(" ")
    if not space:
        begun = [one for one in COMMANDS if one.startswith(name)]
        return [Completion(f"/{one} " if COMMANDS[one][0] else f"/{one}", f"/{one}", len(text)) for one in begun]
    if COMMANDS.get(name, ("",))[0] != "FILE":
        return []
    return _files(argument.lstrip())


def _files(argument: str) -> list[Completion]:
    plain = re.sub(r"\\(.)", r"\1", argument)
    directory, begun = os.path.split(plain)
    try:
        entries = sorted(os.scandir(os.path.expanduser(directory) or "."), key=lambda entry: entry.name)
    except (OSError, ValueError):  # there is none, or a NUL in its name
        return []
    found = []
    for entry in entries:
        if not entry.name.startswith(begun) or entry.name.startswith(".") and not begun or not entry.name.isprintable():
            continue
        try:
            tail = "/" if entry.is_dir() else ""
        except OSError:
            tail = ""
        # A name that begins so is not somebody's home.
        path = os.path.join(directory or "." * entry.name.startswith("~"), entry.name) + tail
        found.append(Completion(_escaped(path), entry.name + tail, len(argument)))
        if len(found) == MAX_LISTED:
            break
    return found


def _escaped(path: str) -> str:
    """So that :func:`file_name` reads it back."""
    return "".join("\\" + character if character in " \\'\"" else character for character in path)
