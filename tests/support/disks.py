"""Disks and clocks that fail as real ones do: power cuts, full disks, syncs that report an error, steps of the wall clock.

A power cut needs a disk: what a killed process has written is safe in the kernel, so that `kill -9` cannot tell a program
that syncs from one that does not. Here it is an ext4 file system on a loop device of its own, which the kernel is told to
drop. Whatever cannot be made on this machine skips the test with a reason; what was made is gone after the `with` block,
also when the test fails in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import struct
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.processes import TIMEOUT, wait_until

FS_IOC_SHUTDOWN: Final = 0x8004587D
NO_LOG_FLUSH: Final = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH: what is not in the journal on the disk by now is lost
MNT_DETACH: Final = 2
PATIENCE: Final = 5.0  # seconds to wait, when all is over, for processes that still have a file open

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class SmallDisk:
    """A disk that is soon full. Made by `small_disk`."""

    path: Path


@dataclass(frozen=True)
class PowerDisk:
    """A disk whose power can be cut. Made by `power_disk`.

    What was not synced is then lost, whole: this disk does not tear or reorder writes. A power cut takes the programs with it:
    kill them, before `cut` or after it; one that goes on meanwhile sees EIO from the disk.
    """

    path: Path
    device: str

    def cut(self) -> None:
        """Cut the power: what is not on the disk by now never will be."""
        mounted = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(mounted, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(mounted)

    def restore(self) -> None:
        """Power again: mount anew, so that the journal is recovered.

        Files may still be open in processes that were killed; their end is waited for. In one that lives they may not: the
        kernel would mount the dead file system again, also after a lazy umount.
        """
        try:
            wait_until(lambda: _unmounted(self.path), "in use", TIMEOUT)
        except AssertionError:
            raise AssertionError(f"{self.path} cannot be unmounted: it is in use by {_users(self.path)}") from None
        self.mount()

    def mount(self) -> None:
        """Mount the device at `path`."""
        _call("mount", "-t", "ext4", self.device, str(self.path))


@contextlib.contextmanager
def power_disk(directory: Path, size: int = 64 << 20) -> Iterator[PowerDisk]:
    """An ext4 file system with ext4's usual options, mounted at directory/"mnt", whose power can be cut.

    `size`: bytes, 16 MiB at least, since a smaller one may have no journal. The image is sparse.
    """
    _skip_where_nothing_can_be_mounted("losetup", "mkfs.ext4")
    with contextlib.ExitStack() as cleanup:
        image = directory / "mnt.ext4"
        cleanup.callback(image.unlink, missing_ok=True)
        with image.open("wb") as file:
            file.truncate(size)
        # All tables are written now, so that the kernel has nothing of its own to write later.
        extended = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        _call("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-J", "size=4", "-E", extended, str(image))
        with _or_skip("loop devices or ext4"):
            device = _call("losetup", "--find", "--show", str(image)).strip()
            cleanup.callback(_call, "losetup", "--detach", device)
            disk = PowerDisk(_mount_point(directory / "mnt", cleanup), device)
            disk.mount()
        yield disk


@contextlib.contextmanager
def small_disk(directory: Path, size: int) -> Iterator[SmallDisk]:
    """A tmpfs of `size` bytes, rounded up to whole pages, mounted at directory/"small"."""
    _skip_where_nothing_can_be_mounted()
    with contextlib.ExitStack() as cleanup:
        path = _mount_point(directory / "small", cleanup)
        with _or_skip("tmpfs"):
            _call("mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(path))
        yield SmallDisk(path)


def cannot_mount(*further: str) -> str | None:
    """Why no file system can be mounted here, or None. `further`: programs that are needed besides mount."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if absent := [tool for tool in ("mount", *further) if shutil.which(tool) is None]:
        return f"missing: {', '.join(absent)} (apt-get install mount e2fsprogs)"
    if "losetup" in further and not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        return "this machine has no loop devices (/dev/loop-control)"
    return None


# What programs are run under

# The variables are read once, for getenv is not safe while another thread sets a variable. The file is looked for at every call.
_FAILING_SYNC: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *when, *on;

__attribute__((constructor)) static void begin(void) {
    const char *text;
    when = (text = getenv("FAIL_SYNC_WHEN")) ? strdup(text) : NULL;
    on = (text = getenv("FAIL_SYNC_ON")) ? strdup(text) : NULL;
}

static int fails(int fd) {
    char link[64], target[PATH_MAX + 1];
    if (when == NULL || access(when, F_OK) != 0)
        return 0;
    if (on != NULL) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, target, PATH_MAX);
        if (length < 0)
            return 0;
        target[length] = 0;
        if (strstr(target, on) == NULL)
            return 0;
    }
    return 1;
}

