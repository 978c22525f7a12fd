"""The man page, and the completions of bash, zsh and fish: `python docs/manual.py --write` makes them from the table of options.

Without `--write` it names the files that are not what the table says, and leaves with 1. They are checked in: who installs the
package needs no step of its own for them.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

from shells import bash, fish, zsh  # noqa: E402

from mysocket._version import __version__  # noqa: E402
from mysocket.commandline import EPILOG  # noqa: E402
from mysocket.options import FLAG, OPTIONS, VERBS, Option, Verb  # noqa: E402
from mysocket.settings import CLASSIC, DIAL, LISTEN  # noqa: E402

#: Of the page; it moves with the releases.
DATE = "2026-11-23"

DESCRIPTION = """\
MySocket carries messages between two machines and knows whether they arrived. One command runs on each machine; what goes \
in at one end comes out at the other, whole, in order and once, however often the connection is lost; with --spool also \
through kill -9, restarts and power cuts of both machines. Exit status 0 of the sender means that the other side has \
acknowledged everything.

It does not matter which side is started first. stdout carries the messages and nothing else; everything for people goes to \
stderr. With LISTENER_PORT or -p it listens, with RECEIVER_HOST RECEIVER_PORT or --peer it dials, with both it does both. \
Connections are taken from the peer that is named, and from whom --allow names; a listener without a peer takes them from \
this machine and from --allow.

twistd mysocket takes the same options and runs as a service, with which the verbs below talk.

Options may follow other arguments. Short ones may be bundled (-kv); long ones cannot be abbreviated. Sizes are bytes, or \
64k, 1M, 2G; times are seconds, or 500ms, 5s, 2m, 1h."""

CONFIGURATION = """\
--config FILE reads options from a file of TOML: the long names of the options, each with its value. A flag is true or \
false; numbers need no quotes; an option that may be given again takes a list. help, version and config are for the command \
line only. There are no tables."""

EXAMPLE = """\
# Follow a log, and keep what the hub does not have yet.
peer = "hub:9001"
spool = "/var/lib/mysocket"
max-spool = "2G"
input = ["follow:/var/log/app.log", "udp:5140"]
wait = 60
verbose = true"""

RULES = """\
The command line wins. An option that is given there replaces that of the file, lists included; LISTENER_PORT RECEIVER_HOST \
RECEIVER_PORT replace port and peer; what excludes an option of the file on the command line (--recv-only an input, --whole \
a stream, --tcp udp) makes it give way. A flag that the file sets cannot be taken back otherwise.

A relative file name means what it means on the command line: it is relative to the directory that the program works in \
(with twistd, to its --rundir), not to that of the file. Where that directory is not certain, names are written from the \
root.

An unknown name, a value of another type and what is not TOML are errors; each names the file and the line."""

FILES = (
    ("DIR/control", "in the --spool of a service: the socket through which the verbs talk to it"),
    ("$XDG_RUNTIME_DIR/mysocket/NAME.sock", "the same for every service; else in /run/user/UID/mysocket, or /tmp/mysocket\\-UID"),
    ("$XDG_STATE_HOME/mysocket/history", "what was typed at a terminal; else in ~/.local/state/mysocket"),
    (".mysocket-*.part", "in a --download-dir: what has come of a file that is not complete yet"),
)

ENVIRONMENT = (
    ("XDG_RUNTIME_DIR, XDG_STATE_HOME", "see FILES"),
    ("NO_COLOR", "no colours at a terminal"),
    ("TERM", "dumb: at a terminal, as with --plain-terminal"),
    ("LISTEN_FDS, LISTEN_PID, NOTIFY_SOCKET, WATCHDOG_USEC", "what systemd tells a service that it starts"),
    (
        "MYSOCKET_CRASH_AT",
        "for tests: the process kills itself at a place that has a name. No other variable of MySocket's own is read: "
        "options are given on the command line or with --config",
    ),
)

SEE_ALSO = "nc(1), socat(1), twistd(1), systemd.service(5), systemd.socket(5). The documents are in share/doc/mysocket."


# Roff ---------------------------------------------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Text as roff shows it. What follows a dash may be meant to be typed, so all of them are the character of the keyboard."""
    return text.replace("\\-", "-").replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("~", "\\(ti")


def prose(text: str) -> Iterator[str]:
    """Lines of a paragraph; one that begins as a request of roff does not."""
    for line in textwrap.wrap(escaped(" ".join(text.split())), 78, break_long_words=False, break_on_hyphens=False):
        yield f"\\&{line}" if line.startswith((".", "'")) else line


def paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield ".PP"
        yield from prose(paragraph)


