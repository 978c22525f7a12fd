"""Looking names up: one thread a name, whatever `getaddrinfo` does, and nobody who waits for one that hangs."""

from __future__ import annotations

import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IHostnameResolver
from zope.interface.verify import verifyObject

from mysocket.carriers.resolve import DaemonResolver, Found
from tests.support.processes import LISTENING, PIPE, Program

#: Seconds that only a test that hangs meets.
DEADLINE = 20

FOUR, SIX = socket.AF_INET, socket.AF_INET6
Row = tuple[int, int, int, str, tuple[Any, ...]]


def four(address: str) -> Row:
    return (FOUR, socket.SOCK_STREAM, 6, "", (address, 0))


def six(address: str) -> Row:
    return (SIX, socket.SOCK_STREAM, 6, "", (address, 0, 0, 0))


class Names:
    """A reactor that turns when it is told to, and a `getaddrinfo` that answers when it is told to, in one."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.daemons: list[bool] = []
        self.resolver = DaemonResolver(self, self._getaddrinfo)  # type: ignore[arg-type]
        self._calls: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._answers: dict[str, queue.SimpleQueue[Any]] = {}

    def answer(self, name: str, answer: list[Row] | BaseException) -> None:
        """Let one look-up of this name come to its end, also one that has not begun."""
        self._of(name).put(answer)

    def _of(self, name: str) -> queue.SimpleQueue[Any]:
        return self._answers.setdefault(name, queue.SimpleQueue())

    def _getaddrinfo(self, host: str, *rest: Any) -> list[Row]:
        self.asked.append(host)
        self.daemons.append(threading.current_thread().daemon)
        found = self._of(host).get(timeout=DEADLINE)
        if isinstance(found, BaseException):
            raise found
        return list(found)

    def callFromThread(self, call: Callable[..., None], *arguments: Any) -> None:
        self._calls.put((call, arguments))

    def turn(self) -> None:
        """Run what one thread has handed over, when it has."""
        call, arguments = self._calls.get(timeout=DEADLINE)
        call(*arguments)

    def ask(self, name: str) -> list[Found]:
        """Look up; a list that will hold the answer."""
        answers: list[Found] = []
        self.resolver.look_up(name).addCallback(answers.append)
        return answers


class Receiver:
    """Keeps what a resolution says, in order."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def resolutionBegan(self, resolution: Any) -> None:
        self.said.append(resolution.name)

    def addressResolved(self, address: IAddress) -> None:
        self.said.append(address)

    def resolutionComplete(self) -> None:
        self.said.append("complete")


@pytest.fixture
def names() -> Names:
    return Names()


def test_every_address_comes_once_and_in_order(names: Names) -> None:
    unix = (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", ("/tmp/x", 0))
    names.answer("a.example", [six("2001:db8::1"), four("192.0.2.1"), unix, four("192.0.2.1"), six("2001:db8::2")])
    found = names.ask("a.example")
    assert found == []
    names.turn()
    assert found == [[(SIX, "2001:db8::1"), (FOUR, "192.0.2.1"), (SIX, "2001:db8::2")]]


def test_who_asks_while_a_name_is_being_looked_up_gets_the_same_answer(names: Names) -> None:
    answers = [names.ask("a.example") for _ in range(3)]
    names.answer("a.example", [four("192.0.2.1")])
    names.turn()
    assert names.asked == ["a.example"] and answers == [[[(FOUR, "192.0.2.1")]]] * 3


def test_who_asks_after_the_answer_gets_a_new_one(names: Names) -> None:
    for address in ("192.0.2.1", "192.0.2.2"):
        names.answer("a.example", [four(address)])
        found = names.ask("a.example")
        names.turn()
        assert found == [[(FOUR, address)]]
    assert names.asked == ["a.example"] * 2


def test_a_name_that_hangs_holds_no_other(names: Names) -> None:
    hangs, other = names.ask("hangs.example"), names.ask("b.example")
    names.answer("b.example", [four("192.0.2.2")])
    names.turn()
    assert hangs == [] and other == [[(FOUR, "192.0.2.2")]]
    names.answer("hangs.example", [four("192.0.2.1")])
    names.turn()
    assert hangs == [[(FOUR, "192.0.2.1")]]


def test_the_program_does_not_wait_for_a_look_up_when_it_ends(names: Names) -> None:
    names.answer("a.example", [])
    names.ask("a.example")
    names.turn()
    assert names.daemons == [True]


@pytest.mark.parametrize(
    "problem",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        OSError(24, "Too many open files"),
        UnicodeError("label too long"),
        ValueError("embedded null byte"),
        RuntimeError("something else"),
    ],
    ids=repr,
)
def test_a_look_up_that_fails_finds_nothing_and_the_next_one_is_a_new_one(names: Names, problem: Exception) -> None:
    names.answer("a.example", problem)
    first, second = names.ask("a.example"), names.ask("a.example")
    names.turn()
    assert first == second == [[]]
    names.answer("a.example", [four("192.0.2.1")])
    found = names.ask("a.example")
    names.turn()
    assert found == [[(FOUR, "192.0.2.1")]]


