"""The history: nobody else's business, and never in the way."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prompt_toolkit.history import History, InMemoryHistory

from mysocket.screen.history import MAX_ENTRY, MAX_SIZE, KeptHistory, history_path, open_history


def opened(path: Path) -> History:
    history, problem = open_history(str(path))
    assert problem == "" and isinstance(history, KeptHistory)
    return history


def loaded(path: Path) -> list[str]:
    """What the next session finds, the newest last."""

    async def load() -> list[str]:
        return [line async for line in opened(path).load()]

    return asyncio.run(load())[::-1]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    assert history_path({}) == "/home/x/.local/state/mysocket/history"
    assert history_path({"XDG_STATE_HOME": "/state"}) == "/state/mysocket/history"
    # The specification: a path that is not absolute is to be ignored.
    assert history_path({"XDG_STATE_HOME": "state"}) == history_path({"XDG_STATE_HOME": ""}) == history_path({})


def test_it_goes_on_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "mysocket" / "history"
    old = os.umask(0)
    try:
        history = opened(path)
        for line in ("one", "two\nlines", "", "  secret", "grüße 漢字 👩‍👩‍👧", "+x", "# x"):
            history.append_string(line)
    finally:
        os.umask(old)
    assert mode(path) == 0o600 and mode(path.parent) == 0o700
    assert loaded(path) == ["one", "two\nlines", "", "grüße 漢字 👩‍👩‍👧", "+x", "# x"]
    assert b"secret" not in path.read_bytes()


def test_one_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text("\n# x\n+kept\n")
    path.chmod(0o644)
    assert loaded(path) == ["kept"]
    assert mode(path) == 0o600


def refused(path: Path) -> None:
    history, problem = open_history(str(path))
    assert isinstance(history, InMemoryHistory) and str(path) in problem
    history.append_string("a line")


def test_what_is_no_file_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    refused(tmp_path / "directory")
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo")
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    refused(tmp_path / "link")
    assert (tmp_path / "target").read_text() == "precious" and mode(tmp_path / "target") != 0o600
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    refused(tmp_path / "dangling")
    assert not (tmp_path / "nothing").exists()
    refused(tmp_path / "target" / "history")
    refused(Path("/dev/null"))
    refused(Path("/proc/mysocket/history"))


def test_a_name_that_no_system_takes(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 300) / "history")


def test_a_disk_that_is_full_or_gone_costs_only_the_history(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "history"
    history = opened(path)
    path.unlink()
    path.parent.rmdir()
    history.append_string("a line")
    assert history.get_strings() == ["a line"]


@given(st.lists(st.text(st.characters(exclude_characters="\n\r"), max_size=20), max_size=6))
@example(["caf\udce9 \udcff"])
@example(["\ud800"])
@example(["\x85 \u2028 \x0b \x0c \x1c"])
def test_what_was_typed_is_kept_or_left_out_and_never_an_error(lines: list[str]) -> None:
    """Also bytes that were no UTF-8, which are typed as half surrogates."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "history")
        history = opened(path)
        for line in lines:
            history.append_string(line)
        found = loaded(path)
        text = [line for line in lines if not line.startswith(" ") and line.isprintable() and line]
        assert [line for line in found if line in text] == text


def test_the_older_half_goes_when_it_has_become_too_long(tmp_path: Path) -> None:
    path = tmp_path / "history"
    entry = "\n# 2026-01-01 00:00:00.000000\n+%07d " + "x" * 60 + "\n"
    count = MAX_SIZE // len(entry % 0) + 2
    path.write_text("".join(entry % number for number in range(count)))
    before = path.stat().st_ino
    found = loaded(path)
    assert path.stat().st_size <= MAX_SIZE // 2 and path.stat().st_ino == before and mode(path) == 0o600
    numbers = [int(line[:7]) for line in found]
    assert numbers == list(range(numbers[0], count)), "whole entries, the newest ones"
    assert len(numbers) > count // 3
    again = path.read_bytes()
    loaded(path)
    assert path.read_bytes() == again


def test_one_entry_that_is_too_long_alone(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text("\n# x\n+" + "x" * (MAX_SIZE + 1) + "\n")
    assert loaded(path) == []
    opened(path).append_string("and on")
    assert loaded(path) == ["and on"]


def test_a_large_paste_costs_none_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "history"
    history = opened(path)
    history.append_string("precious")
    history.append_string("x" * MAX_SIZE)
    history.append_string("y" * MAX_ENTRY)
    assert history.get_strings()[-2] == "x" * MAX_SIZE, "this session has it"
    assert loaded(path) == ["precious", "y" * MAX_ENTRY]


def test_a_history_that_cannot_be_read_any_more_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "history"
    history = opened(path)
    path.unlink()
    path.mkdir()
    assert [*history.load_history_strings()] == []
