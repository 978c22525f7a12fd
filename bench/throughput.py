"""Lines from stdin over TCP on loopback to stdout: CPU and wall time per gigabyte.

Two set-ups, for neither is fair alone:

* `file`: stdin is a file in memory, stdout /dev/null. Nothing but the two measured processes runs, so this is their own cost.
* `pipe`: `cat FILE | sender` and `receiver | wc -c`, as a shell would join them. `cat` and `wc` are the same for every tool and
  are not counted as CPU, but on two cores they do take part in the wall time. `wc` also proves that every byte came through.

From each figure that of an empty run is taken off (the same commands, the input empty): it holds the start of the processes,
which has a row of its own. Wall time runs from the start of the sender, the receiver being up, to the end of both. CPU is user
and system time as os.wait4 tells it for each of the two processes. The tools take turns within each round.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.run import BenchError, free_port, lines_file, median, process, progress
from bench.tools import Tool

GIGABYTE = 1_000_000_000


@dataclass
class Costs:
    """Seconds of each round, by tool and set-up."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def one_run(tool: Tool, source: Path, pipes: bool) -> tuple[float, float]:
    """CPU seconds of both processes, and wall seconds, to move this file once."""
    port, back = free_port(), free_port()
    size = source.stat().st_size
    feeder = counter = None
    with source.open("rb") as file:
        try:
            if pipes:
                counter = subprocess.Popen(["wc", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                out = counter.stdin
            else:
                out = subprocess.DEVNULL  # type: ignore[assignment]
            assert out is not None
            with process(tool.receive(port, back), subprocess.DEVNULL, out) as receiver:
                receiver.wait_bound(port)
                if counter is not None and counter.stdin is not None:
                    counter.stdin.close()
                begun = time.monotonic()
                if pipes:
                    feeder = subprocess.Popen(["cat", str(source)], stdout=subprocess.PIPE)
                with process(
                    tool.send(port, back), feeder.stdout if feeder and feeder.stdout else file, subprocess.DEVNULL
                ) as sender:
                    if feeder and feeder.stdout:
                        feeder.stdout.close()
                    sent, received = sender.good(), receiver.good()
                    if counter is not None and counter.stdout is not None:
                        counted = int(counter.stdout.read())
                        if counted != size:
                            raise BenchError(f"{tool.name}: {counted} of {size} bytes came through")
                    wall = time.monotonic() - begun
            return sent.cpu + received.cpu, wall
        finally:
            for helper in (feeder, counter):
                if helper is not None:
                    helper.kill()
                    helper.wait()
                    if helper.stdout is not None:
                        helper.stdout.close()


def measure(tools: list[Tool], size: int, rounds: int) -> dict[str, dict[str, tuple[float, float]]]:
    """By set-up and tool: CPU seconds and wall seconds per gigabyte, medians over the rounds, less those of an empty run."""
    full = {way: {tool.name: Costs() for tool in tools} for way in ("file", "pipe")}
    empty = {way: {tool.name: Costs() for tool in tools} for way in ("file", "pipe")}
    with lines_file(size) as big, lines_file(0) as nothing:
        for number in range(rounds):
            for way in ("file", "pipe"):
                for tool in tools:
                    for source, costs in ((nothing, empty), (big, full)):
                        cpu, wall = one_run(tool, source, way == "pipe")
                        costs[way][tool.name].cpu.append(cpu)
                        costs[way][tool.name].wall.append(wall)
                    last = full[way][tool.name], empty[way][tool.name]
                    progress(
                        f"throughput, round {number + 1} of {rounds}, {way}, {tool.name}: CPU {last[0].cpu[-1]:.2f} s, wall "
                        f"{last[0].wall[-1]:.2f} s (empty run: {last[1].cpu[-1]:.2f} s, {last[1].wall[-1]:.2f} s)"
                    )
    scale = GIGABYTE / size

    def net(way: str, name: str) -> tuple[float, float]:
        with_data, without = full[way][name], empty[way][name]
        return (median(with_data.cpu) - median(without.cpu)) * scale, (median(with_data.wall) - median(without.wall)) * scale

    return {way: {tool.name: net(way, tool.name) for tool in tools} for way in full}
