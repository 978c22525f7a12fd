"""What a line that was typed means, and how it could go on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mysocket.screen.commands import COMMANDS, HELP, MAX_LISTED, Command, Say, Unknown, complete, file_name, meaning


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hello", Say("hello")),
        ("", Say("")),
        ("EXIT", Command("quit")),
        ("exit", Say("exit")),
        (" EXIT", Say(" EXIT")),
        ("EXIT\n", Say("EXIT\n")),
        ("/quit", Command("quit")),
        ("/quit ", Command("quit")),
        ("/quit now", Unknown("quit", "quit")),
        ("/help", Command("help")),
        ("/status", Command("status")),
        ("/Status", Unknown("Status")),
        ("/send a b.txt", Command("send", "a b.txt")),
        ("/send  a ", Command("send", "a")),
        ("/send", Unknown("send", "send FILE")),
        ("/", Unknown("")),
        ("/etc/passwd", Unknown("etc/passwd")),
        ("//etc/passwd", Say("/etc/passwd")),
        ("//", Say("/")),
        ("///x", Say("//x")),
        (" /quit", Say(" /quit")),
        ("/quit\n/quit", Say("/quit\n/quit")),
        ("//x\ny", Say("//x\ny")),
        ("/bin\n/etc", Say("/bin\n/etc")),
    ],
)
def test_meanings(text: str, found: object) -> None:
    assert meaning(text) == found


@given(st.text())
def test_every_line_can_be_sent(text: str) -> None:
    """What is no command is sent as it is; two slashes stand for one; EXIT alone cannot be."""
    found = meaning(text)
    if not text.startswith("/") and text != "EXIT":
        assert found == Say(text)
    if "\n" not in text:
        assert meaning("/" + text) == Say(text) if text.startswith("/") else True


def test_help_names_every_command() -> None:
    for name in COMMANDS:
        assert f"/{name}" in HELP
    assert "//" in HELP and "Alt-Enter" in HELP and "Ctrl-R" in HELP and "✓" in HELP


# Files --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("a.txt", "a.txt"),
        ("a b.txt", "a b.txt"),
        (r"a\ b.txt", "a b.txt"),
        ('"a b.txt"', "a b.txt"),
        ("'a b.txt'", "a b.txt"),
        ("it's here.txt", "it's here.txt"),
        (r"it\'s.txt", "it's.txt"),
        ("~", "HOME"),
        ("~/a", "HOME/a"),
        ("#1.txt", "#1.txt"),
        ("$HOME", "$HOME"),
        ("*.txt", "*.txt"),
        ("/tmp/x", "/tmp/x"),
    ],
)
def test_paths_that_are_typed(typed: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "HOME")
    assert file_name(typed) == path


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0", min_codepoint=0x20), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and name.isprintable() and len(name.encode()) < 200
)


@given(NAMES)
@example("a b")
@example("a\\b")
@example("it's")
@example('"')
@example("~")
@example("~root")
@example("ends with a space ")
@example(" begins with one")
@example("#x")
@example("-x")
@example("漢字 é")
def test_what_tab_completes_is_read_back(name: str) -> None:
    """By the command itself: the line that Tab made, with Enter, is the file that was there."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        Path(directory, name).touch()
        before = os.getcwd()
        os.chdir(directory)
        try:
            begun = f"/send {'.' if name.startswith('.') else ''}"
            found = complete(begun)
            assert len(found) == 1, found
            line = begun[: len(begun) - found[0].replaced] + found[0].text
            command = meaning(line)
            assert isinstance(command, Command) and command.name == "send"
            assert os.path.samefile(file_name(command.argument), name)
        finally:
            os.chdir(before)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completed(text: str) -> list[str]:
    """The lines that Tab offers."""
    return [text[: len(text) - one.replaced] + one.text for one in complete(text)]


def test_names_of_commands() -> None:
    assert completed("/st") == ["/status"]
    assert completed("/se") == ["/send "]
    assert sorted(completed("/")) == sorted(f"/{name} " if takes else f"/{name}" for name, (takes, _) in COMMANDS.items())
    assert completed("/x") == completed("st") == completed("") == completed(" /st") == completed("/st\n/st") == []
    assert completed("/status x") == completed("/nothing x") == []


def test_names_of_files(here: Path) -> None:
    (here / "a b").mkdir()
    (here / "a b" / "deep 1").touch()
    (here / "abc").touch()
    (here / ".hidden").touch()
    (here / "bell\x07").touch()
    (here / "loop").symlink_to("loop")
    assert completed("/send ") == [r"/send a\ b/", "/send abc", "/send loop"]
    assert completed("/send a") == [r"/send a\ b/", "/send abc"]
    assert completed("/send   ab") == ["/send   abc"]
    assert completed("/send .h") == ["/send .hidden"]
    assert completed(r"/send a\ b/") == [r"/send a\ b/deep\ 1"]
    assert completed(f"/send {here}/ab") == [f"/send {here}/abc"]
    assert completed("/send nothing/x") == completed("/send abc/x") == []


def test_the_home_directory_stays_as_it_was_typed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "file").touch()
    assert completed("/send ~/f") == ["/send ~/file"]
    assert file_name("~/file") == str(here / "file")


def test_names_that_are_no_utf_8_are_left_out(here: Path) -> None:
    os.close(os.open(os.fsencode(here) + b"/a\xff", os.O_CREAT | os.O_WRONLY, 0o600))
    assert completed("/send a") == []


def test_a_directory_with_many_files_is_not_listed_whole(here: Path) -> None:
    for number in range(MAX_LISTED + 10):
        (here / f"{number:04}").touch()
    assert len(completed("/send ")) == MAX_LISTED
