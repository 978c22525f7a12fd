"""A receiver of files that is killed at any change of the disk, again and again: each file is there in the end, whole and once.

The sender is a list of chunks. What is committed is a number: of so many chunks the sender will never hear again. Everything else
comes again, from there on.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mysocket.core.transfer import Chunk, Part
from mysocket.ends.partfile import Key
from mysocket.ends.parts import NAMED_KEPT
from tests.support.files import chunks, content
from tests.support.incoming import NODE, FakeOs, Killed, Receiver


class History:
    """A stream of chunks, what of it is committed, and the receivers that came and went."""

    def __init__(self, path: Path, stream: list[Chunk], *, durable: bool, links: bool) -> None:
        self.path = path
        self.stream = stream
        self.durable = durable
        self.links = links
        self.committed = 0
        #: What the sender knows of that.
        self.known = 0
        self.given = 0
        self.kills = 0
        self.alive: Receiver | None = None

    def start(self, kill_at: int | None = None) -> Receiver:
        """A new process, which finds what the one before has left."""
        fake = FakeOs(kill_at)
        if not self.links:
            fake.faults["link"] = (errno.EPERM, -1)
        self.alive = Receiver(self.path, durable=self.durable, fake=fake)
        if not self.durable:
            # It has forgotten all, and goes on where the sender wants it to.
            self.committed = self.known
        self.given = self.begin = self.committed
        return self.alive

    @property
    def done(self) -> int:
        """How far the process has come."""
        assert self.alive is not None
        return self.begin + len(self.alive.done)

    def give(self, count: int) -> None:
        """The next chunks come, together."""
        assert self.alive is not None
        self.alive.take(*self.stream[self.given : self.given + count])
        self.given = min(len(self.stream), self.given + count)
        with self.kill_is_noticed():
            self.alive.work()
            assert self.alive.done == list(range(len(self.alive.done)))
            assert not self.alive.lost and not self.alive.failed, [*self.alive.lost, *self.alive.failed]

    def commit(self, count: int) -> None:
        """So many more of what is done is committed; what is of no more use then goes."""
        assert self.alive is not None
        before, self.committed = self.committed, min(self.done, self.committed + count)
        for chunk in self.stream[before : self.committed]:
            if chunk.part in (Part.END, Part.CANCEL):
                (self.alive.downloads.forget if self.durable else self.alive.downloads.retire)(NODE, chunk.id)
        with self.kill_is_noticed():
            self.alive.work()

    def tell(self) -> None:
        """The sender hears what is committed."""
        assert self.alive is not None
        before, self.known = self.known, self.committed
        for chunk in self.stream[before : self.known]:
            if chunk.part in (Part.END, Part.CANCEL) and not self.durable:
                self.alive.downloads.forget(NODE, chunk.id)
        with self.kill_is_noticed():
            self.alive.work()

    @contextmanager
    def kill_is_noticed(self) -> Iterator[None]:
        try:
            yield
        except Killed:
            self.kill()

    def kill(self) -> None:
        """It dies."""
        if self.alive is not None:
            self.alive.kill()
            self.alive = None
            self.kills += 1

    def run(self, group: int, commit: int) -> None:
        """Go on to the end, or to the kill."""
        while self.alive is not None and self.committed < len(self.stream):
            self.give(group)
            if self.alive is not None:
                self.commit(commit)
            if self.alive is not None and (self.committed % 3 == 0 or self.committed == len(self.stream)):
                self.tell()

    def check(self, files: dict[str, bytes]) -> None:
        """Nothing is there that is not one of these files, whole."""
        found: dict[str, bytes] = {}
        for path in self.path.iterdir():
            if not path.name.startswith(".mysocket-"):
                found[path.name] = path.read_bytes()
        if not self.links:
            # A crash between the two steps leaves an empty one; not more of them than crashes.
            empty = [name for name, data in found.items() if not data and files.get(name) != b""]
            assert len(empty) <= self.kills
            for name in empty:
                del found[name]
        assert len(found) <= len(files)
        wanted = list(files.values())
        for data in found.values():
            assert data in wanted
            wanted.remove(data)
        ended = [chunk for chunk in self.stream[: self.committed] if chunk.part is Part.END]
        assert len(found) >= len(ended), "what was committed is there"

    def check_parts(self) -> None:
        """All is committed. Only a process that was killed at the very moment may have left something."""
        assert self.alive is not None and (self.kills or not self.alive.parts)
        self.alive.downloads.writer.parts.clean(time.time() + 2 * NAMED_KEPT)
        gone = next(chunk.id for chunk in self.stream if chunk.part is Part.CANCEL)
        assert set(self.alive.parts) <= {Key(NODE, gone).part}


FILES = {"one.csv": content(2500, 1), "empty": b"", "one (1).csv": content(1500, 2)}


def interleaved() -> list[Chunk]:
    """Three files, two of one name, and one that is cancelled."""
    ids = [bytes([number]) * 16 for number in range(4)]
    one = chunks(FILES["one.csv"], "one.csv", id=ids[0], size=1000)
    empty = chunks(b"", "empty", id=ids[1])
    two = chunks(FILES["one (1).csv"], "one.csv", id=ids[2], size=1000)
    gone = [*chunks(b"x" * 2000, "gone", id=ids[3], size=1000)[:-1], Chunk(Part.CANCEL, ids[3], 2000, text="why")]
    return [
        one[0],
        two[0],
        one[1],
        gone[0],
        gone[1],
        one[2],
        two[1],
        empty[0],
        gone[2],
        one[3],
        one[4],
        empty[1],
        gone[3],
        *two[2:],
    ]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize(("group", "commit"), [(1, 1), (1, 100), (3, 2), (100, 100), (100, 1)])
def test_a_kill_at_every_change_of_the_disk(tmp_path: Path, durable: bool, links: bool, group: int, commit: int) -> None:
    stream = interleaved()
    kill_at = 0
    while True:
        path = tmp_path / f"{kill_at}"
        history = History(path, stream, durable=durable, links=links)
        history.start(kill_at)
        history.run(group, commit)
        killed = history.alive is None
        history.check(FILES)
        if killed:
            # And once more, a little later; then it lives.
            history.start(kill_at // 3)
            history.run(group, commit)
            history.check(FILES)
        if history.alive is None:
            history.start()
            history.run(group, commit)
        history.check(FILES)
        history.check_parts()
        assert history.alive is not None and history.alive.close()
        shutil.rmtree(path)
        if not killed:
            break
        kill_at += 1
    assert kill_at > 30, "there were as many places to be killed at"


@pytest.mark.parametrize("links", [True, False])
def test_what_was_committed_when_the_sender_is_behind(tmp_path: Path, links: bool) -> None:
    """A receiver in memory is told again what it had acknowledged, when the acknowledgement was lost with the connection."""
    stream = interleaved()
    for behind in range(len(stream)):
        history = History(tmp_path / f"{behind}", stream, durable=False, links=links)
        history.start()
        history.give(behind)
        history.commit(behind)
        history.tell()
        history.give(100)
        history.commit(100)
        history.kill()
        history.start()
        assert history.committed == behind
        history.run(2, 2)
        history.check(FILES)


class Machine(RuleBasedStateMachine):
    """The same in any order."""

    @initialize(durable=st.booleans(), links=st.booleans())
    def begin(self, durable: bool, links: bool) -> None:
        self.directory = tempfile.mkdtemp()
        self.history = History(Path(self.directory) / "in", interleaved(), durable=durable, links=links)
        self.history.start()

    @property
    def alive(self) -> bool:
        return self.history.alive is not None

    @precondition(lambda self: self.alive)
    @rule(count=st.integers(1, 6))
    def chunks_come(self, count: int) -> None:
        self.history.give(count)

    @precondition(lambda self: self.alive)
    @rule(count=st.integers(1, 8))
    def some_are_committed(self, count: int) -> None:
        self.history.commit(count)

    @precondition(lambda self: self.alive)
    @rule()
    def the_sender_hears_of_it(self) -> None:
        self.history.tell()

    @precondition(lambda self: self.alive)
    @rule()
    def it_is_killed(self) -> None:
        self.history.kill()

    @precondition(lambda self: self.alive)
    @rule()
    def it_is_closed(self) -> None:
        assert self.history.alive is not None and self.history.alive.close()
        self.history.alive = None

    @precondition(lambda self: not self.alive)
    @rule(kill_at=st.none() | st.integers(0, 40))
    def it_is_started(self, kill_at: int | None) -> None:
        self.history.start(kill_at)

    @precondition(lambda self: self.alive)
    @rule(after=st.integers(0, 8))
    def it_will_be_killed(self, after: int) -> None:
        assert self.history.alive is not None
        fake = self.history.alive.fake
        fake.kill_at = 2 * fake.changes + after

    @precondition(lambda self: self.alive)
    @rule(what=st.sampled_from(["pwrite", "make", "link", "rename", "ftruncate"]), often=st.integers(1, 3))
    def the_disk_is_full_for_a_while(self, what: str, often: int) -> None:
        assert self.history.alive is not None
        if what != "link" or self.history.links:
            self.history.alive.fake.faults[what] = (errno.ENOSPC, often)

    @precondition(lambda self: self.alive)
    @rule()
    def time_goes_by(self) -> None:
        assert self.history.alive is not None
        self.history.alive.time += 2
        with self.history.kill_is_noticed():
            self.history.alive.work()

    @invariant()
    def nothing_else_is_there(self) -> None:
        if hasattr(self, "history"):
            self.history.check(FILES)

    def teardown(self) -> None:
        if not hasattr(self, "history"):
            return
        try:
            self.history.kill()
            self.history.start()
            self.history.run(3, 3)
            self.history.check(FILES)
            self.history.check_parts()
            self.history.kill()
        finally:
            shutil.rmtree(self.directory)


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
