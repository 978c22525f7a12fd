"""What --config reads means what the same words mean on the command line, which wins; every error names the file and the line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.python import usage

from mysocket import configfile, tap
from mysocket.commandline import parse_command_line
from mysocket.errors import UsageError
from mysocket.options import ANSWERS, FLAG, OPTIONS, REPEAT, Option
from mysocket.settings import Settings
from tests.support.processes import DEVNULL, Program, free_port
from tests.support.service import TWISTD

ROOT = Path(__file__).parents[1]
HERE = [option for option in OPTIONS if option.long not in (*ANSWERS, "config")]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "app.toml"


def from_script(words: Sequence[object], capsys: pytest.CaptureFixture[str]) -> Settings | str:
    """What the console script makes of these words: Settings, or the sentence it leaves with."""
    try:
        return parse_command_line([str(word) for word in words])
    except SystemExit as left:
        out, err = capsys.readouterr()
        assert (left.code, out) == (2, "")
        return err.removeprefix("mysocket: ").removesuffix("\n")


def from_twistd(words: Sequence[object]) -> Settings | str:
    options = tap.Options()
    try:
        options.parseOptions([str(word) for word in words])
    except usage.UsageError as error:
        return str(error)
    return options.settings


def both(words: Sequence[object], capsys: pytest.CaptureFixture[str]) -> Settings | str:
    """What both front ends make of them, which is the same."""
    found = from_script(words, capsys)
    assert from_twistd(words) == found
    return found


def sentence(file: Path, text: str | bytes, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The error about a file that holds this text; it begins with the name of the file or ends with it."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = both(["--config", file, *words], capsys)
    assert isinstance(found, str)
    return found.replace(str(file), "FILE")


# A value survives ---------------------------------------------------------------------------------------------------------------

VALUES: dict[str, list[str]] = {
    "port": ["0", "9000", "unix:/run/it", "tcp:9000:interface=::1", "x"],
    "peer": ["hub:9001", "[::1]:9001", "tls:hub:9001", "hub"],
    "bind": ["127.0.0.1", "::1", "hub"],
    "allow": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "hub"],
    "input": ["-", "a.log", "follow:a b.log", "udp:5140", "tcp:9000", "unix:/run/in", "udp:x"],
    "output": ["-", "-x", "a=b", "udp:hub:5140", "tcp:hub:9000", "unix:/run/out", "hub:1", "'"],
    "download-dir": ["in", "/tmp/#x"],
    "max-message": ["64k", "65536", "0"],
    "spool": ["d", "\\d"],
    "max-spool": ["2G", "2147483648", "1k"],
    "wait": ["60", "0.5", "500ms", "0.00001", "soon"],
    "linger": ["0", "1.5", "2m"],
    "metrics": ["9100", "127.0.0.1:9100", "[::1]:0", "x"],
    "log-format": ["text", "json", "xml"],
}


def test_every_option_with_a_value_is_tried() -> None:
    assert set(VALUES) == {option.long for option in HERE if option.kind != FLAG}


def escaped(text: str) -> str:
    """The inside of a basic string of TOML."""
    return "".join(f"\\U{ord(char):08x}" if char in '"\\' or ord(char) < 32 or ord(char) == 127 else char for char in text)


@st.composite
def written(draw: st.DrawFn, text: str) -> str:
    """A way to write this text in TOML; a number may do without quotes."""
    ways = [f'"{escaped(text)}"', f'"""{escaped(text)}"""', f'"""\n{escaped(text)}\\\n   """']
    if re.fullmatch(r"[\x20-\x26\x28-\x7e]*", text):
        ways += [f"'{text}'", f"'''\n{text}'''"]
    if re.fullmatch(r"(0|[1-9][0-9]*)(\.[0-9]*[1-9])?", text):
        ways += [text] * 3
    return draw(st.sampled_from(ways))


NOISE = st.sampled_from(["", "", "\n", "# port = [\n", '  # """\n', "\t\n\r\n", "#é\n"])


@st.composite
def statement(draw: st.DrawFn, option: Option, texts: list[str]) -> str:
    """One option as a file says it, with all that may stand between its parts."""
    name = draw(st.sampled_from([option.long, f'"{option.long}"', f"'{option.long}'", *option.aliases]))
    if option.kind == FLAG:
        value = "true"
    elif option.kind == REPEAT and (len(texts) > 1 or draw(st.booleans())):
        parts = [draw(written(text)) + draw(NOISE) for text in texts]
        value = f"[{draw(NOISE)}{', '.join(parts)}{draw(st.sampled_from(['', ',']))}{draw(NOISE)}]"
    else:
        value = draw(written(texts[0]))
    return f"{name} {draw(st.sampled_from(['=', ' = ']))} {value} {draw(st.sampled_from(['', '# why = [']))}\n"


ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=12)


