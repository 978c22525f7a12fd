"""Disks that fail and clocks that step, under real processes: nothing that was accepted is lost, and nothing comes twice."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mysocket.errors import DISK, TERMINATED, TIME_LIMIT, USAGE
from tests.soak import power
from tests.soak.power import MIB, lines, spool_state
from tests.support.disks import failing_sync, small_disk, stepped_clock
from tests.support.processes import DEVNULL, LINKED, LOST, PIPE, Program, acquaint, free_port, mysocket, wait_until

# What the program says on stderr.
FULL = r"the disk of {} is full: what needs room waits"
ROOM = r"the disk has room again"
KEPT = r"not delivered: .*\((\d+) bytes\), positions (\d+) to (\d+); they are kept in "
NOT_KEPT = r"(\d+) bytes were read and could not be kept in .*: give them again"
FAILED = r"A write to {} failed \(.*Input/output error\), and nobody knows what of it is on the disk"

HOUR = 3600.0
SMALL = 4 * MIB
#: More than fits on a small disk, or on its way to one.
MUCH = 20_000_000


class Two:
    """A sender and a receiver that know each other, each with a spool. What is started is killed in the end."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.file = directory / "out"
        self.sender_spool, self.receiver_spool = directory / "a", directory / "b"
        self._ports = free_port(), free_port()
        self._stack = stack
        self._programs: list[Program] = []

    def small_disk(self) -> Path:
        """A disk that outlives the programs; so it has to be made before them."""
        return self._stack.enter_context(small_disk(self.directory, SMALL)).path

    def sender(self, *options: str, stdin: bytes | Path | int = PIPE, env: dict[str, str] | None = None) -> Program:
        own, other = self._ports
        where = ("-p", own, "--peer", f"127.0.0.1:{other}", "--spool", self.sender_spool)
        return self._started(mysocket(*where, "--send-only", *options, stdin=stdin, env=env))

    def receiver(self, *options: str, env: dict[str, str] | None = None) -> Program:
        other, own = self._ports
        where = ("-p", own, "--peer", f"127.0.0.1:{other}", "--spool", self.receiver_spool, "--output", self.file)
        return self._started(mysocket(*where, "--recv-only", *options, stdin=DEVNULL, env=env))

    def _started(self, program: Program) -> Program:
        self._programs.append(self._stack.enter_context(program))
        acquaint(*self._programs)
        return program

    def received(self) -> int:
        """Bytes in FILE now."""
        return self.file.stat().st_size if self.file.exists() else 0

    def wait_received(self, size: int, *programs: Program) -> None:
        wait_until(lambda: self.received() >= size, f"FILE does not get {size} bytes", 30, *programs)

    def end_with(self, data: bytes, sender: Program, receiver: Program) -> None:
        """Both leave with 0, and FILE holds what was accepted."""
        sender.wait_status(0)
        assert self.received() == len(data)
        receiver.wait_status(0)
        assert self.file.read_bytes() == data


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    with contextlib.ExitStack() as stack:
        yield Two(tmp_path, stack)


def file_size(spool: Path) -> int:
    """Bytes that a spool takes on its disk; 0 before it is made."""
    file = spool / "spool.mdb"
    return file.stat().st_size if file.exists() else 0


def fill(directory: Path, *, leave: int = 0) -> Path:
    """A file that leaves so much room on the disk."""
    path = directory / "something else"
    path.write_bytes(bytes(room(directory) - leave))
    assert room(directory) == leave
    return path


