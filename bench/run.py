"""Starting the two processes of a measurement, and reading what the kernel counted for each."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO

from bench.tools import ROOT
from tests.support.processes import free_port, port_is_bound

__all__ = ["free_port", "median"]

STUCK = 180.0  # seconds after which a process that should have ended is killed


def environment() -> dict[str, str]:
    """Ours, but Python may keep byte code: an installed program has it, and compiling is not what is measured."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class BenchError(Exception):
    """A measured process failed or hung: there is no figure."""


@dataclass
class Usage:
    """What one ended process used: CPU seconds, user and system together."""

    cpu: float
    status: int


class Process:
    """A measured process: its end is awaited by os.wait4, which tells the CPU time of this one process."""

    def __init__(self, argv: Sequence[str], stdin: int | IO[bytes], stdout: int | IO[bytes]) -> None:
        self.argv = list(argv)
        self._stderr = open(os.memfd_create("stderr"), "w+b")
        self._process = subprocess.Popen(self.argv, stdin=stdin, stdout=stdout, stderr=self._stderr, cwd=ROOT, env=environment())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def running(self) -> bool:
        """True while it has not ended; does not collect its status."""
        if self._process.returncode is not None:
            return False
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def said(self) -> str:
        """What it wrote to stderr so far. It is read at a position of its own: the file offset is the writer's."""
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), size, 0).decode(errors="replace")

    def usage(self, timeout: float = STUCK) -> Usage:
        """Wait for its end; what it used."""
        alarm = threading.Timer(timeout, self.kill)
        alarm.start()
        try:
            _, status, used = os.wait4(self.pid, 0)
        finally:
            alarm.cancel()
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return Usage(used.ru_utime + used.ru_stime, self._process.returncode)

    def good(self, timeout: float = STUCK) -> Usage:
        """As `usage`; a status other than 0 is an error."""
        used = self.usage(timeout)
        if used.status != 0:
            raise BenchError(f"{' '.join(self.argv)}: status {used.status}: {self.said().strip()}")
        return used

    def kill(self) -> None:
        """Kill it by pid, if it still runs."""
        if self._process.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill it if it runs, collect it, and close what was opened for it."""
        if self._process.returncode is None:
            self.kill()
            self.usage()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._stderr.close()

    def wait_bound(self, port: int) -> None:
        """Wait until it listens on this port. Nobody connects for that: nc would take it for its peer."""
        deadline = time.monotonic() + 30
        while not port_is_bound(self.pid, port):
            if time.monotonic() > deadline or not self.running():
                raise BenchError(f"{' '.join(self.argv)} does not listen: {self.said().strip()}")
            time.sleep(0.002)

    def wait_said(self, pattern: str, timeout: float = 60) -> re.Match[str]:
        """Wait until this is on its stderr."""
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self.said())):
            if time.monotonic() > deadline or not self.running():
                raise BenchError(f"{' '.join(self.argv)} has not said {pattern!r}: {self.said().strip()}")
            time.sleep(0.002)
        return match

    def memory(self) -> tuple[int, int]:
        """Resident now, and at its highest so far: bytes."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        now, high = (re.search(rf"{name}:\s+(\d+) kB", text) for name in ("VmRSS", "VmHWM"))
        return (int(now[1]) * 1024, int(high[1]) * 1024) if now and high else (0, 0)

    def cpu_now(self) -> float:
        """CPU seconds so far, of all its threads, in nanosecond steps where the kernel has them."""
        total = 0.0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0]) / 1e9
            except OSError:
                fields = (task / "stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total


@contextlib.contextmanager
def watched(*processes: Process, seconds: float = STUCK) -> Iterator[None]:
    """Kill these if the body takes longer: what reads from them then sees the end of their output instead of waiting for ever."""
    alarms = [threading.Timer(seconds, one.kill) for one in processes]
    for alarm in alarms:
        alarm.start()
    try:
        yield
    finally:
        for alarm in alarms:
            alarm.cancel()


@contextlib.contextmanager
def process(argv: Sequence[str], stdin: int | IO[bytes], stdout: int | IO[bytes]) -> Iterator[Process]:
    """A process that is gone afterwards, whatever happened."""
    started = Process(argv, stdin, stdout)
    try:
        yield started
    finally:
        started.close()


@contextlib.contextmanager
def lines_file(size: int) -> Iterator[Path]:
    """A file of `size` bytes of 100-byte lines, in memory (/dev/shm) where there is room, so that no disk is measured."""
    shm = Path("/dev/shm")
    room = shm.is_dir() and os.statvfs(shm).f_bavail * os.statvfs(shm).f_frsize > size + (64 << 20)
    with tempfile.NamedTemporaryFile(dir=shm if room else None, prefix="mysocket-bench-") as file:
        block = b"".join(b"%08d " % number + b"x" * 90 + b"\n" for number in range(10_000))  # 1 MB
        left = size
        while left > 0:
            file.write(block[: min(left, len(block))])
            left -= len(block)
        file.flush()
        yield Path(file.name)


def progress(text: str) -> None:
    """Tell the person who waits; stdout is for the table."""
    print(text, file=sys.stderr, flush=True)
