"""twistd as the front end: in the foreground a session on stdin and stdout, as a daemon a receiver."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import DEVNULL, PIPE, TIMEOUT, Program, Terminal, free_port, mysocket, wait_until

TWISTD = (sys.executable, "-c", "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()")
LISTENING = r"listening on (\S*):(\d+)"


def twistd(*args: str | int | Path, stdin: bytes | Path | int = PIPE, cwd: Path | None = None) -> Program:
    """twistd in the foreground."""
    return Program([*TWISTD, "-n", "--pidfile=", "mysocket", *map(str, args)], stdin=stdin, cwd=cwd)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    started = Daemon(tmp_path)
    yield started
    started.stop()


class Daemon:
    """A twistd that has gone into the background, with its pid file and log in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.pid_file = directory / "mysocket.pid"
        self.log_file = directory / "mysocket.log"
        self.directory = directory

    def start(self, *args: str | int | Path) -> Program:
        """Run twistd; the process that was started ends when the daemon is up, or has failed."""
        # A test runner without root cannot do more than this; twistd's default umask hides the files from nobody but others.
        options = ("--pidfile", str(self.pid_file), "--logfile", str(self.log_file), "--rundir", str(self.directory))
        return Program([*TWISTD, *options, "mysocket", *map(str, args)], stdin=DEVNULL)

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def wait_log(self, pattern: str) -> re.Match[str]:
        return wait_until(lambda: re.search(pattern, self.log), f"no {pattern!r} in the log:\n{self.log}")

    def stop(self) -> None:
        if self.pid_file.exists():
            os.kill(self.pid, signal.SIGTERM)
            wait_until(lambda: not self.pid_file.exists(), "the daemon did not stop")


def test_in_the_foreground_it_is_a_session_whose_log_is_on_stderr() -> None:
    here, there = free_port(), free_port()
    with (
        twistd("--port", here, "--peer", f"localhost:{there}", stdin=b"from twistd\n") as service,
        mysocket(there, "localhost", here, stdin=b"from the script\n") as script,
    ):
        assert script.wait() == 0 and service.wait() == 0
        assert service.stdout == b"from the script\n" and script.stdout == b"from twistd\n"
        assert re.search(r"^\d{4}-\S+ \[mysocket#info\] linked with ", service.stderr_text, re.MULTILINE)


def test_in_the_foreground_it_leaves_with_the_status_of_the_session() -> None:
    with twistd("--peer", f"127.0.0.1:{free_port()}", "-w", "1", stdin=b"for nobody\n") as service:
        assert service.wait() == 3
        assert "not delivered: 1 message " in service.stderr_text


def test_at_a_terminal_exit_ends_it() -> None:
    port = free_port()
    with Terminal([*TWISTD, "-n", "--pidfile=", "mysocket", str(port), "localhost", str(port)]) as terminal:
        terminal.wait_text("Type EXIT to end the program")
        terminal.wait_text("linked with")
        terminal.type("hello\n")
        terminal.wait_text(r"hello\s+hello")
        terminal.type("EXIT\n")
        assert terminal.wait() == 0


def test_a_taken_port_is_status_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with twistd("--port", port, "--peer", "127.0.0.1:9", stdin=DEVNULL) as service:
            assert service.wait() == 2
            assert f"Process {os.getpid()} (" in service.stderr_text


def test_sigterm_stops_it() -> None:
    with twistd("--port", "0", "--peer", f"127.0.0.1:{free_port()}") as service:
        service.wait_line(LISTENING)
        service.kill(signal.SIGTERM)
        assert service.wait() in (0, -signal.SIGTERM)


def test_wrong_options_are_explained_as_by_the_script() -> None:
    with twistd("--send-onyl") as service:
        service.wait_status(2)
        assert service.stdout == b""
        assert service.stderr_text == "mysocket: unknown option --send-onyl; did you mean --send-only?\n"


