"""From the start of the process until it says that it listens, beside a process that imports Twisted's reactor and says so.

Both are fresh processes with warm byte code, each measured to its first line on stderr, in turns.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from bench.run import BenchError, environment, median, progress
from bench.tools import ROOT
from tests.support.processes import LISTENING_ANYHOW

REACTOR = [sys.executable, "-c", "import sys; from twisted.internet import reactor; print('here', file=sys.stderr, flush=True)"]
OURS = [sys.executable, "-m", "mysocket", "-p", "0", "--recv-only"]


def until_it_says(argv: list[str], word: str) -> float:
    """Seconds from the start of this command until the first line with this word."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT, env=environment()
    )
    assert process.stderr is not None
    alarm = threading.Timer(60, process.kill)
    alarm.start()
    try:
        for line in process.stderr:
            if word.encode() in line:
                return time.perf_counter() - begun
        raise BenchError(f"{argv} has not said {word!r}")
    finally:
        alarm.cancel()
        process.kill()
        process.wait()
        process.stderr.close()


def measure(rounds: int) -> tuple[float, float]:
    """Seconds until MySocket listens, and until the reactor is imported: medians."""
    ours, reactor = [], []
    for number in range(rounds + 1):
        pair = until_it_says(OURS, LISTENING_ANYHOW), until_it_says(REACTOR, "here")
        if number:  # the first one wrote the byte code and warmed the cache
            ours.append(pair[0])
            reactor.append(pair[1])
    progress(f"start: {median(ours):.3f} s, reactor {median(reactor):.3f} s")
    return median(ours), median(reactor)
