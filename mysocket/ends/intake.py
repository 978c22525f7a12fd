"""What several inputs have in common: each is a source, and gives what it has to an intake."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from typing import Protocol as Interface

from mysocket.core.batch import Piece
from mysocket.spool.interface import Bookmark


class Intake(Interface):
    """Where one source puts what it has read, until the own stream has room for it."""

    #: Called when there is room again, after :attr:`full` was true.
    on_room: Callable[[], None]

    @property
    def full(self) -> bool:
        """So much waits already that nothing more should be read."""

    def give(self, pieces: list[Piece], bookmark: Bookmark | None = None) -> None:
        """Take whole messages: the last piece has no MORE. They are committed together, and with the bookmark."""

    def mark(self, bookmark: Bookmark, done: Callable[[], None]) -> None:
        """Keep where the source stands, with nothing of it, behind what was given before; then call ``done``.

        Until then the source gives nothing: what is committed later would count as older.
        """

    def end(self) -> None:
        """There will be no more."""

    def drop(self, text: str) -> None:
        """Something was lost that nobody can give again (a datagram): count it, and say so now and then."""

    def tell(self, text: str) -> None:
        """Say something that the user may want to know."""

    def complain(self, text: str) -> None:
        """Say something that the user must know."""


class Source(Interface):
    """One input."""

    def start(self) -> None:
        """Begin to read, and go on as long as the intake is not full."""

    def stop(self) -> None:
        """Read no more, for good, and close what is open."""

    @property
    def connections(self) -> int:
        """Those that are up, if it takes connections."""


class InputFacts(NamedTuple):
    """How an input is, for status and metrics. ``waiting`` are bytes that were read and not accepted yet."""

    name: str
    bytes: int
    dropped: int
    rejected: int
    connections: int
    waiting: int
    ended: bool


class OutputFacts(NamedTuple):
    """How an output is, for status and metrics.

    ``connected`` is None where nothing is (datagrams); ``written`` counts bytes that the other side has, as far as that can be
    known, ``waiting`` those that it has not; ``lost`` counts connections that were lost.
    """

    name: str
    connected: bool | None
    written: int
    waiting: int
    lost: int
    error: str | None
