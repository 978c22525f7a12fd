"""Resident memory of each process while lines go to a receiver whose output is read at 20 MB/s.

All tools run at once, each with a pair of its own: the pace is far below what any of them can do, and memory, unlike time, is
not shared. The sender's input is `cat FILE FILE …`, always ahead of the reader, so every buffer on the way is full.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from dataclasses import dataclass, field

from bench.run import BenchError, Process, free_port, lines_file, process, progress
from bench.tools import Tool

RATE = 20_000_000  # bytes a second
STALLED = 60  # seconds
PIECE = 200_000_000  # the file that is sent again and again


@dataclass
class Samples:
    """Resident bytes once a second, and the highest ever, of one process."""

    resident: list[int] = field(default_factory=list)
    highest: int = 0

    def take(self, of: Process) -> None:
        """One more sample."""
        now, self.highest = of.memory()
        self.resident.append(now)

    def growth(self) -> int:
        """Bytes by which the highest of the last quarter exceeds the highest of the second: near 0 is flat."""
        quarter = max(1, len(self.resident) // 4)
        return max(self.resident[-quarter:]) - max(self.resident[quarter : 2 * quarter] or self.resident)


def measure(tools: list[Tool], size: int) -> dict[str, dict[str, tuple[int, int]]]:
    """By tool, of "sender" and "receiver": highest resident size and growth, in bytes, while `size` bytes went through."""
    copies = max(1, size // PIECE)
    samples = {tool.name: {"sender": Samples(), "receiver": Samples()} for tool in tools}
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(lines_file(PIECE))
        pairs: dict[str, tuple[Process, Process]] = {}
        readers = selectors.DefaultSelector()
        stack.callback(readers.close)
        left = {tool.name: copies * PIECE for tool in tools}
        for tool in tools:
            port, back = free_port(), free_port()
            receiver = stack.enter_context(process(tool.receive(port, back), subprocess.DEVNULL, subprocess.PIPE))
            receiver.wait_bound(port)
            cat = subprocess.Popen(["cat", *[str(file)] * copies], stdout=subprocess.PIPE)
            stack.callback(cat.wait)
            stack.callback(cat.kill)
            assert cat.stdout is not None
            sender = stack.enter_context(process(tool.send(port, back), cat.stdout, subprocess.DEVNULL))
            cat.stdout.close()
            pairs[tool.name] = sender, receiver
            readers.register(receiver.stdout, selectors.EVENT_READ, tool.name)
        _read_slowly(readers, left, pairs, samples)
        for sender, receiver in pairs.values():
            sender.good()
            receiver.good()
    return {name: {side: (one.highest, one.growth()) for side, one in sides.items()} for name, sides in samples.items()}


def _read_slowly(
    readers: selectors.BaseSelector,
    left: dict[str, int],
    pairs: dict[str, tuple[Process, Process]],
    samples: dict[str, dict[str, Samples]],
) -> None:
    begun = next_sample = time.monotonic()
    total = dict(left)
    last, moved = dict(left), begun
    while any(left.values()):
        now = time.monotonic()
        due = int((now - begun) * RATE)
        for key, _ in readers.select(0.05):
            name = key.data
            allowed = min(due - (total[name] - left[name]), left[name])
            if allowed > 0:
                piece = os.read(key.fd, min(65536, allowed))
                if not piece:
                    raise BenchError(f"{name}: ended {left[name]} bytes early: {pairs[name][1].said()}")
                left[name] -= len(piece)
        if left != last:
            last, moved = dict(left), now
        elif now - moved > STALLED:
            raise BenchError(f"nothing came through for {STALLED} s; bytes left: {left}")
        else:
            time.sleep(0.002)  # nobody is behind the pace
        if now >= next_sample:
            next_sample = now + 1
            for name, (sender, receiver) in pairs.items():
                if left[name]:
                    samples[name]["sender"].take(sender)
                    samples[name]["receiver"].take(receiver)
            done = 100 - 100 * sum(left.values()) // sum(total.values())
            if len(next(iter(samples.values()))["sender"].resident) % 10 == 1:
                progress(f"memory: {done} % read; " + ", ".join(_now(name, sides) for name, sides in samples.items()))


def _now(name: str, sides: dict[str, Samples]) -> str:
    sizes = [sides[side].resident[-1] / 1e6 if sides[side].resident else 0 for side in ("sender", "receiver")]
    return f"{name} {sizes[0]:.1f} + {sizes[1]:.1f} MB"
