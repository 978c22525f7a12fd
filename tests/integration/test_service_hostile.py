"""Many clients that mean no good: the service stays small, and the others are served."""

from __future__ import annotations

import json
import selectors
import time
from collections.abc import Callable, Iterator
from itertools import repeat

import pytest

from mysocket.control.protocol import MAX_LINE, encode, piece_line
from mysocket.core.batch import MAX_PAYLOAD, Flag, Kind, Piece
from tests.support.processes import DEVNULL, TIMEOUT, free_port, mysocket
from tests.support.service import Client, Service, Yard, yard

__all__ = ["yard"]  # the fixture, used by its name below

CLIENTS = 100
#: Bytes that the service may have beyond what it has when it is idle.
GROWTH = 32 * 1024 * 1024


class Crowd:
    """Clients that each push what a generator gives, as fast as it is taken.

    :ivar worst: the most memory the service has had.
    """

    def __init__(self, yard: Yard, service: Service) -> None:
        self.yard = yard
        self.service = service
        # What is once used is part of being idle.
        yard.call("send", *service.where, "warm")
        service.status()
        self.idle = self.worst = service.memory
        self.slowest = 0.0
        self.pushed = 0

    def run(self, make: Callable[[int], tuple[Client, Iterator[bytes]]], seconds: float = 5.0) -> list[Client]:
        """Let them push until all are cut off, or for so long. The clients are given back; who reads them is told why."""
        crowd = [make(number) for number in range(CLIENTS)]
        left = {client: [data, b""] for client, data in crowd}
        selector = selectors.DefaultSelector()
        for client in left:
            selector.register(client, selectors.EVENT_WRITE)
        deadline, look = time.monotonic() + seconds, 0.0
        while left and time.monotonic() < deadline:
            for key, _ in selector.select(0.1):
                client: Client = key.fileobj  # type: ignore[assignment]
                state = left[client]
                rest = state[1] or next(state[0], b"")  # type: ignore[call-overload]
                sent = client.push(rest) if rest else -1
                if sent < 0:
                    selector.unregister(client)
                    del left[client]
                else:
                    self.pushed += sent
                    state[1] = rest[sent:]
            if time.monotonic() > look:
                look = time.monotonic() + 0.5
                self.measure()
        self.measure()
        selector.close()
        return [client for client, _ in crowd]

    def measure(self) -> None:
        """The others are served meanwhile."""
        began = time.monotonic()
        with Client(self.service) as client:
            client.ask({"do": "send", "id": f"{time.monotonic_ns():032x}"})
            client.say({"piece": 1, "flags": 0, "text": "a good one\n"})
            while client.hear().get("accepted") != 11:
                pass
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.worst = max(self.worst, self.service.memory)

    def check(self) -> str:
        growth = self.worst - self.idle
        assert growth < GROWTH, f"{growth / 1e6:.1f} MB more than when idle, behind {self.pushed / 1e6:.0f} MB"
        assert self.slowest < TIMEOUT / 2
        self.yard.call("send", *self.service.where, "all is well")
        assert "Traceback" not in self.service.log, self.service.log
        return f"{growth / 1e6:.1f} MB more, {self.pushed / 1e6:.0f} MB pushed, the slowest answer after {self.slowest:.2f} s"


def requests(number: int) -> bytes:
    return encode({"do": "send", "id": f"{number:032x}"})


def piece(size: int, flags: int = 0) -> bytes:
    payload = b"x" * size if flags else b"x" * (size - 1) + b"\n"
    return encode(piece_line(Piece(Kind.LINES, flags, payload)))


KINDS: dict[str, Callable[[int], Iterator[bytes]]] = {
    "garbage": lambda number: iter([bytes(range(256)) * 256] * 100),
    "lines of 100 MB": lambda number: iter([b"x" * 1_000_000] * 100),
    "lines of 100 MB behind a question": lambda number: iter([requests(number), *[b"x" * 1_000_000] * 100]),
    "lines that do not end": lambda number: iter([requests(number), b"x" * (MAX_LINE - 100), *repeat(b"", 1)]),
    "lines that take much room": lambda number: iter([b'{"do":"status","x":[' + b"[],[]," * 160_000 + b"[]]}\n"] * 50),
    "many questions": lambda number: iter([encode({"do": "status"}) * 900] * 1000),
    "empty lines behind a question": lambda number: iter([encode({"do": "status"}), b"\n" * 10_000_000]),
    "halves of long messages": lambda number: iter([requests(number), *[piece(50_000, Flag.MORE)] * 5]),
    "small pieces": lambda number: iter([requests(number), piece(2) * 100_000]),
    "large pieces": lambda number: iter([requests(number), *[piece(MAX_PAYLOAD)] * 20]),
}


@pytest.fixture
def service(yard: Yard) -> Service:
    return yard.service("--peer", f"127.0.0.1:{free_port()}", "--spool", "SPOOL", "--max-spool", "4M")


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_who_send(yard: Yard, service: Service, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    crowd = Crowd(yard, service)
    if "pieces" in kind:
        crowd.measure = lambda: setattr(crowd, "worst", max(crowd.worst, service.memory))  # type: ignore[method-assign]
    clients = crowd.run(lambda number: (Client(service), KINDS[kind](number + 1)))
    told = []
    if kind in ("garbage", "lines of 100 MB", "lines of 100 MB behind a question"):
        for client in clients:
            heard = client.hear_all()
            told += [line["error"] for line in heard if "error" in line]
        assert len(told) == CLIENTS
    for client in clients:
        client.close()
    if "pieces" not in kind:
        crowd.measure()
        with capsys.disabled():
            print(f"\n{kind}: {crowd.check()}; {told[:1]}")
    else:
        assert crowd.worst - crowd.idle < GROWTH, (crowd.worst - crowd.idle) / 1e6
        with capsys.disabled():
            print(f"\n{kind}: {(crowd.worst - crowd.idle) / 1e6:.1f} MB more, {crowd.pushed / 1e6:.0f} MB pushed")


@pytest.mark.parametrize("name", [None, "name"])
def test_a_hundred_who_attach_and_do_not_read(yard: Yard, name: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    service = yard.service("--port", port, "--spool", "SPOOL")
    with mysocket("--peer", f"127.0.0.1:{port}", stdin=(b"x" * 999 + b"\n") * 30_000, stdout=DEVNULL) as sender:
        sender.wait_status(0)
    service.restart()
    yard.call("send", "--port", port, "warm")
    crowd = Crowd(yard, service)

    def make(number: int) -> tuple[Client, Iterator[bytes]]:
        client = Client(service)
        client.say({"do": "attach", "as": None if name is None else f"{name}{number}", "from": "oldest"})
        return client, iter([])

    clients = crowd.run(make)
    for _ in range(10):
        crowd.measure()
    consumer = yard.mysocket("attach", "--recv-only", "--as", "good", *service.where)
    consumer.wait_output((b"x" * 999 + b"\n") * 30_000)
    crowd.measure()
    with capsys.disabled():
        print(f"\nattached: {crowd.check()}")
    for client in clients:
        client.close()
    assert json.dumps(service.status())
