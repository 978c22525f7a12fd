"""Spools that were deleted, put back or copied, with real processes: never in silence, and what is there stays there."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import DEVNULL, LINKED, Program, acquaint, free_port, mysocket

TEN = b"".join(b"line %d\n" % number for number in range(10))  # 70 bytes, and 1 for the end mark
MORE = b"more\n"


class Pair:
    """A sender and a receiver with a spool each, which can be run again and again; their ports stay the same."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sender_port, self.receiver_port = free_port(), free_port()
        self.output = directory / "out"

    def send(self, data: bytes, *options: str, spool: str = "a") -> Program:
        """Start the sender."""
        return mysocket(
            *("-p", self.sender_port, "--peer", f"127.0.0.1:{self.receiver_port}", "--send-only"),
            *("--spool", self.directory / spool, *options),
            stdin=data,
        )

    @contextlib.contextmanager
    def receiver(self, *options: str, spool: str = "b") -> Iterator[Program]:
        """A receiver that runs until it is done, or until the end of the block."""
        with mysocket(
            *("-p", self.receiver_port, "--peer", f"127.0.0.1:{self.sender_port}", "--recv-only", "-k"),
            *("--spool", self.directory / spool, "--output", self.output, *options),
            stdin=DEVNULL,
        ) as program:
            yield program
            program.kill(signal.SIGINT)
            program.wait()

    def deliver(self, data: bytes, *options: str, receive: tuple[str, ...] = ()) -> None:
        """Send, and see it arrive."""
        with self.receiver(*receive), self.send(data, *options) as sender:
            sender.wait_status(0)

    def copy(self, spool: str, to: str) -> None:
        """Copy a spool that nobody holds."""
        shutil.copytree(self.directory / spool, self.directory / to)

    def put_back(self, spool: str, copy: str) -> None:
        """Replace a spool by a copy of it."""
        shutil.rmtree(self.directory / spool)
        (self.directory / copy).rename(self.directory / spool)

    def refused(self, data: bytes, *words: str, spool: str = "a") -> None:
        """Send; both sides must end with 5, and name what these words say."""
        before = self.output.read_bytes()
        with self.receiver() as receiver, self.send(data, spool=spool) as sender:
            acquaint(sender, receiver)
            sender.wait_status(5)
            receiver.wait_status(5)
            for program in (sender, receiver):
                for word in words:
                    assert word in program.stderr_text, f"{word!r} is not named\n{program.report()}"
        assert self.output.read_bytes() == before, "the output file was touched"


