"""Descriptors: what they are, descriptions of one's own, and a writer that is never held."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred

from mysocket.core.batch import Bytes
from mysocket.ends import descriptors
from mysocket.ends.descriptors import Private, What, Writer, what
from mysocket.errors import MySocketError, OutputClosed, OutputFailed

reactor: Any = installed

#: Seconds that only a test that hangs meets.
DEADLINE = 60


class Waiting:
    """A reactor that turns when it is told to, over `select.poll`."""

    def __init__(self) -> None:
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()
        self.addReader, self.removeReader = self.readers.add, self.readers.discard
        self.addWriter, self.removeWriter = self.writers.add, self.writers.discard

    def turn(self) -> bool:
        """Let everybody write who can; True if somebody could."""
        ready = [writer for writer in self.writers if select.select([], [writer], [], 0)[1]]
        for writer in ready:
            writer.doWrite()
        return bool(ready)

    def run(self) -> None:
        """Turn until nobody has anything to write."""
        for _ in range(10_000):
            if not self.writers:
                return
            self.turn()
        raise AssertionError("it never ends")


class Opened:
    """A descriptor to write to, what is read from its other end, and a writer."""

    def __init__(self, fd: int, other: int | None = None, *, flags: int = os.O_WRONLY, reactor: Any = None) -> None:
        self.fd, self.other = fd, other
        self.reactor = Waiting() if reactor is None else reactor
        self.errors: list[MySocketError] = []
        self.done: list[int] = []
        self.private = Private(fd, flags)
        self.writer = Writer(self.reactor, self.private, "stdout", self.failed)
        self.on_failure: Callable[[], None] = lambda: None

    def failed(self, error: MySocketError) -> None:
        self.errors.append(error)
        self.on_failure()

    def write(self, data: Bytes, number: int = 0) -> None:
        self.writer.write(data, lambda: self.done.append(number))

    def read(self) -> bytes:
        """All that is there now."""
        assert self.other is not None
        os.set_blocking(self.other, False)
        found = bytearray()
        try:
            while part := os.read(self.other, 2**20):
                found += part
        except BlockingIOError:
            pass
        return bytes(found)

    def read_to_the_end(self) -> bytes:
        """Read and let the writer write until it has nothing left."""
        found = self.read()
        for _ in range(10_000):
            if self.writer.idle:
                return found
            assert self.reactor.turn(), "the writer waits for nothing"
            found += self.read()
        raise AssertionError("it never ends")

    def close_reader(self) -> None:
        assert self.other is not None
        os.close(self.other)
        self.other = None

    def close(self) -> None:
        self.writer.close()
        os.close(self.fd)
        if self.other is not None:
            self.close_reader()


@contextmanager
def opened(kind: str = "pipe", reactor: Any = None) -> Iterator[Opened]:
    if kind == "pipe":
        read, write = os.pipe()
    elif kind == "socket":
        one, two = socket.socketpair()
        read, write = one.detach(), two.detach()
    else:
        read, write = os.openpty()
        tty.setraw(write)
    made = Opened(write, read, reactor=reactor)
    try:
        yield made
    finally:
        made.close()


def full(target: Opened) -> bytes:
    """Write until the descriptor takes no more; what was written."""
    given, number = bytearray(), 0
    while target.writer.idle:
        assert not target.errors and number < 1000
        number += 1
        part = bytes([number % 251]) * 65536
        given += part
        target.write(part, -number)
    return bytes(given)


# What a descriptor is -----------------------------------------------------------------------------------------------------------


def test_what_descriptors_are(tmp_path: Path) -> None:
    with ExitStack() as stack:

        def keep(*fds: int) -> int:
            for fd in fds:
                stack.callback(os.close, fd)
            return fds[-1]

        assert what(keep(os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR))) is What.FILE
        assert what(keep(os.open(os.devnull, os.O_RDONLY))) is What.NULL
        assert what(keep(os.open("/dev/zero", os.O_RDONLY))) is What.OTHER
        assert what(keep(*os.pipe())) is What.PIPE
        assert what(keep(*os.openpty())) is What.TERMINAL
        assert what(stack.enter_context(socket.socket()).fileno()) is What.OTHER
        os.mkfifo(tmp_path / "fifo")
        assert what(keep(os.open(tmp_path / "fifo", os.O_RDWR))) is What.PIPE
        unused = os.dup(0)
        os.close(unused)
        assert what(unused) is What.CLOSED


# Private descriptions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
@pytest.mark.parametrize("end", ["reading", "writing"])
def test_what_others_share_stays_blocking(kind: str, end: str) -> None:
    """The shell which started this program goes on with the same terminal and pipes."""
    reader, writer = os.pipe() if kind == "pipe" else os.openpty()
    fd = reader if end == "reading" and kind == "pipe" else writer
    private = Private(fd, os.O_RDONLY if end == "reading" else os.O_WRONLY)
    try:
        assert private.fd != fd and not os.get_blocking(private.fd) and os.get_blocking(fd)
        assert not os.get_inheritable(private.fd)
    finally:
        private.close()
        assert os.get_blocking(fd) and what(private.fd) is What.CLOSED
        private.close()
        os.close(reader)
        os.close(writer)


def test_a_socket_cannot_be_opened_anew_and_is_set_back() -> None:
    one, two = socket.socketpair()
    with one, two:
        private = Private(one.fileno(), os.O_RDWR)
        assert private.fd == one.fileno() and not os.get_blocking(one.fileno())
        private.close()
        assert os.get_blocking(one.fileno())


def test_what_was_non_blocking_before_stays_so() -> None:
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        Private(one.fileno(), os.O_RDWR).close()
        assert not os.get_blocking(one.fileno())


def test_a_file_and_the_null_device_are_used_as_they_are(tmp_path: Path) -> None:
    for path in (tmp_path / "file", Path(os.devnull)):
        fd = os.open(path, os.O_CREAT | os.O_RDWR)
        private = Private(fd, os.O_WRONLY)
        assert private.fd == fd and os.get_blocking(fd)
        private.close()
        os.close(fd)


def test_a_fifo_whose_reader_has_gone_can_be_had_too(tmp_path: Path) -> None:
    """It cannot be opened anew; the first write tells."""
    os.mkfifo(tmp_path / "fifo")
    read = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    write = os.open(tmp_path / "fifo", os.O_WRONLY)
    os.close(read)
    private = Private(write, os.O_WRONLY)
    assert not os.get_blocking(private.fd)
    private.close()
    assert os.get_blocking(write)
    os.close(write)


# A writer -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket"])
def test_what_is_taken_is_written_at_once(kind: str) -> None:
    with opened(kind) as target:
        target.write(b"one\n", 1)
        assert target.done == [1] and target.writer.idle and target.read() == b"one\n"
        target.write(memoryview(b"two\n"), 2)
        assert target.done == [1, 2] and target.read() == b"two\n" and not target.reactor.writers


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket"])
def test_what_is_not_taken_waits_and_nobody_else_does(kind: str) -> None:
    with opened(kind) as target:
        given = full(target)
        before = list(target.done)
        target.write(b"last\n", 1)
        assert target.done == before and not target.writer.idle and target.writer in target.reactor.writers
        assert target.read_to_the_end() == given + b"last\n"
        assert target.done == [*before, -1 - len(before), 1] and not target.reactor.writers


def test_done_comes_in_the_order_of_the_writes() -> None:
    with opened() as target:
        given = full(target)
        before = len(target.done)
        for number in range(1, 200):
            target.write(b"%d\n" % number, number)
        # Nothing is written past what waits, even if there would be room for it.
        assert len(target.done) == before
        read = target.read_to_the_end()
        assert read == given + b"".join(b"%d\n" % number for number in range(1, 200))
        assert target.done[before + 1 :] == list(range(1, 200))


def test_what_a_callback_writes_is_done_after_what_was_written_before() -> None:
    with opened() as target:
        full(target)

        def first_done() -> None:
            target.done.append(1)
            target.write(b"third", 3)

        target.writer.write(b"first", first_done)
        target.write(b"second", 2)
        assert target.read_to_the_end().endswith(b"firstsecondthird")
        assert target.done[-3:] == [1, 2, 3]


def test_an_empty_write_is_done_in_its_turn() -> None:
    with opened() as target:
        target.write(b"", 1)
        assert target.done == [1]
        full(target)
        target.write(b"", 2)
        target.write(b"end", 3)
        assert 2 not in target.done
        target.read_to_the_end()
        assert target.done[-2:] == [2, 3]


@given(sizes=st.lists(st.integers(0, 40), max_size=100), rooms=st.lists(st.integers(0, 60), max_size=60))
def test_whatever_part_is_taken_each_time_all_is_written_once_and_in_order(sizes: list[int], rooms: list[int]) -> None:
    """A descriptor that takes some bytes, or none, or all."""
    taken = bytearray()
    budget = iter(rooms)

    def writev(fd: int, buffers: list[Bytes]) -> int:
        data = b"".join(buffers)
        room = next(budget, len(data))
        if not room and data:
            raise BlockingIOError
        taken.extend(data[:room])
        return min(room, len(data))

    with pytest.MonkeyPatch.context() as patch, opened() as target:
        patch.setattr(descriptors.os, "writev", writev)
        payloads = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
        for number, payload in enumerate(payloads):
            target.write(payload, number)
        target.reactor.run()
        assert taken == b"".join(payloads) and target.done == list(range(len(sizes)))


def test_done_means_written_to_the_last_byte() -> None:
    taken = bytearray()

    def writev(fd: int, buffers: list[Bytes]) -> int:
        taken.extend(b"".join(buffers)[:1])
        return 1

    with pytest.MonkeyPatch.context() as patch, opened() as target:
        patch.setattr(descriptors.os, "writev", writev)
        target.writer.write(b"abc", lambda: target.done.append(len(taken)))
        target.writer.write(b"de", lambda: target.done.append(len(taken)))
        target.reactor.run()
        assert taken == b"abcde" and target.done == [3, 5]


def test_a_file_is_written_whole_even_if_the_system_takes_a_part(tmp_path: Path) -> None:
    """Nobody can wait for a file to be ready."""
    real = os.writev
    with pytest.MonkeyPatch.context() as patch, (tmp_path / "out").open("wb") as file:
        target = Opened(os.dup(file.fileno()))
        patch.setattr(descriptors.os, "writev", lambda fd, buffers: real(fd, [b"".join(buffers)[:3]]))
        target.write(b"0123456789", 1)
        assert target.done == [1] and not target.reactor.writers
        target.close()
    assert (tmp_path / "out").read_bytes() == b"0123456789"


# What goes wrong ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_has_gone_is_told_once_and_nothing_is_done_after_it(kind: str) -> None:
    with opened(kind) as target:
        target.write(b"one", 1)
        target.close_reader()
        target.write(b"two", 2)
        target.write(b"three", 3)
        [error] = target.errors
        assert isinstance(error, OutputClosed) and error.status == 1 and target.done == [1]
        assert not target.reactor.readers and not target.reactor.writers


def test_a_reader_that_goes_while_something_waits_is_told_once() -> None:
    with opened() as target:
        full(target)
        before = list(target.done)
        target.write(b"more", 1)
        target.close_reader()
        assert target.reactor.turn()
        target.write(b"late", 2)
        assert [type(error) for error in target.errors] == [OutputClosed] and target.done == before
        assert not target.reactor.readers and not target.reactor.writers


@pytest_twisted.ensureDeferred
async def test_a_reader_that_goes_is_noticed_without_a_write() -> None:
    before = len(reactor.getReaders())
    with opened(reactor=reactor) as target:
        noticed: Deferred[None] = Deferred()
        target.on_failure = lambda: noticed.callback(None)
        target.close_reader()
        await noticed.addTimeout(DEADLINE, reactor)
        assert [type(error) for error in target.errors] == [OutputClosed]
    assert len(reactor.getReaders()) == before


@pytest_twisted.ensureDeferred
async def test_a_pipe_that_fills_and_empties_again_goes_on_in_the_reactor() -> None:
    with opened(reactor=reactor) as target:
        given = full(target)
        written: Deferred[None] = Deferred()
        target.writer.write(b"last", lambda: written.callback(None))
        found = target.read()
        await written.addTimeout(DEADLINE, reactor)
        assert found + target.read() == given + b"last" and target.writer.idle


def test_a_device_that_is_full_is_told_with_its_name_and_a_status_of_its_own() -> None:
    target = Opened(os.open("/dev/full", os.O_WRONLY))
    target.write(b"one", 1)
    [error] = target.errors
    assert isinstance(error, OutputFailed) and error.status == 74 and not target.done
    assert "stdout" in str(error) and os.strerror(errno.ENOSPC) in str(error)
    target.write(b"two", 2)
    assert len(target.errors) == 1 and not target.done
    target.close()


def test_a_disk_that_fills_in_the_middle_of_a_write_is_told(tmp_path: Path) -> None:
    """What fits is there, and is not called written."""
    calls: list[int] = []

    def writev(fd: int, buffers: list[Bytes]) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return 4

    with pytest.MonkeyPatch.context() as patch, (tmp_path / "out").open("wb") as file:
        target = Opened(os.dup(file.fileno()))
        patch.setattr(descriptors.os, "writev", writev)
        target.write(b"0123456789", 1)
        assert [type(error) for error in target.errors] == [OutputFailed] and not target.done
        target.close()


def test_a_writer_that_is_closed_writes_nothing_and_says_nothing() -> None:
    with opened() as target:
        target.writer.close()
        assert what(target.private.fd) is What.CLOSED and what(target.fd) is What.PIPE
        target.write(b"late", 1)
        target.close_reader()
        target.writer.connectionLost()
        assert not target.done and not target.errors
        assert not target.reactor.readers and not target.reactor.writers


def test_closing_gives_up_what_waits() -> None:
    with opened() as target:
        full(target)
        before = list(target.done)
        target.writer.close()
        target.read()
        assert not target.reactor.writers and target.done == before and target.writer.idle


# Closed descriptors -------------------------------------------------------------------------------------------------------------


def test_closed_standard_descriptors_are_filled_before_something_else_gets_their_number(tmp_path: Path) -> None:
    """In a process of its own: started with `<&- >&-`."""
    code = (
        "import os, sys; from mysocket.ends.closed import fill_closed; closed = fill_closed(); "
        "from mysocket.ends.descriptors import what; "
        "file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY); "
        "os.write(2, repr((sorted(closed), what(0).name, what(1).name, file > 2)).encode())"
    )
    command = ["/bin/sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-c", code, str(tmp_path / "file")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr == "([0, 1], 'NULL', 'NULL', True)"


def test_a_terminal_that_was_hung_up_is_no_disk_that_failed() -> None:
    master, slave = os.openpty()
    failures: list[MySocketError] = []
    private = Private(slave, os.O_RDWR)
    assert private.what is What.TERMINAL
    writer = Writer(Waiting(), private, "the terminal", failures.append)
    os.close(master)
    writer.write(b"x", lambda: None)
    assert [type(error) for error in failures] == [OutputClosed]
    writer.close()
    os.close(slave)
