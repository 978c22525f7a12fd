"""One file that is being sent, as those see it who have asked for it; and what a spool keeps of it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from os import fsdecode, fsencode
from struct import Struct, error
from typing import NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mysocket.ends.filereader import Stamp, base_name, shown
from mysocket.errors import MySocketError

#: Seconds between two calls of ``on_change``, at least, while it is under way.
INTERVAL = 0.1
#: The name of the bookmark of an upload begins so.
PREFIX = "file:"
_MARK = Struct(">QqQQQd")


class State(StrEnum):
    """How it is with an upload."""

    SENDING = "sending"
    #: All of it is accepted by the own stream.
    SENT = "sent"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Mark(NamedTuple):
    """Where an upload stands: kept with what was accepted of it, so that another process can go on.

    :param stamp: the state of the file that is sent.
    :param offset: so many bytes of the file are accepted.
    :param position: where the own stream stands behind them; 0: nothing is accepted, not even that it comes.
    :param since: when it was asked for, in seconds since the epoch.
    """

    path: str
    stamp: Stamp
    offset: int
    position: int
    since: float

    def encode(self) -> bytes:
        return _MARK.pack(*self.stamp, self.offset, self.position, self.since) + fsencode(self.path)

    @classmethod
    def decode(cls, row: bytes) -> Mark | None:
        """The mark in a row of a spool, or None: its upload has ended."""
        try:
            size, mtime, inode, offset, position, since = _MARK.unpack_from(row)
        except error:
            return None
        return cls(fsdecode(row[_MARK.size :]), Stamp(size, mtime, inode), offset, position, since)


class Upload:
    """A file on its way. Made by :meth:`mysocket.services.uploads.Uploads.send`; it changes in the reactor thread only.

    :ivar id: of the transfer, 16 bytes.
    :ivar shown: where it is, for people.
    :ivar name: what the file is called.
    :ivar size: bytes of it.
    :ivar offset: so many are accepted by the own stream (with a spool: and are committed, or soon will be).
    :ivar acknowledged: so many has the peer acknowledged.
    :ivar delivered: it has acknowledged all, the end with the SHA-256 included.
    :ivar error: why it has failed.
    :ivar on_change: called when any of this has changed, at most ten times a second while it is under way, and whenever the
        state changes, or it is delivered.
    """

    def __init__(self, clock: IReactorTime, id: bytes, mark: Mark, cancel: Callable[[Upload, str], None]) -> None:
        self.id = id
        self.path = mark.path
        self.shown = shown(mark.path)
        self.name = base_name(mark.path)
        self.size = mark.stamp.size
        self.offset = mark.offset
        self.acknowledged = 0
        self.delivered = False
        self.state = State.SENDING
        self.error: MySocketError | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.mark = mark
        self._clock = clock
        self._cancel = cancel
        self._call: IDelayedCall | None = None
        self._told = float("-inf")

    def cancel(self, why: str = "the sender has cancelled it") -> None:
        """Send no more of it. What is accepted arrives, and behind it that the rest will not come."""
        if self.state is State.SENDING:
            self._cancel(self, why)

    @property
    def given_up(self) -> bool:
        """It will never be delivered."""
        return self.state in (State.CANCELLED, State.FAILED)

    def ended(self, state: State, error: MySocketError | None = None) -> None:
        """No more is read of it."""
        self.state, self.error = state, error
        self.tell_now()

    def tell(self) -> None:
        """Something has changed: say so, at its time."""
        if self._call is None:
            delay = max(0.0, self._told + INTERVAL - self._clock.seconds())
            self._call = self._clock.callLater(delay, self._tell_later)

    def tell_now(self) -> None:
        """Something has changed that is said at once."""
        self.quiet()
        self._told = self._clock.seconds()
        self.on_change()

    def quiet(self) -> None:
        """Say no more of what has changed so far."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _tell_later(self) -> None:
        self._call = None
        self.tell_now()
