"""Command lines: one spelling for both front ends, and the console script's by argparse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mysocket._version import __version__
from mysocket.errors import USAGE, UsageError
from mysocket.options import ANSWERS, EXCLUSIVE, FLAG, OPTIONS, REPEAT, VERBS, Option, Verb

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from mysocket.settings import Settings

PROGRAM = "mysocket"


def spell_out(argv: Sequence[str], table: Sequence[Option] = OPTIONS, program: str = PROGRAM) -> tuple[list[str], list[str]]:
    """A command line in one spelling: every option as ``--long`` or ``--long=value``, and apart from them the positionals.

    Options may follow positionals, up to ``--``. The next word is the value of an option only if it does not look like an
    option itself, which "-" does not; ``--long=-value`` passes any. Long options are never abbreviated, so that a new one cannot
    change old scripts.

    :param program: what is called, for hints.
    """
    long = {name: option for option in table for name in (option.long, *option.aliases)}
    short = {option.short: option for option in table if option.short}
    options: list[str] = []
    positionals: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            positionals.extend(words)
        elif word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            option = long.get(name)
            if option is None:
                raise UsageError(_unknown(f"--{name}", long, program))
            if option.kind == FLAG and equals:
                raise UsageError(f"--{name} takes no value")
            options.append(_spelled(option, value if equals else None, words))
        elif word.startswith("-") and word != "-":
            letters = word[1:]
            while letters:
                option, letters = short.get(letters[0]), letters[1:]
                if option is None:
                    raise UsageError(_unknown(f"-{word[len(word) - len(letters) - 1]}", long, program))
                if option.kind == FLAG:
                    options.append(_spelled(option, None, words))
                else:
                    options.append(_spelled(option, letters or None, words))
                    letters = ""
        else:
            positionals.append(word)
        if options and options[-1][2:] in ANSWERS:
            return options[-1:], []
    return options, positionals


def with_config(options: list[str], positionals: list[str]) -> tuple[list[str], list[str], Callable[[str], str]]:
    """What :func:`spell_out` gives, with the options of the file that ``--config`` names; last, what puts into an error on the
    whole which lines of that file it is about.

    :raises UsageError: of the file.
    """
    if not any(option.startswith("--config=") for option in options):
        return options, positionals, str
    from mysocket.configfile import Configured

    configured = Configured(options, positionals)
    return configured.options, positionals, configured.explain


def _spelled(option: Option, value: str | None, words: Iterator[str]) -> str:
    if option.kind == FLAG:
        return f"--{option.long}"
    if value is None:
        value = next(words, None)
        if value is None or value.startswith("-") and value != "-":
            raise UsageError(f"--{option.long} needs a value: --{option.long} {option.metavar}")
    return f"--{option.long}={value}"


def _unknown(name: str, known: Iterable[str], program: str) -> str:
    from difflib import get_close_matches

    if name in ("-l", "--listen") and program == PROGRAM:
        hint = "; to listen: -p PORT"
    else:
        begun = [long for long in known if len(name) > 3 and long.startswith(name[2:])]
        near = begun or get_close_matches(name[2:], known, n=1)
        hint = f"; did you mean --{near[0]}?" if near else f"; {program} --help lists them all"
    return f"unknown option {name}{hint}"


EPILOG = """\
Sizes are bytes, or 64k, 1M, 2G; times are seconds, or 500ms, 5s, 2m, 1h.
Short options may be bundled (-kv); long ones cannot be abbreviated.

Examples:
  mysocket 9000 hostb 9001
        talk; on hostb: mysocket 9001 hosta 9000
  mysocket --peer hub:9001 < report.csv && rm report.csv
        remove the file only when the other side has it
  mysocket -p 9001 --allow 10.0.0.0/8 -k --output all.log
        collect from many senders
  mysocket --peer hub:9001 --spool ~/app-spool --input follow:app.log
        send what is written to a log, through its rotation and crashes
  mysocket --raw -u -p 5140 --allow 192.0.2.0/24 -k
        show the datagrams of a device

Verbs, each with options of its own (mysocket VERB --help):
{verbs}

