"""A service and its clients: two services that are linked, each with a spool, started by twistd in the foreground.

* `idle`: CPU and memory of a linked service that has nothing to do.
* `start`: `mysocket send` of one message, from its start to its end, beside `python -c pass`, in turns.
* `singly`: messages a second, each sent by a process of its own, on every core; by `mysocket send`, and by `nc -U`, which says
  what docs/control.md has.
* `stream`: lines a second from the stdin of one `mysocket send --delivered`, until the other side has them.
* `consume`: lines a second out of the inbox, by `mysocket attach --recv-only`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench.run import BenchError, Process, environment, free_port, lines_file, median, process, progress

TWISTD = [sys.executable, "-c", "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"]
LINE = 100


class Idle(NamedTuple):
    """Shares of a core, and bytes."""

    cpu: float
    memory: int


class Services:
    """Two linked services; ``here`` sends and ``hub`` receives."""

    def __init__(self, here: Process, place: Path) -> None:
        self.here = here
        self.place = place

    def mysocket(self, *words: str) -> list[str]:
        """A command for one of them: its name stands where its spool is named."""
        return [
            sys.executable,
            "-m",
            "mysocket",
            *(str(self.place / word) if word in ("here", "hub") else word for word in words),
        ]

    def run(self, *words: str, stdin: int = subprocess.DEVNULL) -> str:
        """Run a command to its end; what it prints."""
        done = subprocess.run(
            self.mysocket(*words), stdin=stdin, capture_output=True, text=True, timeout=120, env=environment(), cwd=self.place
        )
        if done.returncode:
            raise BenchError(f"mysocket {' '.join(words)}: status {done.returncode}: {done.stderr.strip()}")
        return done.stdout


@contextlib.contextmanager
def services() -> Iterator[Services]:
    """Started, and linked."""
    ports = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="mysocket-bench-") as name, contextlib.ExitStack() as stack:
        place = Path(name)
        stack.enter_context(_at_run_time(place))
        running = []
        for spool, port, peer in (("here", *ports), ("hub", *reversed(ports))):
            where = ["--port", str(port), "--peer", f"127.0.0.1:{peer}", "--spool", str(place / spool)]
            command = [*TWISTD, "-n", "--pidfile=", "--rundir", name, "mysocket", *where]
            running.append(stack.enter_context(process(command, subprocess.DEVNULL, subprocess.DEVNULL)))
        for one in running:
            one.wait_said("linked with")
        yield Services(running[0], place)


@contextlib.contextmanager
def _at_run_time(place: Path) -> Iterator[None]:
    """Control sockets of what is measured are not those of what else runs here."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(place)
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before


def idle(pair: Services, seconds: float) -> Idle:
    """A linked service, with nothing to do for so long."""
    before = pair.here.cpu_now()
    time.sleep(seconds)
    found = Idle((pair.here.cpu_now() - before) / seconds, pair.here.memory()[0])
    progress(f"idle for {seconds:g} s: {found.cpu:.2%} of a core, {found.memory / 1e6:.1f} MB")
    return found


def start(pair: Services, rounds: int) -> tuple[float, float]:
    """Seconds from start to end of `mysocket send`, and of `python -c pass`: medians."""
    ours, bare = [], []
    for number in range(rounds + 1):
        each = _timed(pair.mysocket("send", "--spool", "here", "hello")), _timed([sys.executable, "-c", "pass"])
        if number:  # the first one wrote the byte code and warmed the cache
            ours.append(each[0])
            bare.append(each[1])
    progress(f"send: {median(ours) * 1e3:.1f} ms; python -c pass: {median(bare) * 1e3:.1f} ms")
    return median(ours), median(bare)


def _timed(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, env=environment())
    return time.perf_counter() - begun


def singly(pair: Services, messages: int) -> dict[str, float]:
    """Messages a second, one process each, on every core; by what sends them."""
    found = {
        "mysocket send": _side_by_side(
            messages // 10, lambda number: _say(pair.mysocket("send", "--spool", "here", str(number)))
        ),
        "python -c pass": _side_by_side(messages // 10, lambda number: _say([sys.executable, "-c", "pass"])),
    }
    if shutil.which("nc"):
        nc = ["nc", "-N", "-U", str(pair.place / "here" / "control")]
        found["nc -U"] = _side_by_side(messages, lambda number: _say(nc, _request(number)))
    for name, rate in found.items():
        progress(f"one process each, {name}: {rate:.0f} messages/s")
    return found


def _request(number: int) -> bytes:
    lines = [{"do": "send", "id": os.urandom(16).hex()}, {"piece": 1, "flags": 0, "text": f"{number}\n"}, {"end": True}]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _say(command: list[str], data: bytes = b"") -> None:
    done = subprocess.run(command, input=data, capture_output=True, timeout=60, env=environment())
    if done.returncode or data and b'"ended":true' not in done.stdout:
        raise BenchError(f"{' '.join(command)}: status {done.returncode}: {(done.stderr + done.stdout).decode()}")


def _side_by_side(count: int, run: Callable[[int], None]) -> float:
    """Runs a second, as many at a time as there are cores, and one more."""
    numbers = iter(range(count))
    lock, problems = threading.Lock(), []

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                run(number)
            except (BenchError, OSError, subprocess.SubprocessError) as problem:
                problems.append(problem)
                return

    workers = [threading.Thread(target=work) for _ in range(len(os.sched_getaffinity(0)) + 1)]
    begun = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if problems:
        raise BenchError(str(problems[0]))
    return count / (time.monotonic() - begun)


def stream(pair: Services, lines: int) -> float:
    """Lines of 100 bytes a second, from one stdin until the other side has them."""
    with lines_file(lines * LINE) as source, source.open("rb") as file:
        begun = time.monotonic()
        pair.run("send", "--spool", "here", "--delivered", stdin=file.fileno())
        rate = lines / (time.monotonic() - begun)
    progress(f"one stdin: {rate:.0f} lines/s")
    return rate


def consume(pair: Services) -> float:
    """Lines of 100 bytes a second, out of the inbox into a pipe."""
    kept = json.loads(pair.run("status", "--json", "--spool", "hub"))["inbox"]["kept_bytes"]
    begun, size = time.monotonic(), 0
    with process(pair.mysocket("attach", "--recv-only", "--spool", "hub"), subprocess.DEVNULL, subprocess.PIPE) as reader:
        while size < kept:
            data = os.read(reader.stdout.fileno(), 1 << 16)
            if not data:
                raise BenchError(f"attach has ended: {reader.said()}")
            size += len(data)
    rate = size / LINE / (time.monotonic() - begun)
    progress(f"out of the inbox: {rate:.0f} lines/s")
    return rate
