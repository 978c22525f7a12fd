"""The own stream of a session, as those see it who give to it besides stdin: files that are sent, inputs that were named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol as Interface

from mysocket.core.batch import Piece
from mysocket.spool.interface import Bookmark, Spool


class Outlet(Interface):
    """Where the pieces of files go."""

    #: What is accepted outlives the process.
    durable: bool

    @property
    def stream(self) -> Spool | None:
        """The own stream, once there is one."""

    @property
    def closed(self) -> str:
        """Why nothing can be sent, now or ever; or nothing."""

    @property
    def peer(self) -> str:
        """The peer, for people."""

    @property
    def takes_files(self) -> bool | None:
        """Does the peer that is linked take them? None: nobody is linked."""

    @property
    def room(self) -> int:
        """Bytes that may be accepted now."""

    def accept(self, pieces: Sequence[Piece], bookmark: Bookmark | None) -> None:
        """Take pieces, in one commit, and with the bookmark."""

    def mark(self, bookmark: Bookmark, done: Callable[[], None]) -> None:
        """Keep a bookmark alone, then call ``done``."""

    def unmark(self, *names: str) -> None:
        """Forget bookmarks."""
