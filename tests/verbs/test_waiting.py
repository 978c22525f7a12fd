"""Waiting for descriptors and signals, and writing to stdout without being held by it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mysocket.errors import INTERRUPTED, TERMINATED, OutputClosed, OutputFailed
from mysocket.verbs.waiting import IN, Signals, Stdout, Stopped
from tests.support.processes import read_some


@pytest.fixture
def signals() -> Iterator[Signals]:
    with Signals() as found:
        yield found


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
def test_a_signal_ends_a_wait_and_nothing_else(signals: Signals, number: int, status: int) -> None:
    os.kill(os.getpid(), number)
    # It has come, and is heard where we wait.
    assert signals.fileno() >= 0
    for _ in range(2):
        with pytest.raises(Stopped) as caught:
            signals.wait({}, 0)
        assert caught.value.status == status


def test_a_signal_is_heard_during_a_wait(signals: Signals) -> None:
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Stopped):
        signals.wait({})
    timer.join()


def test_behind_it_signals_are_what_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    with Signals():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(wakeup) == wakeup


def test_what_is_ready_is_found(signals: Signals) -> None:
    read, write = os.pipe()
    assert signals.wait({read: IN}, 0) == {}
    os.write(write, b"x")
    assert signals.wait({read: IN}) == {read: IN}
    os.close(read)
    os.close(write)


def kinds(tmp_path: Path) -> Iterator[tuple[str, int, int]]:
    """Places to write to: their name, a descriptor to read from, and one to write to."""
    yield "pipe", *os.pipe()
    ours, theirs = socket.socketpair()
    yield "socket", ours.detach(), theirs.detach()
    (tmp_path / "file").touch()
    yield "file", os.open(tmp_path / "file", os.O_RDONLY), os.open(tmp_path / "file", os.O_WRONLY)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_all_is_written_and_the_mode_of_the_descriptor_stays(signals: Signals, tmp_path: Path, kind: int) -> None:
    name, read, write = list(kinds(tmp_path))[kind]
    data = bytes(range(256)) * 4096
    got = bytearray()
    flags = fcntl.fcntl(write, fcntl.F_GETFL)

    def collect() -> None:
        while len(got) < len(data):
            got.extend(read_some(read) if name != "file" else b"")

    reader = threading.Thread(target=collect, daemon=True)
    if name != "file":
        reader.start()
    stdout = Stdout(signals, write)
    stdout.write(data)
    stdout.close()
    if name == "file":
        got += (tmp_path / "file").read_bytes()
    else:
        reader.join()
    assert got == data
    assert fcntl.fcntl(write, fcntl.F_GETFL) == flags
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_reader_that_reads_nothing_holds_up_no_signal(signals: Signals, tmp_path: Path, kind: int) -> None:
    _, read, write = list(kinds(tmp_path))[kind]
    stdout = Stdout(signals, write)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Stopped):
        stdout.write(bytes(10_000_000))
    timer.join()
    stdout.close()
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_reader_that_has_gone_is_noticed(signals: Signals, tmp_path: Path, kind: int) -> None:
    _, read, write = list(kinds(tmp_path))[kind]
    stdout = Stdout(signals, write)
    stdout.check(signals.wait(stdout.watched, 0))
    os.close(read)
    with pytest.raises(OutputClosed):
        stdout.check(signals.wait(stdout.watched, 0))
    with pytest.raises(OutputClosed):
        stdout.write(b"x")
    stdout.close()
    os.close(write)


def test_a_reader_that_had_gone_before_is_noticed(signals: Signals) -> None:
    read, write = os.pipe()
    os.close(read)
    stdout = Stdout(signals, write)
    with pytest.raises(OutputClosed):
        stdout.write(b"x")
    stdout.close()
    os.close(write)


def test_a_disk_that_is_full_is_an_error(signals: Signals) -> None:
    write = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OutputFailed):
        Stdout(signals, write).write(b"x")
    os.close(write)
