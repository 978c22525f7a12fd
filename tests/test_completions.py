"""Tab completion, in the shells themselves: at a terminal, with keys pressed, and by what each offers for a line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mysocket.options import OPTIONS, VERBS
from tests.support.processes import Terminal

COMPLETIONS = Path(__file__).parents[1] / "docs/completions"
#: Files and directories of the place in which lines are completed.
FILES = ("report.csv", "two words.log", "data/inner.log")

# What a line becomes with Tab, where there is one way; or all that is offered, where there are several.
WHOLE = [
    ("mysocket --recv", "mysocket --recv-only "),
    ("mysocket --use-u", "mysocket --use-udp "),
    ("mysocket -p 9000 --downl", "mysocket -p 9000 --download-dir "),
    ("mysocket sto", "mysocket stop "),
    ("mysocket send --deli", "mysocket send --delivered "),
    ("mysocket attach --fr", "mysocket attach --from "),
    ("mysocket attach --from o", "mysocket attach --from oldest "),
    ("mysocket attach --ack=a", "mysocket attach --ack=auto "),
    ("mysocket --log-format j", "mysocket --log-format json "),
    ("mysocket --log-format=t", "mysocket --log-format=text "),
    ("mysocket -k 1 --log-format=t", "mysocket -k 1 --log-format=text "),
    ("mysocket --config rep", "mysocket --config report.csv "),
    ("mysocket --config=rep", "mysocket --config=report.csv "),
    ("mysocket --config tw", r"mysocket --config two\ words.log "),
    ("mysocket --spool da", "mysocket --spool data/"),
    ("mysocket --spool=da", "mysocket --spool=data/"),
    ("mysocket spool da", "mysocket spool data/"),
    ("mysocket send --file data/i", "mysocket send --file data/inner.log "),
    ("mysocket --input fol", "mysocket --input follow:"),
    ("mysocket --input=fol", "mysocket --input=follow:"),
    ("mysocket --input rep", "mysocket --input report.csv "),
    ("mysocket --input follow:data/i", "mysocket --input follow:data/inner.log "),
    ("mysocket --input=follow:rep", "mysocket --input=follow:report.csv "),
    ("mysocket --output=un", "mysocket --output=unix:"),
    ("mysocket 9000 hub --recv", "mysocket 9000 hub --recv-only "),
    ("mysocket ack audit --sp", "mysocket ack audit --spool "),
    ("mysocket -kvw 5 --recv", "mysocket -kvw 5 --recv-only "),
]
# Where nothing is to be offered, not even files.
NOTHING = [
    *("mysocket --wait ", "mysocket -w ", "mysocket --port r", "mysocket --max-spool=r", "mysocket --bind r", "mysocket -kvw r"),
    *("mysocket --spool rep", "mysocket spool rep", "mysocket rep", "mysocket ack r", "mysocket forget ", "mysocket send --as"),
    *(
        "mysocket send --del --recv",
        "mysocket -- --recv",
        "mysocket stop --json",
        "mysocket --input udp:r",
        "mysocket 9000 hub r",
    ),
]


def missing(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


class Shell:
    """A shell at a terminal which knows the completions. Ctrl-T shows the line as it stands, and empties it."""

    def __init__(self, name: str, place: Path) -> None:
        self.name = name
        setup = getattr(self, f"_{name}")(place)
        self._terminal = Terminal(
            self._argv, env={"HOME": str(place), "TERM": "dumb", "PS1": "", "LC_ALL": "C.UTF-8"}, size=(200, 120)
        )
        self._seen = 0
        self._terminal.type(f" {setup}\n")
        self._terminal.wait_text(r"READY\n")

    def _bash(self, place: Path) -> str:
        self._argv = ["bash", "--norc", "--noprofile", "-i"]
        (place / "setup").write_text(
            "bind 'set bell-style none' 'set show-all-if-ambiguous on' 'set enable-bracketed-paste off'\n"
            "bind 'set completion-query-items 0'; bind 'set page-completions off'\n"
            "_show() { printf '<%s>\\n' \"$READLINE_LINE\"; READLINE_LINE=; }\n"
            f"bind -x '\"\\C-t\": _show'\nsource '{COMPLETIONS}/mysocket'\n"
            f"HOSTFILE='{place}/hosts'; cd '{place}/here'; PS1='$ '\n"
        )
        return f". '{place}/setup'; echo RE''ADY"

    def _zsh(self, place: Path) -> str:
        self._argv = ["zsh", "-f", "-i"]
        (place / "setup").write_text(
            "setopt no_beep no_prompt_cr no_prompt_sp no_always_last_prompt; PS1='$ '; LISTMAX=1000; bindkey -e\n"
            f"fpath=('{COMPLETIONS}' $fpath); autoload -Uz compinit; compinit -D -u\n"
            "_show() { zle -I; print -r -- \"<$BUFFER>\"; BUFFER= }; zle -N _show; bindkey '^T' _show\n"
            f"cd '{place}/here'\n"
        )
        return f". '{place}/setup'; echo RE''ADY"

    def tab(self, line: str, presses: int = 1) -> tuple[str, str]:
        """What this line becomes with Tab, and what is shown besides."""
        self._terminal.type(f"{line}{chr(9) * presses}\x14")
        found = self._terminal.wait_text(rf"(?s)\A.{{{self._seen}}}(.*?)<([^\n]*)>\n")
        self._seen = found.end()
        return found[2], found[1]

    def close(self) -> None:
        self._terminal.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("completions")
    for name in FILES:
        (place / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "here" / name).touch()
    (place / "hosts").write_text(f"192.0.2.7 {HOST}\n")
    (place / ".ssh").mkdir()
    (place / ".ssh/known_hosts").write_text(f"{HOST} ssh-ed25519 AAAA\n")
    return place


@pytest.fixture(scope="module", params=[pytest.param(name, marks=missing(name)) for name in ("bash", "zsh")])
def shell(request: pytest.FixtureRequest, place: Path) -> Iterator[Shell]:
    shell = Shell(request.param, place)
    yield shell
    shell.close()


def test_a_line_at_a_terminal_is_completed(shell: Shell) -> None:
    # Behind an option that takes a value zsh writes =, which a space that is typed removes.
    found = {line: re.sub("=$", " ", shell.tab(line)[0]) for line, _ in WHOLE}
    assert found == dict(WHOLE)


def test_nothing_is_offered_where_nothing_is_known(shell: Shell) -> None:
    found = {line: shell.tab(line) for line in NOTHING}
    assert [line for line, (after, shown) in found.items() if after.rstrip() != line.rstrip() or "\n" in shown.strip()] == []


def listed(shell: Shell, line: str) -> set[str]:
    """The words of what is shown for this line."""
    return set(re.split(r"\s+", shell.tab(line, 2)[1]))


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_every_option_is_offered(shell: Shell, verb: str) -> None:
    begin = f"mysocket {verb} ".replace("  ", " ")
    table = VERBS[verb].options if verb else OPTIONS
    assert {f"--{name}" for option in table for name in (option.long, *option.aliases)} <= listed(shell, f"{begin}--")
    letters = {f"-{option.short}" for option in table if option.short}
    assert letters <= listed(shell, f"{begin}-")


def test_verbs_and_places_are_offered(shell: Shell) -> None:
    assert set(VERBS) <= listed(shell, "mysocket ")
    assert not set(VERBS) & listed(shell, "mysocket 9000 ")
    assert {"report.csv", "data/"} <= listed(shell, "mysocket --input ")
    shown = listed(shell, "mysocket --input ")
    assert all(any(word.startswith(place) for word in shown) for place in ("follow", "udp", "tcp", "unix", "-"))
    assert "follow" not in " ".join(listed(shell, "mysocket --output "))
    assert "inner.log" not in listed(shell, "mysocket --spool ")
    assert {"text", "json"} <= listed(shell, "mysocket --log-format=")


def by_fish(place: Path, lines: list[str]) -> dict[str, dict[str, str]]:
    """What fish offers for each of these lines, with its description."""
    script = [f"source '{COMPLETIONS}/mysocket.fish'"]
    for line in lines:
        quoted = line.replace("\\", "\\\\").replace("'", "\\'")
        script += [f"echo '{MARK}{quoted}'", f"complete -C '{quoted}'"]
    home = {"HOME": str(place), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    command = ["fish", "--no-config", "-c", "\n".join(script)]
    done = subprocess.run(command, cwd=place / "here", env=home, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found: dict[str, dict[str, str]] = {}
    for part in done.stdout.split(MARK)[1:]:
        line, _, rows = part.partition("\n")
        found[line] = {word: text for word, _, text in (row.partition("\t") for row in rows.splitlines())}
    return found


MARK = "line> "


@missing("fish")
def test_fish_completes_lines(place: Path) -> None:
    found = by_fish(place, [line for line, _ in WHOLE])
    for line, after in WHOLE:
        begin = line.rpartition(" ")[0]
        whole = after.removeprefix(f"{begin} ").rstrip().replace("\\ ", " ")
        assert list(found[line]) == [whole], line


@missing("fish")
def test_fish_offers_nothing_where_nothing_is_known(place: Path) -> None:
    found = by_fish(place, NOTHING)
    assert [line for line in NOTHING if found[line]] == []


@missing("fish")
def test_fish_offers_options_with_their_help_and_verbs(place: Path) -> None:
    tables = {"": OPTIONS, **{verb.name: verb.options for verb in VERBS.values()}}
    lines = {verb: f"mysocket {verb} --".replace("  ", " ") for verb in tables}
    found = by_fish(place, [*lines.values(), "mysocket ", "mysocket 9000 ", "mysocket --input ", "mysocket --output "])
    for verb, table in tables.items():
        names = {f"--{name}": option.help for option in table for name in (option.long, *option.aliases)}
        assert found[lines[verb]] == names
    assert {name: text for name, text in found["mysocket "].items() if name in VERBS} == {v.name: v.help for v in VERBS.values()}
    assert not set(VERBS) & found["mysocket 9000 "].keys()
    assert {"follow:", "udp:", "tcp:", "unix:", "-", "report.csv", "data/"} <= found["mysocket --input "].keys()
    assert "follow:" not in found["mysocket --output "]


#: A host that the shells know from the files below.
HOST = "thehub.example"
HOSTS = [
    ("mysocket --peer theh", f"mysocket --peer {HOST}:"),
    ("mysocket --peer=theh", f"mysocket --peer={HOST}:"),
    ("mysocket 9000 theh", f"mysocket 9000 {HOST} "),
    ("mysocket -kp 1 9000 theh", f"mysocket -kp 1 9000 {HOST} "),
    ("mysocket --output udp:theh", f"mysocket --output udp:{HOST}:"),
    ("mysocket --output=tcp:theh", f"mysocket --output=tcp:{HOST}:"),
]


def test_hosts_are_offered(shell: Shell) -> None:
    assert {line: shell.tab(line)[0] for line, _ in HOSTS} == dict(HOSTS)


@missing("fish")
def test_fish_offers_hosts(place: Path) -> None:
    found = by_fish(place, [line for line, _ in HOSTS])
    assert {line: [*found[line]] for line, _ in HOSTS} == {line: [after.rstrip().rpartition(" ")[2]] for line, after in HOSTS}


def test_bash_knows_the_line_up_to_the_cursor(place: Path) -> None:
    """By the variables that bash sets, in places where keys would be no help to tell why."""
    script = f"""
        source '{COMPLETIONS}/mysocket'
        compopt() {{ echo "compopt $*"; }}
        try() {{
            COMP_LINE=$1 COMP_POINT=$2 COMP_WORDS=("${{@:3}}")
            COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            _mysocket mysocket
            echo "${{COMPREPLY[*]}}"
        }}
        try 'mysocket --recv-only x' 13 mysocket --recv-only
        try 'mysocket --log-format= ' 23 mysocket --log-format = ''
        try 'mysocket --log-format=' 22 mysocket --log-format =
        try 'mysocket   --peer  x   --log-format   js' 40 mysocket --peer x --log-format js
        try 'mysocket --input follow:rep' 27 mysocket --input follow : rep
        try 'mysocket --spool a:b=c --recv' 29 mysocket --spool a : b = c --recv
        COMP_WORDBREAKS=' '
        try 'mysocket --log-format=j' 23 mysocket --log-format=j
        try 'mysocket' 8 mysocket
    """
    done = subprocess.run(["bash", "-c", script], cwd=place / "here", capture_output=True, text=True, check=True)
    assert done.stderr == ""
    expected = ["--recv-only", "", "text json", "json", "compopt -o default", "", "--recv-only", "--log-format=json", ""]
    assert done.stdout.splitlines() == expected
