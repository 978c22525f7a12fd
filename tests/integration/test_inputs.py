"""Inputs and outputs with real peers: syslog's ``logger``, socat and nc beside real sessions and services."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.disks import small_disk
from tests.support.namespaces import TwoHosts, two_hosts
from tests.support.processes import DEVNULL, LINKED, Program, acquaint, free_port, mysocket, wait_until

__all__ = ["two_hosts"]  # the fixture, used by its name below

Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts sessions, and other programs; they are killed in the end."""
    with contextlib.ExitStack() as stack:
        programs: list[Program] = []

        def keep(program: Program) -> Program:
            programs.append(stack.enter_context(program))
            acquaint(*programs)
            return program

        def start(*args: str | int | Path, stdin: bytes | int = DEVNULL, tool: str | None = None) -> Program:
            if tool is None:
                return keep(mysocket(*args, stdin=stdin))
            if shutil.which(tool) is None:
                pytest.skip(f"missing: {tool}")
            return keep(Program([tool, *map(str, args)], stdin=stdin))

        yield start


def hub(start: Start, tmp_path: Path, *options: str | Path) -> tuple[str, Program]:
    """Where a hub listens, and the hub."""
    port = free_port()
    program = start("-p", port, "--recv-only", "-k", "--output", tmp_path / "all", *options)
    program.wait_line("listening on")
    return f"127.0.0.1:{port}", program


def wait_all(tmp_path: Path, data: bytes, *programs: Program, name: str = "all") -> None:
    path = tmp_path / name
    wait_until(lambda: path.exists() and path.read_bytes() == data, f"not all is in {name}", 30, *programs)


def run(*argv: str | int, stdin: bytes = b"") -> None:
    if shutil.which(str(argv[0])) is None:
        pytest.skip(f"missing: {argv[0]}")
    subprocess.run([str(word) for word in argv], input=stdin, check=True, timeout=30)


# Inputs -------------------------------------------------------------------------------------------------------------------------


def test_syslog_of_a_machine_comes_out_on_another(start: Start, tmp_path: Path) -> None:
    where, _ = hub(start, tmp_path)
    tcp, udp, path = free_port(), free_port(), tmp_path / "log.sock"
    sender = start("--peer", where, "--input", f"tcp:{tcp}", "--input", f"udp:{udp}", "--input", f"unix:{path}")
    sender.wait_line(LINKED)
    everything = tmp_path / "all"
    run("logger", "-n", "127.0.0.1", "-P", tcp, "-T", "--rfc3164", "over TCP, with octets counted or not")
    wait_until(lambda: everything.exists() and b"over TCP" in everything.read_bytes(), "nothing over TCP", 30, sender)
    run("logger", "-n", "127.0.0.1", "-P", udp, "-d", "--rfc3164", "over UDP")
    wait_until(lambda: b"over UDP\n" in everything.read_bytes(), "nothing over UDP", 30, sender)
    run("socat", "-u", "-", f"UNIX-CONNECT:{path}", stdin=b"one\nand half")
    wait_until(lambda: everything.read_bytes().endswith(b"one\nand half"), "nothing over the Unix socket", 30, sender)
    assert len(everything.read_bytes().splitlines()) == 4
    assert path.stat().st_mode & 0o777 == 0o600, "a Unix socket is for its user alone"


def test_stdin_files_and_several_outputs_with_an_end(start: Start, tmp_path: Path) -> None:
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    one.write_bytes(b"".join(b"one %d\n" % number for number in range(50_000)))
    other.write_bytes(b"other, unfinished")
    port = free_port()
    receiver = start("-p", port, "--recv-only", "--output", tmp_path / "all", "--output", tmp_path / "copy", "--output", "-")
    receiver.wait_line("listening on")
    lines = b"".join(b"stdin %d\n" % number for number in range(50_000))
    sender = start("--peer", f"127.0.0.1:{port}", "--input", one, "--input", "-", "--input", other, stdin=lines)
    sender.wait_status(0)
    receiver.wait_status(0)
    everything = (tmp_path / "all").read_bytes()
    assert everything == (tmp_path / "copy").read_bytes() == receiver.stdout
    for prefix, whole in ((b"one ", one.read_bytes()), (b"stdin ", lines), (b"other", b"other, unfinished\n")):
        found = b"".join(line + b"\n" for line in everything.splitlines() if line.startswith(prefix))
        assert found == whole


