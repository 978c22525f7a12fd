"""Real processes for the integration tests: started, watched while they run, and killed by pid.

Nothing here waits by sleeping for a guessed time. A test waits for a line of stderr, for bytes of stdout, for a
condition, or for the end of a process, each with a deadline; when the deadline passes, the AssertionError shows the
command, the state and the stderr of the program and of its partners.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import random
import re
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypedDict, TypeVar

T = TypeVar("T")

ROOT: Final = Path(__file__).resolve().parents[2]
MYSOCKET: Final = (sys.executable, "-m", "mysocket")
# Seconds; a deadline that only a hanging program meets, not a measure of speed.
TIMEOUT: Final = float(os.environ.get("MYSOCKET_TEST_TIMEOUT", "30"))

PIPE: Final = subprocess.PIPE
DEVNULL: Final = subprocess.DEVNULL
CLOSED: Final = -1000  # the descriptor is closed when the program starts, as the shell's `<&-` and `>&-` do

# What the program says on stderr. Every test that matches a sentence of the program takes it from here.
LISTENING: Final = r"mysocket: listening on (\S*):(\d+)"
LISTENING_ANYHOW: Final = r"mysocket: listening on "  # a Unix socket has no port
LINKED: Final = r"mysocket: linked with "
LOST: Final = r"mysocket: lost "
UNDELIVERED: Final = r"(?i)(undelivered|not delivered|unacknowledged|not acknowledged|not been delivered)"
BANNER: Final = "Enter message to send. All messages received will be shown below. Type EXIT to end the program."


def wait_until(condition: Callable[[], T | None], what: str, timeout: float = TIMEOUT, *programs: Program) -> T:
    """Ask `condition` every 10 ms until its answer is true, and return that answer.

    Fail after `timeout` seconds, or as soon as all of `programs` have ended and it is still not true.
    """
    deadline = time.monotonic() + timeout
    while True:
        over = bool(programs) and not any(program.running() for program in programs)
        if answer := condition():
            return answer
        if over or time.monotonic() > deadline:
            raise AssertionError(
                f"{what}, waited {'to their end' if over else f'{timeout:g} s'}\n" + "\n".join(p.report() for p in programs)
            )
        time.sleep(0.01)


def read_some(descriptor: int, size: int = 65536, timeout: float = TIMEOUT) -> bytes:
    """Read once from a pipe that the test holds; b"" at its end. Unlike a plain os.read it does not wait for ever."""
    if not select.select([descriptor], [], [], timeout)[0]:
        raise AssertionError(f"nothing to read within {timeout:g} s")
    return os.read(descriptor, size)


_handed_out: set[int] = set()


def free_port() -> int:
    """A port that is free now for TCP and UDP on IPv4 and IPv6, for tests in which both ends must know each other's port.

    It is taken from outside the kernel's range for outgoing connections where there is room: no dialling program can be
    given it as its own port in the meantime, and nobody who dials it before it listens can connect to himself.
    """
    for _ in range(1000):
        port = random.SystemRandom().choice(_outside_ephemeral_range())
        if port not in _handed_out and _is_free(port):
            _handed_out.add(port)
            return port
    raise AssertionError("no free port found")


def _outside_ephemeral_range() -> range:
    try:
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except OSError:
        low, high = 32768, 60999
    return range(10000, low) if low > 12000 else range(high + 1, 65536) if high < 64000 else range(10000, 65536)


def _is_free(port: int) -> bool:
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try:
                with socket.socket(family, kind) as probe:
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind((address, port))
            except OSError as error:
                if family == socket.AF_INET or error.errno == 98:  # EADDRINUSE; a machine without IPv6 is no obstacle
                    return False
    return True


def port_is_bound(pid: int, port: int, *, udp: bool = False) -> bool:
    """True if someone in the network namespace of this process listens on TCP `port` or, with `udp`, has bound that UDP port."""
    kind, state = ("udp", "") if udp else ("tcp", "0A")
    for name in (kind, kind + "6"):
        with contextlib.suppress(OSError):
            for row in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
                fields = row.split()
                if int(fields[1].rpartition(":")[2], 16) == port and fields[3].startswith(state):
                    return True
    return False


class Collector(threading.Thread):
    """Reads a descriptor to its end in a thread of its own, so that a program never waits for its test to read."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True)
        self._descriptor = descriptor
        self._changed = threading.Condition()
        self._data = bytearray()
        self._ended = False
        self._released = threading.Event()
        self._released.set()
        self.start()

    def run(self) -> None:
        while True:
            self._released.wait()
            try:
                chunk = os.read(self._descriptor, 1 << 18)
            except OSError:  # EIO: the last one to hold the terminal has gone
                chunk = b""
            with self._changed:
                self._data += chunk
                self._ended = not chunk
                self._changed.notify_all()
            if not chunk:
                os.close(self._descriptor)
                return

    def hold(self) -> None:
        """Read once more at most, until :meth:`release`: who writes is held back when the kernel's buffer is full."""
        self._released.clear()

    def release(self) -> None:
        """Read again."""
        self._released.set()

    def data(self, start: int = 0) -> bytes:
        """What was read so far, from ``start`` on."""
        with self._changed:
            return bytes(self._data[start:])

    def wait_more(self, size: int, timeout: float) -> bool:
        """Wait until more than ``size`` bytes were read; False: there will be no more, or the time is over."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._data) > size or self._ended, timeout) and len(self._data) > size

    @property
    def ended(self) -> bool:
        """All was read."""
        with self._changed:
            return self._ended

    def wait_for(self, question: Callable[[bytearray], T | None], timeout: float) -> T | None:
        """Ask `question` about the bytes so far, again after each read, until its answer is true, the end, or the deadline."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not (answer := question(self._data)):
                if self._ended or not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return None
            return answer


