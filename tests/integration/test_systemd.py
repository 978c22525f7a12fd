"""Under a supervisor: sockets that it holds open, what it is told, and what the journal reads. The processes are real."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mysocket.core import wire
from mysocket.core.wire import Bye, Hello, Input, Reason
from tests.support.processes import DEVNULL, MYSOCKET, PIPE, TIMEOUT, Program, free_port, mysocket, wait_until
from tests.support.supervisor import Ear, Supervisor

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "docs/systemd"
TWISTD = (sys.executable, "-c", "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()")
SCRIPT = (*MYSOCKET, "-k", "--recv-only")
SERVICE = (*TWISTD, "-n", "--pidfile=", "mysocket", "--recv-only")
FRONTS = pytest.mark.parametrize("front", [SCRIPT, SERVICE], ids=["script", "twistd"])


def deliver(address: str, text: bytes) -> None:
    with mysocket("--peer", address, stdin=text) as sender:
        assert sender.wait() == 0, sender.report()


# Sockets ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("front", "text"),
    [(SCRIPT, "systemd:domain=INET6:index=1"), (SERVICE, "systemd:domain=INET6:name=link"), (SERVICE, "systemd:index=1")],
)
def test_connections_come_through_a_socket_that_was_passed(front: tuple[str, ...], text: str) -> None:
    with Supervisor() as supervisor:
        supervisor.listen("other", socket.AF_INET)
        port = supervisor.listen("link")
        with supervisor.run(*front, "-p", text) as program:
            program.wait_line(rf"listening on \[::\]:{port}")
            deliver(f"127.0.0.1:{port}", b"over IPv4\n")
            deliver(f"[::1]:{port}", b"over IPv6\n")
            program.wait_output(b"over IPv4\nover IPv6\n")


@FRONTS
def test_who_connects_during_a_restart_waits(front: tuple[str, ...], tmp_path: Path) -> None:
    output, spool = tmp_path / "output", tmp_path / "spool"
    with Supervisor() as supervisor, contextlib.ExitStack() as stack:
        port = supervisor.listen("link")
        for number in range(2):
            line = f"message {number}\n"
            # Nobody accepts yet: the kernel does.
            sender = stack.enter_context(mysocket("--peer", f"127.0.0.1:{port}", "-v", stdin=line.encode()))
            wait_until(lambda: connections_to(port), "no connection in the queue", TIMEOUT, sender)
            with supervisor.run(*front, "-p", "systemd:name=link", "--output", output, "--spool", spool) as program:
                assert sender.wait() == 0, program.report()
                program.kill(signal.SIGTERM if number else signal.SIGKILL)
                program.wait()
            assert "refused" not in sender.stderr_text
    assert output.read_text() == "message 0\nmessage 1\n"


def connections_to(port: int) -> int:
    """Connections to a port of this machine that stand (proc_net_tcp)."""
    found = 0
    for name in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = row.split()
            found += fields[2].endswith(f":{port:04X}") and fields[3] == "01"
    return found


@FRONTS
def test_a_unix_socket_stays_the_supervisors(front: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "link"
    with Supervisor() as supervisor:
        supervisor.listen("link", socket.AF_UNIX, path=str(path))
        path.chmod(0o640)
        with supervisor.run(*front, "-p", "systemd:domain=UNIX:name=link") as program:
            program.wait_line("listening on ")
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
            deliver(f"unix:{path}", b"hello\n")
            program.wait_output(b"hello\n")
            program.kill(signal.SIGTERM)
            program.wait()
        assert stat.S_ISSOCK(path.stat().st_mode)
        # It still listens: nobody has shut it down.
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            supervisor.sockets["link"].accept()[0].close()


@FRONTS
def test_datagrams_come_through_a_socket_that_was_passed(front: tuple[str, ...]) -> None:
    with Supervisor() as supervisor:
        port = supervisor.listen("device", kind=socket.SOCK_DGRAM)
        with supervisor.run(*front, "--raw", "-u", "-p", "systemd:index=0") as program:
            program.wait_line(rf"listening on \[::\]:{port} \(datagrams")
            for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                with socket.socket(family, socket.SOCK_DGRAM) as device:
                    for text in (b"short", b"x" * 20_000):
                        device.sendto(text, (host, port))
                        program.wait_output(text + b"\n")
            # A socket that blocks would keep the reactor from hearing this.
            program.kill(signal.SIGTERM)
            program.wait()


def test_datagrams_that_came_during_a_restart_wait(tmp_path: Path) -> None:
    with Supervisor() as supervisor, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        port = supervisor.listen("device", kind=socket.SOCK_DGRAM)
        for number in range(2):
            device.sendto(b"waited %d" % number, ("127.0.0.1", port))
            with supervisor.run(*SCRIPT, "--raw", "-u", "-p", "systemd:name=device") as program:
                program.wait_output(b"waited %d\n" % number)


def test_the_same_socket_answers() -> None:
    """A line typed here goes to whoever spoke first, from the port that he knows."""
    with Supervisor() as supervisor, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        port = supervisor.listen("device", kind=socket.SOCK_DGRAM)
        device.settimeout(TIMEOUT)
        with supervisor.run(*MYSOCKET, "-k", "--raw", "-u", "-p", "systemd:index=0", stdin=PIPE) as program:
            program.wait_line("listening on ")
            device.sendto(b"hello\n", ("127.0.0.1", port))
            program.wait_output(b"hello\n")
            program.write(b"and you\n")
            assert device.recvfrom(100) == (b"and you\n", ("127.0.0.1", port))


def test_an_input_takes_datagrams_through_a_socket_that_was_passed() -> None:
    with Supervisor() as supervisor, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        port = supervisor.listen("syslog", kind=socket.SOCK_DGRAM)
        with (
            mysocket("-p", 0, "--recv-only", "-k", stdin=DEVNULL) as hub,
            supervisor.run(
                *MYSOCKET, "--peer", f"127.0.0.1:{hub.listening_port()}", "--input", "udp:systemd:name=syslog"
            ) as program,
        ):
            program.wait_line("input udp:systemd:name=syslog: listening on ")
            device.sendto(b"<13>from a device", ("127.0.0.1", port))
            hub.wait_output(b"<13>from a device\n")


def refused(program: Program, *words: str) -> None:
    with program:
        assert program.wait() == 2, program.report()
        for word in words:
            assert word in program.stderr_text, program.report()


def test_what_is_wrong_with_a_socket_is_told() -> None:
    """What else can be wrong: tests/carriers/test_activation.py."""
    other = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "link"}
    with Supervisor() as supervisor:
        supervisor.listen("link")
        # All at once: a start takes a while.
        programs = [
            (supervisor.run(*SCRIPT, "-p", "systemd:index=1"), "no socket number 1 was passed; there is 1: index=0:name=link"),
            (supervisor.run(*SERVICE, "-p", "systemd:domain=INET:name=link"), "its domain is INET6, not INET"),
            (supervisor.run(*SCRIPT, "--raw", "-u", "-p", "systemd:index=0"), "it is a stream socket (ListenStream=)"),
            (supervisor.run(*SCRIPT, "-p", "systemd:index=0", names=""), "LISTEN_FDNAMES"),
            (Program([*SCRIPT, "-p", "systemd:index=0"], stdin=DEVNULL), "no sockets were passed to this process"),
            (Program([*SERVICE, "-p", "systemd:index=0"], stdin=DEVNULL, env=other), "its sockets to process 1, and"),
        ]
    for program, words in programs:
        refused(program, "Cannot listen on systemd:", words)


def test_a_socket_is_taken_once() -> None:
    with Supervisor() as supervisor:
        supervisor.listen("link")
        program = supervisor.run(*MYSOCKET, "-p", "systemd:index=0", "--input", "systemd:name=link")
        refused(program, "that socket is used already")


# What it tells ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("front", "where"), [(SCRIPT, "path"), (SERVICE, "abstract")], ids=["script", "twistd"])
def test_a_supervisor_is_told_how_the_service_is(front: tuple[str, ...], where: str, tmp_path: Path) -> None:
    output, moved = tmp_path / "output", tmp_path / "moved"
    address = tmp_path / "notify" if where == "path" else f"@{tmp_path}"
    with Ear(address) as ear:
        args = ("-p", "0", "--output", str(output), "--spool", str(tmp_path / "spool"))
        with Program([*front, *args], stdin=DEVNULL, env={**ear.env, "WATCHDOG_USEC": "400000"}) as program:
            assert "STATUS=not linked" in ear.wait_for("READY=1", program)
            # It listens by then.
            port = int(wait_line(program, r"listening on \S*:(\d+)"))
            with socket.create_connection(("127.0.0.1", port)):
                pass
            with mysocket("--peer", f"127.0.0.1:{port}") as sender:
                sender.write(b"one\n")
                ear.wait_for("STATUS=linked with ", program)
                output.rename(moved)
                program.kill(signal.SIGHUP)
                ear.wait_for("RELOADING=1", program)
                assert ear.wait_for("READY=1", program) == ["READY=1"]
                assert output.exists()
                sender.write(b"two\n")
                sender.close_stdin()
                assert sender.wait() == 0, program.report()
            ear.wait_for("STATUS=not linked", program)
            for _ in range(3):
                ear.wait_for("WATCHDOG=1", program)
            program.kill(signal.SIGTERM)
            assert ear.wait_for("STOPPING=1", program)[1].startswith("STATUS=leaving: ")
            program.wait()
    assert moved.read_text() + output.read_text() == "one\ntwo\n"


def wait_line(program: Program, pattern: str) -> str:
    return program.wait_line(pattern)[1]


def test_a_reactor_that_hangs_feeds_no_watchdog(tmp_path: Path) -> None:
    """A signal's handler runs in its thread, and does not come back; the thread of the spool goes on."""
    hang = "import signal, time; signal.signal(signal.SIGUSR1, lambda *_: time.sleep(1000)); "
    run = "import sys; from mysocket.cli import main; sys.exit(main())"
    with Ear(tmp_path / "notify") as ear:
        env = {**ear.env, "WATCHDOG_USEC": "200000", "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, "-c", hang + run, "-k", "--recv-only", "-p", "0", "--spool", str(tmp_path / "spool")]
        with Program(argv, stdin=DEVNULL, env=env) as program:
            ear.wait_for("WATCHDOG=1", program)
            program.kill(signal.SIGUSR1)
            with pytest.raises(TimeoutError):
                for _ in range(100):
                    ear.hear(1.0)
            assert program.running()


def test_a_socket_that_is_not_there_hurts_nobody(tmp_path: Path) -> None:
    for address in (str(tmp_path / "nothing"), "relative"):
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1"}
        with mysocket("--peer", "127.0.0.1:1", "-w", "0.1s", stdin=b"x\n", env=env) as program:
            assert program.wait() == 3, program.report()


def test_without_an_output_file_a_reload_ends_nothing_under_a_supervisor(tmp_path: Path) -> None:
    with Ear(tmp_path / "notify") as ear, Program([*SERVICE, "-p", "0"], stdin=DEVNULL, env=ear.env) as program:
        ear.wait_for("READY=1", program)
        program.kill(signal.SIGHUP)
        ear.wait_for("RELOADING=1", program)
        ear.wait_for("READY=1", program)
        assert program.running()


def test_a_service_that_cannot_start_is_never_ready(tmp_path: Path) -> None:
    with Ear(tmp_path / "notify") as ear, Program([*SERVICE, "-p", "0", "--bind", "192.0.2.7"], stdin=DEVNULL, env=ear.env) as it:
        assert it.wait() == 2, it.report()
        ear.drain()
        assert not any("READY=1" in message for message in ear.heard)


def test_a_twistd_that_forks_names_its_process_and_feeds_no_watchdog(tmp_path: Path) -> None:
    """WATCHDOG_PID is that of the process that was started, as systemd sets it."""
    place = (f"--pidfile={tmp_path}/pid", f"--logfile={tmp_path}/log", f"--rundir={tmp_path}")
    with Ear(tmp_path / "notify") as ear:
        become = 'import os, sys; os.environ["WATCHDOG_PID"] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])'
        argv = [sys.executable, "-c", become, *TWISTD, *place, "mysocket", "-p", "0", "--log-format", "json"]
        with Program(argv, stdin=DEVNULL, env={**ear.env, "WATCHDOG_USEC": "200000"}) as started:
            assert started.wait() == 0, started.report()
            ready = ear.wait_for("READY=1", started)
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, signal.SIGTERM)
        ear.wait_for("STOPPING=1", started)
        wait_until(lambda: not (tmp_path / "pid").exists(), "it does not end")
        assert f"MAINPID={pid}" in ready
        assert not any("WATCHDOG=1" in message for message in ear.heard)
    # Its log is JSON, every line of it.
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert "listening" in events and "stopping" in events


