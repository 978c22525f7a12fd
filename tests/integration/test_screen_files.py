"""Files between two people at terminals: seen to come, in both directions at once, and gone on with after whatever happens."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import free_port, wait_until
from tests.support.screen import Desk, Person

#: More than a link and its windows hold, so that each can be interrupted before its end.
LARGE = 400_000_000


class Two:
    """Two people, each with a directory for files."""

    def __init__(self, path: Path, *, spools: bool) -> None:
        self.path = path
        self.spools = spools
        self.desk = Desk(path)
        self.ports = {"a": free_port(), "b": free_port()}
        self.a, self.b = self.start("a"), self.start("b")
        for person in (self.a, self.b):
            person.wait_status_line("connected")
            person.wait_ready()

    def start(self, name: str) -> Person:
        """One of them starts."""
        here, there = self.ports[name], self.ports["b" if name == "a" else "a"]
        spool = ("--spool", self.path / f"spool-{name}") if self.spools else ()
        return self.desk.person(here, "localhost", there, "--download-dir", self.path / name, *spool)

    def make(self, name: str, size: int) -> Path:
        """A file that takes no time to be made, and is not all alike."""
        path = self.path / name
        with path.open("wb") as file:
            file.write(os.urandom(1000))
            file.truncate(size)
            file.seek(size // 2)
            file.write(os.urandom(1000))
        return path

    def wait_begun(self, name: str, size: int) -> None:
        """So much of some file has come to one of them."""
        wait_until(lambda: any(path.stat().st_size > size for path in (self.path / name).glob(".mysocket-*")), "it does not come")

    def check(self, name: str, file: Path) -> None:
        """It is there, once, and no part of it."""
        found = self.path / name
        assert [path.name for path in found.iterdir() if not path.name.startswith(".")] == [file.name]
        assert os.path.getsize(found / file.name) == os.path.getsize(file)
        with (found / file.name).open("rb") as here, file.open("rb") as there:
            while block := there.read(1 << 22):
                assert here.read(1 << 22) == block


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for found in tmp_path.rglob("*"):
        if found.is_file() and found.stat().st_size > LARGE // 4:
            found.unlink()


def leave(*people: Person) -> None:
    for person in people:
        person.say("EXIT")
    for person in people:
        assert person.wait() == 0, person.report()
        person.check_bytes()
        person.check_given_back()


@pytest.mark.parametrize("spools", [False, True])
def test_both_send_and_one_leaves_and_comes_back(path: Path, spools: bool) -> None:
    """Who leaves waits for what it sends, not for what comes; that goes on where it was."""
    two = Two(path, spools=spools)
    with two.desk:
        large, small = two.make("large", LARGE), two.make("small", 20_000_000)
        two.a.say(f"/send {large}")
        two.b.say(f"/send {small}")
        two.a.wait_seen(r"^↑ large [█░]+ +\d+ % of 400\.0 MB")
        two.b.wait_seen(r"^↓ large [█░]+ +\d+ % of 400\.0 MB")
        two.wait_begun("b", 10_000_000)
        two.b.say("EXIT")
        assert two.b.wait() == 0
        assert "✓ /send small (20.0 MB)" in two.b.text and "not received to its end: large from" in two.b.text
        two.check("a", small)
        two.b = two.start("b")
        two.a.wait_seen("✓ /send large", 60)
        two.b.wait_seen("received large")
        two.check("b", large)
        assert "it goes on at" in two.b.text
        leave(two.a, two.b)


def test_the_receiver_is_killed(path: Path) -> None:
    two = Two(path, spools=False)
    with two.desk:
        large = two.make("large", LARGE)
        two.a.say(f"/send {large}")
        two.wait_begun("b", 10_000_000)
        two.b.kill(signal.SIGKILL)
        two.b.wait()
        two.a.wait_status_line("gone|connecting")
        two.a.say("typed meanwhile")
        two.b = two.start("b")
        two.a.wait_seen("✓ /send large", 60)
        two.a.wait_seen("✓ typed meanwhile")
        two.check("b", large)
        leave(two.a, two.b)


def test_the_sender_is_killed_and_has_a_spool(path: Path) -> None:
    two = Two(path, spools=True)
    with two.desk:
        large = two.make("large", LARGE)
        two.a.say(f"/send {large}")
        two.wait_begun("b", 10_000_000)
        two.a.kill(signal.SIGKILL)
        two.a.wait()
        two.a = two.start("a")
        two.b.wait_seen("received large", 60)
        two.check("b", large)
        leave(two.a, two.b)


def test_cancel_is_said_on_both_sides_and_the_next_one_comes(path: Path) -> None:
    two = Two(path, spools=False)
    with two.desk:
        large, small = two.make("large", 10 * LARGE), two.make("small", 1000)
        two.a.say(f"/send {large}")
        two.a.say(f"/send {small}")
        two.wait_begun("b", 10_000_000)
        two.a.say("/cancel")
        two.a.wait_seen("^cancelled: large")
        two.b.wait_seen("has cancelled large after .*: the sender has cancelled it")
        two.a.wait_seen("✓ /send small")
        two.check("b", small)
        leave(two.a)
        # What marks the transfers as over goes when their sender is known to have finished, so not if this side leaves before.
        wait_until(lambda: not list((path / "b").glob(".*")), "something is left of the transfers")
        leave(two.b)
