"""The faults of tests/support/disks.py happen, and nothing of them stays behind."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support import disks
from tests.support.disks import cannot_mount, failing_sync, power_disk, small_disk, stepped_clock
from tests.support.processes import TIMEOUT, Program, wait_until

SIZE = 1 << 20
DATA = b"0123456789abcdef" * 4096


def write(path: Path, data: bytes = DATA, *, sync: bool = False) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fdatasync(file.fileno())


def python(code: str, *args: str | Path, env: dict[str, str] | None = None) -> Program:
    """A program that prints at once."""
    return Program([sys.executable, "-u", "-c", code, *map(str, args)], env=env)


def holder_of(path: Path) -> Program:
    """A program that has this file open for ever."""
    program = python("import sys; file = open(sys.argv[1], 'r+b'); print('open'); sys.stdin.read()", path)
    program.wait_output(b"open\n")
    return program


def mounts_below(directory: Path) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {directory}/" in line]


def loop_devices_of(directory: Path) -> list[str]:
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found.append(backing.read_text())
        except OSError:  # detached since
            continue
    return [file for file in found if file.startswith(f"{directory}/")]


def gone(directory: Path) -> None:
    assert mounts_below(directory) == []
    # Whoever looks for a free device, in another test, has each of them open for an instant, and the kernel waits for that.
    wait_until(lambda: not loop_devices_of(directory), "the loop device stays")
    assert list(directory.iterdir()) == []


# The disk whose power can be cut


def test_a_power_cut_loses_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    with power_disk(tmp_path) as disk:
        kept, lost = disk.path / "kept", disk.path / "lost"
        write(kept, sync=True)
        write(lost)
        disk.cut()
        disk.restore()
        assert kept.read_bytes() == DATA
        assert not lost.exists() or lost.read_bytes() == b""


def test_a_power_cut_loses_what_was_written_over_synced_bytes(tmp_path: Path) -> None:
    with power_disk(tmp_path) as disk:
        file = disk.path / "file"
        write(file, sync=True)
        with file.open("r+b") as again:
            again.write(bytes(len(DATA)))
        disk.cut()
        disk.restore()
        assert file.read_bytes() == DATA


def test_after_the_cut_the_disk_gives_errors_and_after_its_return_it_works_again_and_again(tmp_path: Path) -> None:
    with power_disk(tmp_path) as disk:
        for name in ("first", "second", "third"):
            write(disk.path / name, sync=True)
            disk.cut()
            with pytest.raises(OSError) as caught:
                write(disk.path / name)
            assert caught.value.errno == errno.EIO
            disk.restore()
        assert all((disk.path / name).read_bytes() == DATA for name in ("first", "second", "third"))


def test_it_has_the_size_asked_for(tmp_path: Path) -> None:
    with power_disk(tmp_path, 32 << 20) as disk:
        facts = os.statvfs(disk.path)
        assert 16 << 20 < facts.f_bavail * facts.f_frsize < 32 << 20


def test_restore_waits_for_processes_that_were_killed(tmp_path: Path) -> None:
    with power_disk(tmp_path) as disk:
        write(disk.path / "held", sync=True)
        programs = [holder_of(disk.path / "held") for _ in range(5)]
        disk.cut()
        for program in programs:
            program.kill()
        disk.restore()
        assert (disk.path / "held").read_bytes() == DATA
        for program in programs:
            program.close()


def test_restore_names_a_process_that_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "TIMEOUT", 0.05)
    with power_disk(tmp_path) as disk:
        write(disk.path / "held", sync=True)
        with holder_of(disk.path / "held") as program:
            disk.cut()
            with pytest.raises(AssertionError, match=rf"in use by {program.pid} \(python"):
                disk.restore()


def test_the_end_does_not_wait_for_ever_for_a_file_that_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "PATIENCE", 0.05)
    with pytest.warns(UserWarning, match="unmounted lazily: it is in use by") as warned, power_disk(tmp_path) as disk:
        write(disk.path / "held")
        program = holder_of(disk.path / "held")
    with program:
        assert f" {program.pid} (" in str(warned[0].message)
        assert mounts_below(tmp_path) == []
    wait_until(lambda: not loop_devices_of(tmp_path), "the loop device stays")


# The small disk


def test_the_small_disk_is_full_at_its_size(tmp_path: Path) -> None:
    with small_disk(tmp_path, SIZE) as disk:
        with pytest.raises(OSError) as caught:
            write(disk.path / "file", bytes(SIZE + 1))
        assert caught.value.errno == errno.ENOSPC
        (disk.path / "file").unlink()
        write(disk.path / "file", bytes(SIZE))


# Both


@pytest.mark.parametrize("made", [power_disk, lambda directory: small_disk(directory, SIZE)], ids=["power", "small"])
@pytest.mark.parametrize("cut", [False, True], ids=["", "cut"])
def test_nothing_stays_also_when_the_body_fails(
    tmp_path: Path, made: Callable[[Path], AbstractContextManager[disks.PowerDisk | disks.SmallDisk]], cut: bool
) -> None:
    with pytest.raises(ZeroDivisionError), made(tmp_path) as disk:
        write(disk.path / "file")
        assert len(mounts_below(tmp_path)) == 1
        if isinstance(disk, disks.PowerDisk):
            assert len(loop_devices_of(tmp_path)) == 1
            if cut:
                disk.cut()
        raise ZeroDivisionError
    gone(tmp_path)


def test_who_is_not_root_learns_why_there_is_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cannot_mount() == "mounting needs root"
    with pytest.raises(pytest.skip.Exception, match="root"), power_disk(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (cannot_mount("losetup", "mkfs.ext4") or "").startswith("missing: mount, losetup, mkfs.ext4")
    with pytest.raises(pytest.skip.Exception, match="missing: gcc"):
        failing_sync(tmp_path)
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter(()))
    with pytest.raises(pytest.skip.Exception, match="missing: libfaketime"), stepped_clock(tmp_path):
        pass


def test_a_kernel_that_refuses_skips_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := cannot_mount("losetup", "mkfs.ext4"):
        pytest.skip(reason)

    def refuse(disk: disks.PowerDisk) -> None:
        raise AssertionError("unknown filesystem type 'ext4'")

    monkeypatch.setattr(disks.PowerDisk, "mount", refuse)
    with pytest.raises(pytest.skip.Exception, match="unknown filesystem"), power_disk(tmp_path):
        pass
    gone(tmp_path)


# Syncs that fail

# For each line it reads: the error number of every call that syncs, 0 for none, for each file it was given.
SYNCER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def error_of(call):
    try:
        return ctypes.get_errno() if call() else 0
    except OSError as error:
        return error.errno
files = [(os.open(name, os.O_RDWR | os.O_CREAT), os.open(name, os.O_RDWR | os.O_DSYNC)) for name in sys.argv[1:]]
for line in sys.stdin:
    errors = []
    for plain, dsync in files:
        os.pwrite(dsync, b"x", 0)
        errors.append([
            error_of(lambda: os.fsync(plain)),
            error_of(lambda: os.fdatasync(plain)),
            error_of(lambda: libc.syncfs(plain)),
            error_of(lambda: libc.sync_file_range(plain, ctypes.c_int64(0), ctypes.c_int64(0), 7)),
        ])
    print(errors)
"""
GOOD = [0, 0, 0, 0]
BAD = [errno.EIO] * 4


