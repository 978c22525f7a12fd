"""A supervisor as systemd is one: it opens sockets and passes them on (sd_listen_fds(3)), and it hears sd_notify(3)."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.processes import DEVNULL, TIMEOUT, Program

#: Gives descriptors the numbers from 3 on, tells so in the environment, and becomes the program: all with one pid.
PASS_ON: Final = """
import fcntl, os, sys
fds, names, argv = sys.argv[1].split(), sys.argv[2], sys.argv[3:]
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in fds]
for place, fd in enumerate(high):
    os.dup2(fd, 3 + place)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
os.execv(argv[0], argv)
"""


class Supervisor:
    """Holds sockets open while the programs that take them come and go. Each has a name."""

    def __init__(self) -> None:
        self.sockets: dict[str, socket.socket] = {}

    def listen(self, name: str, family: int = socket.AF_INET6, kind: int = socket.SOCK_STREAM, path: str = "") -> int:
        """One more socket, on a free port of this machine or at a path; its port."""
        made = socket.socket(family, kind)
        self.sockets[name] = made
        if family == socket.AF_UNIX:
            made.bind(path)
        else:
            made.bind(("::" if family == socket.AF_INET6 else "127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            made.listen(16)
        return 0 if family == socket.AF_UNIX else int(made.getsockname()[1])

    def run(
        self,
        *argv: str | int | Path,
        env: Mapping[str, str] | None = None,
        names: str | None = None,
        stdin: bytes | int = DEVNULL,
    ) -> Program:
        """Start a program that gets all of them, in this order."""
        descriptors = [made.fileno() for made in self.sockets.values()]
        return Program(
            [
                *(sys.executable, "-c", PASS_ON, " ".join(map(str, descriptors))),
                ":".join(self.sockets) if names is None else names,
                *map(str, argv),
            ],
            stdin=stdin,
            env=dict(env) if env is not None else None,
            pass_fds=descriptors,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for made in self.sockets.values():
            made.close()


class Ear:
    """Hears what a program notifies.

    :param address: a path, or a name in the abstract namespace (``@…``).
    """

    def __init__(self, address: str | Path) -> None:
        text = str(address)
        self.env = {"NOTIFY_SOCKET": text}
        #: All messages so far, and when each was heard.
        self.heard: list[list[str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + text[1:] if text.startswith("@") else text)

    def hear(self, timeout: float = TIMEOUT) -> list[str]:
        """The lines of the next message."""
        self._socket.settimeout(timeout)
        message = self._socket.recv(65536).decode().split("\n")
        self.heard.append(message)
        return message

    def wait_for(self, line: str, program: Program) -> list[str]:
        """The first message from now on with a line that begins so."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                message = self.hear(max(0.01, deadline - time.monotonic()))
                if any(one.startswith(line) for one in message):
                    return message
        raise AssertionError(f"no message with {line!r}, but {self.heard}\n{program.report()}")

    def drain(self) -> None:
        """All that has come."""
        with contextlib.suppress(BlockingIOError, TimeoutError):
            while True:
                self.hear(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()
