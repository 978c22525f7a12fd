"""The own stream of a session that has a link, or a spool; and its input, which does not end before the files that are sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from typing import Protocol as Interface

from mysocket.core.batch import Piece
from mysocket.ends.escape import one_line
from mysocket.settings import Settings
from mysocket.spool.interface import Bookmark, Spool

if TYPE_CHECKING:
    from mysocket.ends.source import Taker
    from mysocket.link import Link
    from mysocket.services.uploads import Uploads
    from mysocket.spool.disk import DiskSpool


class Owner(Interface):
    """The session."""

    settings: Settings
    #: The disk that is full, by what is on it, or nothing.
    full: str

    @property
    def sends(self) -> bool:
        """Has it an own stream?"""

    @property
    def own_link(self) -> Link | None:
        """The link that carries the own stream, once there is one."""

    @property
    def own_stream(self) -> Spool | None:
        """Where what is to be sent goes, once there is such a place."""


class OwnOutlet:
    """The :class:`~mysocket.services.outlet.Outlet` of a session."""

    def __init__(self, service: Owner, spool: DiskSpool | None) -> None:
        self.durable = spool is not None
        self._service = service
        self._spool = spool

    @property
    def stream(self) -> Spool | None:
        return self._service.own_stream

    @property
    def closed(self) -> str:
        link = self._service.own_link
        if not self._service.sends:
            return "this session sends nothing"
        if link is not None and link.sending.broken:
            return "this side, or its peer, has lost its state"
        if link is not None and link.sending.ended:
            return "the input has ended"
        return ""

    @property
    def peer(self) -> str:
        link = self._service.own_link
        return self._service.settings.peer or "the peer" if link is None or link.peer is None else link.peer_text

    @property
    def takes_files(self) -> bool | None:
        link = self._service.own_link
        return link.peer.files if link is not None and link.peer is not None and link.linked else None

    @property
    def room(self) -> int:
        link, log = self._service.own_link, self._service.own_stream
        if self._spool is not None and self._service.full == f"the spool {self._spool.path}":
            return 0  # what is given to a full disk could not be taken back
        return link.room if link is not None else log.room if log is not None else 0

    def accept(self, pieces: Sequence[Piece], bookmark: Bookmark | None) -> None:
        link = self._service.own_link
        if link is not None:
            link.accept(pieces, bookmark, together=True)
        elif self._spool is not None:
            self._spool.append_together(pieces, bookmark)

    def mark(self, bookmark: Bookmark, done: Callable[[], None]) -> None:
        if self._spool is not None:
            self._spool.mark(bookmark, done)
        else:
            done()

    def unmark(self, *names: str) -> None:
        if self._spool is not None:
            self._spool.unmark(names)


class HeldTaker:
    """A :class:`~mysocket.ends.source.Taker` whose input ends when no file is under way any more.

    :param tell: hears why it does not end yet.
    """

    def __init__(self, taker: Taker, uploads: Uploads, tell: Callable[[str], None]) -> None:
        self._taker = taker
        self._uploads = uploads
        self._tell = tell

    @property
    def room(self) -> int:
        return self._taker.room

    def when_room(self, call: Callable[[], None]) -> None:
        """Call ``call`` whenever there is room again."""
        self._taker.when_room(call)

    def accept(self, pieces: list[Piece]) -> int:
        """Take pieces of the input."""
        return self._taker.accept(pieces)

    def end_input(self, *, wanted: bool = True) -> None:
        """There will be no more, but what is under way."""
        under_way = self._uploads.under_way
        if under_way:
            first, more = under_way[0], f" and {len(under_way) - 1} more" if under_way[1:] else ""
            sent = f"{one_line(first.name)} ({first.offset} of {first.size} bytes){more}"
            self._tell(f"waiting until {sent} is sent. Ctrl-C leaves without.")
        self._uploads.when_idle().addCallback(lambda _: self._taker.end_input(wanted=wanted))
