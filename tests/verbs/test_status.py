"""`mysocket status`: its exit status is the health, its output one screen or one object; it can be watched over restarts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mysocket.control.protocol import Line
from tests.support.processes import DEVNULL, Program, at_terminal, mysocket
from tests.verbs.scripted import Service
from tests.verbs.test_health import LINKED

AWAY: dict[str, Any] = {
    **LINKED,
    "linked": False,
    "dial": {"peer": "hub:9001", "next_attempt": 4.0, "failed": 3, "error": "hub:9001 refused\x1b the connection"},
}


class Answering:
    """Answers every question with ``answer``, until the test ends."""

    def __init__(self, service: Service, answer: Line) -> None:
        self.answer = answer
        self.asked: list[Line] = []
        self._service = service
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            while True:
                client = self._service.accept()
                with contextlib.suppress(OSError, AssertionError):
                    while True:
                        self.asked.append(client.hear())
                        client.say(self.answer)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path / "spool") as found:
        yield found


def shown(service: Service, *options: str, status: int) -> Program:
    with mysocket("status", "--spool", service.spool, *options, stdin=DEVNULL) as program:
        program.wait_status(status)
        return program


def test_linked_is_0(service: Service) -> None:
    answering = Answering(service, {"status": LINKED})
    program = shown(service, status=0)
    assert re.match(rb"linked        with hub \(192.0.2.1:9001\) since .*\nwaiting       12 messages ", program.stdout)
    assert program.stderr_text == ""
    assert answering.asked == [{"do": "status"}]


def test_not_linked_is_1(service: Service) -> None:
    Answering(service, {"status": AWAY})
    first = shown(service, status=1).stdout.splitlines()[0]
    assert first == b"not linked    hub:9001 refused\\x1b the connection; next attempt in 4 s; 3 attempts have failed"


@pytest.mark.parametrize("state", [LINKED, AWAY, {}, {"linked": True, "new": "x\u202e\x7f"}])
def test_json_is_the_object_as_it_is(service: Service, state: Line) -> None:
    Answering(service, {"status": state})
    program = shown(service, "--json", status=0 if state.get("linked") else 1)
    assert json.loads(program.stdout) == state
    assert program.stdout.count(b"\n") == 1 and program.stdout.isascii() and b"\x7f" not in program.stdout


@pytest.mark.parametrize("state", [None, [], 7, {}])
def test_a_service_of_another_version_is_shown_as_far_as_it_can_be(service: Service, state: object) -> None:
    Answering(service, {"status": state})
    assert shown(service, status=1).stdout.startswith(b"not linked    nobody has connected yet\n")


def test_no_service_is_1(tmp_path: Path) -> None:
    with mysocket("status", "--spool", tmp_path) as program:
        program.wait_status(1)
        assert "No service was found" in program.stderr_text and program.stdout == b""


def test_a_service_that_ends_before_it_answers_is_1(service: Service) -> None:
    with mysocket("status", "--spool", service.spool) as program:
        client = service.accept()
        client.hear()
        client.close()
        program.wait_status(1)
        assert "closed the connection" in program.stderr_text


def test_what_the_service_says_is_shown(service: Service) -> None:
    Answering(service, {"error": "not\x1b now", "status": 3})
    assert "not\\x1b now" in shown(service, status=3).stderr_text


def test_a_reader_that_has_gone_and_a_full_disk(service: Service) -> None:
    Answering(service, {"status": LINKED})
    read, write = os.pipe()
    os.close(read)
    with mysocket("status", "--spool", service.spool, stdout=write) as program:
        os.close(write)
        program.wait_status(1)
    with open("/dev/full", "wb") as full, mysocket("status", "--spool", service.spool, stdout=full.fileno()) as program:
        program.wait_status(74)


# Watching -----------------------------------------------------------------------------------------------------------------------


def test_watch_draws_again_and_ctrl_c_gives_the_health(service: Service) -> None:
    answering = Answering(service, {"status": LINKED})
    with at_terminal("status", "--watch", "--spool", service.spool) as program:
        program.wait_text("linked        with hub")
        answering.answer = {"status": AWAY}
        program.wait_text(r"not linked    hub:9001 refused\\x1b the")
        program.type("\x03")
        program.wait_status(1)
    screen = program.screen
    # Cleared once, then drawn over; each line is cleared to its end, and what is below as well.
    assert screen.count(b"\x1b[2J") == 1 and screen.count(b"\x1b[H") == screen.count(b"\x1b[J") >= 2
    assert screen.count(b"\x1b[?7l") == screen.count(b"\x1b[?7h")
    drawn = re.sub(rb"\x1b\[(2J|H|J|K|\?7[lh])", b"", screen)
    assert b"\x1b" not in drawn
    assert all(len(line) <= 81 for line in drawn.decode().replace("\r", "").split("\n"))


def test_watch_of_a_linked_service_ends_with_0(service: Service) -> None:
    Answering(service, {"status": LINKED})
    with at_terminal("status", "--watch", "--spool", service.spool) as program:
        program.wait_text("linked        with hub")
        program.type("\x03")
        program.wait_status(0)


def test_a_screen_that_is_too_high_says_so(service: Service) -> None:
    one = LINKED["peers"][0]
    peers = [{**one, "name": f"host{number}" + "x" * 100} for number in range(20)]
    Answering(service, {"status": {**LINKED, "peers": peers, "peers_total": 20}})
    with at_terminal("status", "--watch", "--spool", service.spool) as program:
        program.wait_text(r"more lines; a higher window shows them")
        assert program.screen_text.split("\x1b[J")[0].count("\n") < 24
        program.type("\x03")
        program.wait_status(0)


def test_watch_goes_on_over_a_restart(service: Service) -> None:
    Answering(service, {"status": LINKED})
    with mysocket("status", "--watch", "--json", "--spool", service.spool) as program:
        program.wait_output(b"\n")
        service.stop()
        program.wait_output(b'{"linked": false, "error": "No service was found')
        gone = len(program.stdout)
        service.start()
        Answering(service, {"status": {**LINKED, "pid": 99}})
        program.wait_output(b'"pid": 99')
        program.kill(signal.SIGINT)
        program.wait_status(0)
        assert gone < len(program.stdout)
        assert all(json.loads(line) for line in program.stdout.splitlines())


def test_watch_shows_that_the_service_is_gone(service: Service) -> None:
    Answering(service, {"status": LINKED})
    with at_terminal("status", "--watch", "--spool", service.spool) as program:
        program.wait_text("linked        with hub")
        service.stop()
        program.wait_text("no service    ")
        program.wait_text(r"Looking\S*\s+again\S*\s+every\S*\s+second")
        program.type("\x03")
        program.wait_status(1)


def test_watch_begins_with_a_service(tmp_path: Path) -> None:
    with mysocket("status", "--watch", "--spool", tmp_path) as program:
        program.wait_status(1)


def test_watch_in_a_pipe_without_json_is_one_screen_after_another(service: Service) -> None:
    Answering(service, {"status": LINKED})
    with mysocket("status", "--watch", "--spool", service.spool) as program:
        program.wait_output(b"\n\nlinked ")
        program.kill(signal.SIGTERM)
        program.wait_status(143)
        assert b"\x1b" not in program.stdout


def test_watch_ends_when_its_reader_goes(service: Service) -> None:
    Answering(service, {"status": LINKED})
    read, write = os.pipe()
    with mysocket("status", "--watch", "--spool", service.spool, stdout=write) as program:
        os.close(write)
        assert os.read(read, 10)
        os.close(read)
        program.wait_status(1)
