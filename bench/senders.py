"""Many senders into one listener: memory a connection and CPU a line, both of the listener.

The senders come from a *driver*. `bench.driver`, where it exists, opens any number of links in one process:

    python -m bench.driver PORT COUNT LINES
        links COUNT senders to 127.0.0.1:PORT, prints "linked" on stdout when all have finished their handshake; when it reads a
        line on stdin, each sends LINES lines of 100 bytes, one at a time and in turn with the others; when all are acknowledged
        and its stdin is closed, it ends its streams and leaves with 0.

Without it each sender is a real process, which allows for a few dozen.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.run import BenchError, Process, process, progress, watched
from bench.tools import MYSOCKET
from tests.support.processes import LINKED, LISTENING

LINE = b"x" * 99 + b"\n"


@dataclass
class Figures:
    """Of the listener, with so many senders."""

    senders: int
    bytes_each: float
    cpu_per_line: float


class DriverSenders:
    """All senders in one process, by `bench.driver`."""

    def __init__(self, driver: Process) -> None:
        self._driver = driver

    def wait_linked(self) -> None:
        """Return when every sender has finished its handshake."""
        with watched(self._driver):
            answer = self._driver.stdout.readline().strip()
        if answer != b"linked":
            raise BenchError(f"the driver could not link all senders: {self._driver.said()}")

    def send(self, lines: int) -> None:
        """Let every sender send its lines (the driver was told how many at its start)."""
        self._driver.stdin.write(b"send\n")
        self._driver.stdin.flush()

    def finish(self) -> None:
        """Return when all has been acknowledged and every sender has gone."""
        self._driver.stdin.close()
        self._driver.good()


class ProcessSenders:
    """Each sender a process of its own; they are started in groups, for two cores cannot start fifty interpreters at once."""

    def __init__(self, stack: contextlib.ExitStack, port: int, count: int) -> None:
        self._senders: list[Process] = []
        argv = [*MYSOCKET.send(0, 0)[:3], "--peer", f"127.0.0.1:{port}", "--send-only"]
        for _ in range(0, count, 5):
            group = [stack.enter_context(process(argv, subprocess.PIPE, subprocess.DEVNULL)) for _ in range(5)]
            for sender in group:
                sender.wait_said(LINKED)
            self._senders += group

    def wait_linked(self) -> None:
        """All are: they were waited for as they were started."""

    def send(self, lines: int) -> None:
        """Give every sender its lines, one at a time and in turn with the others."""
        for _ in range(lines):
            for sender in self._senders:
                sender.stdin.write(LINE)
                sender.stdin.flush()

    def finish(self) -> None:
        """End every input, and return when every sender has gone."""
        for sender in self._senders:
            sender.stdin.close()
        for sender in self._senders:
            sender.good()


def has_driver() -> bool:
    """True if senders can be had without a process for each."""
    return importlib.util.find_spec("bench.driver") is not None


@contextlib.contextmanager
def many_senders(count: int, port: int, lines: int) -> Iterator[DriverSenders | ProcessSenders]:
    """`count` senders which link to this port and will send `lines` lines each."""
    with contextlib.ExitStack() as stack:
        if has_driver():
            argv = [sys.executable, "-m", "bench.driver", str(port), str(count), str(lines)]
            yield DriverSenders(stack.enter_context(process(argv, subprocess.PIPE, subprocess.PIPE)))
        else:
            yield ProcessSenders(stack, port, count)


def one_run(count: int, lines: int) -> Figures:
    """One listener and `count` senders of `lines` lines."""
    total = count * lines * len(LINE)
    with contextlib.ExitStack() as stack:
        counter = subprocess.Popen(["wc", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stack.callback(counter.wait)
        stack.callback(counter.kill)
        assert counter.stdin is not None and counter.stdout is not None
        argv = [*MYSOCKET.receive(0, 0)[:3], "-p", "0", "--recv-only"]
        listener = stack.enter_context(process(argv, subprocess.DEVNULL, counter.stdin))
        counter.stdin.close()
        port = int(listener.wait_said(LISTENING)[2])
        alone = listener.memory()[0]
        with many_senders(count, port, lines) as senders:
            senders.wait_linked()
            begun = _settled(listener)
            senders.send(lines)
            used = _settled(listener) - begun
            highest = listener.memory()[1]
            senders.finish()
        listener.good()
        counted = int(counter.stdout.read())
        if counted != total:
            raise BenchError(f"{counted} of {total} bytes came through")
    return Figures(count, (highest - alone) / count, used / (count * lines))


def _settled(listener: Process) -> float:
    """CPU seconds of the listener once it has been idle for half a second: then all that was sent to it is done."""
    last, since = listener.cpu_now(), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.05)
        if (now := listener.cpu_now()) - last > 0.002:
            last, since = now, time.monotonic()
    return last


def measure(lines: int) -> list[Figures]:
    """Figures for 10, 100 and 1,000 senders; without a driver for 10 and 40."""
    figures = []
    for count in (10, 100, 1000) if has_driver() else (10, 40):
        one = one_run(count, lines)
        figures.append(one)
        progress(f"senders: {count}: {one.bytes_each / 1000:.1f} KB each, {one.cpu_per_line * 1e6:.1f} µs of CPU a line")
    return figures
