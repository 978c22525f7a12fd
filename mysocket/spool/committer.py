"""One thread that commits: it gathers what was given to it while it synced the last group, and syncs that as one.

Order of work, in every group

1. what was received goes to the output file, which is synced;
2. one transaction takes batches of the own stream, deletes what is retired, and takes the positions of what was received, with
   the length of the output file; it is synced;
3. the reactor thread hears of it: now batches may be sent, and positions acknowledged.

When a disk is full, what needs room waits (batches, or the output file and the positions behind it), and the rest goes on. Any
other failure is final: nobody knows what of the group is on the disk, so nothing is written any more.

Whoever gives work runs in the reactor thread; :meth:`Committer.step` is the committer thread's, or a test's.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import lmdb

from mysocket import failpoints
from mysocket.core.batch import Bytes, count
from mysocket.errors import DiskFailed, MySocketError
from mysocket.spool.output import OutputFile
from mysocket.spool.space import RESERVE, Space
from mysocket.spool.store import DELETED_AT_ONCE, Store
from mysocket.spool.work import Appended, Change, Data, Enter, Fetched, Group, Item, Listener, Reopen, Tail

#: Bytes of payload in one commit, at most.
GROUP = 4 * 1024 * 1024
#: Entries and other small things in one commit, at most.
GROUP_ITEMS = 4096
#: What is retired waits for company so long (seconds), or until it is so much (bytes): alone it is not worth a sync.
RETIRE_DELAY = 0.1
RETIRE_SIZE = 2 * 1024 * 1024
#: Bytes, and batches, that are fetched at once, at most.
FETCH = 4 * 1024 * 1024
FETCH_BATCHES = 8192
#: Bytes whose messages are counted.
COUNTED = 64 * 1024 * 1024


class Committer:
    """See the module.

    :param post: calls its argument in the reactor thread, soon.
    :param output: the output file, if there is one.
    :param now: time in seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        listener: Listener,
        post: Callable[[Callable[[], None]], None],
        output: OutputFile | None,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._listener = listener
        self._post = post
        self._output = output
        self._now = now
        self._wake = threading.Condition()
        self._batches: deque[Appended] = deque()
        self._items: deque[Item] = deque()
        self._questions: list[Callable[[], Callable[[], None]]] = []
        self._retire: int | None = None
        self._retire_since = 0.0
        self._retire_now = False
        self._flush: list[Callable[[], None]] = []
        self._closing: Callable[[], None] | None = None
        self._clean = False
        self._committed_row = output.row if output is not None else {}
        # The rest belongs to the committer thread.
        self._failed = False
        self._space = Space(store, now=now, tell=lambda where: post(lambda: listener.found_full(where)))
        self._retired = 0
        self._most_deleted = DELETED_AT_ONCE
        self._thread: threading.Thread | None = None

    # For the reactor thread -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="mysocket-spool", daemon=True)
        self._thread.start()

    def append(self, appended: Appended) -> None:
        """Commit a batch."""
        with self._wake:
            self._batches.append(appended)
            self._wake.notify()

    def give(self, item: Item) -> None:
        """Commit, after all that was given before."""
        with self._wake:
            self._items.append(item)
            if not isinstance(item, Data):
                # What a peer sent counts only with its entry, which follows at once.
                self._wake.notify()

    def retire(self, position: int, *, soon: bool) -> None:
        """Delete what ends at or before ``position``, some time; with ``soon`` the room is wanted."""
        with self._wake:
            if self._retire is None:
                self._retire_since = self._now()
            self._retire = position
            self._retire_now = self._retire_now or soon
            self._wake.notify()

    def ask(self, question: Callable[[], Callable[[], None]]) -> None:
        """Run ``question`` between two commits; what it returns is called in the reactor thread."""
        with self._wake:
            self._questions.append(question)
            self._wake.notify()

    def fetch(self, position: int, done: Callable[[Fetched], None]) -> None:
        """Read batches from ``position`` on."""

        def read() -> Callable[[], None]:
            fetched, size = Fetched(position, None, []), 0
            for batch, before, _ in self._store.batches(position):
                if fetched.before is None:
                    fetched = fetched._replace(before=before)
                fetched.batches.append(batch)
                size += len(batch.payload)
                if size >= FETCH or len(fetched.batches) >= FETCH_BATCHES:
                    break
            return lambda: done(fetched)

        self.ask(read)

    def count(self, position: int, size: int, done: Callable[[int | None], None]) -> None:
        """Count the messages that wait from ``position`` on, unless they are too many bytes."""

        def read() -> Callable[[], None]:
            messages = None
            if size <= COUNTED:
                # Who asks is about to leave, and is not to wait for a disk that is gone.
                with suppress(lmdb.Error):
                    messages = sum(count(batch) for batch, _, _ in self._store.batches(position))
            return lambda: done(messages)

        self.ask(read)

    def flush(self, done: Callable[[], None]) -> None:
        """Call ``done`` in the reactor thread when all that was given is committed, or has to wait."""
        with self._wake:
            self._flush.append(done)
            self._wake.notify()

    def close(self, done: Callable[[], None], *, clean: bool) -> None:
        """Commit what can be committed, close everything, then call ``done`` in the reactor thread.

        :param clean: if everything can be committed, nothing that was written will come again.
        """
        with self._wake:
            self._closing, self._clean = done, clean
            self._wake.notify()

    # For the committer thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self.step():
                pass
        except Exception as problem:
            # A thread that ends without a word would leave everything waiting for ever.
            error = MySocketError(f"the spool cannot go on: {problem!r}")
            self._post(lambda: self._listener.has_failed(error))
            raise

    def step(self, *, wait: bool = True) -> bool:
        """Do one group of work.

        :param wait: for work, if there is none.
        :return: whether there may be more to do, ever (with ``wait``), or now.
        """
        with self._wake:
            group = self._take()
            while group is None:
                for done in self._flush:
                    self._post(done)
                self._flush = []
                if self._closing is not None:
                    break
                if not wait:
                    return False
                self._wake.wait(self._patience())
                group = self._take()
        if group is None:
            self._close()
            return False
        try:
            for question in group.questions:
                self._post(question())
            if group.changes:
                self._work(group)
            if group.look:
                self._space.compact()
        except MySocketError as problem:
            self._fail(problem)
        except (OSError, lmdb.Error) as problem:
            # A disk that is gone fails at whatever is asked of it.
            self._fail(DiskFailed(str(problem), where=self._where))
        return True

    def _fail(self, error: MySocketError) -> None:
        self._failed = True
        self._post(lambda: self._listener.has_failed(error))

    def _take(self) -> Group | None:
        """The next group, or None if there is nothing to do now."""
        group = Group(questions=self._questions)
        if group.questions:
            self._questions = []
        if not self._failed:
            self._take_batches(group)
            self._take_items(group)
            self._take_retire(group)
            group.look = self._space.look_at is not None and self._now() >= self._space.look_at
        if group.questions or group.changes or group.look:
            return group
        return None

    def _take_batches(self, group: Group) -> None:
        if not self._batches or not self._space.is_there("spool"):
            return
        size = 0
        while self._batches and size < GROUP:
            group.batches.append(self._batches.popleft())
            size += len(group.batches[-1].batch.payload)

    def _take_items(self, group: Group) -> None:
        if not self._space.is_there("output"):
            return
        size, agreed, items = 0, False, group.items
        # Data and the entry behind it are never parted: a length that is committed without the position would count twice.
        while self._items and (size < GROUP and len(items) < GROUP_ITEMS or isinstance(items[-1], Data)):
            if isinstance(self._items[0], Reopen) and items:
                break  # what came before belongs to the file before
            if isinstance(self._items[0], Data) and agreed:
                break  # what is agreed is committed before anything is written: a tail behind it is another
            item = self._items.popleft()
            items.append(item)
            agreed = agreed or isinstance(item, Tail)
            if isinstance(item, Data):
                size += len(item.data)
            elif isinstance(item, Reopen):
                break
        while items and isinstance(items[-1], Data):
            self._items.appendleft(items.pop())

    def _take_retire(self, group: Group) -> None:
        if self._retire is None or not self._space.is_there("retire"):
            return
        due = self._retire - self._retired >= RETIRE_SIZE or self._now() >= self._retire_since + RETIRE_DELAY
        if (
            group.batches
            or group.items
            or due
            or self._retire_now
            or self._space.full
            or self._flush
            or self._closing is not None
        ):
            group.retire, self._retire, self._retire_now = self._retire, None, False

    def _patience(self) -> float | None:
        """Seconds until what waits may be done, or None if nothing waits for a time to come."""
        if self._failed:
            return None
        waiting = {"spool": self._batches, "output": self._items, "retire": self._retire is not None}
        times = [when for what, when in self._space.full.items() if waiting[what]]
        if self._retire is not None and "retire" not in self._space.full:
            times.append(self._retire_since + RETIRE_DELAY)
        if self._space.look_at is not None:
            times.append(self._space.look_at)
        return max(0.001, min(times) - self._now()) if times else None

    # One group ------------------------------------------------------------------------------------------------------------------

    def _work(self, group: Group) -> None:
        rest = self._write_output(group.items)
        if rest and self._output is not None:
            self._space.is_missing("output", self._output.path)
            with self._wake:
                self._items.extendleft(reversed(rest))
            del group.items[-len(rest) :]
        if group.batches and (fitting := self._space.fitting(group.batches)) < len(group.batches):
            self._put_back(group, fitting)
            group.age = not group.changes and self._space.ages
        for _ in range(8):
            if not group.changes:
                self._space.changed()
                return
            try:
                calls = self._commit(group)
            except lmdb.MapFullError:
                self._store.grow()
            except lmdb.Error as problem:
                self._refused(group, problem)
            else:
                over = {"retire", *(["output"] if group.items and not rest else [])}
                with self._wake:
                    if group.batches and not self._batches:
                        over.add("spool")
                self._space.committed(over, retired=group.retire is not None)
                self._post(partial(_call, calls))
                return
        raise DiskFailed("the file cannot grow", where=self._where)

    @property
    def _where(self) -> str:
        return f"the spool {self._store.directory.path}"

    def _write_output(self, items: list[Item]) -> list[Item]:
        """Write what goes to the output file, and sync it.

        :return: the items that have to wait for room on its disk.
        """
        data: list[Bytes] = []
        for item in items:
            if isinstance(item, Data):
                data.append(item.data)
            elif isinstance(item, Tail) and self._output is not None:
                self._output.settle_tail(cut=item.cut)
            elif isinstance(item, Reopen) and self._output is not None:
                self._reopen(self._output)
        if not data or self._output is None:
            return []
        written = self._output.write(data)
        self._output.sync()
        failpoints.reach("R7")
        if written == len(data):
            return []
        places = [place for place, item in enumerate(items) if isinstance(item, Data)]
        return items[places[written] :]

    def _reopen(self, output: OutputFile) -> None:
        if not output.in_place:
            self._output = OutputFile(output.path, output.row)
            output.close()

    def _put_back(self, group: Group, fitting: int) -> None:
        """All but so many batches wait until there is room."""
        self._space.is_missing("spool", self._where)
        with self._wake:
            self._batches.extendleft(reversed(group.batches[fitting:]))
        del group.batches[fitting:]

    def _refused(self, group: Group, problem: lmdb.Error) -> None:
        """A commit failed. LMDB reports a short write as EIO, so only the free space tells a full disk from a broken one."""
        if self._store.free >= RESERVE or isinstance(problem, lmdb.PanicError):
            failpoints.reach("D2")
            raise DiskFailed(str(problem), where=self._where)
        if group.batches:
            self._space.batches_refused()
            self._put_back(group, 0)
            return
        if group.retire is not None and self._most_deleted > 1:
            # What is deleted needs room as well, the more the more there is of it.
            self._most_deleted = 1
            return
        # Not even small changes find room: they wait too.
        with self._wake:
            self._items.extendleft(reversed([item for item in group.items if not isinstance(item, Data)]))
            if group.retire is not None:
                self._retire = max(group.retire, self._retire or 0)
        if group.items:
            self._space.is_missing("output", self._where)
        if group.retire is not None:
            self._space.retire_later()
        group.items, group.retire, group.age = [], None, False

    def _commit(self, group: Group) -> list[Callable[[], None]]:
        """The transaction, and what to tell the reactor thread about it."""
        calls: list[Callable[[], None]] = []
        with self._store.changes() as changes:
            for one in group.batches:
                changes.append(one.batch, one.before, one.time)
                if one.bookmark is not None:
                    changes.mark(one.bookmark)
            if group.batches:
                changes.input(*group.batches[-1].input)
                failpoints.reach("S1")
            if group.age:
                changes.meta("clean", b"0")
            more = None
            if group.retire is not None:
                done, freed = changes.retire(group.retire, self._most_deleted)
                more = group.retire if done < group.retire else None
                calls.append(lambda: self._listener.has_retired(done, freed))
            for item in group.items:
                if isinstance(item, Enter):
                    changes.enter(item.entry)
                    calls.append(item.done)
                elif isinstance(item, Change):
                    item.make(changes)
                    calls.append(item.done)
            if self._output is not None and group.items and self._output.row != self._committed_row:
                changes.meta("output", json.dumps(self._output.row).encode())
            if group.batches:
                failpoints.during("S2")
            if any(isinstance(item, Enter) for item in group.items):
                failpoints.during("R2")
            changes.commit()
        if self._output is not None and group.items:
            self._committed_row = self._output.row
        if group.batches:
            failpoints.reach("S3")
            batches = [one.batch for one in group.batches]
            calls.append(lambda: self._listener.has_committed(batches))
        if group.retire is not None:
            self._most_deleted = min(2 * self._most_deleted, DELETED_AT_ONCE)
            self._retired = group.retire
            failpoints.reach("S7")
            if more is not None:
                with self._wake:
                    self._retire, self._retire_now = max(more, self._retire or 0), True
        return calls

    def _close(self) -> None:
        done = self._closing
        assert done is not None
        if not self._failed:
            try:
                if self._clean and not (self._batches or self._items):
                    with self._store.changes() as changes:
                        changes.meta("clean", b"1")
                        changes.commit()
                self._space.compact()
            except (OSError, lmdb.Error, MySocketError):
                pass  # what was committed is safe; the next start finds an unclean end
        self._store.close()
        if self._output is not None:
            self._output.close()
        self._store.directory.close()
        self._post(done)


def _call(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()
