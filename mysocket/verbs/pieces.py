"""The input of ``mysocket send``: words of the command line, or stdin."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mysocket.core.batch import MAX_PAYLOAD, Piece, cutter
from mysocket.errors import MySocketError, UsageError
from mysocket.options import Cut

STDIN = 0
#: The least that is read at once, in bytes, however much of a message is held back.
LEAST_READ = 4096


def text_pieces(words: tuple[str, ...], cut: Cut) -> list[Piece]:
    """One message: the words, with a space between two, and the end of a line where that is how messages end.

    :raises UsageError: there is nothing in it.
    """
    # What the shell gave, byte for byte, whatever its encoding.
    data = os.fsencode(" ".join(words)) + {"lines": b"\n", "null": b"\0"}.get(cut, b"")
    if not data:
        raise UsageError(f"TEXT is empty: with --{cut} there is nothing to send")
    cutting = cutter(cut)
    return [*cutting.feed(data), *cutting.finish()]


class Nothing:
    """An input that has ended."""

    ended = True

    def fileno(self) -> int:
        raise ValueError("there is nothing to read")

    def read(self) -> list[Piece]:
        return []


class Stdin:
    """stdin, cut into pieces."""

    def __init__(self, cut: Cut, fd: int = STDIN) -> None:
        self.ended = False
        self._fd = fd
        self._cutter = cutter(cut)

    def fileno(self) -> int:
        return self._fd

    def read(self) -> list[Piece]:
        """What is there; waits for it, if nothing is.

        :raises MySocketError: it cannot be read.
        """
        try:
            data = os.read(self._fd, max(MAX_PAYLOAD - self._cutter.held, LEAST_READ))
        except BlockingIOError:
            return []  # somebody who shares it has made it non-blocking, and has taken what was there
        except OSError as problem:
            raise MySocketError(f"Reading the input failed: {problem.strerror}.") from None
        if data:
            return self._cutter.feed(data)
        self.ended = True
        return self._cutter.finish()


@contextmanager
def interrupts() -> Iterator[int | None]:
    """A descriptor that is readable when the user has pressed Ctrl-C. The second time the program is left at once."""
    import signal

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield None  # it is ignored (nohup, a shell's &), or somebody else's
        return
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def pressed(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with suppress(OSError):
            os.write(write, b"\3")

    # Python runs the handler between two of its own instructions, but only when a system call returns: the kernel wakes that
    # through this descriptor.
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, pressed)
    try:
        yield read
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)
