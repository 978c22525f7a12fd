"""A file as one transfer, beside the same file piped: what the SHA-256, the chunks and the names cost.

* `pipe`: `mysocket --peer … < FILE` into `--output FILE` of the other side; no spools.
* `/send`: the same two sides, linked; `/send FILE` is typed at the terminal of one, and it arrives in the other's --download-dir.
* `send --file`: through a service without a spool into the --download-dir of the other side, until that has acknowledged it.

All files are in memory (/dev/shm) where there is room. Times are from the start of the pipe's sender, from the return key, and
from the start of `mysocket send`, until the receiver has all; of the pipe's an empty run is taken off.
"""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench.run import BenchError, free_port, lines_file, median, process, progress
from bench.service import TWISTD

Run = Callable[[Path, Path], "Cost"]
#: Seconds in which anything is done, or is not.
FAR = 120.0


class Cost(NamedTuple):
    """Seconds of the clock, and of the processors: of all processes that took part, while it went on."""

    wall: float
    cpu: float


def _mysocket(*words: str | int | Path) -> list[str]:
    return [sys.executable, "-m", "mysocket", *map(str, words)]


@contextlib.contextmanager
def _place(room: int) -> Iterator[Path]:
    """A directory with so much room, in memory if there is."""
    shm = Path("/dev/shm")
    fits = shm.is_dir() and os.statvfs(shm).f_bavail * os.statvfs(shm).f_frsize > room + (64 << 20)
    with tempfile.TemporaryDirectory(dir=shm if fits else None, prefix="mysocket-bench-") as name:
        yield Path(name)


def _check(path: Path, source: Path) -> None:
    if path.stat().st_size != source.stat().st_size:
        raise BenchError(f"{path.stat().st_size} bytes came through of {source.stat().st_size}")


def piped(source: Path, place: Path) -> Cost:
    """The pipe."""
    port, back, out = free_port(), free_port(), place / "out"
    receive = _mysocket("-p", port, "--peer", f"127.0.0.1:{back}", "--recv-only", "--output", out)
    send = _mysocket("-p", back, "--peer", f"127.0.0.1:{port}", "--send-only")
    with process(receive, subprocess.DEVNULL, subprocess.DEVNULL) as receiver, source.open("rb") as file:
        receiver.wait_bound(port)
        begun, before = time.monotonic(), receiver.cpu_now()
        with process(send, file, subprocess.DEVNULL) as sender:
            cpu = sender.good().cpu + receiver.good().cpu - before
        found = Cost(time.monotonic() - begun, cpu)
    _check(out, source)
    return found


def sent(source: Path, place: Path) -> Cost:
    """`mysocket send --file --delivered` to a service."""
    here, hub, down = free_port(), free_port(), place / "down"
    down.mkdir()
    twistd = [*TWISTD, "-n", "--pidfile=", "--rundir", str(place), "mysocket"]
    receive = [*twistd, "--port", str(hub), "--peer", f"127.0.0.1:{here}", "--download-dir", str(down)]
    serve = [*twistd, "--port", str(here), "--peer", f"127.0.0.1:{hub}"]
    nothing = subprocess.DEVNULL
    with _at_home(place), process(receive, nothing, nothing) as receiver, process(serve, nothing, nothing) as service:
        for one in (receiver, service):
            one.wait_said("linked with")
        begun, before = time.monotonic(), receiver.cpu_now() + service.cpu_now()
        with process(_mysocket("send", "--port", here, "--file", source, "--delivered"), nothing, nothing) as client:
            cpu = client.good().cpu
        found = Cost(time.monotonic() - begun, cpu + receiver.cpu_now() + service.cpu_now() - before)
        _check(down / source.name, source)
    return found


def typed(source: Path, place: Path) -> Cost:
    """`/send FILE` at the terminal of a session."""
    here, hub, down = free_port(), free_port(), place / "down"
    down.mkdir()
    nothing = subprocess.DEVNULL
    receive = _mysocket("-p", hub, "--peer", f"127.0.0.1:{here}", "--recv-only", "-k", "--download-dir", down)
    with _at_home(place), process(receive, nothing, nothing) as receiver, _terminal() as (master, slave):
        receiver.wait_bound(hub)
        with process(_mysocket("-p", here, "--peer", f"127.0.0.1:{hub}"), slave, slave) as session:
            receiver.wait_said("linked with")
            wanted = down / source.name
            begun, before = time.monotonic(), receiver.cpu_now() + session.cpu_now()
            os.write(master, f"/send {source}\r".encode())
            while not wanted.exists():
                if time.monotonic() > begun + FAR or not session.running() or not receiver.running():
                    raise BenchError(f"/send: it does not arrive: {receiver.said()}")
                time.sleep(0.002)
            found = Cost(time.monotonic() - begun, receiver.cpu_now() + session.cpu_now() - before)
            _check(wanted, source)
    return found


@contextlib.contextmanager
def _terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal whose screen is read, and thrown away."""
    master, slave = pty.openpty()

    def read() -> None:
        with contextlib.suppress(OSError):
            while os.read(master, 65536):
                pass

    threading.Thread(target=read, daemon=True).start()
    try:
        yield master, slave
    finally:
        os.close(slave)
        os.close(master)


@contextlib.contextmanager
def _at_home(place: Path) -> Iterator[None]:
    """Control sockets and the history are not those of what else runs here, and a terminal is one of the usual kind."""
    ours = {"XDG_RUNTIME_DIR": str(place), "XDG_STATE_HOME": str(place), "TERM": "xterm-256color"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


WAYS: dict[str, Run] = {"pipe": piped, "/send": typed, "send --file": sent}


def measure(size: int, rounds: int) -> dict[str, Cost]:
    """Seconds for a file of so many bytes, by each way that works here: medians. In turns, so that the machine is the same."""
    found: dict[str, list[Cost]] = {name: [] for name in WAYS}
    empty: list[Cost] = []
    with lines_file(size) as source, lines_file(0) as nothing:
        for number in range(rounds):
            for name, run in WAYS.items():
                with _place(size) as place:
                    found[name].append(run(source, place))
                cost = found[name][-1]
                progress(f"transfer, round {number + 1} of {rounds}, {name}: {cost.wall:.2f} s, CPU {cost.cpu:.2f} s")
            with _place(0) as place:
                empty.append(piped(nothing, place))
    less = Cost(median(run.wall for run in empty), median(run.cpu for run in empty))
    costs = {name: Cost(median(run.wall for run in runs), median(run.cpu for run in runs)) for name, runs in found.items()}
    costs["pipe"] = Cost(costs["pipe"].wall - less.wall, costs["pipe"].cpu - less.cpu)
    return costs
