"""Who gets the screen: a person, at a terminal that can do it, in a session of lines."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mysocket.commandline import parse_command_line
from mysocket.screen import choice
from mysocket.screen.choice import is_for_screen
from tests.support.processes import ROOT

BOTH = (True, True)
XTERM = {"TERM": "xterm-256color"}


def asked(words: str = "9000 hostb 9001", environ: dict[str, str] = XTERM, terminals: tuple[bool, bool] = BOTH) -> bool:
    return is_for_screen(parse_command_line(words.split()), environ, terminals)


@pytest.mark.parametrize("words", ["9000 hostb 9001", "-p 9000", "--peer hostb:9001", "-p 9000 --spool x", "--timestamps -p 9"])
def test_a_person_gets_it(words: str) -> None:
    assert asked(words)


@pytest.mark.parametrize("term", ["xterm", "linux", "screen", "tmux-256color", "vt100", "foot"])
def test_terminals_that_can_do_it(term: str) -> None:
    assert asked(environ={"TERM": term})


@pytest.mark.parametrize("environ", [{}, {"TERM": ""}, {"TERM": "dumb"}, {"TERM": "unknown"}])
def test_terminals_that_cannot(environ: dict[str, str]) -> None:
    assert not asked(environ=environ)


@pytest.mark.parametrize("terminals", [(True, False), (False, True), (False, False)])
def test_both_ends_are_terminals(terminals: tuple[bool, bool]) -> None:
    assert not asked(terminals=terminals)


@pytest.mark.parametrize(
    "option", ["--plain-terminal", "--recv-only", "--raw", "--udp", "--json", "--stream", "--whole", "--null"]
)
def test_sessions_that_are_not_for_it(option: str) -> None:
    assert not asked(f"{option} 9000 hostb 9001")


def test_no_color_takes_only_the_colours() -> None:
    assert asked(environ={**XTERM, "NO_COLOR": "1"})


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    assert not asked()


def test_in_a_pipe_nothing_of_it_is_imported() -> None:
    """The speed of pipes is untouched: neither prompt_toolkit nor another reactor."""
    script = (
        "import sys\nfrom mysocket.cli import main\nstatus = main(['-p', '0', '-w', '0.1'])\n"
        "rich = {'prompt_toolkit', 'wcwidth', 'mysocket.screen.session', 'twisted.internet.asyncioreactor'}\n"
        "print(status, *(rich & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.stdout.split() == [b"3"], done
