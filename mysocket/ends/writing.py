"""A file or stdout that this process writes to, and the format that fits."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Any

from mysocket.ends.descriptors import Private, What, Writer, what
from mysocket.ends.sink import EscapedFormat, Format, JsonFormat, LineFormat, PlainFormat
from mysocket.errors import CannotOpen, MySocketError

STDOUT = 1


class DescriptorOutput:
    """An open file, or stdout.

    :param name: the file to append to, or None: stdout.
    :param failed: called once, when it cannot be written to any more.
    :raises CannotOpen: the file.
    """

    def __init__(self, reactor: Any, name: str | None, failed: Callable[[MySocketError], None]) -> None:
        self._name = name
        self._fd = _open(name) if name is not None else STDOUT
        #: What is written there is seen by a person.
        self.terminal = what(self._fd) is What.TERMINAL
        private = Private(self._fd, os.O_RDWR if self.terminal else os.O_WRONLY)
        self.writer = Writer(reactor, private, name if name is not None else "stdout", failed)

    @property
    def idle(self) -> bool:
        """Everything is written."""
        return self.writer.idle

    def reopen(self) -> None:
        """The file was moved away: go on in a new one of its name.

        :raises CannotOpen: it cannot be made.
        """
        if self._name is not None:
            fd = _open(self._name)
            os.dup2(fd, self._fd, inheritable=False)
            os.close(fd)

    def close(self) -> None:
        """Write nothing more, and give back what was opened."""
        self.writer.close()
        if self._name is not None:
            os.close(self._fd)


def _open(name: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        # A FIFO without a reader would hold the whole program.
        fd = os.open(name, flags | os.O_NONBLOCK, 0o666)
    except OSError as problem:
        why = "nobody reads it; start its reader first" if problem.errno == errno.ENXIO else problem.strerror or str(problem)
        raise CannotOpen(why, where=name) from None
    os.set_blocking(fd, True)
    return fd


def format_for(style: str, max_message: int, *, terminal: bool, shared: bool, raw: bool = False) -> Format:
    """How messages are written.

    :param style: ``plain``, ``json`` or ``timestamps``.
    :param terminal: to a terminal, which gets nothing that it would obey.
    :param shared: messages of several senders.
    :param raw: what comes are plain bytes, which are shown as they come.
    """
    if style == "json":
        return JsonFormat(max_message, time.time, escaped=terminal)
    if style == "timestamps":
        return LineFormat(max_message, escaped=terminal, stamp=time.time)
    if terminal and raw:
        return EscapedFormat()
    if terminal:
        return LineFormat(max_message, escaped=True)
    return PlainFormat(whole=shared)
