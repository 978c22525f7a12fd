"""`mysocket attach --recv-only`: every message is written, and acknowledged when it is; over restarts of both sides."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mysocket.core.batch import MAX_PAYLOAD, Flag, Kind
from tests.support.processes import PIPE, Program, at_terminal, mysocket, read_some
from tests.verbs.scripted import Client, Service, row

OTHER_NODE = "ee" * 16


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path / "spool") as found:
        yield found


@contextlib.contextmanager
def consumer(service: Service, *options: str, stdout: int | Path = PIPE) -> Iterator[Program]:
    with mysocket("attach", "--recv-only", "--spool", service.spool, *options, stdout=stdout) as program:
        yield program


def leave(program: Program, client: Client, number: int = signal.SIGINT, status: int = 130) -> list[object]:
    """End the program; what it said last."""
    program.kill(number)
    rest: list[object] = [*client.rest()]
    program.wait_status(status)
    return rest


# What is asked, written and acknowledged ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name", "start"),
    [
        ((), "default", None),
        (("--as", "x"), "x", None),
        (("--from", "now"), "default", "now"),
        (("--from", "oldest"), "default", "oldest"),
    ],
)
def test_it_attaches_by_name(service: Service, options: tuple[str, ...], name: str, start: str | None) -> None:
    with consumer(service, *options) as program:
        client = service.attached()
        assert service.asked == {"do": "attach", "as": name, "from": start}
        assert leave(program, client) == []


def test_what_comes_is_written_byte_for_byte_and_acknowledged(service: Service) -> None:
    with consumer(service) as program:
        client = service.attached()
        client.say(row(b"one\r\n\xff\0\x1b[2J\n"))
        assert client.hear() == {"ack": 12}
        assert program.wait_output(b"2J\n") == b"one\r\n\xff\0\x1b[2J\n"
        client.say(row(b"blob without end", at=12, kind=Kind.BLOB), row(b"a\0b\0", at=28, flags=Flag.NUL))
        program.wait_output(b"a\0b\0")
        assert leave(program, client)[-1] == {"ack": 32}
        assert program.stdout[12:] == b"blob without enda\0b\0"


def test_what_comes_at_once_is_acknowledged_at_once(service: Service) -> None:
    with consumer(service) as program:
        client = service.attached()
        client.say(*(row(b"12345678\n", at=9 * number) for number in range(1000)))
        acks = []
        while not acks or acks[-1] < 9000:
            acks.append(client.hear()["ack"])
        assert len(acks) < 100 and acks == sorted(set(acks))
        leave(program, client)
        assert program.stdout == b"12345678\n" * 1000


def test_json_has_the_position_to_acknowledge(service: Service) -> None:
    with consumer(service, "--json") as program:
        client = service.attached()
        client.say(row("é\n".encode(), at=100, stream_position=7), row(b"\xff\n", at=103, peer="hostb"))
        assert client.hear()["ack"] in (103, 105)
        program.wait_output(b'"/w=="}\n')
        first, second = map(json.loads, program.stdout.splitlines())
        assert (first["position"], first["stream_position"], first["text"], first["peer"]) == (103, 7, "é", "hosta")
        assert (second["position"], second["base64"], second["peer"]) == (105, "/w==", "hostb")
        assert first["time"] == "2025-10-09T08:53:20.250000Z"
        leave(program, client)


def test_the_time_before_each_line(service: Service) -> None:
    with consumer(service, "-T") as program:
        client = service.attached()
        client.say(row(b"one\ntwo\n"))
        assert client.hear() == {"ack": 8}
        one, two = program.wait_output(b"two\n").splitlines()
        assert one[:10] in (b"2025-10-08", b"2025-10-09", b"2025-10-10") and one.endswith(b" one") and two.endswith(b" two")
        leave(program, client)


def test_without_ack_nothing_is_acknowledged(service: Service) -> None:
    with consumer(service, "--ack", "none") as program:
        client = service.attached()
        client.say(row(b"one\n"))
        program.wait_output(b"one\n")
        assert leave(program, client) == []


def test_a_message_in_parts_is_written_with_its_last_part(service: Service) -> None:
    part = b"x" * MAX_PAYLOAD
    with consumer(service) as program:
        client = service.attached()
        client.say(row(part, flags=Flag.MORE), row(part, at=MAX_PAYLOAD, flags=Flag.MORE))
        assert client.quiet() and program.stdout == b""
        client.say(row(b"end\n", at=2 * MAX_PAYLOAD))
        assert client.hear() == {"ack": 2 * MAX_PAYLOAD + 4}
        leave(program, client)
        assert program.stdout == 2 * part + b"end\n"


def test_on_a_terminal_what_comes_is_escaped(service: Service) -> None:
    with at_terminal("attach", "--recv-only", "--spool", service.spool) as program:
        client = service.attached()
        client.say(row(b"a\x1b[2Jb\n"))
        assert client.hear() == {"ack": 7}
        program.wait_text(r"a\\x1b\[2Jb\n")
        assert b"\x1b" not in program.screen
        leave(program, client)


def test_json_and_timestamps_exclude_each_other(service: Service) -> None:
    with consumer(service, "--json", "-T") as program:
        program.wait_status(2)


# The end ------------------------------------------------------------------------------------------------------------------------


def test_sigterm_ends_it(service: Service) -> None:
    with consumer(service) as program:
        client = service.attached()
        client.say(row(b"one\n"))
        assert client.hear() == {"ack": 4}
        assert leave(program, client, signal.SIGTERM, 143) == []
        assert program.stderr_text == ""


def test_what_the_reader_did_not_take_is_not_acknowledged(service: Service) -> None:
    """The reader holds the pipe open and reads nothing: a signal is heard all the same."""
    read, write = os.pipe()
    try:
        with consumer(service, stdout=write) as program:
            os.close(write)
            client = service.attached()
            block = b"x" * 65535 + b"\n"
            client.say(row(b"one\n"))
            assert client.hear() == {"ack": 4}
            assert read_some(read) == b"one\n"
            # More than a pipe holds.
            client.say(*(row(block, at=4 + 65536 * number) for number in range(4)))
            for number in range(4, 40):
                client.say(row(block, at=4 + 65536 * number))
                if not client.quiet(0.05):
                    continue
                break
            taken = [line["ack"] for line in leave(program, client) if isinstance(line, dict)]
            received = 4
            while data := read_some(read, 1 << 20):
                received += len(data)
            assert max(taken, default=4) <= received
    finally:
        os.close(read)


def test_a_reader_that_has_gone_ends_it(service: Service) -> None:
    read, write = os.pipe()
    with consumer(service, stdout=write) as program:
        os.close(write)
        client = service.attached()
        client.say(row(b"one\n"))
        assert client.hear() == {"ack": 4}
        os.close(read)
        # Without another message: a consumer without a reader would take them from nobody.
        assert client.rest() == []
        program.wait_status(1)
        assert "the reader of the output has gone" in program.stderr_text.lower()


def test_a_reader_that_goes_before_the_first_message_gets_nothing_acknowledged(service: Service) -> None:
    read, write = os.pipe()
    os.close(read)
    with consumer(service, stdout=write) as program:
        os.close(write)
        with service.accept() as client:
            client.rest()
        program.wait_status(1)


def test_a_full_disk_ends_it(service: Service) -> None:
    with open("/dev/full", "wb") as full, consumer(service, stdout=full.fileno()) as program:
        client = service.attached()
        client.say(row(b"one\n"))
        assert client.rest() == []
        program.wait_status(74)


def test_what_the_service_says_ends_it(service: Service) -> None:
    with consumer(service) as program:
        client = service.accept()
        client.hear()
        client.say({"error": "default is attached\x1b", "status": 2})
        program.wait_status(2)
        assert "default is attached\\x1b" in program.stderr_text


def test_what_came_before_an_error_is_written(service: Service) -> None:
    with consumer(service) as program:
        client = service.attached()
        client.say(row(b"one\n"), {"error": "no more", "status": 1})
        assert client.hear() == {"ack": 4}
        program.wait_status(1)
        assert program.stdout == b"one\n"


@pytest.mark.parametrize("line", [{"at": 0}, row(b"x\n", kind=Kind.END), row(b"x\n", at=-1), {"attached": "default"}])
def test_a_line_that_is_none_ends_it(service: Service, line: dict[str, object]) -> None:
    with consumer(service) as program:
        client = service.attached()
        client.say(row(b"one\n"), line)
        assert client.rest() == [{"ack": 4}]
        program.wait_status(1)
        assert "broke its protocol" in program.stderr_text


def test_a_line_that_says_nothing_known_is_left_to_later_versions(service: Service) -> None:
    with consumer(service) as program:
        client = service.attached()
        client.say({"weather": "fine"}, row(b"one\n"))
        assert client.hear() == {"ack": 4}
        leave(program, client)


def test_without_a_service_it_says_so(tmp_path: Path) -> None:
    with mysocket("attach", "--recv-only", "--spool", tmp_path) as program:
        program.wait_status(1)
        assert "No service was found" in program.stderr_text


# Restarts -----------------------------------------------------------------------------------------------------------------------


def test_a_restart_of_the_service_repeats_nothing(service: Service) -> None:
    with consumer(service) as program:
        client = service.attached()
        client.say(row(b"one\ntwo\n"))
        assert client.hear() == {"ack": 8}
        service.stop()
        program.wait_line("Waiting for it to come back")
        service.start()
        # The acknowledgement was not committed; the row is cut anew, at the beginning.
        client = service.attached(position=4)
        assert service.asked == {"do": "attach", "as": "default", "from": None}
        client.say(row(b"two\n", at=4), row(b"three\n", at=8))
        while client.hear() != {"ack": 14}:
            pass
        program.wait_line("the service is back")
        leave(program, client)
        assert program.stdout == b"one\ntwo\nthree\n"
        assert program.stderr_text.count("\n") == 2


def test_what_is_left_out_is_acknowledged_again(service: Service) -> None:
    with consumer(service) as program:
        client = service.attached()
        client.say(row(b"one\ntwo\n"))
        assert client.hear() == {"ack": 8}
        service.stop()
        service.start()
        client = service.attached(position=0)
        client.say(row(b"one\ntwo\n"))
        assert client.hear() == {"ack": 8}
        leave(program, client)
        assert program.stdout == b"one\ntwo\n"


def test_a_message_whose_parts_were_lost_half_way_comes_whole(service: Service) -> None:
    with consumer(service) as program:
        client = service.attached()
        client.say(row(b"on", flags=Flag.MORE), row(b"e ", at=2, flags=Flag.MORE))
        service.stop()
        service.start()
        client = service.attached()
        client.say(row(b"on", flags=Flag.MORE), row(b"e more\n", at=2))
        assert client.hear() == {"ack": 9}
        leave(program, client)
        assert program.stdout == b"one more\n"


def test_another_inbox_is_read_from_its_own_position(service: Service) -> None:
    with consumer(service) as program:
        client = service.attached()
        client.say(row(b"one\n"))
        assert client.hear() == {"ack": 4}
        service.stop()
        service.greeting = service.greeting._replace(node=OTHER_NODE)
        service.start()
        client = service.attached()
        client.say(row(b"two\n"))
        assert client.hear() == {"ack": 4}
        leave(program, client)
        assert program.stdout == b"one\ntwo\n"


def test_an_inbox_that_was_put_back_is_repeated_rather_than_passed_over(service: Service) -> None:
    with consumer(service) as program:
        client = service.attached()
        client.say(row(b"one\ntwo\n"))
        assert client.hear() == {"ack": 8}
        service.stop()
        service.start()
        client = service.attached(position=0, end=4)
        client.say(row(b"one\n"), row(b"new\n", at=4))
        while client.hear() != {"ack": 8}:
            pass
        leave(program, client)
        assert program.stdout == b"one\ntwo\none\nnew\n"


def test_a_service_that_goes_at_once_is_waited_for(service: Service) -> None:
    with consumer(service) as program:
        service.accept().close()
        client = service.attached()
        client.say(row(b"one\n"))
        assert client.hear() == {"ack": 4}
        leave(program, client)


def test_it_can_be_left_while_the_service_is_gone(service: Service) -> None:
    with consumer(service) as program:
        service.attached()
        service.stop()
        program.wait_line("Waiting for it")
        program.kill(signal.SIGTERM)
        program.wait_status(143)


def test_a_reader_that_goes_while_the_service_is_gone_ends_it(service: Service) -> None:
    read, write = os.pipe()
    with consumer(service, stdout=write) as program:
        os.close(write)
        service.attached()
        service.stop()
        program.wait_line("Waiting for it")
        os.close(read)
        program.wait_status(1)


def test_a_consumer_killed_before_its_acknowledgement_gets_it_again(service: Service, tmp_path: Path) -> None:
    """Whatever the moment of its death: what is acknowledged was written, and what was not acknowledged comes again."""
    messages = [b"%06d\n" % number for number in range(3000)]
    out = b""
    acknowledged = 0
    for round in range(6):
        part = tmp_path / f"out{round}"
        with consumer(service, stdout=part) as program:
            client = service.attached(position=acknowledged)
            begun, sent = acknowledged, acknowledged
            while acknowledged < 7 * len(messages) and (round == 5 or acknowledged - begun < 700 * (round + 1)):
                upto = min(sent + 7 * 50, 7 * len(messages))
                client.say(*(row(messages[at // 7], at=at) for at in range(sent, upto, 7)))
                sent = upto
                acknowledged = client.hear()["ack"]
            program.kill(signal.SIGKILL)
            program.wait()
            acknowledged = max([acknowledged, *(line["ack"] for line in client.rest())])
        written = part.read_bytes()
        assert begun + len(written) >= acknowledged
        # The next one begins behind what is acknowledged; what this one wrote beyond comes again.
        out += written[: acknowledged - begun]
    assert out == b"".join(messages)


def test_bytes_that_are_gone_are_told(service: Service) -> None:
    """A consumer's own are kept for it, unless its service was told to go on without."""
    with consumer(service) as program:
        client = service.attached()
        client.say({"passed": 1500}, row(b"one\n", at=1500))
        assert client.hear() == {"ack": 1504}
        program.wait_line("1.5 kB had gone before they could be read here")
        leave(program, client)


