"""A person at a terminal: a pseudo-terminal whose other end is read here.

* `prompt`: from the start of the process until its prompt is drawn, beside a process that imports Twisted's reactor, in turns.
* `keys`: from a key until its character is drawn, while lines arrive at a given rate; and whether every line arrived, in order.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from typing import NamedTuple

from bench.run import BenchError, environment, free_port, median, process, progress
from bench.start import REACTOR, until_it_says
from bench.tools import ROOT

PROMPT = b"1m>"
#: Seconds between two keys.
TYPING = 0.03
#: Writes numbered lines at a rate, a hundred times a second, for some seconds.
FLOOD = """
import sys, time
rate, seconds = float(sys.argv[1]), float(sys.argv[2])
begun, said = time.monotonic(), 0
while (past := time.monotonic() - begun) < seconds:
    due = int(rate * past)
    sys.stdout.write("".join(f"line {number:08d} {'x' * 60}\\n" for number in range(said, due)))
    sys.stdout.flush()
    said = due
    time.sleep(0.01)
"""


class Keys(NamedTuple):
    """Seconds; and lines that arrived."""

    p50: float
    p99: float
    lines: int


class Person:
    """Somebody at a terminal of 80 columns and 24 rows, and the program in it."""

    def __init__(self, *args: str) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="mysocket-bench-")
        self._master, slave = os.openpty()
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        env = environment() | {"TERM": "xterm-256color", "XDG_STATE_HOME": self._home.name, "LANG": "C.UTF-8"}
        self.seen = bytearray()
        self.begun = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mysocket", *args], stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=env
        )
        os.close(slave)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def look(self, seconds: float) -> float:
        """Wait for something new on the screen, for at most so long; when that was."""
        if select.select([self._master], [], [], max(0.0, seconds))[0]:
            with contextlib.suppress(OSError):  # the program has left
                self.seen += os.read(self._master, 1 << 16)
        return time.perf_counter()

    def wait_for(self, what: bytes, since: int = 0, seconds: float = 30.0) -> float:
        """When this has been on the screen."""
        now = time.perf_counter()
        deadline = now + seconds
        while self.seen.find(what, since) < 0:
            if now > deadline or self._process.poll() is not None:
                raise BenchError(f"{what!r} does not come: {bytes(self.seen[-2000:])!r}")
            now = self.look(deadline - now)
        return now

    def close(self) -> None:
        """Leave."""
        self._process.kill()
        self._process.wait()
        os.close(self._master)
        self._home.cleanup()


@contextlib.contextmanager
def person(*args: str) -> Iterator[Person]:
    """Gone afterwards."""
    one = Person(*args)
    try:
        yield one
    finally:
        one.close()


def prompt(rounds: int) -> tuple[float, float]:
    """Seconds until the prompt is drawn, and until the reactor is imported: medians."""
    ours, reactor = [], []
    for number in range(rounds + 1):
        with person(str(free_port()), "localhost", str(free_port())) as one:
            seconds = one.wait_for(PROMPT) - one.begun
        pair = seconds, until_it_says(REACTOR, "here")
        if number:  # the first one wrote the byte code and warmed the cache
            ours.append(pair[0])
            reactor.append(pair[1])
    progress(f"first prompt: {median(ours):.3f} s, reactor {median(reactor):.3f} s")
    return median(ours), median(reactor)


def keys(rate: int, seconds: float) -> Keys:
    """Type while ``rate`` lines a second arrive."""
    port, back = free_port(), free_port()
    with person(str(port), "localhost", str(back)) as one:
        one.wait_for(PROMPT)
        flood = subprocess.Popen([sys.executable, "-c", FLOOD, str(rate), str(seconds)], stdout=subprocess.PIPE)
        assert flood.stdout is not None
        sender = [sys.executable, "-m", "mysocket", "--peer", f"localhost:{port}", "--send-only", "-q", "0"]
        with process(sender, flood.stdout, subprocess.DEVNULL) as peer:
            flood.stdout.close()
            one.wait_for(b"line 0" if rate else b"connected")
            took, code = [], 0x4E00
            deadline = time.perf_counter() + seconds - 1
            while time.perf_counter() < deadline:
                since = len(one.seen)
                key = chr(code)
                code += 1
                begun = time.perf_counter()
                one.type(key)
                took.append(one.wait_for(key.encode(), since) - begun)
                if len(took) % 20 == 0:
                    one.type("\x15")  # Ctrl-U, so that the line stays short
                rest = begun + TYPING
                while (left := rest - time.perf_counter()) > 0:
                    one.look(left)
            flood.wait()
            until = time.perf_counter() + 30
            while peer.running():
                one.look(0.05)
                if time.perf_counter() > until:
                    raise BenchError("the sender does not end")
            one.look(0.5)
    numbers = [int(found) for found in re.findall(rb"line (\d{8}) x{60}", bytes(one.seen))]
    if numbers != list(range(len(numbers))):
        raise BenchError("a line is missing, torn, or out of order")
    took.sort()
    progress(
        f"keys at {rate} lines/s: p50 {took[len(took) // 2] * 1e3:.1f} ms, p99 {took[int(len(took) * 0.99)] * 1e3:.1f} ms, "
        f"worst {took[-1] * 1e3:.1f} ms of {len(took)}; {len(numbers)} lines"
    )
    return Keys(took[len(took) // 2], took[int(len(took) * 0.99)], len(numbers))
