"""`mysocket attach` for a person: what is typed is sent once, whatever becomes of the service; what arrives is shown."""

from __future__ import annotations

import json
import signal
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from mysocket.core.batch import Flag
from tests.support.processes import Program, Terminal, at_terminal, mysocket
from tests.verbs.scripted import Client, Service, row

WINDOW = 262144


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path / "spool") as found:
        yield found


@pytest.fixture
def terminal(service: Service) -> Iterator[Terminal]:
    with at_terminal("attach", "--spool", service.spool) as program:
        yield program


class Taker:
    """The service's side of a request: accepts what comes."""

    def __init__(self, service: Service, accepted: int = 0) -> None:
        self.client = service.accept()
        asked = self.client.hear()
        assert asked["do"] == "send"
        self.id = asked["id"]
        self.accepted = accepted
        self.say()

    def say(self, ended: bool = False) -> None:
        window = self.accepted + WINDOW
        self.client.say({"accepted": self.accepted, "position": self.accepted, "window": window, "ended": ended, "durable": True})

    def take(self) -> str:
        """Accept the next piece."""
        line = self.client.hear()
        self.accepted += len(line["text"].encode())
        self.say()
        return str(line["text"])

    def end(self) -> None:
        """Hear that there is no more, and agree."""
        assert self.client.hear() == {"end": True}
        self.say(ended=True)
        assert self.client.rest() == [{"confirm": True}]


def leave(program: Program, *clients: Client, number: int = signal.SIGINT, status: int = 130) -> None:
    program.kill(number)
    for client in clients:
        assert client.rest() == []
    program.wait_status(status)


# What is shown ------------------------------------------------------------------------------------------------------------------


def test_a_person_is_told_where_he_is_and_sees_what_comes(service: Service, terminal: Terminal) -> None:
    client = service.attached(position=5000, begin=1000)
    assert service.asked == {"do": "attach", "as": None, "from": "now"}
    terminal.wait_text(r"attached to process \d+ --port 9000 --peer hub:9001 --spool /")
    terminal.wait_text("4.0 kB are kept that came before and are not shown; --from oldest shows them")
    terminal.wait_text("Type EXIT or Ctrl-D to leave; the service goes on.")
    client.say(row(b"hi\x1b[2J\n", at=5000))
    terminal.wait_text(r"\nhi\\x1b\[2J\n")
    client.say(row(b"you\n", at=5007, peer="hostb"), row(b"there\n", at=5011))
    terminal.wait_text(r"\nhostb: you\nhosta: there\n")
    leave(terminal, client)
    assert b"\x1b" not in terminal.screen


def test_what_is_kept_is_shown_from_the_oldest(service: Service) -> None:
    with at_terminal("attach", "--from", "oldest", "--spool", service.spool) as program:
        client = service.attached(position=1000, begin=1000)
        assert service.asked == {"do": "attach", "as": None, "from": "oldest"}
        client.say(row(b"old\n", at=1000))
        program.wait_text("old\n")
        leave(program, client)
        assert "are kept" not in program.screen_text


def test_with_a_name_what_was_shown_is_acknowledged(service: Service) -> None:
    with at_terminal("attach", "--as", "me", "--spool", service.spool) as program:
        client = service.attached()
        assert service.asked == {"do": "attach", "as": "me", "from": None}
        client.say(row(b"one\n"))
        assert client.hear() == {"ack": 4}
        leave(program, client)


def test_what_was_passed_over_is_told(service: Service, terminal: Terminal) -> None:
    client = service.attached()
    client.say({"passed": 1000}, row(b"next\n", at=1000))
    terminal.wait_text("1.0 kB had gone before they could be read here")
    terminal.wait_text("next\n")
    leave(terminal, client)


def test_json_for_what_arrives(service: Service) -> None:
    with at_terminal("attach", "--json", "--spool", service.spool) as program:
        client = service.attached()
        client.say(row("é\x7f\n".encode()))
        found = program.wait_text(r'\{"time".*\}')
        assert json.loads(found[0])["text"] == "é\x7f" and b"\x7f" not in program.screen
        leave(program, client)