@pytest.fixture
def them(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_a_deleted_spool_of_the_sender(them: Pair) -> None:
    them.deliver(TEN)
    shutil.rmtree(them.directory / "a")
    them.refused(MORE, "lost its spool", "position 71")
    them.deliver(b"", receive=("--accept-loss",))
    assert them.output.read_bytes() == TEN + MORE


def test_a_deleted_spool_of_the_receiver(them: Pair) -> None:
    them.deliver(TEN)
    shutil.rmtree(them.directory / "b")
    them.refused(MORE, "lost its state", "up to position 71 was delivered")
    them.deliver(b"", "--accept-loss")
    assert them.output.read_bytes() == TEN + MORE


def test_a_spool_of_the_sender_that_was_put_back(them: Pair) -> None:
    them.deliver(TEN)
    them.copy("a", "old")
    them.deliver(TEN)
    them.put_back("a", "old")
    them.refused(MORE, "at position 142")
    them.deliver(b"", "--accept-loss", receive=("--accept-loss",))
    assert them.output.read_bytes() == TEN + TEN + MORE


def test_a_spool_of_the_sender_that_was_put_back_and_has_more_by_now(them: Pair) -> None:
    them.deliver(TEN)
    them.copy("a", "old")
    them.deliver(TEN)
    them.put_back("a", "old")
    with them.send(TEN + TEN, "-w", "0.5") as alone:
        alone.wait_status(3)
    them.refused(b"", "other data before position 142")


def test_a_spool_of_the_receiver_that_was_put_back(them: Pair) -> None:
    them.deliver(TEN)
    them.copy("b", "old")
    them.deliver(TEN)
    them.put_back("b", "old")
    them.refused(MORE, "at position 71, but 142 was acknowledged")
    them.deliver(b"", "--accept-loss", receive=("--accept-loss",))
    assert them.output.read_bytes() == TEN + TEN + MORE, "what was in the file stays, though the spool knows less"


def test_a_copied_spool(them: Pair) -> None:
    them.deliver(TEN)
    them.copy("a", "copy")
    them.deliver(TEN)
    them.refused(TEN + MORE, "position 142", spool="copy")


def test_a_spool_of_the_receiver_that_was_put_back_but_misses_nothing(them: Pair) -> None:
    """Nothing that it does not know was retired: the sender has it all, and the file is cut back to where the spool stands."""
    them.deliver(TEN)
    with them.receiver() as receiver, them.send(MORE) as sender:
        receiver.wait_line(LINKED)
        sender.wait_status(0)
    assert them.output.read_bytes() == TEN + MORE


def test_a_hub_names_a_lost_spool_and_ends_with_5(tmp_path: Path) -> None:
    for data, status in ((TEN, 0), (MORE, 5)):
        with mysocket("-p", 0, "--recv-only", "--spool", tmp_path / "hub", stdin=DEVNULL) as hub:
            port = hub.listening_port()
            with mysocket("--peer", f"127.0.0.1:{port}", "--send-only", "--spool", tmp_path / "a", stdin=data) as sender:
                acquaint(hub, sender)
                sender.wait_status(status)
                hub.wait_status(status)
        shutil.rmtree(tmp_path / "a")
    assert "position 71" in hub.stderr_text and "position 71" in sender.stderr_text


def test_two_spools_of_one_host_are_two_senders_to_a_hub(tmp_path: Path) -> None:
    with mysocket("-p", 0, "--recv-only", "-k", "--spool", tmp_path / "hub", stdin=DEVNULL) as hub:
        port = hub.listening_port()
        for name in ("a", "b", "a"):
            with mysocket("--peer", f"127.0.0.1:{port}", "--spool", tmp_path / name, stdin=name.encode() + b"\n") as sender:
                sender.wait_status(0)
        assert hub.stdout == b"a\nb\na\n"


def test_what_waits_is_not_sent_to_another_address(them: Pair) -> None:
    with them.send(MORE, "-w", "0.3") as sender:
        sender.wait_status(3)
    with mysocket("--peer", "127.0.0.1:9", "--spool", them.directory / "a", stdin=b"") as other:
        other.wait_status(2)
    assert f"127.0.0.1:{them.receiver_port}" in other.stderr_text and "not sent to 127.0.0.1:9." in other.stderr_text
    them.deliver(b"")
    assert them.output.read_bytes() == MORE


def test_what_waits_is_not_sent_to_another_node(them: Pair) -> None:
    them.deliver(TEN)
    with them.send(MORE, "-w", "0.3") as sender:
        sender.wait_status(3)
    with them.receiver(spool="other") as other, them.send(b"") as sender:
        acquaint(sender, other)
        sender.wait_status(2)
        assert "wait for node" in sender.stderr_text and "answered" in sender.stderr_text
        other.wait_status(4)
    them.deliver(b"")
    assert them.output.read_bytes() == TEN + MORE


def test_a_run_without_a_spool_takes_nothing_from_the_durable_stream(them: Pair) -> None:
    """The row of the durable stream stays, in a hub and with --peer: it comes back, and nothing of it is missing or twice."""
    them.deliver(TEN)
    with them.receiver(), mysocket("--peer", f"127.0.0.1:{them.receiver_port}", stdin=b"in between\n") as other:
        other.wait_status(0)
    them.deliver(MORE)
    assert them.output.read_bytes() == TEN + b"in between\n" + MORE


def test_a_hub_tells_senders_of_one_host_apart(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "out"
    for spool, data in (("a", TEN), ("", b"in between\n"), ("a", MORE)):
        with mysocket("-p", port, "--recv-only", "--spool", tmp_path / "hub", "--output", out, stdin=DEVNULL) as hub:
            options = ("--spool", tmp_path / spool) if spool else ()
            with mysocket("--peer", f"127.0.0.1:{port}", *options, stdin=data) as sender:
                acquaint(hub, sender)
                sender.wait_status(0)
                hub.wait_status(0)
    assert out.read_bytes() == TEN + b"in between\n" + MORE


def test_a_spool_in_which_nothing_waits_may_go_to_another_peer(them: Pair) -> None:
    them.deliver(TEN)
    port = free_port()
    to = ("--peer", f"127.0.0.1:{port}", "--spool", them.directory / "a")
    with mysocket("-p", port, "--recv-only", "--spool", them.directory / "other", stdin=DEVNULL) as other:
        with mysocket(*to, stdin=MORE) as sender:
            acquaint(sender, other)
            sender.wait_status(0)
            other.wait_status(0)
    assert other.stdout == MORE


def test_a_hub_that_sends_notices_that_its_peer_lost_its_spool(tmp_path: Path) -> None:
    port = free_port()
    for data, status in ((TEN, 0), (MORE, 5)):
        with mysocket("-p", port, "--send-only", "--spool", tmp_path / "hub", stdin=data) as hub:
            to = ("--peer", f"127.0.0.1:{port}", "--recv-only", "--spool", tmp_path / "a")
            with mysocket(*to, stdin=DEVNULL) as receiver:
                acquaint(hub, receiver)
                hub.wait_status(status)
                receiver.wait_status(status)
        shutil.rmtree(tmp_path / "a")
    assert "position 71" in hub.stderr_text and "position 71" in receiver.stderr_text