@st.composite
def given_options(draw: st.DrawFn) -> tuple[list[str], str]:
    """Some options: as words of a command line, and as a file."""
    words, text = [], draw(NOISE)
    for option in draw(st.lists(st.sampled_from(HERE), max_size=5, unique_by=lambda option: option.long)):
        values = st.sampled_from(VALUES.get(option.long, [""])) | ANY_TEXT
        texts = draw(st.lists(values, min_size=1, max_size=3 if option.kind == REPEAT else 1))
        words += [f"--{option.long}"] if option.kind == FLAG else [f"--{option.long}={value}" for value in texts]
        text += draw(statement(option, texts)) + draw(NOISE)
    return words, text


def test_a_file_says_what_the_command_line_says(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @given(given_options(), st.booleans())
    def check(options: tuple[list[str], str], listens: bool) -> None:
        words, text = options
        file.write_bytes(text.encode())
        more = ["-p", "1"] if listens and not any(word.startswith("--port=") for word in words) else []
        expected, found = from_twistd([*words, *more]), from_twistd([*more, f"--config={file}"])
        if isinstance(expected, Settings):
            assert found == expected
        else:
            assert isinstance(found, str)
            # The first that is wrong may be another one: values are read in the order of the file, and the whole comes last.
            assert str(file) in found or found == expected

    check()
    capsys.readouterr()


@pytest.mark.parametrize("option", [option for option in HERE if option.kind != FLAG], ids=lambda option: option.long)
def test_each_value_is_what_it_is_on_the_command_line(option: Option, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    besides = {"port": ["--peer=h:1"], "max-spool": ["-p1", "--spool=d"]}.get(option.long, ["-p1"])
    for text in VALUES[option.long]:
        file.write_text(f"# a comment\n{option.long} = '''{text}'''\n")
        expected, found = both([*besides, f"--{option.long}={text}"], capsys), both([*besides, "--config", file], capsys)
        if isinstance(expected, Settings):
            assert found == expected
        else:
            assert found == f"{file}, line 2: {expected}"


def test_flags_are_switched_on_and_left_off(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in HERE:
        if option.kind != FLAG:
            continue
        besides = ["-p", "1", *(["--spool=d"] if option.long == "accept-loss" else [])]
        file.write_text(f"{option.long} = true\n")
        assert both([*besides, "--config", file], capsys) == both([*besides, f"--{option.long}"], capsys)
        file.write_text(f"{option.long} = false\n")
        assert both([*besides, "--config", file], capsys) == both(besides, capsys)


def test_an_empty_file_says_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (b"", b"\xef\xbb\xbf", b"# nothing", b"allow = []\ninput = [ # none\n]", b"\xef\xbb\xbfjson = false\r\n"):
        file.write_bytes(text)
        assert both(["-p", "1", "--config", file], capsys) == both(["-p", "1"], capsys)


# The command line wins ----------------------------------------------------------------------------------------------------------

WINS = [
    ("port = 1", "-p 2", "-p 2"),
    ('port = 1\npeer = "h:1"', "-p 2", "-p 2 --peer h:1"),
    ('port = 1\npeer = "h:1"', "2 hub 3", "2 hub 3"),
    ("port = 1", "2 hub 3", "2 hub 3"),
    ('port = 1\nallow = ["10.0.0.0/8", "192.0.2.7"]', "--allow ::1 --allow ::2", "-p 1 --allow ::1 --allow ::2"),
    ('port = 1\ninput = ["a", "b"]', "--input c", "-p 1 --input c"),
    ('port = 1\ninput = ["a"]', "--recv-only", "-p 1 --recv-only"),
    ("port = 1\nrecv-only = true", "--input a", "-p 1 --input a"),
    ("port = 1\nrecv-only = true", "--send-only", "-p 1 --send-only"),
    ('port = 1\noutput = "x"\ndownload-dir = "y"', "--send-only", "-p 1 --send-only"),
    ("port = 1\nsend-only = true", "--output x", "-p 1 --output x"),
    ("port = 1\nsend-only = true", "--download-dir x", "-p 1 --download-dir x"),
    ("port = 1\nstream = true", "--whole", "-p 1 --whole"),
    ("port = 1\nwhole = true", "-0", "-p 1 -0"),
    ("port = 1\nnull = true", "--stream", "-p 1 --stream"),
    ("port = 1\njson = true", "-T", "-p 1 -T"),
    ("port = 1\ntimestamps = true", "-J", "-p 1 -J"),
    ("port = 1\nudp = true", "--tcp", "-p 1"),
    ("port = 1\nuse-udp = true", "--tcp", "-p 1"),
    ("port = 1\ntcp = true", "-u", "-p 1 -u"),
    ("port = 1\ntcp = true\nudp = true", "", "-p 1 -u"),
    ("port = 1\nudp = true", "--tcp -u", "-p 1 -u"),
    ("port = 1\nwait = 5", "-w 7 -w 8", "-p 1 -w 8"),
    ("port = 1\nwait = 0.00001", "", "-p 1 -w 0.00001"),
    ("port = 1\nkeep-open = true", "-kv", "-p 1 -kv"),
]


@pytest.mark.parametrize(("text", "line", "alike"), WINS)
@pytest.mark.parametrize("first", [True, False])
def test_the_command_line_wins(
    text: str, line: str, alike: str, first: bool, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text)
    config = ["--config", str(file)]
    found = both([*config, *line.split()] if first else [*line.split(), *config], capsys)
    assert isinstance(found, Settings)
    assert found == both(alike.split(), capsys)


def test_whatever_excludes_an_option_beats_it_in_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every pair of the table, both ways."""
    table = {option.long: option for option in OPTIONS}

    def value(option: Option) -> str:
        return "true" if option.kind == FLAG else '"x"'

    for one, other, _ in configfile.EXCLUSIVE:
        for loser, winner in ((one, other), (other, one)):
            if loser not in table or winner not in table:
                continue  # a pair of a verb's
            file.write_text(f"port = 1\n{loser} = {value(table[loser])}\n")
            word = f"--{winner}" if table[winner].kind == FLAG else f"--{winner}=x"
            assert both(["--config", file, word], capsys) == both(["-p", "1", word], capsys)
            file.write_text(f"port = 1\n{loser} = {value(table[loser])}\n{winner} = {value(table[winner])}\n")
            found = both(["--config", file], capsys)
            assert isinstance(found, str)
            assert "exclude each other" in found
            assert f"--{loser}: {file}, line 2" in found
            assert f"--{winner}: {file}, line 3" in found


def test_an_error_about_both_says_what_of_it_the_file_says(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = sentence(file, '# mine\nport = 1\nspool = "d"\n', capsys, "--raw")
    assert said.startswith("--spool and --raw exclude each other: ")
    assert said.endswith(" (--spool: FILE, line 3)")
    said = sentence(file, 'udp = true\nport = "unix:/run/it"\n', capsys)
    assert "there are none for UDP" in said
    assert said.endswith("(--port: FILE, line 2)")
    # What was not taken from it, it has no part in.
    assert "FILE" not in sentence(file, 'port = 1\npeer = "h:1"\nspool = "d"\n', capsys, "9000", "hub")
    assert "FILE" not in sentence(file, "port = 1\n", capsys, "-p", "x")


def test_what_a_file_holds_reaches_no_terminal(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = sentence(file, 'port = 1\noutput = ["\\u001b[2J\\n", "\\u001b[2J\\n"]\n', capsys)
    assert said == "--output \\x1b[2J\\x0a is given twice (--output: FILE, line 2)"


def test_help_and_version_need_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--help", "--version"):
        with pytest.raises(SystemExit) as left:
            parse_command_line(["--config", "/nonexistent", word])
        assert not left.value.code
        assert capsys.readouterr().out


# Errors -------------------------------------------------------------------------------------------------------------------------

WRONG = [
    ("prot = 1", 1, "unknown name 'prot'; did you mean port?"),
    ("\n\nrecv_only = true", 3, "did you mean recv-only?"),
    ("# c\nRecv-Only = true", 2, "did you mean recv-only?"),
    ("--port = 1", 1, "did you mean port?"),
    ('"-k" = true', 1, "did you mean keep-open?"),
    ("p = 1", 1, "did you mean port?"),
    ("T = true", 1, "did you mean timestamps?"),
    ("t = true", 1, "did you mean timestamps?"),
    ("0 = true", 1, "did you mean null?"),
    ("verb = true", 1, "did you mean verbose?"),
    ("xyzzy = 1", 1, "unknown name 'xyzzy'; the names are those of the long options, which mysocket --help lists"),
    ('"\\u001b[31m" = 1', 1, r"unknown name '\x1b[31m'"),
    (f"{'x' * 5000} = 1", 1, "xxx…;"),
    ("port = 1\n[mysocket]\npeer = 'h:1'", 2, "'mysocket' is a table"),
    ("port = 1\n[[input]]\n", 2, "'input' is a table"),
    ("port.number = 1", 1, "'port' is a table"),
    ("port = {number = 1}", 1, "'port' is a table"),
    ('"port" . "number" = 1', 1, "'port' is a table"),
    ("port = [1]", 1, "port takes one value (PORT), not a list"),
    ("wait = true", 1, "wait takes SECS, as text in quotes or as a number; true is neither"),
    ("wait = 12:30:00", 1, "a date or time (without quotes) is neither"),
    ("spool = 2026-01-01", 1, "a date or time (without quotes) is neither"),
    ("allow = [true]", 1, "allow takes CIDR"),
    ('allow = ["::1", ["::2"]]', 1, "a list is neither"),
    ("allow = [{a = 1}]", 1, "a table is neither"),
    ('json = "yes"', 1, "json is switched on by json = true, and off by false; 'yes' is neither"),
    ("json = 1", 1, "1 is neither"),
    ("json = []", 1, "a list is neither"),
    ("json = 1979-05-27", 1, "a date or time (without quotes) is neither"),
    (f"json = 0x{'f' * 9000}", 1, "a large number is neither"),
    (f"port = 0x{'f' * 9000}", 1, "that number is too large"),
    ('wait = "soon"', 1, "--wait: 'soon' is not a length of time above 0; write 500ms"),
    ("wait = -5", 1, "--wait: '-5' is not a length of time"),
    ("wait = inf", 1, "--wait: 'inf' is not a length of time"),
    ("wait = 1e-12", 1, "is not a length of time above 0"),
    ("max-message = 1.5", 1, "--max-message: '1.5' is not a size"),
    ("port = 65536", 1, "port 65536 is out of range"),
    ('port = "localhost:1"', 1, "--bind ADDR"),
    ('port = ""', 1, "port '' is not a number"),
    ('peer = "hub"', 1, "'hub' is not HOST:PORT"),
    ('spool = ""', 1, "is not a file name"),
    ('spool = "a\\u0000b"', 1, "is not a file name"),
    ('input = [\n "-",\n "udp:x"]', 1, "port 'x' is not a number"),
    ('output = "hub:9000"', 1, "write tcp:hub:9000 to connect there"),
    ('log-format = "xml"', 1, "'xml' is unknown; write text or json"),
    ('metrics = "hub:9100"', 1, "'hub' is not an IP address"),
    ('port = 1\nconfig = "other.toml"', 2, "config is for the command line only: a file does not name another"),
    ("help = true", 1, "help is for the command line only"),
    ("version = true", 1, "version is for the command line only"),
    ("udp = true\n\nuse-udp = true", 3, "udp is given twice, first in line 1"),
    # What tomllib finds.
    ("port = 1\nwait = 5\nport = 2", 3, "this name stands further up already"),
    ("port = 1\npeer = hub:9001", 2, 'invalid value, at column 8; text is written in quotes, as peer = "hub:9001"'),
    ("wait = 5s", 1, "text is written in quotes"),
    ("wait =", 1, "invalid value"),
    ("--port 9000", 1, "each option is written as NAME = VALUE"),
    ("= 9000", 1, "each option is written as NAME = VALUE"),
    ("wait = 010", 1, "at column 9"),
    ('# c\nallow = [\n"::1",\n', 3, "the file ends too early"),
    ('port = 1\nspool = """a\nb\n', 3, "the file ends too early"),
    ('spool = "a\n', 1, "at column 11; a text in quotes ends in the line it begins in"),
    ("port = 1\nspool = 'a\x1b'", 2, r"invalid character '\x1b'"),
    ("port = 1\r\n\r\nx", 3, "each option is written as NAME = VALUE"),
    ("[a]\n[a]\n", 2, "declare"),
]


@pytest.mark.parametrize(("text", "line", "words"), WRONG, ids=[text[:30] for text, _, _ in WRONG])
def test_errors_name_the_line(text: str, line: int, words: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = sentence(file, text, capsys)
    assert found.startswith(f"FILE, line {line}: ")
    assert words in found
    assert "\n" not in found
    assert len(found) < 400


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"port = 1\nspool = '\xff'\n", "FILE, line 2: byte 0xff is not UTF-8"),
        ("port = 1\n".encode("utf-16"), "FILE, line 1: byte 0xff is not UTF-8"),
        (b"\xef\xbb\xbf# x\n\xc3\n", "FILE, line 2: byte 0xc3 is not UTF-8"),
        (b"port = 1\r\nwait = 1\rspool = 'd'", "FILE, line 2: a carriage return"),
        (b"#" * (configfile.LARGEST + 1), "--config FILE: it has more than 1000000 bytes"),
        (b"allow = " + b"[" * 100_000, "FILE: lists in it are nested too deep"),
        (b"port = " + b"9" * 5000, "FILE: it is not TOML: Exceeds the limit"),
    ],
    ids=["latin-1", "utf-16", "cut", "return", "large", "deep", "digits"],
)
def test_what_is_no_file_of_options(data: bytes, words: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in sentence(file, data, capsys)


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing, place = tmp_path / "a\x1b\nb", tmp_path / "shut"
    assert "No such file or directory" in str(both(["--config", missing], capsys))
    assert r"\x1b" in str(both(["--config", missing], capsys))
    assert str(both(["--config", tmp_path], capsys)) == f"--config {tmp_path}: it cannot be read: Is a directory"
    assert "is not a file name" in str(both(["--config="], capsys))
    assert "--config needs a value: --config FILE" in str(both(["--config"], capsys))
    assert "it has more than" in str(both(["--config", "/dev/zero"], capsys))
    place.write_text("port = 1")
    assert "given twice" in str(both(["--config", place, "--config", place], capsys))
    place.chmod(0)
    if not os.access(place, os.R_OK):  # root reads it all the same
        assert "Permission denied" in str(both(["--config", place], capsys))


def test_a_pipe_is_read_too(capsys: pytest.CaptureFixture[str]) -> None:
    """As a shell's --config <(echo port = 1) gives it."""
    reads, writes = os.pipe()
    os.write(writes, b"port = 9000\n")
    os.close(writes)
    try:
        found = from_script(["--config", f"/dev/fd/{reads}"], capsys)
    finally:
        os.close(reads)
    assert isinstance(found, Settings)
    assert found.port == "9000"


PIECES = [
    "port",
    "json",
    "allow",
    "'wait'",
    "=",
    " = ",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    '"',
    '"""',
    "'",
    "'''",
    "#",
    "\n",
    "\r",
    "\\",
    " ",
]
PIECES += [
    "9000",
    "1e5",
    "0x",
    "true",
    "2026-11-23",
    "12:30:00",
    "é",
    "\0",
    "\x1b",
    '"10.0.0.0/8"',
    "[[",
    "inf",
    "-",
    "_",
    "--port",
]


@given(st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=25).map(lambda parts: "".join(parts).encode()))
def test_anything_is_read_or_refused_in_a_line(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    try:
        entries = configfile.read(str(file))
    except UsageError as error:
        assert str(file) in str(error)
        assert str(error).isprintable()
    else:
        assert all(entry.option in HERE and entry.line <= data.count(b"\n") + 1 for entry in entries)


# Lines --------------------------------------------------------------------------------------------------------------------------

STRINGS = [
    *('"a"', '"\\"# [\\\\"', "'\"'", '""'),
    *('"""\n"\n""\n# x = [\n\\""""', '"""a""""', '"""a"""""', '""""""'),
    *("''''''", "'''\n'\n''\\'''"),
]
SCALARS = st.sampled_from([*STRINGS, "1", "-0.5e3", "true", "1979-05-27T07:32:00Z"])
VALUE = st.recursive(
    SCALARS,
    lambda inner: (
        st.tuples(st.lists(inner, max_size=4), NOISE, NOISE).map(lambda t: f"[{t[1]}{f'{t[2]},{t[1]}'.join(t[0])}{t[2]}]")
        | st.lists(inner, max_size=2).map(lambda t: "{" + ", ".join(f"'k{n}]' = {v}" for n, v in enumerate(t)) + "}")
    ),
    max_leaves=6,
)


@given(st.lists(st.tuples(VALUE, NOISE, st.sampled_from(['"k[{}"', "'#{}'", "k-{}", "a.b{}", "a . 'b]{}'"])), max_size=6), NOISE)
def test_statements_are_found_where_they_begin(parts: list[tuple[str, str, str]], begin: str) -> None:
    text, lines = begin, []
    for number, (value, after, key) in enumerate(parts):
        lines.append(text.replace("\r\n", "\n").count("\n") + 1)
        text += f'  {key.format(number)} = {value} # ["\n{after}'
    for end in ("", "\n[table] # x", "\n[[ 'list[' ]]\nx = 1"):
        whole = (text + end).replace("\r\n", "\n")
        if parts or not end:
            expected = tomllib.loads(whole)
        found = list(configfile.statements(whole))
        assert [line for line, _ in found][: len(lines)] == lines
        if not end:
            merged: dict[str, Any] = {}
            for _, one in found:
                ((name, value),) = tomllib.loads(one).items()
                merged[name] = merged.get(name, {}) | value if isinstance(value, dict) and name == "a" else value
            assert merged == expected


def test_a_long_file_takes_no_time_that_grows_faster_than_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A megabyte in one list, one string and a comment each; a search of ends that begins again at each line would take hours."""
    rows = "".join(f' "10.{n // 256}.{n % 256}.0/24", # one\n' for n in range(12_000))
    strings = f"spool = '''{'x' * 100_000}\n'''\ndownload-dir = \"\"\"{'a' * 100_000}\"\"\"\n"
    text = f"{'#' * 100_000}\nallow = [\n{rows}]\n{strings}prot = 1\n"
    assert sentence(file, text, capsys).startswith("FILE, line 12007: unknown name")


# Where it is read ---------------------------------------------------------------------------------------------------------------


def test_names_of_files_are_taken_as_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Relative to where the program works, not to the file."""
    (tmp_path / "app.toml").write_text('port = 1\nspool = "d"\ninput = "follow:a.log"\n')
    found = both(["--config", tmp_path / "app.toml"], capsys)
    assert isinstance(found, Settings)
    assert (found.spool, found.inputs[0].target) == ("d", "a.log")


def test_twistd_reads_the_file_from_where_it_is_called_and_works_in_its_own_directory(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "app.toml").write_text(f'# mine\npeer = "127.0.0.1:{free_port()}"\nport = 0\nspool = "spool"\nrecv-only = true\n')
    command = [*TWISTD, "-n", "--pidfile=", "--rundir", "run", "mysocket", "--config", "app.toml"]
    with Program(command, stdin=DEVNULL, cwd=tmp_path) as service:
        service.wait_line("listening on ")
    assert (tmp_path / "run/spool").is_dir()
    (tmp_path / "app.toml").write_text("port = 0\n\nrecv_only = true\n")
    with Program(command, stdin=DEVNULL, cwd=tmp_path) as service:
        service.wait_status(2)
        assert service.stderr_text == "mysocket: app.toml, line 3: unknown name 'recv_only'; did you mean recv-only?\n"


def test_the_environment_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path) -> None:
    file.write_text("json = true")
    expected = both(["-p", "1"], capsys)
    for option in OPTIONS:
        for name in (option.long, option.field):
            value = str(file) if option.long == "config" else VALUES.get(option.long, ["1"])[0]
            monkeypatch.setenv(f"MYSOCKET_{name.upper().replace('-', '_')}", value)
    assert both(["-p", "1"], capsys) == expected
    # No module but that of the fail points knows such a name.
    knows = [path.name for path in (ROOT / "mysocket").rglob("*.py") if re.search(r"[\"']MYSOCKET_", path.read_text())]
    assert knows == ["failpoints.py"]


def test_the_file_is_read_without_twisted_and_only_when_it_is_named(file: Path) -> None:
    file.write_text("port = 9000\n")
    code = (
        "import sys, mysocket.commandline as c\n"
        "c.parse_command_line(['-p', '1']); print('tomllib' in sys.modules, 'mysocket.configfile' in sys.modules)\n"
        "print(c.parse_command_line(['--config', sys.argv[1]]).port, 'twisted' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n9000 False\n"


def test_the_program_says_it_and_leaves_with_2(file: Path) -> None:
    file.write_text("\nprot = 1\n")
    command = [sys.executable, "-m", "mysocket", "--config", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"mysocket: {file}, line 2: unknown name 'prot'; did you mean port?\n"