def test_a_service_that_only_sends_can_be_sent_to(service: Service, terminal: Terminal) -> None:
    client = service.accept()
    client.hear()
    client.say({"error": "this service only sends", "status": 2})
    client.close()
    terminal.wait_text("this service only sends. What is typed here is sent all the same.")
    terminal.wait_text("Type EXIT")
    terminal.type("hello\n")
    taker = Taker(service)
    assert taker.take() == "hello\n"
    terminal.type("\x04")
    taker.end()
    terminal.wait_status(0)


# What is typed ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["EXIT\n", "\x04"])
def test_who_typed_nothing_leaves_at_once(service: Service, terminal: Terminal, end: str) -> None:
    client = service.attached()
    terminal.wait_text("Type EXIT")
    terminal.type(end)
    assert client.rest() == []
    terminal.wait_status(0)


@pytest.mark.parametrize("end", ["EXIT\n", "\x04"])
def test_each_line_is_a_message_and_is_accepted_before_the_end(service: Service, terminal: Terminal, end: str) -> None:
    client = service.attached()
    terminal.wait_text("Type EXIT")
    terminal.type("hello\n")
    taker = Taker(service)
    assert len(taker.id) == 32
    assert taker.take() == "hello\n"
    terminal.type("  EXIT \n")
    assert taker.take() == "  EXIT \n"
    terminal.type(end)
    assert taker.client.hear() == {"end": True}
    # Not before the service has it all.
    assert taker.client.quiet() and terminal.running()
    taker.say(ended=True)
    assert taker.client.rest() == [{"confirm": True}]
    assert client.rest() == []
    terminal.wait_status(0)


def test_a_line_without_its_end_is_a_message(service: Service, terminal: Terminal) -> None:
    client = service.attached()
    terminal.wait_text("Type EXIT")
    terminal.type("hello\x04\x04")
    taker = Taker(service)
    line = taker.client.hear()
    assert (line["text"], line["flags"]) == ("hello", Flag.UNTERMINATED)
    taker.accepted = 5
    taker.end()
    assert client.rest() == []
    terminal.wait_status(0)


def test_ctrl_c_leaves_and_tells_what_was_not_accepted(service: Service, terminal: Terminal) -> None:
    client = service.attached()
    terminal.wait_text("Type EXIT")
    terminal.type("hello\n")
    taker = Taker(service)
    assert taker.client.hear()["text"] == "hello\n"
    terminal.type("\x03")
    assert taker.client.rest() == [] and client.rest() == []
    terminal.wait_status(130)
    assert "6 bytes that were typed were not accepted yet, and may not be sent" in terminal.screen_text


def test_a_pipe_is_sent_line_by_line_and_left_at_its_end(service: Service) -> None:
    with mysocket("attach", "--spool", service.spool) as program:
        client = service.attached()
        program.write(b"one\n")
        taker = Taker(service)
        assert taker.take() == "one\n"
        client.say(row(b"a\x1b\n"))
        assert program.wait_output(b"\n") == b"a\x1b\n"
        program.write(b"EXIT\ntwo\n")
        assert taker.take() == "EXIT\ntwo\n"
        program.close_stdin()
        taker.end()
        assert client.rest() == []
        program.wait_status(0)
        assert program.stderr_text == ""


def test_a_large_input_is_read_as_it_is_accepted(service: Service, tmp_path: Path) -> None:
    data = b"".join(b"%07d\n" % number for number in range(200_000))
    (tmp_path / "input").write_bytes(data)
    with mysocket("attach", "--spool", service.spool, stdin=tmp_path / "input") as program:
        client = service.attached()
        taker = Taker(service)
        got = b""
        while len(got) < len(data):
            got += taker.take().encode()
        taker.end()
        assert got == data
        assert client.rest() == []
        program.wait_status(0)


def test_what_the_service_refuses_ends_the_session(service: Service, terminal: Terminal) -> None:
    client = service.attached()
    terminal.wait_text("Type EXIT")
    terminal.type("hello\n")
    taker = Taker(service)
    taker.client.hear()
    taker.client.say({"error": "no more input is taken", "status": 4})
    client.rest()
    terminal.wait_status(4)
    assert "no more input is taken" in terminal.screen_text and "6 bytes that were typed" in terminal.screen_text