def room(directory: Path) -> int:
    """Bytes that are free on the disk."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def full(what: str | Path) -> str:
    return FULL.format(re.escape(str(what)))


def ended(program: Program, status: int, number: int | None = None) -> str:
    """What a program said that leaves with this status, by itself or when it gets the signal."""
    if number is not None:
        program.kill(number)
    program.wait_status(status)
    return program.stderr_text


# Power cuts


def test_power_cuts_of_both_disks_lose_nothing(tmp_path: Path) -> None:
    done = power.run(tmp_path, cuts=20, seed=1)
    assert done.counts["cuts of the sender's disk"] + done.counts["cuts of the receiver's disk"] >= 20
    assert done.counts["looks for what was retired"] >= 2


# Full disks


def test_input_waits_while_the_senders_disk_is_full_and_goes_on_as_receivers_come_and_go(two: Two) -> None:
    two.sender_spool = two.small_disk() / "a"
    data = lines(0, MUCH)
    sender = two.sender()
    sender.write(data)
    sender.wait_line(full(f"the spool {two.sender_spool}"))
    for size in (1, MUCH // 4):
        with two.receiver() as receiver:
            two.wait_received(size, receiver)
            receiver.kill()
    receiver = two.receiver()
    sender.close_stdin()
    two.end_with(data, sender, receiver)
    assert ROOM in sender.stderr_text


def test_leaving_with_a_full_disk_names_what_is_kept_and_what_is_not(two: Two) -> None:
    small = two.small_disk()
    two.sender_spool = small / "a"
    said = ended(two.sender("-w", "2", stdin=lines(0, MUCH)), TIME_LIMIT)
    assert len(re.findall(full(f"the spool {two.sender_spool}"), said)) == 1
    kept = spool_state(two.sender_spool).input_size
    assert re.findall(KEPT, said) == [(str(kept), "0", str(kept))]
    assert 0 < kept < SMALL
    assert 0 < int(re.findall(NOT_KEPT, said)[0]) <= MUCH - kept

    # All of this input is read, so that what is not kept is known to the byte; its end mark is none of it.
    data = lines(0, kept + MIB // 100 * 100)
    sender = two.sender()
    sender.write(data[kept:])
    sender.wait_input_taken()
    sender.wait_line(full(f"the spool {two.sender_spool}"))
    sender.close_stdin()
    said = ended(sender, TERMINATED, signal.SIGTERM)
    kept = spool_state(two.sender_spool).input_size
    assert re.findall(KEPT, said) == [(str(kept), "0", str(kept))]
    assert re.findall(NOT_KEPT, said) == [str(len(data) - kept)]

    # Next to nothing is left on the disk; what waits is delivered all the same, and makes room for the rest.
    other = fill(small, leave=64 * 1024)
    two.end_with(data, two.sender(stdin=data[kept:]), two.receiver())
    assert other.exists()


def test_acknowledgements_stop_while_the_disk_of_the_output_is_full(two: Two) -> None:
    small = two.small_disk()
    two.file = small / "out"
    data = lines(0, SMALL // 2 // 100 * 100)
    other = fill(small, leave=MIB)
    sender, receiver = two.sender(), two.receiver()
    sender.write(data)
    receiver.wait_line(full(two.file))
    ended(sender, TERMINATED, signal.SIGTERM)
    state = spool_state(two.sender_spool)
    assert state.retired <= two.received() <= MIB < state.input_size
    ended(receiver, TERMINATED, signal.SIGTERM)  # a full disk holds nobody
    sender, receiver = two.sender(stdin=data[state.input_size :]), two.receiver()
    receiver.wait_line(full(two.file))
    other.unlink()
    two.end_with(data, sender, receiver)
    assert ROOM in receiver.stderr_text


def test_a_receiver_whose_spool_has_no_room_waits_and_goes_on_by_itself(two: Two) -> None:
    small = two.small_disk()
    two.receiver_spool = small / "b"
    data = lines(0, MUCH)
    receiver, sender = two.receiver(), two.sender()
    receiver.wait_line(LINKED)
    other = fill(small)
    sender.write(data[:100])
    receiver.wait_line(full(f"the spool {two.receiver_spool}"))
    other.unlink()
    two.wait_received(100, sender, receiver)
    receiver.wait_line(ROOM)
    # A spool that has been in use for a while needs no more room.
    for start in range(100, 2000, 100):
        sender.write(data[start : start + 100])
        two.wait_received(start + 100, sender, receiver)
    other = fill(small)
    sender.write(data[2000:])
    sender.close_stdin()
    two.end_with(data, sender, receiver)
    assert other.exists()


def test_no_spool_is_made_on_a_full_disk(two: Two) -> None:
    small = two.small_disk()
    two.sender_spool = small / "a"
    other = fill(small)
    assert f"Cannot open the spool {two.sender_spool}: its disk is full." in ended(two.sender(), USAGE)
    other.unlink()
    two.end_with(b"", two.sender(stdin=b""), two.receiver())


# Syncs that fail


@pytest.mark.parametrize("where", ["the sender's spool", "the receiver's spool", "the output"])
def test_a_sync_that_fails_ends_it_at_once_and_the_next_start_goes_on(two: Two, tmp_path: Path, where: str) -> None:
    of_sender, file = where == "the sender's spool", where == "the output"
    failing = two.file if file else two.sender_spool if of_sender else two.receiver_spool
    sync = failing_sync(tmp_path, on=str(failing) if file else f"{failing}/spool.mdb")
    data = lines(0, 6_000_000)
    sender = two.sender(env=sync.environment() if of_sender else None)
    receiver = two.receiver(env=None if of_sender else sync.environment())
    failed, other = (sender, receiver) if of_sender else (receiver, sender)
    sender.write(data[:2_000_000])
    two.wait_received(2_000_000, sender, receiver)
    sync.arm()
    sender.write(data[2_000_000:4_000_000])
    name = str(failing) if file else f"the spool {failing}"
    assert re.search(FAILED.format(re.escape(name)), ended(failed, DISK))
    other.wait_line(" left: A write to ")  # the peer hears why
    if not file:
        # Nothing begins on a disk that fails.
        begin = two.sender if of_sender else two.receiver
        assert re.search(FAILED.format(re.escape(name)), ended(begin(env=sync.environment()), DISK))
    sync.disarm()
    if of_sender:
        accepted = spool_state(two.sender_spool).input_size
        assert 2_000_000 <= accepted < 4_000_000
        sender = two.sender(stdin=data[accepted:])
    else:
        receiver = two.receiver()
        sender.write(data[4_000_000:])
        sender.close_stdin()
    two.end_with(data, sender, receiver)


# Clocks that step


def test_steps_of_the_clock_change_nothing_while_messages_flow(two: Two, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with stepped_clock(tmp_path) as here, stepped_clock(tmp_path / "there") as there:
        data, part = lines(0, 3_000_000), 600_000
        sender, receiver = two.sender(env=here.environment()), two.receiver(env=there.environment())
        steps = [(here, HOUR), (there, -HOUR), (here, -2 * HOUR), (there, 2 * HOUR)]
        for number, (clock, seconds) in enumerate(steps, 1):
            sender.write(data[(number - 1) * part : number * part])
            two.wait_received(number * part - part // 2, sender, receiver)
            clock.step(seconds)
        sender.write(data[4 * part :])
        sender.close_stdin()
        two.end_with(data, sender, receiver)
        for program in (sender, receiver):
            assert not re.search(LOST, program.stderr_text), program.report()


def test_a_step_ahead_does_not_end_the_wait_for_the_peer(two: Two, tmp_path: Path) -> None:
    with stepped_clock(tmp_path) as clock:
        data = lines(0, 1000)
        sender = two.sender("-w", "60", stdin=data, env=clock.environment())
        sender.listening_port()
        clock.step(HOUR)
        two.end_with(data, sender, two.receiver())


def test_a_step_back_does_not_lengthen_the_wait_for_the_peer(two: Two, tmp_path: Path) -> None:
    with stepped_clock(tmp_path) as clock:
        sender = two.sender("-w", "2", stdin=b"late\n", env=clock.environment())
        sender.listening_port()
        clock.step(-HOUR)
        assert re.findall(KEPT, ended(sender, TIME_LIMIT)) == [("5", "0", "5")]
    two.end_with(b"late\n", two.sender(stdin=DEVNULL), two.receiver())


# The size of a spool


def test_input_waits_while_the_spool_is_full_and_its_file_stays_small(two: Two) -> None:
    data = lines(0, MUCH)
    sender = two.sender("--max-spool", "1M", stdin=data)
    wait_until(lambda: file_size(two.sender_spool) > MIB, "the spool is not used", 30, sender)
    receiver, largest = two.receiver(), 0

    def gone() -> bool:
        nonlocal largest
        largest = max(largest, file_size(two.sender_spool))
        return not sender.running()

    wait_until(gone, "it does not end", 30, sender)
    two.end_with(data, sender, receiver)
    # What may wait, one batch more, and what is freed and cannot be used yet: commits overlap.
    assert largest <= 5 * MIB


def test_a_spool_gives_its_room_back_when_a_long_outage_is_over(two: Two) -> None:
    size, small = 200_000_000, 16 * MIB
    input = two.directory / "input"
    input.write_bytes(lines(0, size))
    sender = two.sender("-k", stdin=input)
    wait_until(lambda: file_size(two.sender_spool) > size, "the backlog does not grow", 30, sender)
    receiver = two.receiver()
    two.wait_received(size, sender, receiver)
    wait_until(lambda: file_size(two.sender_spool) <= small, "the file stays large", 30, sender)
    ended(sender, TERMINATED, signal.SIGTERM)
    receiver.wait_status(0)
    assert file_size(two.sender_spool) <= small
    assert two.file.read_bytes() == input.read_bytes()