# The units ----------------------------------------------------------------------------------------------------------------------


def test_the_units_are_what_systemd_takes(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("no systemd-analyze here")
    shutil.copytree(UNITS, tmp_path, dirs_exist_ok=True)
    service = tmp_path / "mysocket@.service"
    # What it starts has to be there.
    service.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", service.read_text()))
    shutil.copy(tmp_path / "mysocket@.socket", tmp_path / "mysocket@syslog.socket")
    names = [service, tmp_path / "mysocket@.socket", tmp_path / "mysocket@syslog.socket"]
    done = subprocess.run([tool, "verify", "--man=no", *map(str, names)], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "mysocket" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


def test_the_unit_starts_what_there_is() -> None:
    text = (UNITS / "mysocket@.service").read_text()
    assert "Type=notify" in text and "WatchdogSec=" in text and "NotifyAccess=main" in text
    start = re.search(r"(?m)^ExecStart=\S+/twistd (.*)$", text)
    assert start is not None and start[1].split() == [
        *("--nodaemon", "--pidfile=", "mysocket", "--config"),
        "/etc/mysocket/%i.toml",
    ]


# The log ------------------------------------------------------------------------------------------------------------------------

NASTY = "evil\n<0>mysocket: all is well\x1b[2J\u202e"


def hostile(port: int, bye: str) -> None:
    """A peer whose name and last words are made for whoever reads the log."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as peer:
        peer.sendall(wire.MAGIC)
        peer.sendall(wire.encode(Hello(node=os.urandom(16), stream=os.urandom(16), name=NASTY[:50], input=Input.FINITE)))
        peer.sendall(wire.encode(Bye(Reason.LEFT, bye)))
        peer.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while peer.recv(65536):
                pass


@pytest.mark.parametrize("log_format", ["text", "json"])
@FRONTS
def test_a_hostile_peer_makes_no_line_of_its_own(front: tuple[str, ...], log_format: str) -> None:
    with Program([*front, "-p", "0", "-v", "--log-format", log_format], stdin=DEVNULL) as program:
        port = int(wait_line(program, r"listening on \S*:(\d+)"))
        for bye in (NASTY, NASTY * 200):
            hostile(port, bye)
        program.wait_line("left", nth=2)
        program.kill(signal.SIGTERM)
        program.wait()
        lines = program.stderr_text.splitlines()
        assert all(len(line) < 1000 and "\x1b" not in line and "\u202e" not in line for line in lines), program.report()
        if log_format == "json":
            events = [json.loads(line) for line in lines]
            assert [event["event"] for event in events if event["event"] in ("linked", "left")] == ["linked", "left"] * 2
            (linked, _) = (event for event in events if event["event"] == "linked")
            assert linked["peer"].startswith("evil\\x0a<0>mysocket") and linked["address"].startswith("127.0.0.1:")
            assert all(set(event) >= {"time", "level", "event", "message"} for event in events)
        else:
            start = r"mysocket: " if front is SCRIPT else r"\d{4}-\S+ \["
            assert all(re.match(start, line) for line in lines), program.report()


def test_a_thousand_strangers_make_few_lines() -> None:
    with mysocket("-p", 0, "--peer", "192.0.2.1:9", "--bind", "127.0.0.1", stdin=DEVNULL) as program:
        port = program.listening_port()
        for number in range(1000):
            with socket.socket() as stranger:
                stranger.bind((f"127.7.{number // 250}.{number % 250 + 1}", 0))
                stranger.connect(("127.0.0.1", port))
                assert stranger.recv(100) == b""
        program.kill(signal.SIGTERM)
        program.wait()
        assert 1 <= program.stderr_text.count("closed a connection from") <= 20
        assert len(program.stderr_text.splitlines()) < 30


def test_datagrams_from_everywhere_make_few_lines() -> None:
    with mysocket(
        "-p", 0, "--peer", "192.0.2.1:9", "--bind", "127.0.0.1", "--raw", "-u", "--recv-only", stdin=DEVNULL
    ) as program:
        port = program.listening_port()
        for number in range(1000):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.bind((f"127.7.{number // 250}.{number % 250 + 1}", 0))
                stranger.sendto(b"x", ("127.0.0.1", port))
        program.wait_line("dropped a datagram from")
        program.kill(signal.SIGTERM)
        program.wait()
        assert program.stderr_text.count("dropped a datagram") <= 20


@pytest.mark.parametrize("log_format", ["text", "json"])
@FRONTS
def test_the_journal_reads_the_levels(front: tuple[str, ...], log_format: str) -> None:
    """stderr is the journal's if JOURNAL_STREAM names it; a shell finds out which pipe it is."""
    name = 'JOURNAL_STREAM="$(stat -L -c %d:%i /proc/self/fd/2)" exec "$@"'
    port = free_port()
    argv = ["/bin/sh", "-c", name, "sh", *front, "-p", str(port), "--log-format", log_format, "--bind", "127.0.0.1"]
    with Program(argv, stdin=DEVNULL) as program:
        program.wait_line("<6>.*listening")
        # A second one finds the port taken.
        with Program(argv, stdin=DEVNULL) as other:
            assert other.wait() == 2, other.report()
            assert re.search(r"(?m)^<3>.*Cannot listen on", other.stderr_text), other.report()
        program.kill(signal.SIGTERM)
        program.wait()
        assert all(re.match(r"<[34567]>", line) for line in program.stderr_text.splitlines()), program.report()