# Restarts -----------------------------------------------------------------------------------------------------------------------


def test_nothing_typed_is_lost_when_the_service_is_restarted(service: Service, terminal: Terminal) -> None:
    service.attached()
    terminal.wait_text("Type EXIT")
    terminal.type("one\n")
    taker = Taker(service)
    assert taker.take() == "one\n"
    terminal.type("two\n")
    assert taker.client.hear()["text"] == "two\n"
    service.stop()
    terminal.wait_text("Waiting for it to come back; what you type is kept here and sent then.")
    terminal.type("three\n")
    terminal.type("EXIT\n")
    terminal.wait_text("waiting for the service to take what was typed")
    service.start()
    client = service.attached(position=0, begin=0)
    # The service had committed "two", and its answer was lost.
    again = Taker(service, accepted=8)
    assert again.id == taker.id
    assert again.take() == "three\n"
    again.end()
    assert client.rest() == []
    terminal.wait_status(0)
    assert "the service is back" in terminal.screen_text


def test_who_has_nothing_left_to_send_leaves_while_the_service_is_gone(service: Service, terminal: Terminal) -> None:
    service.attached()
    terminal.wait_text("Type EXIT")
    terminal.type("one\n")
    taker = Taker(service)
    taker.take()
    service.stop()
    terminal.wait_text("Waiting for it")
    terminal.type("EXIT\n")
    terminal.wait_status(0)


def test_lines_before_exit_that_come_with_it_are_sent(service: Service, terminal: Terminal) -> None:
    """A terminal that does not edit lines gives more than one at a time."""
    client = service.attached()
    terminal.wait_text("Type EXIT")
    raw = termios.tcgetattr(terminal._master)
    raw[3] &= ~termios.ICANON
    termios.tcsetattr(terminal._master, termios.TCSANOW, raw)
    terminal.type("one\ntwo\nEXIT\nthree\n")
    taker = Taker(service)
    got = taker.take()
    while got != "one\ntwo\n":
        got += taker.take()
    taker.end()
    assert client.rest() == []
    terminal.wait_status(0)


def test_a_view_goes_on_where_it_was(service: Service, terminal: Terminal) -> None:
    client = service.attached(position=5000, begin=1000)
    terminal.wait_text("Type EXIT")
    client.say(row(b"first\n", at=5000))
    terminal.wait_text("first\n")
    service.stop()
    terminal.wait_text("Waiting for it")
    service.start()
    client = service.attached(position=1000, begin=1000)
    assert service.asked == {"do": "attach", "as": None, "from": "oldest"}
    client.say(row(b"very old\n", at=4991), row(b"first\nsecond\n", at=5000))
    terminal.wait_text("second\n")
    leave(terminal, client)
    assert terminal.screen_text.count("first") == 1 and "very old" not in terminal.screen_text
    assert "had gone" not in terminal.screen_text


def test_a_service_that_forgot_what_it_accepted_is_told(service: Service, terminal: Terminal) -> None:
    service.attached()
    terminal.wait_text("Type EXIT")
    terminal.type("one\n")
    assert Taker(service).take() == "one\n"
    terminal.type("two\n")
    service.stop()
    terminal.wait_text("Waiting for it")
    service.start()
    client = service.attached()
    Taker(service, accepted=0)
    client.rest()
    terminal.wait_status(1)
    assert "may be lost" in terminal.screen_text


# A service that answers once, and is killed. It is a process of its own: the kernel says who listens.
IN_MEMORY = """
import os, sys
from pathlib import Path
from tests.verbs.scripted import Service
service = Service(Path(sys.argv[1]))
service.greeting = service.greeting._replace(spool=None)
print("ready", flush=True)
service.attached()
sys.stdin.read()
os._exit(0)
"""


def test_a_service_in_memory_that_has_ended_is_no_more(tmp_path: Path) -> None:
    with Program([sys.executable, "-c", IN_MEMORY, str(tmp_path / "spool")]) as service:
        service.wait_output(b"ready")
        with at_terminal("attach", "--spool", tmp_path / "spool") as program:
            program.wait_text("Type EXIT")
            service.close_stdin()
            service.wait()
            program.wait_status(1)
            assert "its process has ended" in program.screen_text
