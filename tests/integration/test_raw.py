"""`--raw`: plain bytes over TCP and plain datagrams over UDP, with the tools that are already there as the peer."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import (
    DEVNULL,
    PIPE,
    TIMEOUT,
    Program,
    acquaint,
    free_port,
    mysocket,
    wait_until,
)

TOOLS = {
    "nc": "netcat-openbsd",
    "socat": "socat",
    "ncat": "ncat",
}
tools = pytest.mark.parametrize(
    "tool",
    [
        pytest.param(
            tool, marks=pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is missing (apt-get install {package})")
        )
        for tool, package in TOOLS.items()
    ],
)


def tcp_listener(tool: str, port: int) -> list[str]:
    """The tool as a TCP server for one connection which half-closes at the end of its input."""
    return {
        "nc": ["nc", "-N", "-l", "127.0.0.1", str(port)],
        "socat": ["socat", "-t60", "-", f"TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr"],
        "ncat": ["ncat", "-l", "127.0.0.1", str(port)],
    }[tool]


def tcp_dialler(tool: str, port: int) -> list[str]:
    """The tool as a TCP client which half-closes at the end of its input, and waits for the other side's."""
    return {
        "nc": ["nc", "-N", "127.0.0.1", str(port)],
        "socat": ["socat", "-t60", "-", f"TCP4:127.0.0.1:{port}"],
        "ncat": ["ncat", "127.0.0.1", str(port)],
    }[tool]


def udp_listener(tool: str, port: int) -> list[str]:
    """The tool as a UDP server: it answers whoever spoke to it first."""
    return {
        "nc": ["nc", "-u", "-l", "127.0.0.1", str(port)],
        "socat": ["socat", "-b", "65536", "-", f"UDP4-LISTEN:{port},bind=127.0.0.1"],
        "ncat": ["ncat", "-u", "-l", "127.0.0.1", str(port)],
    }[tool]


def udp_dialler(tool: str, port: int, source: int) -> list[str]:
    """The tool as a UDP client that sends from port `source`."""
    return {
        "nc": ["nc", "-u", "-p", str(source), "127.0.0.1", str(port)],
        "socat": ["socat", "-b", "65536", "-", f"UDP4:127.0.0.1:{port},bind=127.0.0.1:{source}"],
        "ncat": ["ncat", "-u", "-p", str(source), "127.0.0.1", str(port)],
    }[tool]


# TCP

LINES = b"text\n\0\xff\xfe\n\n"
BYTES = b"text\n\0\xff\xfe no newline at the end"


@tools
def test_tcp_as_the_client_both_ways_and_a_half_close(tool: str) -> None:
    port = free_port()
    with Program(tcp_listener(tool, port)) as server:
        server.wait_bound(port)
        with mysocket("--raw", "--peer", f"127.0.0.1:{port}") as client:
            acquaint(client, server)
            client.write(LINES)
            server.wait_output(LINES)
            server.write(b"the answer\n" + BYTES)
            client.wait_output(b"the answer\n" + BYTES)
            client.close_stdin()  # nc and ncat, listening, leave when they hear of it; what they still have is then lost
            if tool == "socat":
                assert client.running(), "the end of its input closes one direction only"
                server.write(b"after the half-close\n")
                client.wait_output(b"after the half-close\n")
            server.close_stdin()
            client.wait_status(0)
            server.wait_status(0)
            assert server.stdout == LINES


@pytest.mark.parametrize("role", ["client", "server"])
def test_tcp_passes_what_is_not_yet_a_line(role: str) -> None:
    """A prompt has no newline, and nc sends what it gets: so does --raw, both ways."""
    with mysocket("--raw", "-p", 0) as server, mysocket("--raw", "--peer", f"127.0.0.1:{server.listening_port()}") as client:
        acquaint(client, server)
        here, there = (client, server) if role == "client" else (server, client)
        here.write(b"password: ")
        there.wait_output(b"password: ")
        client.close_stdin()
        server.close_stdin()
        client.wait_status(0)
        server.wait_status(0)


@tools
def test_tcp_as_the_server_both_ways_and_a_half_close(tool: str) -> None:
    with mysocket("--raw", "-p", 0) as server:
        port = server.listening_port()
        with Program(tcp_dialler(tool, port), stdin=BYTES) as client:
            acquaint(server, client)
            server.wait_output(BYTES)
            server.write(b"the answer, after the half-close\n" + BYTES)
            server.close_stdin()
            server.wait_status(0)
            client.wait_status(0)
            assert server.stdout == BYTES
            assert client.stdout == b"the answer, after the half-close\n" + BYTES