def test_a_daemon_receives_to_a_file_and_stays(daemon: Daemon) -> None:
    port, output = free_port(), daemon.directory / "received"
    with daemon.start("--port", port, "--output", output) as started:
        assert started.wait() == 0
    daemon.wait_log(LISTENING)
    for text in (b"first\n", b"second\n"):
        with mysocket("--peer", f"127.0.0.1:{port}", stdin=text) as sender:
            assert sender.wait() == 0
    assert output.read_bytes() == b"first\nsecond\n"
    daemon.wait_log(r"a daemon has no stdin: .* goes to \S*received")


def test_a_daemon_without_output_receives_to_its_log(daemon: Daemon) -> None:
    port = free_port()
    with daemon.start("--port", port) as started:
        assert started.wait() == 0
    with mysocket("--peer", f"127.0.0.1:{port}", stdin=b"one\nevil \x1b[2J\n") as sender:
        assert sender.wait() == 0
    daemon.wait_log(r"received: one\n")
    daemon.wait_log(r"received: evil \\x1b\[2J\n")


def test_a_daemon_that_cannot_listen_says_so_before_it_goes_to_the_background(daemon: Daemon) -> None:
    """On an address that nobody has; what is taken is found before (below)."""
    with daemon.start("--port", free_port(), "--bind", "192.0.2.7") as started:
        assert started.wait() != 0
        assert "CannotListen" in started.stderr_text and "192.0.2.7" in started.stderr_text


def test_a_relative_output_is_in_the_run_directory(daemon: Daemon) -> None:
    port = free_port()
    with daemon.start("--port", port, "--output", "here") as started:
        assert started.wait() == 0
    with mysocket("--peer", f"127.0.0.1:{port}", stdin=b"x\n") as sender:
        assert sender.wait() == 0
    assert (daemon.directory / "here").read_bytes() == b"x\n"


def test_a_socket_from_systemd_is_listened_on(tmp_path: Path) -> None:
    """What systemd does: an open socket as descriptor 3, and two variables that say so."""
    launcher = textwrap.dedent(
        """
        import os, socket, sys
        listener = socket.create_server(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        os.dup2(listener.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="mysocket.socket", LISTEN_PID=str(os.getpid()))
        os.dup2(2, 1)
        os.execv(sys.executable, [sys.executable, "-m", "mysocket", *sys.argv[1:]])
        """
    )
    received = tmp_path / "received"
    argv = [sys.executable, "-c", launcher, "-p", "systemd:domain=INET:index=0", "--recv-only", "--output", str(received)]
    with Program(argv, stdin=DEVNULL) as receiver:
        receiver.wait_line("listening on ")
        port = int(receiver.wait_output(b"\n", TIMEOUT))
        with mysocket("--peer", f"127.0.0.1:{port}", stdin=b"through systemd's socket\n") as sender:
            assert sender.wait() == 0
        assert receiver.wait() == 0
    assert received.read_bytes() == b"through systemd's socket\n"


def test_in_the_foreground_the_first_interrupt_waits_for_what_is_not_delivered() -> None:
    with twistd("--peer", f"127.0.0.1:{free_port()}", stdin=b"for nobody\n") as service:
        service.wait_line("refused the connection")
        service.kill(signal.SIGINT)
        service.wait_line(r"1 message \(11 bytes\) not delivered yet")
        service.kill(signal.SIGINT)
        assert service.wait() == 130


def test_a_daemon_with_a_spool_goes_on_behind_a_kill(daemon: Daemon) -> None:
    port = free_port()
    options = ("--port", port, "--spool", "spool", "--output", "received")
    to = ("--peer", f"127.0.0.1:{port}", "--spool", daemon.directory / "sender")
    with daemon.start(*options) as started:
        started.wait_status(0)
    with mysocket(*to, stdin=b"one\n") as script:
        script.wait_status(0)
    with twistd(*options, cwd=daemon.directory) as second:
        assert second.wait() == 2 and f"process {daemon.pid} (service)" in second.stderr_text
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.pid_file.unlink()
    with mysocket(*to, "-w", "0.3", stdin=b"two\n") as script:
        script.wait_status(3)
    with daemon.start(*options) as started:
        started.wait_status(0)
    with mysocket(*to, stdin=DEVNULL) as script:
        script.wait_status(0)
    assert (daemon.directory / "received").read_bytes() == b"one\ntwo\n"
    assert (daemon.directory / "spool").stat().st_mode & 0o777 == 0o700


