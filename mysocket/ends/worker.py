"""A thread for what may wait for a disk, while the reactor goes on.

Not the reactor's pool: that is waited for when the program leaves, and a server of files that does not answer would hold it. A
daemon thread does not.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from traceback import format_exc
from typing import Generic, TypeVar

from mysocket.errors import MySocketError

T = TypeVar("T")


class Outcome(Generic[T]):
    """What became of a piece of work."""

    def __init__(self, value: T | None = None, error: MySocketError | None = None) -> None:
        self._value = value
        self.error = error

    @property
    def value(self) -> T:
        """What it gave.

        :raises MySocketError: it failed.
        """
        if self.error is not None:
            raise self.error
        assert self._value is not None
        return self._value


def attempt(work: Callable[[], T]) -> Outcome[T]:
    """Do it."""
    try:
        return Outcome(work())
    except MySocketError as problem:
        return Outcome(error=problem)
    except Exception:
        return Outcome(error=MySocketError(f"a file could not be read: {format_exc()}"))


class Worker:
    """Does one thing after the other.

    :param post: calls its argument in the reactor thread, soon.
    """

    def __init__(self, post: Callable[[Callable[[], None]], object]) -> None:
        self._post = post
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._started = False

    def do(self, work: Callable[[], T], done: Callable[[Outcome[T]], None]) -> None:
        """Do ``work`` there, then call ``done`` here."""

        def both() -> None:
            outcome = attempt(work)
            self._post(lambda: done(outcome))

        self._queue.put(both)
        if not self._started:
            self._started = True
            Thread(target=self._run, name="files", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._queue.get()()
