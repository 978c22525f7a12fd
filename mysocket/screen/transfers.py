"""The files of a session, as lines between what has arrived and the prompt, until they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING
from typing import Protocol as Interface

from mysocket.ends.escape import one_line
from mysocket.ends.progress import size_text
from mysocket.screen.bar import Bar
from mysocket.screen.status import clip

if TYPE_CHECKING:
    from mysocket.ends.downloads import Download

#: A file: its id and name, how large it is, and how far it has come.
Moving = tuple[bytes, str, int | None, int]
#: Which way a file goes.
OUT, IN = "↑", "↓"
#: Files that have a line, each way.
LISTED = 5


class Upload(Interface):
    """A file that is sent (:class:`mysocket.services.upload.Upload`)."""

    id: bytes
    name: str
    size: int
    acknowledged: int
    delivered: bool
    on_change: Callable[[], None]

    @property
    def given_up(self) -> bool:
        """It will never be delivered."""

    def cancel(self) -> None:
        """Send no more of it."""


class Uploads(Interface):
    """Files that are sent (:class:`mysocket.services.uploads.Uploads`)."""

    @property
    def under_way(self) -> Sequence[Upload]:
        """Those of which not all is accepted."""

    def send(self, path: str) -> Upload:
        """Send a file.

        :raises MySocketError: it cannot be sent.
        """


class Transfers:
    """What there is to be seen of them.

    :param now: the time in seconds, from anywhere.
    :param arrived: called when the peer has a file of ours: its name and size.
    :param changed: called when something is to be drawn.
    """

    def __init__(self, now: Callable[[], float], arrived: Callable[[str], None], changed: Callable[[], None]) -> None:
        self.uploads: Uploads | None = None
        self.downloads: Callable[[], Sequence[Download]] = lambda: ()
        self._now = now
        self._arrived = arrived
        self._changed = changed
        self._sent: dict[bytes, Upload] = {}
        self._bars: dict[bytes, Bar] = {}

    def send(self, path: str) -> None:
        """Send a file.

        :raises MySocketError: it cannot be sent.
        """
        if self.uploads is not None:
            self._watch(self.uploads.send(path))

    def cancel(self) -> str:
        """Send no more of the file that is being sent; its name, or nothing: there is none."""
        for upload in self.uploads.under_way if self.uploads is not None else ():
            upload.cancel()
            return upload.name
        return ""

    def _watch(self, upload: Upload) -> None:
        if upload.id not in self._sent:
            self._sent[upload.id] = upload
            upload.on_change = lambda: self._has_changed(upload)

    def _has_changed(self, upload: Upload) -> None:
        if upload.delivered or upload.given_up:
            self._sent.pop(upload.id, None)
        if upload.delivered:
            self._arrived(f"{one_line(upload.name)} ({size_text(upload.size)})")
        self._changed()

    def lines(self, width: int) -> list[str]:
        """A line for each, in at most ``width`` cells."""
        for upload in self.uploads.under_way if self.uploads is not None else ():
            self._watch(upload)  # an earlier process has begun it
        now, bars = self._now(), {}
        found = []
        for arrow, moving in ((OUT, [*self._outgoing()]), (IN, [*self._incoming()])):
            for id, name, size, offset in moving[:LISTED]:
                bars[id] = bar = self._bars.get(id) or Bar(arrow, name, size, offset, now)
                found.append(bar.line(offset, now, width))
            if moving[LISTED:]:
                found.append(clip(f"{arrow} and {len(moving) - LISTED} more", width))
        self._bars = bars
        return found

    def _outgoing(self) -> Iterator[Moving]:
        for upload in self._sent.values():
            yield upload.id, upload.name, upload.size, upload.acknowledged

    def _incoming(self) -> Iterator[Moving]:
        for download in self.downloads():
            yield download.id, download.called, download.size, download.offset
