"""What became of requests: how much of each was accepted, by its id.

Rules

1. The outcome of a request is committed in the same transaction as the batch it speaks of. So a client that asks again, after a
   lost connection or a restart of the service, learns what is true.
2. An outcome is forgotten when the client says that it knows it, or after a week, or when very many newer ones are there: nobody
   asks for that long, and what clients leave behind must not pile up.
3. In memory (no spool) outcomes end with the service, as what was accepted does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from struct import Struct
from typing import NamedTuple
from typing import Protocol as Interface

from mysocket.core.batch import Piece
from mysocket.spool.interface import Bookmark

#: Seconds that an outcome is kept for a client that has not said that it knows it.
KEPT = 7 * 24 * 3600.0
#: Outcomes that are kept, at most; those that came no further for the longest time go.
MOST = 65536
#: So many that may be forgotten wait for company: alone they are not worth a commit.
TOGETHER = 64
#: The name of the bookmark of a request begins so.
PREFIX = "send:"

_OUTCOME = Struct(">QQ?d")


class Outcome(NamedTuple):
    """How far a request has come.

    :param accepted: bytes of it.
    :param position: where the own stream stands behind them, or 0.
    :param ended: there is no more of it.
    :param time: when, in seconds since the epoch.
    """

    accepted: int = 0
    position: int = 0
    ended: bool = False
    time: float = 0.0


class Outgoing(Interface):
    """The own stream of the service, as requests see it. Positions as in :class:`~mysocket.spool.interface.Spool`."""

    #: What is accepted outlives the process.
    durable: bool

    @property
    def retired(self) -> int:
        """Everything before this position is acknowledged."""

    @property
    def committed(self) -> int:
        """Everything before this position is accepted."""

    @property
    def end(self) -> int:
        """Where the next batch will start."""

    @property
    def room(self) -> int:
        """Bytes that may be accepted now; not positive: wait."""

    def accept(self, pieces: list[Piece], bookmark: Bookmark) -> None:
        """Take whole messages, in one commit with the bookmark; they are accepted once ``committed`` is behind them."""

    def mark(self, bookmark: Bookmark, done: Callable[[], None]) -> None:
        """Commit a bookmark alone, then call ``done``."""

    def unmark(self, names: Collection[str]) -> None:
        """Forget bookmarks."""


class Outcomes:
    """See the module.

    :param kept: the bookmarks that earlier processes left.
    :param now: the time in seconds since the epoch.
    """

    def __init__(self, outgoing: Outgoing, kept: Mapping[str, bytes], now: Callable[[], float]) -> None:
        self.outgoing = outgoing
        self._now = now
        found = [
            (bytes.fromhex(name.removeprefix(PREFIX)), Outcome._make(_OUTCOME.unpack(row)))
            for name, row in kept.items()
            if name.startswith(PREFIX)
        ]
        # The one that came further last is the last.
        self._known = dict(sorted(found, key=lambda one: one[1].time))
        #: Requests whose end is on its way to the disk.
        self._ending: set[bytes] = set()
        self._forgotten: list[bytes] = []
        self._age()

    def find(self, id: bytes) -> Outcome:
        """How far the request has come, or is on its way to come."""
        return self._known.get(id, Outcome())

    def is_committed(self, id: bytes) -> bool:
        """Is that committed?"""
        return id not in self._ending and self.find(id).position <= self.outgoing.committed

    def is_delivered(self, id: bytes) -> bool:
        """Has the peer acknowledged all that was accepted?"""
        return self.find(id).position <= self.outgoing.retired

    def accept(self, id: bytes, pieces: list[Piece], *, ended: bool) -> None:
        """Take whole messages of a request; ``ended``: there is no more of it."""
        size = sum(len(piece.payload) for piece in pieces)
        outcome = Outcome(self.find(id).accepted + size, self.outgoing.end + size, ended, self._now())
        bookmark = self._set(id, outcome)
        self._forget_some(enough=1)
        self.outgoing.accept(pieces, bookmark)

    def finish(self, id: bytes, done: Callable[[], None]) -> None:
        """There is no more of the request; ``done`` is called when that is committed."""
        bookmark = self._set(id, self.find(id)._replace(ended=True, time=self._now()))
        self._ending.add(id)

        def committed() -> None:
            self._ending.discard(id)
            done()

        self.outgoing.mark(bookmark, committed)

    def forget(self, id: bytes) -> None:
        """The client knows the outcome."""
        if self._known.pop(id, None) is not None:
            self._forgotten.append(id)
            self._forget_some(enough=TOGETHER)

    def close(self) -> None:
        """Nothing more is accepted."""
        self._forget_some(enough=1)

    def _forget_some(self, enough: int) -> None:
        if len(self._forgotten) >= enough:
            forgotten, self._forgotten = self._forgotten, []
            self.outgoing.unmark([PREFIX + id.hex() for id in forgotten])

    def _set(self, id: bytes, outcome: Outcome) -> Bookmark:
        self._known.pop(id, None)
        self._known[id] = outcome
        self._age()
        return Bookmark(PREFIX + id.hex(), _OUTCOME.pack(*outcome))

    def _age(self) -> None:
        """Forget what nobody asks for any more."""
        old = self._now() - KEPT
        while self._known:
            id = next(iter(self._known))
            if len(self._known) <= MOST and self._known[id].time >= old:
                break
            del self._known[id]
            self._forgotten.append(id)