@tools
@pytest.mark.parametrize("role", ["client", "server"])
def test_tcp_twenty_megabytes_each_way_at_once(tool: str, role: str, tmp_path: Path) -> None:
    there, back = os.urandom(20_000_000), os.urandom(20_000_000)
    with contextlib.ExitStack() as stack:
        if role == "client":
            port = free_port()
            other = stack.enter_context(Program(tcp_listener(tool, port), stdin=back, stdout=tmp_path / "there"))
            other.wait_bound(port)
            ours = stack.enter_context(mysocket("--raw", "--peer", f"127.0.0.1:{port}", stdout=tmp_path / "back"))
            acquaint(ours, other)
            ours.write(there)
            # nc and ncat, listening, leave at our half-close and lose what they still had to send: first comes all of theirs.
            wait_until(lambda: (tmp_path / "back").stat().st_size == len(back), "not all came back", 60, ours)
            ours.close_stdin()
        else:
            ours = stack.enter_context(mysocket("--raw", "-p", 0, stdin=there, stdout=tmp_path / "back"))
            command = tcp_dialler(tool, ours.listening_port())
            other = stack.enter_context(Program(command, stdin=back, stdout=tmp_path / "there"))
        acquaint(ours, other)
        ours.wait_status(0, 60)
        other.wait_status(0, 60)
    assert hashlib.sha256((tmp_path / "there").read_bytes()).digest() == hashlib.sha256(there).digest()
    assert hashlib.sha256((tmp_path / "back").read_bytes()).digest() == hashlib.sha256(back).digest()


def test_tcp_between_two_of_us() -> None:
    with (
        mysocket("--raw", "-p", 0, stdin=b"down\n") as server,
        mysocket("--raw", "--peer", f"127.0.0.1:{server.listening_port()}", stdin=BYTES) as client,
    ):
        acquaint(server, client)
        client.wait_status(0)
        server.wait_status(0)
        assert (server.stdout, client.stdout) == (BYTES, b"down\n")


def test_tcp_waits_for_a_server_that_comes_later() -> None:
    port = free_port()
    with mysocket("--raw", "-p", 0, "--peer", f"127.0.0.1:{port}", stdin=b"early\n") as client:
        client.listening_port()  # it is up, and its first attempt finds nobody
        with socket.create_server(("127.0.0.1", port)) as late:
            late.settimeout(TIMEOUT)
            connection, _ = late.accept()
            with connection:
                assert connection.makefile("rb").read() == b"early\n"
        client.wait_status(0)


@pytest.mark.parametrize("role", ["client", "server"])
def test_tcp_a_reset_is_status_1(role: str) -> None:
    with contextlib.ExitStack() as stack:
        if role == "client":
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(TIMEOUT)
            ours = stack.enter_context(mysocket("--raw", "--peer", f"127.0.0.1:{listener.getsockname()[1]}"))
            connection, _ = listener.accept()
        else:
            ours = stack.enter_context(mysocket("--raw", "-p", 0))
            connection = socket.create_connection(("127.0.0.1", ours.listening_port()), timeout=TIMEOUT)
        ours.write(b"from here\n")
        assert connection.recv(100) == b"from here\n"
        connection.sendall(b"from there\n")
        ours.wait_output(b"from there\n")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()  # with this option close sends a reset, not a FIN
        ours.wait_status(1)
        assert re.search(r"mysocket: .*(?i:reset|lost|broken)", ours.stderr_text), ours.report()
        assert ours.stdout == b"from there\n"