#define PASS_ON(name, types, ...) \
    if (fails(fd)) { errno = EIO; return -1; } \
    int (*next) types = (int (*) types) dlsym(RTLD_NEXT, #name); \
    return next(__VA_ARGS__);

int fsync(int fd) { PASS_ON(fsync, (int), fd) }
int fdatasync(int fd) { PASS_ON(fdatasync, (int), fd) }
int syncfs(int fd) { PASS_ON(syncfs, (int), fd) }
int sync_file_range(int fd, off64_t offset, off64_t count, unsigned flags) {
    PASS_ON(sync_file_range, (int, off64_t, off64_t, unsigned), fd, offset, count, flags)
}
"""


class FailingSync:
    """Makes fsync, fdatasync, syncfs and sync_file_range fail with EIO, in programs run with its environment, while it is armed.

    The system call is then not made. Writes through a descriptor opened with O_SYNC or O_DSYNC are let alone.
    """

    def __init__(self, library: Path, when: Path, on: str | None) -> None:
        self._library = library
        self._when = when
        self._on = on

    def environment(self) -> dict[str, str]:
        """The variables to run a program with."""
        variables = {"LD_PRELOAD": str(self._library), "FAIL_SYNC_WHEN": str(self._when)}
        return variables if self._on is None else {**variables, "FAIL_SYNC_ON": self._on}

    def arm(self) -> None:
        """From now on every sync fails, also in programs that run already."""
        self._when.touch()

    def disarm(self) -> None:
        """Syncs work again."""
        self._when.unlink(missing_ok=True)


def failing_sync(directory: Path, on: str | None = None) -> FailingSync:
    """Build the library in `directory`. With `on`, syncs fail only of files whose path contains that text."""
    if shutil.which("gcc") is None:
        pytest.skip("missing: gcc (apt-get install gcc libc6-dev)")
    source, library = directory / "failing_sync.c", directory / "failing_sync.so"
    source.write_text(_FAILING_SYNC)
    _call("gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(source), "-ldl")
    return FailingSync(library, directory / "failing_sync.armed", on)


class SteppedClock:
    """A wall clock that can be set while programs run by it; their monotonic clock goes on. Made by `stepped_clock`.

    time.sleep() fails with EINVAL in such a program (libfaketime 0.9.10); waits on locks, events and descriptors do not.
    """

    def __init__(self, library: Path, file: Path, offset: float) -> None:
        self._library = library
        self._file = file
        self._offset = offset
        self.step(0)

    def environment(self) -> dict[str, str]:
        """The variables to run a program with."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds: float) -> None:
        """Set the clock ahead, or back, by this much from where it is; the next look at it shows that."""
        self._offset += seconds
        new = self._file.with_suffix(".new")
        new.write_text(f"{self._offset:+f}\n")
        new.replace(self._file)  # nobody may read half of it


@contextlib.contextmanager
def stepped_clock(directory: Path, offset: float = 0) -> Iterator[SteppedClock]:
    """A clock that goes wrong by `offset` seconds from the start; its file lies in `directory`."""
    libraries = [*Path("/usr").glob("lib*/faketime/libfaketime.so.1"), *Path("/usr").glob("lib*/*/faketime/libfaketime.so.1")]
    if not libraries:
        pytest.skip("missing: libfaketime (apt-get install libfaketime)")
    before = set(_shared_clocks())
    try:
        yield SteppedClock(libraries[0], directory / "clock.offset", offset)
    finally:
        # libfaketime keeps some state in shared memory, which a killed program leaves behind.
        for left, pid in _shared_clocks().items():
            if left not in before and not Path("/proc", pid).exists():
                left.unlink(missing_ok=True)


def _shared_clocks() -> dict[Path, str]:
    """The shared memory of all programs under libfaketime, and the process id of each."""
    found = {
        path: re.fullmatch(r"(?:faketime_shm|sem\.faketime_sem)_(\d+)", path.name) for path in Path("/dev/shm").glob("*faketime*")
    }
    return {path: match[1] for path, match in found.items() if match}


# The machinery


def _skip_where_nothing_can_be_mounted(*further: str) -> None:
    if reason := cannot_mount(*further):
        pytest.skip(reason)


@contextlib.contextmanager
def _or_skip(what: str) -> Iterator[None]:
    """Skip the test where the kernel does not do what root asks for, as in a container."""
    try:
        yield
    except AssertionError as error:
        pytest.skip(f"the kernel gives no {what}: {error}")


def _mount_point(path: Path, cleanup: contextlib.ExitStack) -> Path:
    path.mkdir()
    cleanup.callback(_remove_mount_point, path)
    return path


def _remove_mount_point(path: Path) -> None:
    """Unmount what is mounted there; lazily, if it stays in use: a leak of the test must not become one of the machine."""
    try:
        wait_until(lambda: _unmounted(path), "in use", PATIENCE)
    except AssertionError:
        warnings.warn(f"{path} is unmounted lazily: it is in use by {_users(path)}", stacklevel=2)
        _unmounted(path, MNT_DETACH)
    path.rmdir()


def _unmounted(path: Path, flags: int = 0) -> bool:
    """Unmount; False if it is in use. Not to be mounted at all is good as well."""
    if _libc.umount2(os.fsencode(path), flags) == 0 or (number := ctypes.get_errno()) == errno.EINVAL:
        return True
    if number == errno.EBUSY:
        return False
    raise OSError(number, os.strerror(number), str(path))


def _users(path: Path) -> str:
    """The processes that have a file or a directory open below `path`, for a person to read."""
    below = re.compile(rf"(^|\s){re.escape(str(path.resolve()))}(/|$)", re.MULTILINE)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            places = [(process / "maps").read_text(), *map(_target, [process / "cwd", *(process / "fd").iterdir()])]
            if below.search("\n".join(places)):
                found.append(f"{process.name} ({(process / 'comm').read_text().strip()})")
    return ", ".join(found) or "nobody who can be seen from here"


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # closed since
        return ""


def _call(*argv: str) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0, f"{' '.join(argv)}: status {done.returncode}: {done.stderr.strip()}"
    return done.stdout