class Feeder(threading.Thread):
    """Writes what it is given into a pipe in a thread of its own; a reader that has gone ends it without an error."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True)
        self._descriptor = descriptor
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._unwritten = 0
        self._lock = threading.Lock()
        self.closed = False
        self.start()

    def run(self) -> None:
        gone = False
        while (data := self._queue.get()) is not None:
            view = memoryview(data)
            while view and not gone:
                try:
                    view = view[os.write(self._descriptor, view[: 1 << 18]) :]
                except OSError:
                    gone = True
            with self._lock:
                self._unwritten -= len(data)
        with self._lock:
            self.closed = True
            os.close(self._descriptor)

    def write(self, data: bytes) -> None:
        """Queue `data`; never waits."""
        with self._lock:
            self._unwritten += len(data)
        self._queue.put(data)

    def close(self) -> None:
        """Close the pipe once everything is written."""
        self._queue.put(None)

    def taken(self) -> bool:
        """True when everything was written and the other side has read all of it out of the pipe."""
        with self._lock:
            if self._unwritten:
                return False
            if self.closed:
                return True
            held = struct.unpack("i", fcntl.ioctl(self._descriptor, termios.FIONREAD, b"\0\0\0\0"))[0]
            return bool(held == 0)


class Settings(TypedDict, total=False):
    """The keyword arguments of Program, for helpers that start more than one."""

    stdin: bytes | Path | int
    stdout: Path | int
    netns: str | None
    env: dict[str, str] | None
    cwd: Path | None


class Program:
    """One process. Its pid is the program's own, also inside a network namespace, for every wrapper execs.

    `stdin`: bytes (given through a pipe, then closed), a Path (a file), PIPE (`write`, `close_stdin`), DEVNULL, CLOSED, or a
    descriptor.
    `stdout`: PIPE (collected), a Path (created or emptied), DEVNULL, CLOSED, or a descriptor. stderr is always collected.
    `group`: a shell with children; they form a process group of their own, which is killed with it.
    `pass_fds`: further descriptors that it gets, under the numbers that they have here.
    Use it as a context manager: on the way out the process is killed, by pid, if it still runs.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | Path | int = PIPE,
        stdout: Path | int = PIPE,
        netns: str | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        group: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.argv = [str(word) for word in argv]
        self.partners: list[Program] = []
        self._out: Collector | None = None
        self._feeder: Feeder | None = None
        self._group = group
        self._closed = False
        command = self._wrapped(stdin, stdout, netns)
        with contextlib.ExitStack() as opened:
            child_in = self._child_stdin(stdin, opened)
            child_out = self._child_stdout(stdout, opened)
            err_read, err_write = os.pipe()
            opened.callback(os.close, err_write)
            self._process = subprocess.Popen(
                command,
                stdin=child_in,
                stdout=child_out,
                stderr=err_write,
                cwd=cwd or ROOT,
                env=_environment(env),
                start_new_session=group,
                pass_fds=tuple(pass_fds),
            )
        self._err = Collector(err_read)
        if isinstance(stdin, bytes):
            self.write(stdin)
            self.close_stdin()

    def _wrapped(self, stdin: bytes | Path | int, stdout: Path | int, netns: str | None) -> list[str]:
        command = self.argv
        if netns is not None:
            command = ["nsenter", f"--net=/run/netns/{netns}", "--", *command]
        closing = ("<&- " if _is_closed(stdin) else "") + (">&- " if _is_closed(stdout) else "")
        return ["/bin/sh", "-c", f'exec "$@" {closing}', "sh", *command] if closing else command

    def _child_stdin(self, stdin: bytes | Path | int, opened: contextlib.ExitStack) -> int:
        if isinstance(stdin, Path):
            return opened.enter_context(stdin.open("rb")).fileno()
        if isinstance(stdin, bytes) or stdin == PIPE:
            read, write = os.pipe()
            opened.callback(os.close, read)
            self._feeder = Feeder(write)
            return read
        return DEVNULL if _is_closed(stdin) else stdin

    def _child_stdout(self, stdout: Path | int, opened: contextlib.ExitStack) -> int:
        if isinstance(stdout, Path):
            return opened.enter_context(stdout.open("wb")).fileno()
        if stdout == PIPE:
            read, write = os.pipe()
            opened.callback(os.close, write)
            self._out = Collector(read)
            return write
        return DEVNULL if _is_closed(stdout) else stdout

    # Looking

    @property
    def pid(self) -> int:
        """The program's own process id."""
        return self._process.pid

    @property
    def stderr_text(self) -> str:
        """All of stderr so far."""
        return self._err.data().decode(errors="backslashreplace")

    @property
    def stdout(self) -> bytes:
        """All of stdout so far, where it goes to a pipe."""
        assert self._out is not None, "stdout of this program is not collected"
        return self._out.data()

    def running(self) -> bool:
        """True while the process has not ended."""
        return self._process.poll() is None

    def report(self) -> str:
        """What a person needs to see when something went wrong: command, state and stderr, also of the partners."""
        parts = []
        for program in (self, *self.partners):
            status = program._process.poll()
            state = "running" if status is None else f"status {status}"
            parts.append(
                f"--- {shlex.join(program.argv)}\n--- pid {program.pid}, {state}; stderr:\n{program.stderr_text or '(nothing)'}"
            )
        return "\n".join(parts)

    # Waiting

    def wait_line(self, pattern: str, timeout: float = TIMEOUT, nth: int = 1) -> re.Match[str]:
        """Wait for the `nth` line of stderr in which `pattern` is found."""

        def search(data: bytearray) -> re.Match[str] | None:
            lines = data[: data.rfind(b"\n") + 1].decode(errors="backslashreplace").splitlines()
            found = [match for line in lines if (match := re.search(pattern, line))]
            return found[nth - 1] if len(found) >= nth else None

        if (match := self._err.wait_for(search, timeout)) is None:
            raise AssertionError(f"no {_ordinal(nth)} line like {pattern!r} on stderr within {timeout:g} s\n{self.report()}")
        return match

    def listening_port(self, timeout: float = TIMEOUT) -> int:
        """Wait until the program says that it listens, and return the port it names."""
        return int(self.wait_line(LISTENING, timeout).group(2))

    def wait_output(self, wanted: bytes, timeout: float = TIMEOUT) -> bytes:
        """Wait until `wanted` is somewhere in stdout; returns all of stdout."""
        assert self._out is not None, "stdout of this program is not collected"
        if not self._out.wait_for(lambda data: wanted in data, timeout):
            raise AssertionError(
                f"stdout has no {wanted[:100]!r} within {timeout:g} s, but {self.stdout[-200:]!r}\n{self.report()}"
            )
        return self.stdout

    def wait_bound(self, port: int, *, udp: bool = False, timeout: float = TIMEOUT) -> None:
        """Wait until someone in the program's network namespace listens on TCP `port` (or, for UDP, has bound it)."""
        kind = "udp" if udp else "tcp"
        wait_until(lambda: port_is_bound(self.pid, port, udp=udp), f"nobody has {kind} port {port}", timeout, self)

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait for the end of the process, read its output to the end, and return the status (minus the signal if killed)."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s\n{self.report()}") from None
        for collector in (self._out, self._err):
            if collector is not None:
                collector.join(TIMEOUT)
        for trouble in ("Traceback (most recent call last)", "Unhandled Error", "Unhandled error"):
            assert trouble not in self.stderr_text, f"{trouble} on stderr\n{self.report()}"
        return status

    def wait_status(self, wanted: int, timeout: float = TIMEOUT) -> None:
        """Wait for the end of the process and demand this status; a failure shows the stderr of all partners."""
        status = self.wait(timeout)
        assert status == wanted, f"status {status} instead of {wanted}\n{self.report()}"

    # Doing

    def write(self, data: bytes) -> None:
        """Give bytes to the program's stdin; returns at once."""
        assert self._feeder is not None, "stdin of this program is not a pipe held here"
        self._feeder.write(data)

    def wait_input_taken(self, timeout: float = TIMEOUT) -> None:
        """Wait until the program has read everything that was written to its stdin."""
        assert self._feeder is not None, "stdin of this program is not a pipe held here"
        wait_until(self._feeder.taken, "the program has not read its input", timeout, self)

    def close_stdin(self) -> None:
        """Close the program's stdin, after everything that was written before."""
        assert self._feeder is not None, "stdin of this program is not a pipe held here"
        self._feeder.close()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process, by pid."""
        self._process.send_signal(number)

    def close(self) -> None:
        """Kill the process if it runs, and give back every descriptor and thread. May be called twice."""
        if self._group and not self._closed:  # its children may have outlived the shell
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        if self.running():
            self._process.kill()
        self._process.wait(TIMEOUT)
        self._closed = True
        if self._feeder is not None:
            self._feeder.close()
            self._feeder.join(1)
        for collector in (self._out, self._err):
            if collector is not None:
                collector.join(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Terminal(Program):
    """A program whose stdin, stdout and stderr are a new pseudo-terminal, which is its controlling terminal, as for a person.

    With `stderr_apart` stderr is collected separately; else what it says is on the screen, and `wait_line` finds nothing.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stderr_apart: bool = False,
        stdin: Path | int | None = None,
        stdout: Path | int | None = None,
        env: dict[str, str] | None = None,
        size: tuple[int, int] = (24, 80),
        keep: bool = False,
    ) -> None:
        """
        :param size: lines and columns.
        :param keep: keep the program's end of the terminal open until :meth:`let_go`, for :meth:`nonblocking`.
        """
        self.argv = [str(word) for word in argv]
        self.partners = []
        self._feeder = None
        self._out = None
        self._group = False
        self._closed = False
        master, slave = os.openpty()
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        # A new session has no terminal; the first one its leader opens becomes its controlling terminal.
        command = ["/bin/sh", "-c", 'exec 9<>"$0" && exec 9>&- && exec "$@"', os.ttyname(slave), *self.argv]
        self._kept = os.dup(slave) if keep else -1
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, slave)
            err_read, err_write = os.pipe()
            opened.callback(os.close, err_write)
            child_in = slave if stdin is None else self._child_stdin(stdin, opened)
            child_out = slave if stdout is None else self._child_stdout(stdout, opened)
            self._process = subprocess.Popen(
                command,
                stdin=child_in,
                stdout=child_out,
                stderr=err_write if stderr_apart else slave,
                cwd=ROOT,
                env=_environment({"TERM": "xterm-256color", **(env or {})}),
                start_new_session=True,
            )
        self._master = os.dup(master)
        self._screen = Collector(master)
        self._err = Collector(err_read)

    def type(self, text: str) -> None:
        """Press these keys. `\\n` is the return key, `\\x04` Ctrl-D, `\\x03` Ctrl-C."""
        os.write(self._master, text.encode())

    @property
    def screen(self) -> bytes:
        """The bytes that reached the terminal: the echo of what was typed, and everything written."""
        return self._screen.data()

    @property
    def screen_text(self) -> str:
        """`screen` as text with the terminal's CR LF as LF; bytes that are not UTF-8 are shown as \\xNN."""
        return self.screen.replace(b"\r\n", b"\n").decode(errors="backslashreplace")

    def wait_text(self, pattern: str, timeout: float = TIMEOUT) -> re.Match[str]:
        """Wait until `pattern` is found on the screen."""

        def search(data: bytearray) -> re.Match[str] | None:
            return re.search(pattern, data.replace(b"\r\n", b"\n").decode(errors="backslashreplace"))

        if (match := self._screen.wait_for(search, timeout)) is None:
            raise AssertionError(f"nothing like {pattern!r} on the screen within {timeout:g} s\n{self.report()}")
        return match

    def flags(self) -> int:
        """The local modes of the terminal (`c_lflag`): termios.ICANON, termios.ECHO and so on."""
        flags: int = self.modes()[3]
        return flags

    def modes(self) -> list[object]:
        """All modes of the terminal, as `termios.tcgetattr` gives them."""
        return termios.tcgetattr(self._master)

    def nonblocking(self) -> bool:
        """O_NONBLOCK of the open file that stdin, stdout and stderr of the program share, as they do with a user's shell."""
        return not os.get_blocking(self._kept)

    def resize(self, lines: int, columns: int) -> None:
        """Make the window larger or smaller; the kernel sends SIGWINCH."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def let_go(self) -> None:
        """Close the program's end of the terminal."""
        if self._kept >= 0:
            os.close(self._kept)
            self._kept = -1

    def report(self) -> str:
        return super().report() + f"\n--- the screen:\n{self.screen_text or '(nothing)'}"

    def wait(self, timeout: float = TIMEOUT) -> int:
        status = super().wait(timeout)
        if self._kept < 0:
            self._screen.join(TIMEOUT)
        return status

    def close(self) -> None:
        super().close()
        self.let_go()
        self._screen.release()
        self._screen.join(1)
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


