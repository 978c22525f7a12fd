"""Which files are read one after the other under one name, as rotation makes them. No Twisted here.

Rules

1. A file that has the name no more is read to its end. Then come those that were made and rotated away meanwhile, in their
   order, then the one that has the name now. They are held open from the moment they are seen: who deletes or compresses them
   takes nothing away.
2. The old file is left when another has the name and something is in it, and the old one was quiet for LINGER: who writes may
   not have heard yet that it was renamed. What is written to it still later is not read, and said to be missing.
3. Another process goes on with the file that it finds by its inode and by what was read of it, wherever it is beside the name;
   without that inode, with a copy in which that lies which was read.
4. What cannot be read any more is told, with as many bytes as are known to be missing; then it goes on with what is there.
5. A file that does not exist, or may not be read, is waited for, and that is said once.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence

from mysocket.ends.filereader import shown
from mysocket.errors import InputMissing, InputRefused
from mysocket.inputs.openfile import NoFile, OpenFile, open_file
from mysocket.inputs.place import Place
from mysocket.inputs.rotation import FIRST, Entry, Key, Unsettled, look_around

#: Seconds in which nothing was written to a renamed file before the next one is read.
LINGER = 1.0
#: Seconds for which a file that was left is watched.
WATCH_LEFT = 60.0
#: Files that are held open for their turn. More than so many are looked for by their names later.
MAX_HELD = 32
#: Files that were read to their end, as far back as they are known.
MAX_DONE = 64
#: The machine is short of something; another time the file can be opened.
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
#: Bytes by which a file can be told from others, whatever it is called.
TELLING = 16


class Report:
    """What is to be said."""

    def __init__(self) -> None:
        self._news: list[str] = []
        self._losses: list[str] = []

    def tell(self, text: str) -> None:
        """A user may want to know it."""
        self._news.append(text)

    def complain(self, text: str) -> None:
        """A user must know it."""
        self._losses.append(text)

    def take(self, ended: bool) -> tuple[list[str], bool, list[str]]:
        """News, and what was given, and losses; they are said then."""
        news, losses = self._news, self._losses
        self._news, self._losses = [], []
        return news, ended, losses


class Succession:
    """See the module.

    :param follow: False: only the file that has the name.
    :param now: time in seconds.

    :ivar current: the file that is read now, once there is one.
    :ivar remembered: where an earlier process stood, as long as that was not found.
    """

    def __init__(self, path: str, *, follow: bool, report: Report, now: Callable[[], float]) -> None:
        self.path = os.path.abspath(path)
        self.shown = shown(path)
        self.current: OpenFile | None = None
        self.remembered: Place | None = None
        self._follow = follow
        self._report = report
        self._now = now
        self._queue: deque[OpenFile] = deque()
        self._left: tuple[OpenFile, float] | None = None
        self._done: deque[Place] = deque(maxlen=MAX_DONE)
        self._quiet: tuple[int, float] | None = None  # nothing was read beyond that, since then
        self._opened: list[OpenFile] = []  # and not yet known whether they are needed
        self._begun = self._told_held = False
        self._obstacle = ""

    def look(self) -> None:
        """See which file has the name now.

        :raises InputMissing: none, and it is not waited for.
        :raises InputRefused: it cannot be read, now or ever.
        :raises OSError:
        """
        self._watch_left()
        try:
            if self.current is None:
                self._begin()
            elif self._follow:
                self._look_again(self.current)
        except Unsettled:
            pass  # the next look is soon
        finally:
            self._settle()

    def _settle(self) -> None:
        """Close what was opened and is not needed."""
        needed = {id(file) for file in (self.current, *self._queue)}
        opened, self._opened = self._opened, []
        for file in opened:
            if id(file) not in needed:
                file.close()

    def close(self) -> None:
        """Close all of them."""
        files = [*self._queue, *([self.current] if self.current else []), *([self._left[0]] if self._left else [])]
        self.current, self._left = None, None
        self._queue.clear()
        for file in files:
            file.close()

    def leave(self) -> bool:
        """The current file was read to its end: go on with the next one, if there is one and it is time for that."""
        file = self.current
        if not self._queue or file is None:
            return False
        if not file.settled and len(self._queue) == 1:
            if not self._queue[0].has_data():
                return False
            now = self._now()
            if self._quiet is None or self._quiet[0] != file.at:
                self._quiet = file.at, now
            if now - self._quiet[1] < LINGER:
                return False
        self._forget_left()
        self._left = file, self._now()
        self._done.append(file.probe())
        self.current = self._queue.popleft()
        self._quiet = None
        self._told_held = False
        return True

    def go_on_with_copy(self) -> bool | None:
        """The current file was truncated: its copy comes first, and the file itself comes again from its start.

        False: there is no copy. None: that cannot be known at this moment.
        """
        assert self.current is not None
        try:
            return self._go_on_with_copy(self.current)
        except Unsettled:
            return None
        finally:
            self._settle()

    def _go_on_with_copy(self, file: OpenFile) -> bool:
        probe = file.probe()
        entries = look_around({self.path, file.real}, file.identity[1]) if self._follow else []
        copy = self._copy(probe, entries, file.offset)
        if copy is None:
            if probe.size > probe.offset:
                missing = probe.size - probe.offset
                self._report.complain(f"{self.shown} was truncated before all was read: at least {missing} bytes are missing")
            self._report.tell(f"{self.shown} was truncated; it is read from its start")
            return False
        between = self._between(_key(copy, entries) or (copy.mtime_ns, FIRST), None, entries, besides=copy)
        self._report.tell(f"{self.shown} was truncated; first comes the rest of its copy {shown(copy.path)}")
        self._queue.extendleft(reversed([*between, file]))
        self.current = copy
        return True

    # The file of that name ------------------------------------------------------------------------------------------------------

    def _open(self) -> OpenFile | None:
        """The file that has the name, or None: there is none to be read now, and that was said."""
        try:
            file = open_file(self.path)
        except NoFile as problem:
            if not self._follow or (not problem.passes and not self._begun):
                raise InputRefused(str(problem), where=self.shown) from None
            self._wait(str(problem), self._report.complain)
        except FileNotFoundError:
            if not self._follow:
                raise InputMissing(where=self.shown) from None
            if self.current is None:  # else it is being rotated
                self._wait("it does not exist", self._report.tell)
        except OSError as problem:
            if not self._follow:
                raise InputRefused(problem.strerror or str(problem), where=self.shown) from None
            self._wait(problem.strerror or str(problem), self._report.complain)
        else:
            if self._obstacle:
                self._report.tell(f"{self.shown} can be read now")
            self._obstacle = ""
            self._opened.append(file)
            return file
        return None

    def _wait(self, why: str, say: Callable[[str], None]) -> None:
        if why != self._obstacle:
            self._obstacle = why
            say(f"waiting for {self.shown}: {why}")

    def _begin(self) -> None:
        """Find where to begin."""
        current, place = self._open(), self.remembered
        self._begun = True
        if place is None:
            self.current = current
        elif current is not None and (current.identity[1] == place.inode or not self._follow) and current.resume(place):
            self.current = current
        elif not self._follow:
            self._report.tell(
                f"{self.shown} is not the file of which {place.offset} bytes were sent before, or it was written anew: "
                "it is sent from its start"
            )
            self.current = current
        else:
            self._find_again(place, current)
        if self.current is not None:
            self.remembered = None

    def _look_again(self, file: OpenFile) -> None:
        """See whether another file has the name."""
        newest = self._queue[-1] if self._queue else file
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            if len(self._queue) < MAX_HELD:
                self._add(newest, None)  # there may have been one since
            return
        except OSError as problem:
            self._wait(problem.strerror or str(problem), self._report.complain)
            return
        identity = (found.st_dev, found.st_ino)
        if identity == newest.identity:
            newest.notice(found.st_size)
            self._obstacle = ""
        elif len(self._queue) >= MAX_HELD:
            if not self._told_held:
                self._told_held = True
                self._report.complain(
                    f"{self.shown} is rotated faster than it is read: {MAX_HELD} files are held open, and what comes behind them "
                    "is looked for by its name later; do not compress or delete it before"
                )
        elif not any(identity == known.identity for known in (file, *self._queue)):  # else it has got its name back
            current = self._open()
            if current is not None:
                self._add(newest, current)

    def _add(self, newest: OpenFile, current: OpenFile | None) -> None:
        """What came behind the newest that is known, and the file that has the name now."""
        entries = look_around({newest.real, *self._paths(current)}, newest.identity[1])
        found = os.fstat(newest.fd)
        between = self._between(_key(newest, entries) or (found.st_mtime_ns, FIRST), current, entries)
        if between and not found.st_nlink:
            self._report.complain(
                f"{self.shown} is rotated, and old files are deleted, faster than they are looked at: some of them may be missing"
            )
        self._enqueue(between, current)

    def _enqueue(self, between: list[OpenFile], current: OpenFile | None) -> None:
        self._queue.extend(between)
        if current is None:
            return
        if len(self._queue) >= MAX_HELD:
            return  # there may be others before it
        for done in reversed(self._done):
            if done[:2] == current.identity and current.resume(done):
                break  # it was read before, and has got the name again
        self._queue.append(current)

    # Files beside it ------------------------------------------------------------------------------------------------------------

    def _paths(self, current: OpenFile | None) -> set[str]:
        return {self.path, current.real if current is not None else os.path.realpath(self.path)}

    def _find_again(self, place: Place, current: OpenFile | None) -> None:
        """It was rotated, or truncated, while no process was here."""
        entries = look_around(self._paths(current), place.inode)
        found = self._renamed(place, entries)
        if found is None and current is not None and place.offset and current.resume(place):
            self.current = current  # the same, restored or on another disk
            return
        found = found or self._copy(place, entries, place.offset)
        if found is None and current is None:
            return  # the disk that it is on may not be there yet
        key = (_key(found, entries) or (found.mtime_ns, FIRST)) if found is not None else (place.mtime_ns + 1, FIRST)
        between = self._between(key, current, entries, besides=found)
        if found is None and current is not None:
            self._tell_missing(place, current, entries)
        elif found is not None:
            self._report.tell(f"{self.shown} was rotated; first comes the rest of {shown(found.path)}")
            if current is not None and current.size and current.mtime_ns - found.mtime_ns >= LINGER * 1e9:
                found.settled = True
        self._enqueue(between, current)
        self.current = found or self._queue.popleft()

    def _tell_missing(self, place: Place, current: OpenFile, entries: Sequence[Entry]) -> None:
        known, behind = place.size - place.offset, f"behind byte {place.offset}"
        missing = f"at least {known} bytes {behind} are" if known > 0 else f"lines {behind} may be"
        how = "truncated" if current.identity[1] == place.inode else "rotated"
        packed = [shown(entry.path) for entry in entries if entry.compressed and entry.mtime_ns >= place.mtime_ns]
        self._report.complain(
            f"{self.shown} was {how} while nobody read it, and what it was before is not found: {missing} missing; "
            f"going on with what is there{'. Look into ' if packed else ''}{', '.join(packed)}"
        )

    def _between(
        self, key: Key, current: OpenFile | None, entries: Sequence[Entry], besides: OpenFile | None = None
    ) -> list[OpenFile]:
        """The files that were rotated away behind the one at ``key``, and before the current one; the oldest first."""
        end = _key(current, entries)
        known = {file.identity for file in (*self._queue, self.current, current, besides) if file is not None}
        found: list[OpenFile] = []
        for entry in entries:
            if entry.order is None or entry.compressed or entry.key <= key or entry.identity in known:
                continue
            if end is not None and entry.key >= end or len(self._queue) + len(found) >= MAX_HELD:
                break
            file = self._open_entry(entry)
            if file is not None and not any(done[:2] == file.identity and file.resume(done) for done in self._done):
                found.append(file)
        return found

    def _renamed(self, place: Place, entries: Sequence[Entry]) -> OpenFile | None:
        """The file itself, under another name."""
        for entry in entries:
            # An inode is used again: what has another kind of name must have more in common with it than a few bytes.
            if entry.identity[1] != place.inode or entry.compressed or (entry.order is None and place.offset < TELLING):
                continue
            file = self._open_entry(entry)
            if file is not None and file.resume(place):
                return file
        return None

    def _copy(self, place: Place, entries: Sequence[Entry], offset: int) -> OpenFile | None:
        """A copy that was made of it since, to be read from ``offset`` on."""
        for entry in reversed(entries):
            if place.offset and entry.order is not None and not entry.compressed and entry.mtime_ns >= place.mtime_ns:
                file = self._open_entry(entry)
                if file is not None and file.resume(place, offset):
                    file.settled = True
                    return file
        return None

    def _open_entry(self, entry: Entry) -> OpenFile | None:
        """
        :raises Unsettled: another file has that name now, or none can be opened at this moment.
        """
        try:
            file = open_file(entry.path)
        except (FileNotFoundError, NoFile):
            raise Unsettled from None
        except OSError as problem:
            if problem.errno in SHORT:
                raise Unsettled from None
            self._report.complain(f"{shown(entry.path)} is not read: {problem.strerror or problem}")
            return None
        self._opened.append(file)
        if file.identity != entry.identity:
            raise Unsettled
        return file

    # The file that was left -----------------------------------------------------------------------------------------------------

    def _watch_left(self) -> None:
        """Say so if somebody still writes to it."""
        if self._left is None:
            return
        file, since = self._left
        late = os.fstat(file.fd).st_size - file.at
        if late > 0:
            self._report.complain(
                f"at least {late} bytes were written to {shown(file.path)} after it was rotated and the next file was begun: "
                "they are missing. Let the program that writes open its log anew sooner"
            )
        if late > 0 or self._now() - since > WATCH_LEFT:
            self._forget_left()

    def _forget_left(self) -> None:
        if self._left is not None:
            self._left[0].close()
            self._left = None


def _key(file: OpenFile | None, entries: Sequence[Entry]) -> Key | None:
    """Where a file stands among those that were rotated, if it is one of them."""
    if file is None:
        return None
    return next((entry.key for entry in entries if entry.identity == file.identity and entry.order is not None), None)