def test_a_message_whose_rest_is_gone_is_left_out(service: Service) -> None:
    with consumer(service) as program:
        client = service.attached()
        client.say(row(b"part", at=0, flags=1), {"passed": 100}, row(b"one\n", at=104))
        assert client.hear() == {"ack": 108}
        program.wait_line("100 bytes had gone before they could be read here")
        leave(program, client)
        assert program.stdout == b"one\n"


# A service without a spool: it says one row, and ends when its stdin does. The kernel says whose process it is.
IN_MEMORY = """
import os, sys
from pathlib import Path
from tests.verbs.scripted import Service, row
service = Service(Path(sys.argv[1]), node=sys.argv[2], name=sys.argv[2] + ".sock")
service.greeting = service.greeting._replace(spool=None)
print("ready", flush=True)
while True:
    try:
        service.attached().say(row(sys.argv[2].encode() + b"\\n"))
        break
    except (AssertionError, OSError):
        pass  # somebody who was looking for another one
sys.stdin.read()
os._exit(0)
"""


def test_a_service_without_a_spool_is_known_by_its_port(tmp_path: Path) -> None:
    """Restarted, it is another node with another inbox."""

    def start(node: str) -> Program:
        return Program([sys.executable, "-c", IN_MEMORY, str(tmp_path / "mysocket"), node])

    with contextlib.ExitStack() as stack:
        first = stack.enter_context(start("aa"))
        first.wait_output(b"ready")
        options = ("attach", "--recv-only", "--port", "9000")
        program = stack.enter_context(mysocket(*options, env={"XDG_RUNTIME_DIR": str(tmp_path)}))
        program.wait_output(b"aa\n")
        first.close_stdin()
        first.wait()
        program.wait_line("Waiting for it to come back")
        stack.enter_context(start("bb"))
        assert program.wait_output(b"bb\n") == b"aa\nbb\n"
        program.wait_line("the service is back")
        program.kill(signal.SIGINT)
        program.wait_status(130)