def test_tcp_keep_open_takes_the_next_connection() -> None:
    with mysocket("--raw", "-p", 0, "-k", "--recv-only") as server:
        port = server.listening_port()
        for text in (b"first\n", b"second\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
                client.sendall(text)
                client.shutdown(socket.SHUT_WR)
                server.wait_output(text)
        server.kill(signal.SIGTERM)
        server.wait_status(143)
        assert server.stdout == b"first\nsecond\n"


def test_raw_keeps_nothing_so_a_spool_with_it_is_a_usage_error(tmp_path: Path) -> None:
    """Also while there is no --spool yet: 2 in both cases."""
    with mysocket("--raw", "-p", 0, "--spool", tmp_path / "spool", stdin=DEVNULL) as program:
        program.wait_status(2)


# UDP


@contextlib.contextmanager
def udp_peer() -> Iterator[tuple[socket.socket, int]]:
    """A UDP socket held by the test, and its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(TIMEOUT)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        yield peer, peer.getsockname()[1]


@tools
def test_udp_to_a_tool_that_listens_and_back(tool: str) -> None:
    port = free_port()
    with Program(udp_listener(tool, port)) as server:
        server.wait_bound(port, udp=True)
        with mysocket("--raw", "-u", "--peer", f"127.0.0.1:{port}") as client:
            acquaint(client, server)
            client.write(b"from us\n")
            server.wait_output(b"from us\n")
            server.write(b"from the tool\n")
            client.wait_output(b"from the tool\n")
            client.write(b"and again\n")
            server.wait_output(b"and again\n")
            client.close_stdin()
            client.wait_status(0)
            assert server.stdout == b"from us\nand again\n"
            assert client.stdout == b"from the tool\n"


@tools
def test_udp_from_a_tool_that_dials_and_back(tool: str) -> None:
    theirs = free_port()
    with mysocket("--raw", "-u", "-p", 0, "--peer", f"127.0.0.1:{theirs}") as server:
        port = server.listening_port()
        with Program(udp_dialler(tool, port, theirs)) as client:
            acquaint(server, client)
            client.write(b"from the tool\n")
            server.wait_output(b"from the tool\n")
            server.write(b"from us\n")
            client.wait_output(b"from us\n")
            server.close_stdin()
            server.wait_status(0)
            assert server.stdout == b"from the tool\n"
            assert client.stdout == b"from us\n"


@tools
def test_udp_listen_only_takes_what_a_tool_sends(tool: str) -> None:
    with mysocket("--raw", "--udp", "-p", 0, "--recv-only") as server:
        with Program(udp_dialler(tool, server.listening_port(), free_port()), stdin=PIPE) as client:
            acquaint(server, client)
            client.write(b"one\n")
            server.wait_output(b"one\n")
            client.write(b"two\n")
            server.wait_output(b"two\n")
        server.kill(signal.SIGINT)
        server.wait_status(130)
        assert server.stdout == b"one\ntwo\n"


def test_udp_the_classic_form_between_two_of_us() -> None:
    here, there = free_port(), free_port()
    with (
        mysocket("--udp", "--raw", here, "127.0.0.1", there) as one,
        mysocket("--udp", "--raw", there, "127.0.0.1", here) as two,
    ):
        acquaint(one, two)
        one.listening_port()
        two.listening_port()
        one.write(b"there\n")
        two.wait_output(b"there\n")
        two.write(b"and back\n")
        one.wait_output(b"and back\n")
        one.close_stdin()
        two.close_stdin()
        one.wait_status(0)
        two.wait_status(0)


def test_udp_a_datagram_carries_the_line_with_its_newline() -> None:
    with udp_peer() as (peer, port):
        with mysocket("--raw", "-u", "--peer", f"127.0.0.1:{port}", "--send-only", stdin=b"one\n\nthree\nlast") as sender:
            got = [peer.recv(65536) for _ in range(4)]
            sender.wait_status(0)
        assert got == [b"one\n", b"\n", b"three\n", b"last"]


def test_udp_a_datagram_without_a_newline_gets_one_on_stdout() -> None:
    with udp_peer() as (peer, port), mysocket("--raw", "-u", "-p", 0, "--peer", f"127.0.0.1:{port}") as program:
        to = ("127.0.0.1", program.listening_port())
        for datagram, shown in ((b"with\n", b"with\n"), (b"without", b"without\n"), (b"", b"\n"), (b"a\nb", b"a\nb\n")):
            before = len(program.stdout)
            peer.sendto(datagram, to)
            wait_until(lambda: len(program.stdout) >= before + len(shown), "the datagram was not shown", TIMEOUT, program)  # noqa: B023
            assert program.stdout[before:] == shown
        program.close_stdin()
        program.wait_status(0)


def test_udp_60000_bytes_each_way_in_one_datagram() -> None:
    line = os.urandom(59_999).replace(b"\n", b"x") + b"\n"
    with udp_peer() as (peer, port), mysocket("--raw", "-u", "-p", 0, "--peer", f"127.0.0.1:{port}") as program:
        program.write(line)
        datagram, source = peer.recvfrom(65536)
        assert datagram == line
        peer.sendto(line[::-1].replace(b"\n", b"") + b"\n", source)
        program.wait_output(line[::-1].replace(b"\n", b"") + b"\n")
        program.close_stdin()
        program.wait_status(0)
        assert len(program.stdout) == 60_000


def test_udp_from_another_port_of_the_peer_is_taken() -> None:
    with (
        udp_peer() as (_, port),
        udp_peer() as (other, _),
        mysocket("--raw", "-u", "-p", 0, "--peer", f"127.0.0.1:{port}") as program,
    ):
        other.sendto(b"from another port\n", ("127.0.0.1", program.listening_port()))
        program.wait_output(b"from another port\n")
        program.close_stdin()
        program.wait_status(0)


def test_udp_a_line_too_long_for_a_datagram_is_an_error_and_the_next_goes_on() -> None:
    with udp_peer() as (peer, port):
        given = b"before\n" + b"x" * 70_000 + b"\nafter\n"
        with mysocket("--raw", "-u", "--peer", f"127.0.0.1:{port}", "--send-only", stdin=given) as sender:
            assert [peer.recv(65536), peer.recv(65536)] == [b"before\n", b"after\n"]
            sender.wait()
            assert re.search(r"mysocket: .*70[,.]?00[01]", sender.stderr_text), sender.report()
            assert re.search(r"65[,.]?507", sender.stderr_text), sender.report()


def test_udp_after_the_end_of_input_answers_are_waited_for() -> None:
    with (
        udp_peer() as (peer, port),
        mysocket("--raw", "-u", "--peer", f"127.0.0.1:{port}", "-q", "20s", stdin=b"question\n") as client,
    ):
        question, source = peer.recvfrom(65536)
        assert question == b"question\n"
        peer.sendto(b"answer\n", source)
        client.wait_output(b"answer\n")  # though the input has ended
        assert client.running()


def test_plain_udp_says_once_that_it_is_raw() -> None:
    with udp_peer() as (peer, port):
        with mysocket("--udp", "--peer", f"127.0.0.1:{port}", stdin=b"one\ntwo\n") as client:
            assert [peer.recv(65536), peer.recv(65536)] == [b"one\n", b"two\n"]
            client.wait_status(0)
            said = [line for line in client.stderr_text.splitlines() if "--udp --raw" in line]
            assert len(said) == 1, client.report()
        with mysocket("--udp", "--raw", "--peer", f"127.0.0.1:{port}", stdin=b"three\n") as client:
            client.wait_status(0)
            assert "--udp --raw" not in client.stderr_text


def test_udp_input_waits_until_somebody_has_spoken() -> None:
    with mysocket("--raw", "-u", "-p", 0, stdin=b"for the first\n") as listener:
        port = listener.listening_port()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(TIMEOUT)
            client.sendto(b"here I am\n", ("127.0.0.1", port))
            assert client.recv(100) == b"for the first\n"
        assert listener.wait() == 0 and listener.stdout == b"here I am\n"


def test_udp_input_that_nobody_comes_for_is_no_success() -> None:
    with mysocket("--raw", "-u", "-p", 0, "-w", "1", stdin=b"for nobody\n") as listener:
        assert listener.wait() == 3


def test_tcp_after_the_end_of_the_input_a_later_connection_is_closed_when_its_peer_ends() -> None:
    with mysocket("--raw", "-p", 0, "-k", stdin=b"once\n") as server:
        port = server.listening_port()
        for expected in (b"once\n", b""):
            with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
                client.shutdown(socket.SHUT_WR)
                heard = b"".join(iter(lambda client=client: client.recv(100), b""))  # type: ignore[misc]
                assert heard == expected


def test_udp_sends_when_a_name_that_was_unknown_is_known_at_last() -> None:
    script = (
        "import socket, sys\n"
        "real, asked = socket.getaddrinfo, []\n"
        "def later(host, *rest, **named):\n"
        "    if host != 'hostb.example':\n"
        "        return real(host, *rest, **named)\n"
        "    asked.append(host)\n"
        "    if len(asked) == 1:\n"
        "        raise socket.gaierror('not yet')\n"
        "    return real('127.0.0.1', *rest, **named)\n"
        "socket.getaddrinfo = later\n"
        "from mysocket.carriers import build\n"
        "build.LAST_RETRY = 0.2\n"
        "from mysocket.cli import main\n"
        "sys.exit(main())\n"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(TIMEOUT)
        peer = f"hostb.example:{listener.getsockname()[1]}"
        argv = [sys.executable, "-c", script, "--raw", "-u", "--peer", peer, "--send-only"]
        with Program(argv, stdin=b"at last\n") as sender:
            assert listener.recv(100) == b"at last\n"
            assert sender.wait() == 0
            assert "is unknown" in sender.stderr_text


def test_udp_a_message_that_is_too_long_is_named_and_the_next_goes_on() -> None:
    with mysocket("--raw", "-u", "-p", 0, "--json", "--max-message", "10", "--recv-only") as listener:
        port = listener.listening_port()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x" * 20 + b"\n", ("127.0.0.1", port))
            client.sendto(b"short\n", ("127.0.0.1", port))
            listener.wait_output(b'"text": "short"')
        listener.wait_line("larger than --max-message")
        assert "Traceback" not in listener.stderr_text
