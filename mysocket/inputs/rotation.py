"""The files beside a file that is written by rotation: what they are called, and which of them is newer.

``app.log`` becomes ``app.log.1`` (and that ``app.log.2``), ``app.log-20261123``, ``app.log.2026-11-23`` or ``app-20261123.log``.
A name with digits only behind the file's own counts as one of them; any other name counts if it is the inode that is looked for.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from typing import NamedTuple

from mysocket.inputs.openfile import Identity

#: Times that directories are read again because files in them were renamed meanwhile.
ATTEMPTS = 10
_TURN = r"[.\-_][0-9][0-9TtZz:._+\-]*"
_COMPRESSED = r"\.(?:gz|bz2|xz|zst|lz4|lzma|Z|zip)"

#: Which of two files that were written to at the same moment is newer. Of small numbers the lower one; of others the higher.
Order = tuple[int, str]
#: Sorts files by age, the oldest first.
Key = tuple[int, Order]
#: Before all others of that moment.
FIRST: Order = (-(10**9), "")


class Entry(NamedTuple):
    """A file in the directory; without an ``order`` it is none that rotation makes."""

    path: str
    identity: Identity
    mtime_ns: int
    order: Order | None
    compressed: bool

    @property
    def key(self) -> Key:
        """Its age."""
        return self.mtime_ns, self.order or FIRST


def _order(turn: str) -> Order:
    number = turn[1:]
    return (-int(number), "") if number.isdigit() and len(number) < 5 else (0, turn)


class _Names:
    """What the rotated files of one file are called."""

    def __init__(self, base: str) -> None:
        stem, ending = os.path.splitext(base)
        # What a writer began between the two steps of logrotate (rename, create) gets this name.
        forms = [rf"{re.escape(base)}(?P<turn>{_TURN})(?:\.backup)?"]
        if ending and stem:
            forms.append(f"{re.escape(stem)}(?P<middle>{_TURN}){re.escape(ending)}")
        self._pattern = re.compile(f"(?:{'|'.join(forms)})(?P<compressed>{_COMPRESSED})?")

    def order(self, name: str) -> tuple[Order | None, bool]:
        found = self._pattern.fullmatch(name)
        if found is None:
            return None, False
        turn = found["turn"] or found.groupdict().get("middle") or ""
        return _order(turn), found["compressed"] is not None


class Unsettled(Exception):
    """Files are being renamed at this moment."""


def look_around(paths: Iterable[str], inode: int) -> list[Entry]:
    """The rotated files beside ``paths``, which are names of one file, and whatever has that inode; the oldest first.

    :raises Unsettled: they never were the same twice. One that is renamed may be passed over, so nothing can be concluded.
    """
    places = {os.path.split(path) for path in paths}
    entries = _scan(places, inode)
    for _ in range(ATTEMPTS):
        before, entries = entries, _scan(places, inode)
        if [entry[:2] for entry in before] == [entry[:2] for entry in entries]:
            return sorted(entries, key=lambda entry: entry.key)
    raise Unsettled


def _scan(places: Iterable[tuple[str, str]], inode: int) -> list[Entry]:
    found: dict[Identity, Entry] = {}
    for directory, base in sorted(places):
        names = _Names(base)
        try:
            with os.scandir(directory) as listing:
                # All names first: a slow look at each would leave more time for others to rename them.
                entries = [*listing]
        except OSError:
            continue
        for entry in entries:
            order, compressed = names.order(entry.name)
            try:
                if order is None and entry.inode() != inode:
                    continue
                info = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISREG(info.st_mode):
                identity = (info.st_dev, info.st_ino)
                one = Entry(entry.path, identity, info.st_mtime_ns, order, compressed)
                # One that has two names is known by the one that tells more.
                if identity not in found or found[identity].order is None:
                    found[identity] = one
    return sorted(found.values())
