"""A real hub that is killed and started again, and some hundred real senders that come back to it.

The senders are links of one process, `python -m bench.comeback PORT COUNT ADDRESSES`: it links them, and prints "linked"; when it
reads a line, it waits until all are linked again, and prints what it has seen as JSON; when it reads another one, each sends a
message, and when all are acknowledged, it says so. What the hub has used is read from the kernel's accounting.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher

import mysocket
from bench.driver import TOGETHER
from bench.run import BenchError, Process, free_port, process, progress, watched
from bench.senders import _settled
from mysocket.carriers.admission import MAX_STRANGERS_PER_ADDRESS
from tests.support.processes import LISTENING


class Comeback(NamedTuple):
    """What was seen. Times are seconds since the new hub listens."""

    senders: int
    attempts: int
    #: Attempts in the worst second from then on.
    peak: int
    half: float
    last: float
    #: CPU seconds of the new hub, from when it listened until all was quiet.
    cpu: float


def measure(count: int, *, addresses: int = 200, away: float = 2.0) -> Comeback:
    """Link so many senders, from so many addresses, kill the hub, start it ``away`` seconds later, and wait for all of them."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="mysocket-bench-") as place, contextlib.ExitStack() as stack:
        output = Path(place) / "all"
        with hub(port, Path(place)) as first:
            words = [sys.executable, "-m", "bench.comeback", str(port), str(count), str(addresses)]
            senders = stack.enter_context(process(words, subprocess.PIPE, subprocess.PIPE))
            with watched(senders):
                if senders.stdout.readline() != b"linked\n":
                    raise BenchError(f"the senders could not link: {senders.said()}")
            first.kill()
        time.sleep(away)
        with hub(port, Path(place)) as second:
            begun, used = time.monotonic(), second.cpu_now()
            seen = json.loads(ask(senders))
            used = _settled(second) - used
            ask(senders)
        lines = output.read_text().split()
        if sorted(lines, key=int) != [str(number) for number in range(count)]:
            raise BenchError(f"the output has {len(lines)} lines, {len(set(lines))} different ones, of {count}")
    back = sorted(at - begun for at in seen["back"])
    seconds = Counter(int(at - begun) for at in seen["attempts"] if at >= begun)
    found = Comeback(count, len(seen["attempts"]), max(seconds.values(), default=0), back[count // 2], back[-1], used)
    progress(
        f"comeback: {count} senders from {addresses} addresses: {found.attempts} attempts, half back after {found.half:.2f} s, "
        f"all after {found.last:.2f} s, {used / count * 1e6:.0f} µs of the hub's CPU each"
    )
    return found


def ask(senders: Process) -> bytes:
    """Let the senders go on; what they say when they have."""
    senders.stdin.write(b"go on\n")
    senders.stdin.flush()
    with watched(senders):
        answer = senders.stdout.readline()
    if not answer:
        raise BenchError(f"the senders did not come back, or not all: {senders.said()}")
    return answer


def turned_away(count: int) -> float:
    """CPU seconds of a hub for a connection that is one too many."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mysocket-bench-")))
        one = stack.enter_context(hub(0, place))
        port = int(one.wait_said(LISTENING)[2])

        def dial() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))

        for _ in range(MAX_STRANGERS_PER_ADDRESS):
            dial()
        begun = _settled(one)
        for _ in range(0, count, 100):
            for connection in [dial() for _ in range(100)]:
                connection.recv(1)
                connection.close()
        used = (_settled(one) - begun) / count
    progress(f"turned away: {used * 1e6:.0f} µs of the hub's CPU")
    return used


@contextlib.contextmanager
def hub(port: int, place: Path) -> Iterator[Process]:
    """One that keeps what it must, and listens."""
    words = ["-p", str(port), "--recv-only", "-k", "--spool", str(place / "spool"), "--output", str(place / "all")]
    with process([sys.executable, "-m", "mysocket", *words], subprocess.DEVNULL, subprocess.DEVNULL) as running:
        running.wait_said(LISTENING)
        yield running


async def senders(reactor: Any, port: str, count: str, addresses: str) -> None:
    """Link, lose the hub, come back, each with one message."""
    attempts: list[float] = []

    def look(event: dict[str, Any]) -> None:
        # What ClientService says of each: the retry comes after the delay.
        if "attempt" in event and "delay" in event:
            attempts.append(time.monotonic() + event["delay"])

    peers: list[mysocket.Peer] = []
    while len(peers) < int(count):
        group = range(len(peers), min(len(peers) + TOGETHER, int(count)))
        linking = [
            mysocket.connect(reactor, f"127.0.0.1:{port}", bind=f"127.0.1.{number % int(addresses) + 1}", name=str(number))
            for number in group
        ]
        peers += await gatherResults(linking)
    globalLogPublisher.addObserver(look)  # type: ignore[arg-type]
    print("linked", flush=True)
    await deferToThread(sys.stdin.readline)
    back: list[float] = []
    await gatherResults([peer.when_linked().addCallback(lambda _: back.append(time.monotonic())) for peer in peers])
    print(json.dumps({"attempts": attempts, "back": back}), flush=True)
    await deferToThread(sys.stdin.readline)
    await gatherResults([peer.send(str(number).encode()) for number, peer in enumerate(peers)])
    print("sent", flush=True)
    await deferToThread(sys.stdin.readline)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(senders(reactor, *sys.argv[1:])))
