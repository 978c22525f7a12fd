"""``--config FILE``: options from a file of TOML, with the long names of the options, as if they stood on the command line.

Rules

1. A value means what the same text means on the command line, relative file names included: those are relative to the directory
   the program works in, wherever the file is.
2. The command line wins. An option that is given there replaces the file's, lists included; the file's gives way to what
   excludes it there, as udp does to --tcp; positional arguments replace the file's port and peer.
3. Nothing is passed over: an unknown name, a table, a value of another type is an error with the name of the file and the line.
4. No Twisted, and nothing is read but that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from mysocket.ends.escape import one_line
from mysocket.errors import BadConfig, UsageError
from mysocket.options import EXCLUSIVE, FLAG, OPTIONS, VALUE, Option
from mysocket.settings import settings

CONFIG = "config"
_OPTION = next(option for option in OPTIONS if option.long == CONFIG)
#: Bytes of a file; nobody writes as many options.
LARGEST = 1_000_000
#: What the command line alone may say.
_NOT_HERE = {CONFIG: "a file does not name another", "help": "it ends the program", "version": "it ends the program"}
#: An option of the command line, and what of the file gives way to it.
_BEATS = {("tcp", "udp"), *((one, other) for first, second, _ in EXCLUSIVE for one, other in ((first, second), (second, first)))}
_HERE = [option for option in OPTIONS if option.long not in _NOT_HERE]
_LONG = {name: option for option in _HERE for name in (option.long, *option.aliases)}
# The tokens of valid TOML that matter to where a statement ends. Possessive, so that no text takes longer than its length.
_TOKEN = re.compile(
    r"""
      \"{3}(?:[^"\\]++|\\.|"{1,2}(?!"))*+"{3,5} | '{3}(?:[^']++|'{1,2}(?!'))*+'{3,5}
    | "(?:[^"\\\n]++|\\.)*+" | '[^'\n]*+'
    | (?P<comment>\#[^\n]*+|[ \t]++) | (?P<open>[\[{]) | (?P<close>[\]}]) | (?P<newline>\n) | [^"'\#\[\]{}\n \t]++
    """,
    re.VERBOSE | re.DOTALL,
)


class Entry(NamedTuple):
    """One option of a file: where it stands, and its values as texts; a flag that is true has one."""

    option: Option
    line: int
    texts: list[str]

    def spelled(self) -> list[str]:
        """As commandline.spell_out spells it."""
        long = self.option.long
        return [f"--{long}"] if self.option.kind == FLAG else [f"--{long}={text}" for text in self.texts]


class Configured:
    """A command line, in one spelling, with what its ``--config`` says.

    :ivar options: as they were, or with those of the file before them and without ``--config``.
    :raises UsageError: the file cannot be read, or something in it is wrong.
    """

    def __init__(self, options: Sequence[str], positionals: Sequence[str]) -> None:
        self.options = [*options]
        self._name = ""
        self._entries: list[Entry] = []
        names = [option[2:].partition("=")[0] for option in options]
        if CONFIG not in names:
            return
        if names.count(CONFIG) > 1:
            raise UsageError(f"--{CONFIG} is given twice; there is one file, and the command line besides")
        path = options[names.index(CONFIG)].partition("=")[2]
        _OPTION.read(path)
        self._name = one_line(path, 4096)
        given = {*names, *(("port", "peer") if positionals else ())}
        beaten = given | {loser for winner, loser in _BEATS if winner in given}
        self._entries = [entry for entry in read(path) if entry.option.long not in beaten]
        own = [option for option, name in zip(options, names, strict=True) if name != CONFIG]
        self.options = [text for entry in self._entries for text in entry.spelled()] + own

    def explain(self, sentence: str) -> str:
        """An error about the whole, with the lines of the file that have a part in it."""
        found = [
            f"--{option.long}: {self._name}, line {line}"
            for option, line, texts in self._entries
            if re.search(rf"(?<![\w-])--{option.long}(?![\w-])", sentence)
            or any(text and repr(text) in sentence for text in texts)
        ]
        return f"{sentence} ({'; '.join(found)})" if found else sentence


def read(path: str) -> list[Entry]:
    """What a file says, in its order. What it leaves off (a flag that is false, an empty list) is not in it.

    :raises UsageError: the sentence says what is wrong, and where.
    """
    name = one_line(path, 4096)
    text = _text(path, name)
    _check_syntax(text, name)
    entries: dict[str, Entry] = {}
    for line, statement in statements(text):
        entry = _entry(statement, f"{name}, line {line}", line)
        first = entries.setdefault(entry.option.long, entry)
        if first is not entry:
            _refuse(f"{name}, line {line}", f"{entry.option.long} is given twice, first in line {first.line}")
    return [entry for entry in entries.values() if entry.texts]


def statements(text: str) -> Iterator[tuple[int, str]]:
    """The statements of valid TOML, each with the number of its first line. Comments and empty lines are none."""
    line, depth, begin, first, empty = 1, 0, 0, 1, True
    for token in _TOKEN.finditer(text):
        if token["newline"] and not depth:
            if not empty:
                yield first, text[begin : token.start()]
            begin, first, empty = token.end(), line + 1, True
        elif token["open"]:
            depth, empty = depth + 1, False
        elif token["close"]:
            depth -= 1
        elif not token["comment"] and not token["newline"]:
            empty = False
        line += token[0].count("\n")
    if not empty:
        yield first, text[begin:]


def _text(path: str, name: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as problem:
        raise UsageError(f"--{CONFIG} {name}: it cannot be read: {problem.strerror or problem}") from None
    if len(data) > LARGEST:
        raise UsageError(f"--{CONFIG} {name}: it has more than {LARGEST} bytes; that is no file of options")
    data = data.removeprefix(b"\xef\xbb\xbf")  # with which some editors mark UTF-8
    try:
        # With a newline the end of the last line has a place; to tomllib it is the "end of document".
        text = f"{data.decode()}\n".replace("\r\n", "\n")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        _refuse(f"{name}, line {line}", f"byte 0x{data[problem.start]:02x} is not UTF-8, which a file of TOML is written in")
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        _refuse(f"{name}, line {line}", "a carriage return stands there without a newline behind it")
    return text


def _check_syntax(text: str, name: str) -> None:
    import tomllib

    try:
        tomllib.loads(text)
    except RecursionError:
        _refuse(name, "lists in it are nested too deep")
    except ValueError as problem:  # int() refuses numbers of thousands of digits, too
        what, _, where = str(problem).rpartition(" (at ")
        place = re.fullmatch(r"line ([0-9]+), column ([0-9]+)\)", where)
        if not what:
            _refuse(name, f"it is not TOML: {problem}")
        if place is None:
            last = text.rstrip().count("\n") + 1
            _refuse(f"{name}, line {last}", f"{_lower(what)}: the file ends too early")
        if what == "Cannot overwrite a value":
            _refuse(f"{name}, line {place[1]}", "this name stands further up already")
        _refuse(f"{name}, line {place[1]}", f"{_lower(what)}, at column {place[2]}{_hint(what)}")


def _hint(what: str) -> str:
    if what.startswith(("Invalid value", "Expected newline")):
        return '; text is written in quotes, as peer = "hub:9001"'
    if what == r"Illegal character '\n'":
        return "; a text in quotes ends in the line it begins in"
    return "; each option is written as NAME = VALUE" if what.startswith(("Invalid statement", "Expected '='")) else ""


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _entry(statement: str, where: str, line: int) -> Entry:
    """The option of one statement.

    :param where: its place, for errors.
    """
    import tomllib

    ((key, value),) = tomllib.loads(statement).items()
    if isinstance(value, dict) or statement.lstrip().startswith("["):
        _refuse(where, f"{_short(key)} is a table, and here are none: each option stands by itself, as NAME = VALUE")
    if key in _NOT_HERE:
        _refuse(where, f"{key} is for the command line only: {_NOT_HERE[key]}")
    option = _LONG.get(key)
    if option is None:
        _refuse(where, f"unknown name {_short(key)}{_near(key)}")
    texts = _texts(option, key, value, where)
    for text in texts if option.kind != FLAG else []:
        try:
            option.read(text)
            if option.long in ("port", "peer"):
                settings({option.long: text}, ())
        except UsageError as error:
            _refuse(where, str(error))
    return Entry(option, line, texts)


def _near(key: str) -> str:
    from difflib import get_close_matches

    bare = key.lstrip("-")
    short = {option.short: option.long for option in _HERE if option.short}
    name = bare.lower().replace("_", "-")
    begun = [long for long in _LONG if len(name) > 1 and long.startswith(name)]
    # A letter may be meant as it is, and else in the other case.
    near = short.get(bare) or short.get(bare.swapcase()) or (name if name in _LONG else None)
    near = near or next(iter(begun or get_close_matches(name, _LONG, n=1)), None)
    return f"; did you mean {near}?" if near else "; the names are those of the long options, which mysocket --help lists"


def _texts(option: Option, key: str, value: Any, where: str) -> list[str]:
    """A value as texts of the command line."""
    if option.kind == FLAG:
        if not isinstance(value, bool):
            _refuse(where, f"{key} is switched on by {key} = true, and off by false; {_kind(value)} is neither")
        return [""] if value else []
    if isinstance(value, list):
        if option.kind == VALUE:
            _refuse(where, f"{key} takes one value ({option.metavar}), not a list")
        return [_plain(option, key, one, where) for one in value]
    return [_plain(option, key, value, where)]


def _plain(option: Option, key: str, value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(where, f"{key} takes {option.metavar}, as text in quotes or as a number; {_kind(value)} is neither")
    try:
        text = str(value)
    except ValueError:  # too many digits for int
        _refuse(where, f"{key}: that number is too large")
    # The options know no exponents; the least of a size or a time is far above what is lost.
    return f"{value:.9f}" if "e-" in text else text


def _kind(value: object) -> str:
    """What a value is, as TOML calls it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        try:
            return _short(value)
        except ValueError:
            return "a large number"
    return "a list" if isinstance(value, list) else "a table" if isinstance(value, dict) else "a date or time (without quotes)"


def _short(value: object) -> str:
    """For people: a file may hold anything."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _refuse(where: str, text: str) -> NoReturn:
    raise BadConfig(text, where=where)
