"""The durable mode: spool and fsync on both sides, output to a file; beside tools that promise less, on the same disk.

* `throughput`: a gigabyte of lines from a file in memory to a file on disk. socat and our memory mode write the same file without
  a sync. From each figure that of an empty run is taken off.
* `mosquitto`: mosquitto_pub -l -q 2 to mosquitto_sub -q 2, which acknowledges twice, but syncs nothing.
* `latency`: lines that come singly, 1,000 a second: from the write into the sender's stdin until they are in the output file.
  Beside it, in turns, what one fdatasync behind a write of such a line takes.
* `backlog`: a sender without a peer takes gigabytes; its memory, its restart, and the size of its file when all is delivered.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.run import BenchError, Process, free_port, lines_file, median, process, progress
from mysocket.errors import TERMINATED
from tests.support.processes import LINKED

GIGABYTE = 1_000_000_000
LINE = b"x" * 99 + b"\n"
PIECE = 200_000_000
FAR = 900.0  # seconds
IN_MODIFY = 2


def _mysocket(*words: str | int | Path) -> list[str]:
    return [sys.executable, "-m", "mysocket", *map(str, words)]


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """A directory on disk: where Python keeps its temporary files (TMPDIR)."""
    with tempfile.TemporaryDirectory(prefix="mysocket-bench-") as name:
        yield Path(name)


class Pair:
    """One way to bring a stdin into the file ``out``."""

    def __init__(self, name: str, place: Path) -> None:
        self.port, self.back = free_port(), free_port()
        self.out = place / "out"
        if name == "socat":
            self.receive = ["socat", "-u", f"TCP4-LISTEN:{self.port},bind=127.0.0.1,reuseaddr", f"CREATE:{self.out}"]
            self.send = ["socat", "-u", "-", f"TCP4:127.0.0.1:{self.port}"]
            return
        spools: list[list[str | Path]] = [["--spool", place / side] if name == "durable" else [] for side in ("a", "b")]
        here, there = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.back}"
        self.receive = _mysocket("-p", self.port, "--peer", there, "--recv-only", "--output", self.out, *spools[1])
        self.send = _mysocket("-p", self.back, "--peer", here, "--send-only", *spools[0])


# Throughput ---------------------------------------------------------------------------------------------------------------------


def _one_run(name: str, source: Path) -> tuple[float, float]:
    """CPU seconds of both processes, and wall seconds, to bring this file once to the disk."""
    with _directory() as place, source.open("rb") as file:
        pair = Pair(name, place)
        with process(pair.receive, subprocess.DEVNULL, subprocess.DEVNULL) as receiver:
            receiver.wait_bound(pair.port)
            begun = time.monotonic()
            with process(pair.send, file, subprocess.DEVNULL) as sender:
                used = sender.good().cpu + receiver.good().cpu
                wall = time.monotonic() - begun
        if pair.out.stat().st_size != source.stat().st_size:
            raise BenchError(f"{name}: {pair.out.stat().st_size} bytes came through")
    return used, wall


def throughput(size: int, rounds: int) -> dict[str, tuple[float, float]]:
    """By "durable", "memory" and "socat": CPU and wall seconds per gigabyte, medians, less those of an empty run."""
    names = ["durable", "memory", *(["socat"] if shutil.which("socat") else [])]
    full: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    empty: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with lines_file(size) as big, lines_file(0) as nothing:
        for number in range(rounds):
            for name in names:
                os.sync()  # what the one before left to be written is not this one's
                empty[name].append(_one_run(name, nothing))
                full[name].append(_one_run(name, big))
                cpu, wall = full[name][-1]
                progress(f"durable throughput, round {number + 1} of {rounds}, {name}: CPU {cpu:.2f} s, wall {wall:.2f} s")

    def net(name: str, index: int) -> float:
        return (median(run[index] for run in full[name]) - median(run[index] for run in empty[name])) * GIGABYTE / size

    return {name: (net(name, 0), net(name, 1)) for name in names}


def mosquitto(lines: int) -> float | None:
    """Messages a second from mosquitto_pub -l -q 2 to mosquitto_sub -q 2; None if they are not here."""
    server = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if server is None or not shutil.which("mosquitto_pub"):
        return None
    port = free_port()
    with _directory() as place, contextlib.ExitStack() as stack:
        # The defaults drop messages of a client that is slower than its publisher: no limit, so that all arrive.
        (place / "conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        broker = stack.enter_context(process([server, "-c", str(place / "conf")], subprocess.DEVNULL, subprocess.DEVNULL))
        broker.wait_bound(port)
        with lines_file(lines * len(LINE)) as source, source.open("rb") as file, (place / "out").open("wb") as out:
            where = ["-h", "127.0.0.1", "-p", str(port), "-t", "t", "-q", "2"]
            subscriber = ["mosquitto_sub", *where, "-C", str(lines), "-d", "-i", "s"]
            receiver = stack.enter_context(process(["stdbuf", "-o0", *subscriber], subprocess.DEVNULL, subprocess.PIPE))
            _until(receiver, b"Subscribed")
            begun = time.monotonic()
            with process(["mosquitto_pub", *where, "-l"], file, subprocess.DEVNULL) as sender:
                shutil.copyfileobj(receiver.stdout, out)
                receiver.good()
                wall = time.monotonic() - begun
                sender.good()
    progress(f"mosquitto: {lines / wall:.0f} messages a second")
    return lines / wall


def _until(program: Process, word: bytes) -> None:
    for line in program.stdout:
        if word in line:
            return
    raise BenchError(f"{program.argv} has not said {word!r}: {program.said()}")


# Latency ------------------------------------------------------------------------------------------------------------------------


class Growth:
    """Waits until a file grows (inotify(7))."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._notices = libc.inotify_init1(os.O_NONBLOCK)
        if self._notices < 0 or libc.inotify_add_watch(self._notices, os.fsencode(path), IN_MODIFY) < 0:
            raise BenchError("no inotify here")
        self._file = os.open(path, os.O_RDONLY)

    def size(self, timeout: float) -> int:
        """Bytes of the file, after a change or ``timeout`` seconds."""
        if select.select([self._notices], [], [], max(0.0, timeout))[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._notices, 65536)
        return os.fstat(self._file).st_size

    def close(self) -> None:
        os.close(self._notices)
        os.close(self._file)


