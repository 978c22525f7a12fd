"""Room on the disk: what waits for some, when to look again, and what is given back.

Three things may find no room: batches of the own stream ("spool"); what was received, in the output file or the inbox, with the
positions behind it ("output"); and what is to be deleted ("retire"), for that needs pages of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import accumulate

import lmdb

from mysocket import failpoints
from mysocket.spool.store import Store
from mysocket.spool.work import Appended, Item, cost, is_joined

#: Bytes that are left to others on the disk.
RESERVE = 1024 * 1024
#: Seconds after which it is looked again whether a full disk has room.
RETRY = 1.0
#: The file is made smaller if it has so many bytes, and this times what waits; not more often than every so many seconds.
COMPACT_SIZE = 12 * 1024 * 1024
COMPACT_SHARE = 4
COMPACT_INTERVAL = 5.0


class Space:
    """See the module.

    :param now: time in seconds.
    :param tell: hears of a full disk by its name, and "" when it has room again.
    """

    def __init__(self, store: Store, *, now: Callable[[], float], tell: Callable[[str], None]) -> None:
        #: What found no room, and when to look again.
        self.full: dict[str, float] = {}
        #: When to look whether the file is larger than it need be, or None if nothing has changed.
        self.look_at: float | None = None
        self._store = store
        self._now = now
        self._tell = tell
        self._spare = 0, 0  # bytes free inside the file: after the last commit but one, and after the last
        self._compact_after = float("-inf")

    def is_there(self, what: str) -> bool:
        """May ``what`` be tried?"""
        return what not in self.full or self._now() >= self.full[what]

    def is_missing(self, what: str, where: str) -> None:
        """``what`` has found no room on the disk of ``where``."""
        failpoints.reach("D1")
        if what not in self.full:
            self._tell(where)
        self.full[what] = self._now() + RETRY

    def retire_later(self) -> None:
        """Not even deleting has found room."""
        self.full["retire"] = self._now() + RETRY

    def fitting(self, work: Sequence[Appended | Item]) -> int:
        """How much of the work, in order, there is room for, on the disk or inside the file.

        What a commit frees inside the file is used again by the next but one, at the earliest.
        """
        ends = list(accumulate(map(cost, work)))
        room = self._store.free - RESERVE
        if ends[-1] <= max(0, room):
            return len(work)
        if not self.full:
            self._spare = (self._store.spare,) * 2
        room = max(0, room + min(self._spare))
        fitting = sum(end <= room for end in ends)
        while fitting and is_joined(work[fitting - 1]):
            fitting -= 1
        return fitting

    @property
    def ages(self) -> bool:
        """Would a commit of nothing make room, because what the last one has freed can be used then?"""
        return self._spare[0] < self._spare[1]

    def refused(self) -> None:
        """There was less room inside the file than was thought."""
        self._spare = 0, self._store.spare

    def committed(self, over: Collection[str], *, retired: bool) -> None:
        """A commit was done.

        :param over: what has found room, and waits no more.
        :param retired: something was deleted, so batches may be tried again.
        """
        if self.full:
            before, self._spare = min(self._spare), (self._spare[1], self._store.spare)
            if retired or min(self._spare) > before:
                for what in self.full.keys() & {"spool", "output"}:
                    self.full[what] = self._now()
        for what in self.full.keys() & set(over):
            del self.full[what]
            if what != "retire" and not self.full.keys() & {"spool", "output"}:
                self._tell("")
        self.changed()

    def changed(self) -> None:
        """The file may be larger than it need be: look, when it is time to."""
        self.look_at = self._compact_after

    def compact(self) -> None:
        """Give the disk back what is free in the file, if it is much and the copy finds room."""
        self.look_at = None
        size = self._store.size
        if size < (RESERVE if self.full else COMPACT_SIZE):
            return
        self._compact_after = self._now() + COMPACT_INTERVAL
        waiting = self._store.used
        if size < COMPACT_SHARE * waiting or self._store.free < waiting:
            return
        try:
            self._store.compact()
            self._spare = 0, 0
        except (OSError, lmdb.Error):
            # The file is as large as it was, and the next time is soon. If the copy cannot be opened, the next commit tells.
            return