def test_a_file_is_sent_once_and_then_what_is_new(start: Start, tmp_path: Path) -> None:
    where, _ = hub(start, tmp_path)
    path = tmp_path / "report.csv"
    path.write_bytes(b"a\nb\n")
    again = ("--peer", where, "--spool", tmp_path / "spool", "--input", path)
    for more in (b"", b"", b"c\n"):
        with path.open("ab") as file:
            file.write(more)
        start(*again).wait_status(0)
    assert (tmp_path / "all").read_bytes() == b"a\nb\nc\n"


def test_a_stdin_with_nothing_in_it_keeps_nobody(start: Start, tmp_path: Path) -> None:
    where, _ = hub(start, tmp_path)
    path = tmp_path / "report.csv"
    path.write_bytes(b"a\n")
    start("--peer", where, "--input", "-", "--input", path, stdin=DEVNULL).wait_status(0)
    wait_all(tmp_path, b"a\n")


def test_a_full_disk_repeats_nothing_and_loses_nothing_of_a_log(start: Start, tmp_path: Path) -> None:
    log, where = tmp_path / "app.log", f"127.0.0.1:{free_port()}"
    data = b"".join(b"%07d %s\n" % (number, b"x" * 90) for number in range(120_000))
    log.write_bytes(data[: len(data) // 2])
    with small_disk(tmp_path, 4 * 1024 * 1024) as disk, contextlib.ExitStack() as stack:
        arguments = ("--peer", where, "--input", f"follow:{log}", "--spool", disk.path / "spool")
        first = stack.enter_context(mysocket(*arguments, stdin=DEVNULL))
        first.wait_line("the disk of .* is full")
        log.rename(tmp_path / "app.log.1")
        log.write_bytes(data[len(data) // 2 :])
        first.kill()
        first.wait()
        sender = stack.enter_context(mysocket(*arguments, stdin=DEVNULL))
        sender.wait_line("the disk of .* is full")
        receiver = start("-p", where.rpartition(":")[2], "--recv-only", "-k", "--output", tmp_path / "all")
        wait_all(tmp_path, data, sender, receiver)
        sender.wait_line("the disk has room again")


def test_who_may_connect_to_an_input(two_hosts: TwoHosts, tmp_path: Path) -> None:
    copy = tmp_path / "all"
    receiver = two_hosts.mysocket(0, "-p", 9000, "--recv-only", "-k", "--output", copy, stdin=b"")
    receiver.wait_line("listening on")
    arguments = ("--peer", "127.0.0.1:9000", "--input", "tcp:9100", "--input", "udp:9101")
    sender = two_hosts.mysocket(0, *arguments, stdin=b"")
    sender.wait_line("udp:9101: listening on .*from loopback")
    for words in (("-N",), ("-u", "-w", "1")):
        port = 9101 if "-u" in words else 9100
        two_hosts.run(1, "nc", *words, two_hosts.addresses[0], port, stdin=b"let me in\n").wait()
    sender.wait_line(f"closed a connection from {two_hosts.addresses[1]}.*--allow")
    sender.wait_line(f"dropped a datagram from {two_hosts.addresses[1]}.*--allow")
    two_hosts.run(0, "nc", "-N", "127.0.0.1", 9100, stdin=b"from here\n").wait()
    wait_until(lambda: copy.exists() and copy.read_bytes(), "nothing arrives", 30, sender, receiver)
    assert copy.read_bytes() == b"from here\n"


def test_the_first_who_comes_to_a_hub_with_inputs_may_take_nothing(start: Start, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "app.log"
    log.write_bytes(b"for whoever takes it\n")
    collecting = start("-p", port, "-k", "--input", f"follow:{log}")
    collecting.wait_line("listening on")
    sender = start("--peer", f"127.0.0.1:{port}", "--send-only", stdin=b"sent by the first\n")
    sender.wait_status(0)
    receiver = start("--peer", f"127.0.0.1:{port}", "--recv-only")
    receiver.wait_output(b"for whoever takes it\n")


def test_as_many_descriptors_as_there_may_be(start: Start) -> None:
    program = start("-p", 0, "--recv-only")
    program.wait_line("listening on")
    soft, hard = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
    assert soft == min(hard, 65_536) or hard == resource.RLIM_INFINITY


# Outputs ------------------------------------------------------------------------------------------------------------------------


def test_an_output_that_is_down_is_waited_for(start: Start, tmp_path: Path) -> None:
    collector = free_port()
    where, receiver = hub(start, tmp_path, "--output", f"tcp:127.0.0.1:{collector}", "--spool", tmp_path / "spool")
    lines = b"".join(b"line %d\n" % number for number in range(1000))
    sender = start("--peer", where, "--send-only", stdin=lines)
    receiver.wait_line("Cannot connect to the output .* connection refused")
    receiver.wait_line(LINKED)
    assert sender.running() and (tmp_path / "all").read_bytes() == b"", "the file is the last"
    nc = start("-l", "127.0.0.1", collector, tool="nc")
    sender.wait_status(0)
    wait_all(tmp_path, lines, receiver)
    wait_until(lambda: nc.stdout == lines, "nc has not got it", 30, nc, receiver)


def test_all_files_are_opened_anew_and_named(start: Start, tmp_path: Path) -> None:
    where, receiver = hub(start, tmp_path, "--output", tmp_path / "copy", "-v")
    for name in ("all", "copy"):
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    receiver.kill(signal.SIGHUP)
    receiver.wait_line(f"SIGHUP: opened anew: {tmp_path}/all, {tmp_path}/copy$")
    start("--peer", where, stdin=b"behind it\n").wait_status(0)
    for name in ("all", "copy"):
        wait_all(tmp_path, b"behind it\n", receiver, name=name)


def test_a_collector_that_answers_gets_all_at_the_end(start: Start) -> None:
    """A socket that is closed for good answers with a reset, and who hears that reads no more of what it has."""
    data = b"".join(b"line %d\n" % number for number in range(20))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = free_port()
        receiver = start("-p", port, "--recv-only", "--output", f"tcp:127.0.0.1:{listening.getsockname()[1]}")
        sender = start("--peer", f"127.0.0.1:{port}", "--send-only", stdin=data)
        listening.settimeout(30)
        collector = listening.accept()[0]
    with collector:
        sender.wait_status(0)
        over = select.poll()
        over.register(collector, select.POLLRDHUP)
        assert over.poll(30_000), "the receiver does not leave"
        found = b""
        while byte := collector.recv(1):
            found += byte
            collector.sendall(b"thank you\n")
    assert found == data
    receiver.wait_status(0)


def test_messages_become_datagrams_and_datagrams_messages(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(30)
        where, _ = hub(start, tmp_path, "--output", f"udp:127.0.0.1:{listening.getsockname()[1]}")
        port = free_port()
        sender = start("--peer", where, "--input", f"udp:{port}")
        sender.wait_line(LINKED)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
            for message in (b"one", b"two\nlines", b"\xff\x00"):
                device.sendto(message, ("127.0.0.1", port))
                assert listening.recv(65536) == message + b"\n"
    assert (tmp_path / "all").read_bytes() == b"one\ntwo\nlines\n\xff\x00\n"


# What is refused ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--input", "tcp:70000"), "70000|tcp:70000"),
        (("--input", "nonsense:1"), "nonsense"),
        (("--input", "no-such-file"), "no-such-file does not exist"),
        (("--input", "/"), "is a directory|is no file"),
        (("--input", "systemd:domain=INET:index=0"), "systemd"),
        (("--input", "app.log", "--input", "follow:./app.log"), "app.log and follow:\\./app.log are the same file"),
        (("--output", "all", "--output", "./all"), "all and \\./all are the same file"),
        (("--input", "follow:app.log", "--output", "./app.log"), "follow:app.log is also an output"),
        (("--recv-only", "--output", "tcp:"), "tcp:"),
        (("--recv-only", "--output", "/nowhere/x", "--output", "-"), "/nowhere/x"),
    ],
)
def test_what_cannot_be_opened_is_named(start: Start, options: tuple[str, ...], said: str) -> None:
    program = start("--peer", f"127.0.0.1:{free_port()}", *options)
    program.wait_status(2)
    program.wait_line(said)
    assert "Traceback" not in program.stderr_text


def test_a_fifo_that_nobody_reads(start: Start, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    arguments = ("-p", 0, "--recv-only", "--output", fifo)
    program = start(*arguments)
    program.wait_status(2)
    program.wait_line("nobody reads it; start its reader first")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        start(*arguments).wait_line("listening on")
    finally:
        os.close(reader)


def test_a_port_that_is_taken(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        program = start("--peer", f"127.0.0.1:{free_port()}", "--input", f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1")
        program.wait_status(2)
        program.wait_line("in use")