def ask(program: Program) -> str:
    """Give the program a line, and wait for its line."""
    lines = program.stdout.count(b"\n")
    program.write(b"\n")
    wait_until(lambda: program.stdout.count(b"\n") > lines, "no answer", TIMEOUT, program)
    return program.stdout.decode().splitlines()[-1]


def test_syncs_fail_while_it_is_armed_and_only_then(tmp_path: Path) -> None:
    sync = failing_sync(tmp_path)
    with python(SYNCER, tmp_path / "file", env=sync.environment()) as program:
        assert ask(program) == str([GOOD])
        sync.arm()
        assert ask(program) == str([BAD])
        assert ask(program) == str([BAD])
        sync.disarm()
        sync.disarm()
        assert ask(program) == str([GOOD])


def test_syncs_fail_only_where_they_are_to_fail(tmp_path: Path) -> None:
    sync = failing_sync(tmp_path, on="/spool.")
    sync.arm()
    with python(SYNCER, tmp_path / "output", tmp_path / "spool.lmdb", env=sync.environment()) as program:
        assert ask(program) == str([GOOD, BAD])


def test_a_program_without_the_environment_is_let_alone(tmp_path: Path) -> None:
    failing_sync(tmp_path).arm()
    with python(SYNCER, tmp_path / "file") as program:
        assert ask(program) == str([GOOD])


# The clock

HOUR = 3600.0
CLOCKS = "import sys, time\nfor line in sys.stdin: print(time.time(), time.monotonic())"
WAITS = """
import select, threading, time
for wait in (lambda: threading.Event().wait(0.1), lambda: select.select([], [], [], 0.1), lambda: select.epoll().poll(0.1)):
    before = time.monotonic()
    wait()
    print(0.09 < time.monotonic() - before < 30)
"""


def wall_offset(program: Program) -> float:
    """How far the program's wall clock is ahead, in whole quarters of an hour; its monotonic clock must be the machine's."""
    before, wall_before = time.monotonic(), time.time()
    wall, monotonic = map(float, ask(program).split())
    assert before <= monotonic <= time.monotonic()
    return round((wall - wall_before) / 900) * 900


def test_the_wall_clock_steps_and_the_monotonic_clock_does_not(tmp_path: Path) -> None:
    with stepped_clock(tmp_path) as clock, python(CLOCKS, env=clock.environment()) as program:
        assert wall_offset(program) == 0
        clock.step(HOUR)
        assert wall_offset(program) == HOUR
        clock.step(-2 * HOUR)
        assert wall_offset(program) == -HOUR


def test_the_clock_may_be_wrong_from_the_start(tmp_path: Path) -> None:
    with stepped_clock(tmp_path, -24 * HOUR) as clock, python(CLOCKS, env=clock.environment()) as program:
        assert wall_offset(program) == -24 * HOUR


def test_waits_are_as_long_as_ever_by_a_wrong_clock(tmp_path: Path) -> None:
    with stepped_clock(tmp_path, HOUR) as clock, python(WAITS, env=clock.environment()) as program:
        program.wait_status(0)
        assert program.stdout == b"True\n" * 3


def test_a_program_killed_under_the_clock_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), stepped_clock(tmp_path) as clock, python(CLOCKS, env=clock.environment()) as program:
        ask(program)
        raise ZeroDivisionError
    assert not [path for path in Path("/dev/shm").iterdir() if path.name.endswith(f"_{program.pid}")]