# What is taken ------------------------------------------------------------------------------------------------------------------

IN_THE_FOREGROUND = [False, True]


def second(directory: Path, *args: str | int | Path, foreground: bool, pid_file: Path | None = None) -> Program:
    """Another twistd, whose files would be in a directory of its own."""
    directory.mkdir(exist_ok=True)
    files = ["--pidfile", str(pid_file or directory / "pid"), "--rundir", str(directory)]
    files += ["-n"] if foreground else ["--logfile", str(directory / "log")]
    return Program([*TWISTD, *files, "mysocket", *map(str, args)], stdin=DEVNULL)


def refused(program: Program, *words: str) -> None:
    """It ends with status 2 and one line, which has these words."""
    with program:
        program.wait_status(2)
        assert program.stdout == b"" and program.stderr_text.startswith("mysocket: ")
        assert program.stderr_text.count("\n") == 1
        for word in words:
            assert word in program.stderr_text, program.stderr_text


@pytest.mark.parametrize("foreground", IN_THE_FOREGROUND)
def test_a_port_that_nc_has_is_status_2_with_its_pid(tmp_path: Path, foreground: bool) -> None:
    port, place = free_port(), tmp_path / "second"
    with Program(["nc", "-l", "-p", str(port)] if _nc_wants_p() else ["nc", "-l", str(port)], stdin=PIPE) as nc:
        nc.wait_bound(port)
        refused(second(place, "--port", port, foreground=foreground), f"Process {nc.pid} (nc", f":{port}: ")
        assert nc.running() and list(place.iterdir()) == []
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"still there")
            nc.wait_output(b"still there")


@pytest.mark.parametrize("foreground", IN_THE_FOREGROUND)
def test_what_another_daemon_has_is_status_2_with_its_pid(daemon: Daemon, foreground: bool) -> None:
    port, place, output = free_port(), daemon.directory / "second", daemon.directory / "received"
    with daemon.start("--port", port, "--spool", "spool", "--output", output) as started:
        started.wait_status(0)
    pid, spool = daemon.pid, daemon.directory / "spool"
    before = (daemon.log, sorted(daemon.directory.iterdir()))
    refused(second(place, "--port", port, foreground=foreground), f"Process {pid} (", f":{port}: ")
    refused(second(place, "--port", free_port(), "--spool", spool, foreground=foreground), f"process {pid} (service)")
    refused(second(place, "--port", free_port(), "--spool", "../spool", foreground=foreground), f"process {pid} (service)")
    taken = second(place, "--port", free_port(), foreground=foreground, pid_file=daemon.pid_file)
    refused(taken, f"names process {pid} (", str(daemon.pid_file))
    assert list(place.iterdir()) == [] and daemon.pid == pid
    assert (daemon.log, sorted([*daemon.directory.iterdir()])) == (before[0], sorted([*before[1], place]))
    with mysocket("--peer", f"127.0.0.1:{port}", stdin=b"undisturbed\n") as sender:
        sender.wait_status(0)
    assert output.read_bytes() == b"undisturbed\n"


def test_a_stale_pid_file_and_a_spool_of_a_killed_daemon_are_no_obstacle(daemon: Daemon) -> None:
    options = ("--port", free_port(), "--spool", "spool")
    for _ in range(2):
        with daemon.start(*options) as started:
            started.wait_status(0)
        pid = daemon.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "the daemon did not die")  # type: ignore[misc]
    daemon.pid_file.unlink()


def test_a_daemon_whose_spool_is_none_shows_no_traceback(daemon: Daemon) -> None:
    (daemon.directory / "home").mkdir()
    (daemon.directory / "home" / "notes").touch()
    with daemon.start("--port", 0, "--spool", "home") as started:
        assert started.wait() != 0
        assert "it is not empty and holds no spool" in started.stderr_text
        assert "Traceback" not in started.stderr_text + started.stdout.decode()
    assert not daemon.pid_file.exists()


def _nc_wants_p() -> bool:
    """Traditional netcats do; OpenBSD's takes both."""
    return "OpenBSD" not in subprocess.run(["nc", "-h"], capture_output=True, text=True, check=False).stderr
