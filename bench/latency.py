"""One line of 100 bytes through both processes: from before it is written to the sender's stdin until it is read from the
receiver's stdout. One process writes and reads, so there is one clock; a line every few milliseconds, so none waits for another.
"""

from __future__ import annotations

import os
import subprocess
import time

from bench.run import BenchError, free_port, median, process, progress, watched
from bench.tools import Tool

LINE = b"x" * 99 + b"\n"
PAUSE = 0.002  # seconds between two lines
WARM_UP = 50


def one_run(tool: Tool, count: int) -> list[float]:
    """Seconds each of `count` lines took, sorted."""
    port, back = free_port(), free_port()
    with process(tool.receive(port, back), subprocess.DEVNULL, subprocess.PIPE) as receiver:
        receiver.wait_bound(port)
        with process(tool.send(port, back), subprocess.PIPE, subprocess.DEVNULL) as sender:
            into, out = sender.stdin.fileno(), receiver.stdout.fileno()
            times = []
            with watched(sender, receiver):
                for number in range(WARM_UP + count):
                    begun = time.perf_counter()
                    os.write(into, LINE)
                    got = 0
                    while got < len(LINE):
                        piece = os.read(out, 65536)
                        if not piece:
                            raise BenchError(f"{tool.name}: the receiver has ended: {receiver.said()}")
                        got += len(piece)
                    if number >= WARM_UP:
                        times.append(time.perf_counter() - begun)
                    time.sleep(PAUSE)
            sender.stdin.close()
            sender.good()
            receiver.good()
    return sorted(times)


def measure(tools: list[Tool], count: int, rounds: int) -> dict[str, tuple[float, float]]:
    """By tool: p50 and p99 in seconds, medians over the rounds."""
    p50: dict[str, list[float]] = {tool.name: [] for tool in tools}
    p99: dict[str, list[float]] = {tool.name: [] for tool in tools}
    for number in range(rounds):
        for tool in tools:
            times = one_run(tool, count)
            p50[tool.name].append(times[len(times) // 2])
            p99[tool.name].append(times[int(len(times) * 0.99)])
            progress(
                f"latency, round {number + 1} of {rounds}, {tool.name}: p50 {p50[tool.name][-1] * 1e6:.0f} µs, "
                f"p99 {p99[tool.name][-1] * 1e6:.0f} µs"
            )
    return {tool.name: (median(p50[tool.name]), median(p99[tool.name])) for tool in tools}