def mysocket(
    *args: str | int | Path,
    stdin: bytes | Path | int = PIPE,
    stdout: Path | int = PIPE,
    netns: str | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> Program:
    """Start MySocket with these arguments, as `python -m mysocket`."""
    return Program([*MYSOCKET, *map(str, args)], stdin=stdin, stdout=stdout, netns=netns, env=env, cwd=cwd)


def at_terminal(*args: str | int | Path, stderr_apart: bool = False, stdout: Path | int | None = None) -> Terminal:
    """Start MySocket with these arguments on a new pseudo-terminal."""
    return Terminal([*MYSOCKET, *map(str, args)], stderr_apart=stderr_apart, stdout=stdout)


def acquaint(*programs: Program) -> None:
    """Let each program's report show the others too."""
    for program in programs:
        program.partners = [other for other in programs if other is not program]


@contextlib.contextmanager
def pair(
    first: Sequence[str] = (),
    second: Sequence[str] = (),
    *,
    first_is: Settings | None = None,
    second_is: Settings | None = None,
    host: str = "127.0.0.1",
) -> Iterator[tuple[Program, Program]]:
    """Two MySockets that listen and dial each other, with these further options; both are killed on the way out."""
    here, there = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(mysocket("-p", here, "--peer", f"{host}:{there}", *first, **(first_is or {})))
        two = stack.enter_context(mysocket("-p", there, "--peer", f"{host}:{here}", *second, **(second_is or {})))
        acquaint(one, two)
        yield one, two


def _is_closed(descriptor: bytes | Path | int) -> bool:
    return isinstance(descriptor, int) and descriptor == CLOSED


def _environment(extra: dict[str, str] | None) -> dict[str, str]:
    return {**os.environ, **(extra or {})}


def _shortened(text: str, most: int = 4000) -> str:
    """The beginning and the end of what is too long to read."""
    return text if len(text) <= 2 * most else f"{text[:most]}\n[{len(text) - 2 * most} characters left out]\n{text[-most:]}"


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
