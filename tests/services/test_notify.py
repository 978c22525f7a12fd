"""What a supervisor is told, when, and that nothing it does can hurt."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from mysocket.errors import ConnectionRefused
from mysocket.services import notify
from mysocket.services.linked import LinkService
from mysocket.services.notify import STATUS, WAITING, Notifier, channel, lives, make_notifier, status_text, watchdog_time


class Reactor(Clock):
    """A clock that runs, or does not yet."""

    running = True

    def __init__(self) -> None:
        super().__init__()
        self.when_running: list[Callable[[], object]] = []

    def callWhenRunning(self, call: Callable[[], object]) -> None:
        if self.running:
            call()
        else:
            self.when_running.append(call)


class Raw:
    """A service with nothing but what every kind has."""

    def __init__(self) -> None:
        self.on_ready: Callable[[], None] = lambda: None
        self.on_leaving: Callable[[str], None] = lambda why: None
        self.linked = False
        self.reopened = 0

    def reopen_output(self) -> None:
        self.reopened += 1


class Supervised:
    """A notifier, and what it has sent; ``room`` says how many messages more the socket takes."""

    def __init__(self, service: Any, **options: Any) -> None:
        self.reactor = Reactor()
        self.service = service
        self.sent: list[list[str]] = []
        self.room = 1000
        self.notifier = Notifier(service, self.reactor, self._send, **options)

    def _send(self, message: bytes) -> bool:
        if not self.room:
            return False
        self.room -= 1
        self.sent.append(message.decode().split("\n"))
        return True

    def take(self) -> list[list[str]]:
        sent, self.sent = self.sent, []
        return sent

    def wait(self, seconds: float, step: float = 0.125) -> None:
        self.reactor.pump([step] * round(seconds / step))


def test_the_life_of_a_service() -> None:
    one = Supervised(Raw())
    assert one.take() == [["STATUS=nobody is connected"]]
    one.service.on_ready()
    assert one.take() == [["READY=1", "STATUS=nobody is connected"]]
    one.wait(10)
    assert one.take() == []
    one.service.linked = True
    one.wait(1)
    assert one.take() == [["STATUS=connected"]]
    one.service.on_leaving("SIGTERM")
    one.wait(10)
    assert one.take() == [["STOPPING=1", "STATUS=leaving: SIGTERM"]]


def test_ready_waits_for_the_reactor() -> None:
    one = Supervised(Raw())
    one.reactor.running = False
    one.service.on_ready()
    assert not any("READY=1" in message for message in one.take())
    one.reactor.when_running[0]()
    assert one.take() == [["READY=1", "STATUS=nobody is connected"]]


def test_who_leaves_is_not_ready() -> None:
    one = Supervised(Raw())
    one.reactor.running = False
    one.service.on_ready()
    one.service.on_leaving("could not start")
    one.reactor.when_running[0]()
    one.notifier.reload()
    assert not any("READY=1" in message or "RELOADING=1" in message for message in one.sent)


def test_a_twistd_that_has_forked_says_which_process_is_meant() -> None:
    one = Supervised(Raw(), main_pid=77)
    one.service.on_ready()
    assert one.take()[-1] == ["READY=1", "STATUS=nobody is connected", "MAINPID=77"]


def test_the_status_is_told_once_a_second_at_most() -> None:
    one = Supervised(Raw())
    one.take()
    for step in range(80):
        one.service.linked = step % 3 == 0
        one.reactor.advance(0.0625)
    assert 1 <= len(one.take()) <= 5


def test_the_reason_is_one_short_line() -> None:
    one = Supervised(Raw())
    one.take()
    one.service.on_leaving("the peer\nREADY=1\nsays " + "x" * 10_000)
    (message,) = one.take()
    assert len(message) == 2 and message[0] == "STOPPING=1"
    assert message[1].startswith("STATUS=leaving: the peer\\x0aREADY=1") and len(message[1]) <= STATUS + len("STATUS=")


def test_reloading() -> None:
    one = Supervised(Raw())
    one.take()
    before = time.monotonic()
    one.notifier.reload()
    begin, end = one.take()
    named, _, microseconds = begin[1].partition("=")
    assert begin[0] == "RELOADING=1" and named == "MONOTONIC_USEC" and end == ["READY=1"]
    assert int(before * 1e6) <= int(microseconds) <= time.monotonic() * 1e6
    assert one.service.reopened == 1


# The watchdog -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.25, 1.5, 2.0, 3.0, 60.0])
def test_the_watchdog_is_fed_twice_in_its_time(limit: float) -> None:
    one = Supervised(Raw(), watchdog=limit)
    times = []
    for step in range(round(limit * 5 / 0.125)):
        times += [step * 0.125 for message in one.take() if message == ["WATCHDOG=1"]]
        one.reactor.advance(0.125)
    gaps = [after - before for before, after in pairwise(times)]
    assert len(times) >= 9 and max(gaps) <= limit / 2 + 0.125


def test_a_watchdog_that_nobody_asked_for_is_not_fed() -> None:
    one = Supervised(Raw())
    one.wait(100)
    assert not any("WATCHDOG=1" in message for message in one.sent)


def test_it_is_fed_while_the_service_leaves() -> None:
    one = Supervised(Raw(), watchdog=2.0)
    one.service.on_leaving("SIGTERM")
    one.take()
    one.wait(4)
    assert one.take().count(["WATCHDOG=1"]) >= 3


def test_it_is_not_fed_when_the_spool_has_lost_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Supervised(Raw(), watchdog=2.0)
    alive = [True]
    monkeypatch.setattr(notify, "lives", lambda service: alive[0])
    one.wait(4)
    assert one.take().count(["WATCHDOG=1"]) >= 3
    alive[0] = False
    one.wait(10)
    assert ["WATCHDOG=1"] not in one.take()


class Fake(LinkService):
    """A link service that was never made: what the notifier looks at."""

    def __init__(self) -> None:
        self.node = Any_(links={})
        self.attempts = Any_(error=None)
        self.full = ""
        self.waiting = 0
        self.kept: Any = None

    @property
    def spool(self) -> Any:
        return self.kept

    def undelivered(self) -> int:
        return self.waiting


class Any_:
    def __init__(self, **facts: Any) -> None:
        self.__dict__.update(facts)


def test_a_service_lives_while_its_spool_has_its_thread() -> None:
    one = Fake()
    assert lives(one)
    one.kept = Any_(abandoned=False)
    assert lives(one)
    one.kept.abandoned = True
    assert not lives(one)


def test_the_status_line_of_links() -> None:
    one = Fake()
    assert status_text(one) == "not linked"
    one.attempts.error = ConnectionRefused(peer="hub:9001")
    assert status_text(one).startswith("not linked: hub:9001 refused the connection: nothing listens there yet.")
    one.waiting = 12
    one.full = "/spool"
    assert status_text(one).startswith("the disk of /spool is full; not linked") and "; 12 bytes wait" in status_text(one)
    one.full = ""
    one.node.links = {n: Any_(linked=n > 1, peer_text=f"peer{n}") for n in range(5)}
    assert status_text(one) == "linked with peer2 and 2 more; 12 bytes wait to be acknowledged"
    one.node.links = {1: Any_(linked=True, peer_text="x\n" * 1000)}
    assert len(status_text(one)) <= STATUS and "\n" not in status_text(one)


# The socket ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["path", "abstract"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    text = str(tmp_path / "notify") if request.param == "path" else f"@mysocket-test-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("\0" + text[1:] if text.startswith("@") else text)
        ear.settimeout(10)
        yield text, ear


def test_what_is_sent_arrives(place: tuple[str, socket.socket]) -> None:
    text, ear = place
    send = channel(text)
    assert send is not None and send(b"READY=1\nSTATUS=x")
    assert ear.recv(100) == b"READY=1\nSTATUS=x"


def test_a_full_socket_is_waited_for(place: tuple[str, socket.socket]) -> None:
    text, ear = place
    send = channel(text)
    assert send is not None
    filled = 0
    while send(b"x"):
        filled += 1
    assert 0 < filled < 100_000
    for _ in range(filled):
        assert ear.recv(10) == b"x"
    assert send(b"y")


def test_what_must_be_known_is_said_when_there_is_room_again() -> None:
    one = Supervised(Raw())
    one.take()
    one.room = 0
    one.service.on_ready()
    one.service.linked = True
    one.notifier.reload()
    one.wait(10)
    assert one.take() == []
    one.room = 1000
    one.notifier.reload()  # behind what waits, though there is room
    assert one.take() == []
    one.wait(1)
    sent = one.take()
    assert [message[0] for message in sent[3:5]] == ["RELOADING=1", "READY=1"]
    del sent[3:5]
    assert [message[0] for message in sent] == ["READY=1", "RELOADING=1", "READY=1", "STATUS=connected"]
    one.room = 0
    for _ in range(3 * WAITING):
        one.notifier.reload()
    one.service.on_leaving("SIGTERM")
    one.room = 1000
    one.wait(1)
    assert len(one.sent) <= WAITING + 1 and one.sent[WAITING - 1][0] == "STOPPING=1"


@pytest.mark.parametrize("text", ["", "@", "/", "relative", "vsock:2:1234", "x" * 300, "\ud800"])
def test_a_name_that_is_none_is_no_supervisor(text: str) -> None:
    assert channel(text) is None
    assert make_notifier(Raw(), Reactor(), {"NOTIFY_SOCKET": text}) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["/nowhere/at/all", "/" + "x" * 300, "@" + "x" * 300, "/dev/null", "/\ud800", "/\0"])
def test_a_socket_that_is_not_there_does_not_hurt(text: str) -> None:
    send = channel(text)
    assert send is not None and send(b"READY=1")


def test_a_socket_that_goes_does_not_hurt(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(path))
        send = channel(str(path))
        assert send is not None and send(b"x")
    assert send(b"x")
    path.unlink()
    assert send(b"x")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "\u0663"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({"WATCHDOG_PID": "42"}, None),
    ],
)
def test_the_time_of_the_watchdog(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_time(environ, 42) == seconds
