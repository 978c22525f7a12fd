"""Real services for the integration tests: `twistd mysocket` as daemons, each with its files in a directory of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from mysocket.control.protocol import Line, LineReader, encode
from tests.support.processes import DEVNULL, MYSOCKET, PIPE, TIMEOUT, Program, Terminal, acquaint, free_port, wait_until

TWISTD = (sys.executable, "-c", "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()")


def is_running(pid: int) -> bool:
    """Does the process run? One that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


class Yard:
    """A user's machine: a run-time directory, services, and the command. All is ended when it is left.

    :param twistd: the command twistd; :param command: the command mysocket.
    """

    def __init__(self, path: Path, twistd: Sequence[str] = TWISTD, command: Sequence[str] = MYSOCKET) -> None:
        self.path = path
        self.twistd = twistd
        self.command = command
        self.run_time = path / "run"
        self.run_time.mkdir(mode=0o700)
        self.env = {"XDG_RUNTIME_DIR": str(self.run_time)}
        self.netns: str | None = None
        self.services: list[Service] = []
        self.programs: list[Program] = []

    def service(self, *args: str | int | Path, name: str = "", netns: str | None = None, start: bool = True) -> Service:
        """A daemon that has started; `netns`: in that network namespace."""
        service = Service(self, name or f"service{len(self.services)}", args, netns)
        self.services.append(service)
        if start:
            service.start()
        return service

    def mysocket(
        self,
        *args: str | int | Path,
        stdin: bytes | Path | int = DEVNULL,
        stdout: Path | int = PIPE,
        netns: str | None = None,
    ) -> Program:
        """Start the command."""
        program = Program([*self.command, *map(str, args)], stdin=stdin, stdout=stdout, env=self.env, cwd=self.path, netns=netns)
        return self.keep(program)

    def terminal(self, *args: str | int | Path) -> Terminal:
        """Start the command at a terminal."""
        terminal = Terminal([*self.command, *map(str, args)], env=self.env)
        self.keep(terminal)
        return terminal

    def keep(self, program: Program) -> Program:
        self.programs.append(program)
        acquaint(*self.programs[-8:])
        return program

    def call(self, *args: str | int | Path, stdin: bytes | Path | int = DEVNULL, status: int = 0) -> Program:
        """Run the command to its end, which is this status."""
        program = self.mysocket(*args, stdin=stdin)
        program.wait_status(status)
        return program

    def foreground(self, *args: str | int | Path, stdin: bytes | Path | int = DEVNULL, stdout: Path | int = PIPE) -> Program:
        """A service of `twistd -n`."""
        argv = [*self.twistd, "-n", "--pidfile=", "mysocket", *map(str, args)]
        return self.keep(Program(argv, stdin=stdin, stdout=stdout, env=self.env, cwd=self.path))

    def sockets(self) -> list[Path]:
        """The control sockets in the run-time directory."""
        place = self.run_time / "mysocket"
        return sorted(place.iterdir()) if place.exists() else []

    def close(self) -> None:
        for program in self.programs:
            program.close()
        for service in self.services:
            service.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Service:
    """One daemon, over its restarts. Its directory holds its pid file, its log and, if it has one, its spool."""

    def __init__(self, yard: Yard, name: str, args: Sequence[str | int | Path], netns: str | None) -> None:
        self.yard = yard
        self.netns = netns
        self.directory = yard.path / name
        self.directory.mkdir()
        self.pid_file = self.directory / "pid"
        self.log_file = self.directory / "log"
        self.spool = self.directory / "spool"
        self.args = [str(self.spool) if arg == "SPOOL" else str(arg) for arg in args]
        self.pid = 0

    @property
    def argv(self) -> list[str]:
        options = ["--pidfile", str(self.pid_file), "--logfile", str(self.log_file), "--rundir", str(self.directory)]
        return [*self.yard.twistd, *options, "mysocket", *self.args]

    def launch(self) -> Program:
        """What is run to start it; it ends when the daemon runs, or has failed."""
        return self.yard.keep(Program(self.argv, stdin=DEVNULL, env=self.yard.env, cwd=self.yard.path, netns=self.netns))

    def start(self) -> None:
        self.launch().wait_status(0)
        self.note_pid()

    def note_pid(self) -> None:
        self.pid = int(self.pid_file.read_text())

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    @property
    def where(self) -> tuple[str, str]:
        """The options that name it."""
        return ("--spool", str(self.spool)) if self.spool.exists() else ("--port", self.args[self.args.index("--port") + 1])

    def is_running(self) -> bool:
        return bool(self.pid) and is_running(self.pid)

    def kill(self) -> None:
        """kill -9, if it runs."""
        if self.is_running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait_gone()

    def restart(self) -> None:
        self.kill()
        self.start()

    def wait_gone(self) -> None:
        wait_until(lambda: not self.is_running(), f"process {self.pid} does not end:\n{self.log}")

    def status(self) -> dict[str, Any]:
        """What `mysocket status --json` says."""
        program = self.yard.mysocket("status", "--json", *self.where)
        assert program.wait() in (0, 1), program.report()
        found: dict[str, Any] = json.loads(program.stdout)
        return found

    def wait_status(self, **wanted: object) -> dict[str, Any]:
        """Wait until the status says this."""
        with Client(self) as client:

            def asked() -> dict[str, Any] | None:
                found: dict[str, Any] = client.ask({"do": "status"})["status"]
                return found if all(found[name] == value for name, value in wanted.items()) else None

            return wait_until(asked, f"no status with {wanted}")

    @property
    def memory(self) -> int:
        """Bytes that the process has in memory of its own (RssAnon): pages of its spool that it has looked at are the kernel's
        cache, though VmRSS counts them."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.split("RssAnon:")[1].split()[0]) * 1024

    @property
    def socket(self) -> Path:
        """Its control socket."""
        if self.spool.exists():
            return self.spool / "control"
        for path in self.yard.sockets():
            with contextlib.suppress(OSError), Client(path) as client:
                if client.greeting["pid"] == self.pid:
                    return path
        raise AssertionError(f"no socket of process {self.pid}")


class Client:
    """A client that says what it is told to."""

    def __init__(self, service: Service | Path, *, greeted: bool = True) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        path = service.socket if isinstance(service, Service) else service
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self._socket.connect(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        self._reader = LineReader(1 << 40)
        self._heard: list[Line] = []
        self.greeting: Line = self.hear() if greeted else {}

    def fileno(self) -> int:
        return self._socket.fileno()

    def say(self, *lines: Line) -> None:
        self.send(b"".join(map(encode, lines)))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def push(self, data: bytes) -> int:
        """Send what is taken at once; how much that is, or -1: the connection is gone."""
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            return -1

    def hear(self) -> Line:
        """The next line; fails at the end."""
        while not self._heard:
            data = self._socket.recv(1 << 20)
            assert data, "the service has closed the connection"
            self._heard += self._reader.feed(data)
        return self._heard.pop(0)

    def hear_all(self) -> list[Line]:
        """All lines up to the end of the connection."""
        with contextlib.suppress(ConnectionError):
            while data := self._socket.recv(1 << 20):
                self._heard += self._reader.feed(data)
        heard, self._heard = self._heard, []
        return heard

    def ask(self, line: Line) -> Line:
        self.say(line)
        return self.hear()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """A user's machine."""
    with Yard(tmp_path) as yard:
        yield yard


def two(yard: Yard, *options: str | int | Path) -> tuple[Service, Service]:
    """Two services with spools that dial each other, linked."""
    here, there = free_port(), free_port()
    one = yard.service("--port", here, "--peer", f"127.0.0.1:{there}", "--spool", "SPOOL", *options, name="here")
    other = yard.service("--port", there, "--peer", f"127.0.0.1:{here}", "--spool", "SPOOL", *options, name="there")
    one.wait_status(linked=True)
    other.wait_status(linked=True)
    return one, other