def verbatim(text: str) -> Iterator[str]:
    yield from (".PP", ".nf", ".RS")
    yield from (f"\\&{escaped(line)}" for line in text.splitlines())
    yield from (".RE", ".fi")


def item(term: str, text: str) -> Iterator[str]:
    """
    :param term: roff already.
    """
    yield from (".TP", term)
    yield from prose(text)


def bold(text: str) -> str:
    return f"\\fB{escaped(text)}\\fR"


def option_item(option: Option) -> Iterator[str]:
    value = "" if option.kind == FLAG else f" \\fI{escaped(option.metavar or '')}\\fR"
    names = [f"-{option.short}"] if option.short else []
    names += [f"--{name}" for name in (option.long, *option.aliases)]
    yield from item(", ".join(bold(name) for name in names) + value, sentence(option.help))


def sentence(text: str) -> str:
    # A word with a colon behind it is one that is typed.
    return f"{text}." if re.match(r"\w+:", text) else f"{text[:1].upper()}{text[1:]}."


def verb_items(verb: Verb) -> Iterator[str]:
    yield f".SS {verb.name}"
    words = [f"\\fI{escaped(word)}\\fR" for word, _ in verb.words] + ([f"[\\fI{verb.rest}\\fR...]"] if verb.rest else [])
    yield " ".join([bold(f"mysocket {verb.name}"), *words, "[\\fIoptions\\fR]"])
    yield ".PP"
    yield from prose(sentence(verb.help))
    for option in verb.options:
        yield from option_item(option)


def examples() -> Iterator[tuple[str, str]]:
    """Those of --help: a command, and what it is for."""
    body = EPILOG.partition("Examples:\n")[2].partition("\n\n")[0]
    return ((command, why) for command, why in re.findall(r"^  (\S.*)\n {8}(.*)$", body, re.MULTILINE))


def statuses() -> Iterator[tuple[str, str]]:
    """Those of the README."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| status | meaning |\n")[2].partition("\n\n")[0]
    return (
        (status, text.replace("`", "")) for status, text in re.findall(r"^\| ([0-9][0-9, ]*) \| (.*) \|$", table, re.MULTILINE)
    )


def man_page() -> str:
    """mysocket(1)."""
    return "\n".join(_man_page()) + "\n"


def _man_page() -> Iterator[str]:
    yield '.\\" Made by docs/manual.py from the table of options.'
    yield f'.TH MYSOCKET 1 {DATE} "mysocket {__version__}" "User Commands"'
    # Names of options and places must not be parted.
    yield from (".nh", ".ad l")
    yield from (".SH NAME", "mysocket \\- netcat for messages that must arrive")
    yield ".SH SYNOPSIS"
    forms = [CLASSIC, "mysocket [options] -p PORT --peer HOST:PORT", DIAL, LISTEN]
    forms += [f"mysocket {'|'.join(VERBS)} ...", "twistd [-n] mysocket [options] ..."]
    yield from "\n.br\n".join(escaped(form) for form in forms).split("\n")
    yield from (".SH DESCRIPTION", *list(paragraphs(DESCRIPTION))[1:])
    yield ".SH OPTIONS"
    for group in dict.fromkeys(option.group for option in OPTIONS):
        yield f'.SS "{group}"'
        for option in OPTIONS:
            if option.group == group:
                yield from option_item(option)
    yield from (".SH VERBS", *prose("A verb is the first word of a command line, and has options of its own."))
    for verb in VERBS.values():
        yield from verb_items(verb)
    yield ".SH EXAMPLES"
    yield from _items(examples())
    yield from (".SH CONFIGURATION", *list(paragraphs(CONFIGURATION))[1:], *verbatim(EXAMPLE), *paragraphs(RULES))
    for heading, rows in (("FILES", FILES), ("EXIT STATUS", statuses()), ("ENVIRONMENT", ENVIRONMENT)):
        yield f".SH {heading}"
        yield from _items((name, sentence(text)) for name, text in rows)
    yield from (".SH SEE ALSO", *prose(SEE_ALSO))


def _items(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, text in rows:
        yield from item(bold(name), text)


# Files --------------------------------------------------------------------------------------------------------------------------


def pages() -> dict[Path, str]:
    """Each file, and what is to be in it."""
    completions = DOCS / "completions"
    return {
        DOCS / "man/mysocket.1": man_page(),
        completions / "mysocket": bash.script(),  # by the name under which bash looks for it
        completions / "_mysocket": zsh.script(),
        completions / "mysocket.fish": fish.script(),
    }


def main() -> int:
    """Write the files, or tell which are old."""
    status = 0
    for path, text in pages().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if sys.argv[1:] == ["--write"]:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        else:
            print(f"{path.relative_to(ROOT)} is not what the table of options says; run: python docs/manual.py --write")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