def _lines_singly(count: int, rate: int) -> list[float]:
    """Seconds each line took from stdin to the output file, sorted."""
    with _directory() as place:
        pair = Pair("durable", place)
        with process(pair.receive, subprocess.DEVNULL, subprocess.DEVNULL) as receiver:
            receiver.wait_bound(pair.port)
            with process(pair.send, subprocess.PIPE, subprocess.DEVNULL) as sender:
                sender.wait_said(LINKED)
                growth = Growth(pair.out)
                written: list[float] = []
                times: list[float] = []
                begun = time.perf_counter()
                while len(times) < count:
                    due = begun + len(written) / rate
                    now = time.perf_counter()
                    if len(written) < count and now >= due:
                        written.append(time.perf_counter())
                        os.write(sender.stdin.fileno(), LINE)
                        continue
                    size = growth.size(due - now if len(written) < count else 10)
                    now = time.perf_counter()
                    times += [now - at for at in written[len(times) : size // len(LINE)]]
                    if now > begun + FAR or not sender.running():
                        raise BenchError(f"{len(times)} of {count} lines came: {sender.said()} {receiver.said()}")
                growth.close()
                sender.stdin.close()
                sender.good()
                receiver.good()
    return sorted(times)


def _syncs(count: int, rate: int) -> list[float]:
    """Seconds that fdatasync takes behind the write of one line, sorted."""
    with _directory() as place, (place / "file").open("wb", buffering=0) as file:
        times = []
        for _ in range(count):
            file.write(LINE)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
            time.sleep(1 / rate)
    return sorted(times)


def latency(count: int, rounds: int, rate: int = 1000) -> tuple[tuple[float, float], tuple[float, float]]:
    """p50 and p99 in seconds of a line, and of one fdatasync: medians over the rounds."""
    lines, syncs = [], []
    for number in range(rounds):
        syncs.append(_percentiles(_syncs(count, rate)))
        lines.append(_percentiles(_lines_singly(count, rate)))
        progress(
            f"durable latency, round {number + 1} of {rounds}: p50 {lines[-1][0] * 1e3:.2f} ms, p99 {lines[-1][1] * 1e3:.2f} ms; "
            f"fdatasync {syncs[-1][0] * 1e3:.2f} ms, {syncs[-1][1] * 1e3:.2f} ms"
        )
    return _medians(lines), _medians(syncs)


def _percentiles(times: list[float]) -> tuple[float, float]:
    return times[len(times) // 2], times[int(len(times) * 0.99)]


def _medians(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return median(one for one, _ in pairs), median(other for _, other in pairs)


# A long outage ------------------------------------------------------------------------------------------------------------------


def _own_memory(program: Process) -> int:
    """Resident bytes besides mapped files."""
    text = Path(f"/proc/{program.pid}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


def _fill(pair: Pair, file: Path, copies: int) -> int:
    """Let a sender without a peer take so many copies of a file; its highest memory."""
    cat = subprocess.Popen(["cat", *[str(file)] * copies], stdout=subprocess.PIPE)
    highest = 0
    try:
        assert cat.stdout is not None
        with process([*pair.send, "--max-spool", "16G"], cat.stdout, subprocess.DEVNULL) as sender:
            cat.stdout.close()
            begun = time.monotonic()
            while cat.poll() is None:
                highest = max(highest, _own_memory(sender))
                if time.monotonic() > begun + FAR:
                    raise BenchError(f"the backlog does not grow: {sender.said()}")
                time.sleep(0.05)
            os.kill(sender.pid, signal.SIGTERM)
            status = sender.usage(FAR).status
            if status != TERMINATED:
                raise BenchError(f"status {status}: {sender.said()}")
    finally:
        cat.kill()
        cat.wait()
    return highest


def _size(place: Path) -> int:
    return (place / "a" / "spool.mdb").stat().st_size


def _until_first_byte(pair: Pair, data: bytes) -> float:
    """Seconds from the start of a sender until a receiver that is there already has the first byte."""
    receive = _mysocket("-p", pair.port, "--peer", f"127.0.0.1:{pair.back}", "--recv-only")
    with process(receive, subprocess.DEVNULL, subprocess.PIPE) as receiver:
        receiver.wait_bound(pair.port)
        begun = time.perf_counter()
        with process(pair.send, subprocess.PIPE, subprocess.DEVNULL) as sender:
            sender.stdin.write(data)
            sender.stdin.close()
            if not os.read(receiver.stdout.fileno(), 1):
                raise BenchError(f"nothing came: {sender.said()}")
            return time.perf_counter() - begun


def backlog(size: int, rounds: int) -> tuple[int, float, float, int]:
    """Bytes of own memory while ``size`` bytes pile up; seconds of a restart with all that waiting, and with nothing; bytes of
    the spool when twice as much has piled up and is delivered."""
    copies = max(1, size // PIECE)
    with _directory() as place, lines_file(PIECE) as file:
        pair = Pair("durable", place)
        (place / "none").mkdir()
        nothing = Pair("durable", place / "none")
        highest = _fill(pair, file, copies)
        progress(f"backlog: {_size(place) / 1e6:.0f} MB in the spool, {highest / 1e6:.1f} MB of memory")
        full, empty = [], []
        for _ in range(rounds):
            empty.append(_until_first_byte(nothing, LINE))
            full.append(_until_first_byte(pair, b""))
        progress(f"restart until the first byte: {median(full):.3f} s with the backlog, {median(empty):.3f} s with none")
        _fill(pair, file, copies)
        with process(pair.receive, subprocess.DEVNULL, subprocess.DEVNULL) as receiver:
            receiver.wait_bound(pair.port)
            begun = time.monotonic()
            with process(pair.send, subprocess.DEVNULL, subprocess.DEVNULL) as sender:
                highest = max(highest, _watch(sender))
                sender.good(FAR)
                receiver.good(FAR)
        progress(
            f"drained {pair.out.stat().st_size / 1e6:.0f} MB in {time.monotonic() - begun:.0f} s; {_size(place)} bytes are left"
        )
        return highest, median(full), median(empty), _size(place)


def _watch(program: Process) -> int:
    """Its highest own memory until it ends."""
    highest, begun = 0, time.monotonic()
    while program.running() and time.monotonic() < begun + FAR:
        with contextlib.suppress(OSError):
            highest = max(highest, _own_memory(program))
        time.sleep(0.05)
    return highest