Exit status 0 means: everything given here has been acknowledged by the peer.
"""


def _folded(text: str, indent: int, width: int = 80) -> str:
    """Text in lines, the further ones indented. What stands in brackets stays together."""
    from re import sub
    from textwrap import fill

    glued = sub(r"\[[^]]*\]", lambda found: found[0].replace(" ", "\0"), text)
    options = {"break_long_words": False, "break_on_hyphens": False}
    return fill(glued, width, subsequent_indent=" " * indent, **options).replace("\0", " ")  # type: ignore[arg-type]


def _argument_parser(
    program: str, usage: Sequence[str], description: str, epilog: str, table: Sequence[Option]
) -> ArgumentParser:
    from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter

    class Parser(ArgumentParser):
        def error(self, message: str) -> Any:
            raise UsageError(message)

    parser = Parser(
        prog=program,
        usage="\n       ".join(_folded(form, 15, 73) for form in usage),
        description=description,
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
        argument_default=SUPPRESS,
    )
    groups = {name: parser.add_argument_group(name) for name in dict.fromkeys(option.group for option in table)}
    for option in table:
        names = [f"-{option.short}"] if option.short else []
        names += [f"--{name}" for name in (option.long, *option.aliases)]
        how: dict[str, Any] = {"action": "store_true"}
        if option.long in ANSWERS:
            how = {"action": option.long} | ({"version": f"mysocket {__version__}"} if option.long == "version" else {})
        elif option.kind != FLAG:
            how = {"action": "append" if option.kind == REPEAT else "store", "type": option.read, "metavar": option.metavar}
        groups[option.group].add_argument(*names, dest=option.long, help=option.help, **how)
    return parser


def parse_command_line(argv: Sequence[str]) -> Settings:
    """The Settings of the console script's arguments. Anything wrong leaves the program: status 2, ``mysocket: …`` on stderr."""
    from mysocket.settings import CLASSIC, DIAL, LISTEN, settings  # verbs have none

    verbs = "\n".join(f"  {verb.name}\n{_folded(f'        {verb.help}', 8)}" for verb in VERBS.values())
    parser = _argument_parser(
        PROGRAM,
        [CLASSIC, "mysocket [options] -p PORT --peer HOST:PORT", DIAL, LISTEN, f"mysocket {'|'.join(VERBS)} …"],
        "Netcat for messages that must arrive: in order, exactly once, acknowledged.",
        EPILOG.format(verbs=verbs),
        OPTIONS,
    )
    explain: Callable[[str], str] = str
    try:
        options, positionals, explain = with_config(*spell_out(argv))
        return settings(vars(parser.parse_args(options)), positionals)
    except UsageError as error:
        parser.exit(USAGE, f"mysocket: {explain(str(error))}{_verb_hint(argv)}\n")


def _verb_hint(argv: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(argv[0], VERBS, n=1, cutoff=0.7) if argv else []
    return f"; did you mean mysocket {near[0]}?" if near else ""


def parse_verb(verb: Verb, argv: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """What stands behind a verb: its positional arguments, and its options by their fields.

    :raises UsageError: anything is wrong.
    """
    program = f"{PROGRAM} {verb.name}"
    options, positionals = spell_out(argv, verb.options, program)
    table = {option.long: option for option in verb.options}
    values: dict[str, Any] = {}
    for spelled in options:
        long, _, value = spelled[2:].partition("=")
        if long in ANSWERS:
            # argparse takes as long to import as all the rest, and only formats the help.
            text = _folded(f"{verb.help[0].upper()}{verb.help[1:]}.", 0)
            _argument_parser(program, [verb.form], text, "", verb.options).parse_args(options)
        read = True if table[long].kind == FLAG else table[long].read(value)
        values[long] = (*values.get(long, ()), read) if table[long].kind == REPEAT else read
    for first, second, why in EXCLUSIVE:
        if first in values and second in values:
            raise UsageError(f"--{first} and --{second} exclude each other: {why}")
    count = len(verb.words)
    if len(positionals) < count or (len(positionals) > count and not verb.rest):
        missing = [name for name, _ in verb.words[len(positionals) :]]
        wrong = f"{' '.join(missing)} is missing" if missing else f"{positionals[count]!r} is one argument too many"
        raise UsageError(f"{wrong}; the form is {verb.form}")
    fields = {option.field: values.get(option.long, option.default) for option in verb.options if option.field}
    words = [_word(name, parse, text) for (name, parse), text in zip(verb.words, positionals, strict=False)]
    return [*words, *positionals[count:]], fields


def _word(name: str, parse: Callable[[str], object], text: str) -> object:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