@pytest.mark.parametrize(
    ("types", "wanted"),
    [
        (None, [IPv6Address("TCP", "2001:db8::1", 9), IPv4Address("TCP", "192.0.2.1", 9)]),
        ([IPv4Address, IPv6Address], [IPv6Address("TCP", "2001:db8::1", 9), IPv4Address("TCP", "192.0.2.1", 9)]),
        ([IPv4Address], [IPv4Address("TCP", "192.0.2.1", 9)]),
        ([IPv6Address], [IPv6Address("TCP", "2001:db8::1", 9)]),
    ],
)
def test_twisted_gets_the_kinds_of_addresses_it_asks_for(names: Names, types: Any, wanted: list[IAddress]) -> None:
    assert verifyObject(IHostnameResolver, names.resolver)
    names.answer("a.example", [six("2001:db8::1"), four("192.0.2.1")])
    receiver: Any = Receiver()
    resolution = names.resolver.resolveHostName(receiver, "a.example", 9, types, "TCP")
    assert receiver.said == ["a.example"] and resolution.name == "a.example"
    names.turn()
    assert receiver.said == ["a.example", *wanted, "complete"]


def test_twisted_is_told_that_a_name_is_unknown_and_gets_udp_addresses(names: Names) -> None:
    unknown, known = Receiver(), Receiver()
    for receiver, answer in ((unknown, socket.gaierror()), (known, [four("192.0.2.1")])):
        names.answer("a.example", answer)  # type: ignore[arg-type]
        made: Any = receiver
        names.resolver.resolveHostName(made, "a.example", 5, transportSemantics="UDP")
        names.turn()
    assert unknown.said == ["a.example", "complete"]
    assert known.said == ["a.example", IPv4Address("UDP", "192.0.2.1", 5), "complete"]


# The program, while look-ups hang -----------------------------------------------------------------------------------------------

HANGING = """\
import os, socket, sys, threading

def hang(host, port, family=0, type=0, proto=0, flags=0):
    if flags & socket.AI_NUMERICHOST:  # an address is no name: nobody is asked
        return real(host, port, family, type, proto, flags)
    os.write(2, b"a look-up of %s has begun\\n" % host.encode())
    threading.Event().wait()

real, socket.getaddrinfo = socket.getaddrinfo, hang
from mysocket.cli import main
sys.exit(main())
"""
BEGUN = "a look-up of nowhere.example has begun"


def hanging(*arguments: str, stdin: bytes | int = PIPE) -> Program:
    """The program, on a machine on which every look-up hangs for ever."""
    return Program([sys.executable, "-c", HANGING, "--peer", "nowhere.example:9", *arguments], stdin=stdin)


@pytest.mark.parametrize("stdin", [b"", b"a message\n", PIPE], ids=["empty", "message", "open"])
def test_the_time_limit_ends_a_program_whose_look_up_hangs(stdin: bytes | int) -> None:
    with hanging("-w", "1", stdin=stdin) as program:
        assert program.wait() == 3
        assert BEGUN in program.stderr_text and "nowhere.example:9 could not be reached" in program.stderr_text


def test_a_program_listens_while_its_look_up_hangs() -> None:
    with hanging("-p", "0") as program:
        program.wait_line(BEGUN)
        port = int(program.wait_line(LISTENING)[2])
        assert port > 0 and program.running()


@pytest.mark.parametrize("arguments", [(), ("-p", "0")], ids=["dials", "listens-too"])
def test_an_interrupt_ends_a_program_whose_look_up_hangs(arguments: tuple[str, ...]) -> None:
    with hanging(*arguments) as program:
        program.wait_line(BEGUN)
        program.kill(signal.SIGINT)
        assert program.wait() == 130


def test_an_interrupt_that_another_thread_gets_ends_it_as_well() -> None:
    """So does one that comes right before the reactor begins to wait: in both cases the wait is not interrupted."""
    wait = "time.sleep(0.3); signal.pthread_kill(threading.get_ident(), signal.SIGINT); threading.Event().wait()"
    script = HANGING.replace("threading.Event().wait()", wait).replace("import os,", "import os, signal, time,")
    with Program([sys.executable, "-c", script, "--peer", "nowhere.example:9"], stdin=PIPE) as program:
        assert program.wait() == 130
