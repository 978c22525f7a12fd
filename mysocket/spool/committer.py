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
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import lmdb

from mysocket import failpoints
from mysocket.core.batch import Bytes, count
from mysocket.errors import DiskFailed, MySocketError
from mysocket.metrics import CommitTimes
from mysocket.spool import inbox
from mysocket.spool.changes import DELETED_AT_ONCE, Changes
from mysocket.spool.output import OutputFile
from mysocket.spool.queue import Queue
from mysocket.spool.space import RESERVE, Space
from mysocket.spool.store import Store
from mysocket.spool.work import Appended, Change, Data, Deposit, Enter, Fetched, Group, Item, Listener, Reopen, Tail

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
        self._queue = Queue(now)
        self._now = now
        #: How long commits take; observed by the committer thread.
        self.times = CommitTimes()
        self._clean = False
        self._committed_row = output.row if output is not None else {}
        # The rest belongs to the committer thread.
        self._failed = False
        self._space = Space(store, now=now, tell=lambda where: post(lambda: listener.found_full(where)))
        self._most_deleted = DELETED_AT_ONCE
        self._thread: threading.Thread | None = None

    # For the reactor thread -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="mysocket-spool", daemon=True)
        self._thread.start()

    def append(self, appended: Appended) -> None:
        """Commit a batch."""
        self._queue.append(appended)

    def give(self, *items: Item) -> None:
        """Commit, after all that was given before."""
        self._queue.give(*items)

    def retire(self, position: int, *, soon: bool) -> None:
        """Delete batches that end at or before ``position``, some time; with ``soon`` the room is wanted."""
        self._queue.retire(position, soon=soon)

    def deposit(self, row: inbox.Row, done: Callable[[], None]) -> None:
        """Commit a row of the inbox, with the entry that is given next."""
        self._queue.give(Deposit(row, done))

    def enter_consumers(self, consumers: Mapping[str, inbox.Consumer | None], done: Callable[[], None]) -> None:
        """Commit how far consumers of the inbox are; None: that one is no more."""
        self._queue.enter_consumers(consumers, done)

    def trim(self, position: int) -> None:
        """Delete rows of the inbox that end at or before ``position``, some time."""
        self._queue.trim(position)

    def read(self, question: Callable[[Store], Any], done: Callable[[Any], None]) -> None:
        """Ask the store between two commits; ``done`` gets the answer."""

        def ask() -> Callable[[], None]:
            return partial(done, question(self._store))

        self._queue.ask(ask)

    def fetch(self, position: int, done: Callable[[Fetched], None]) -> None:
        """Read batches from ``position`` on."""

        def read(store: Store) -> Fetched:
            fetched, size = Fetched(position, None, []), 0
            for batch, before, _ in store.batches(position):
                if fetched.before is None:
                    fetched = fetched._replace(before=before)
                fetched.batches.append(batch)
                size += len(batch.payload)
                if size >= FETCH or len(fetched.batches) >= FETCH_BATCHES:
                    break
            return fetched

        self.read(read, done)

    def count(self, position: int, size: int, done: Callable[[int | None], None]) -> None:
        """Count the messages that wait from ``position`` on, unless they are too many bytes."""

        def read(store: Store) -> int | None:
            if size <= COUNTED:
                # Who asks is about to leave, and is not to wait for a disk that is gone.
                with suppress(lmdb.Error):
                    return sum(count(batch) for batch, _, _ in store.batches(position))
            return None

        self.read(read, done)

    def flush(self, done: Callable[[], None]) -> None:
        """Call ``done`` in the reactor thread when all that was given is committed, or has to wait."""
        with self._queue.wake:
            self._queue.flush.append(done)
            self._queue.wake.notify()

    def close(self, done: Callable[[], None], *, clean: bool) -> None:
        """Commit what can be committed, close everything, then call ``done`` in the reactor thread.

        :param clean: if everything can be committed, nothing that was written will come again.
        """
        with self._queue.wake:
            self._queue.closing, self._clean = done, clean
            self._queue.wake.notify()

    @property
    def abandoned(self) -> bool:
        """Has the thread ended, and nobody had asked it to? Then nothing will ever be committed."""
        return self._thread is not None and not self._thread.is_alive() and self._queue.closing is None

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
        queue = self._queue
        with queue.wake:
            group = queue.take(self._space, only_questions=self._failed)
            while group is None:
                for done in queue.flush:
                    self._post(done)
                queue.flush = []
                if queue.closing is not None:
                    break
                if not wait:
                    return False
                queue.wake.wait(self.patience())
                group = queue.take(self._space, only_questions=self._failed)
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

    def patience(self) -> float | None:
        """Seconds until there may be something to do, or None: not before something is given."""
        return None if self._failed else self._queue.patience(self._space)

    def _fail(self, error: MySocketError) -> None:
        self._failed = True
        self._post(lambda: self._listener.has_failed(error))

    # One group ------------------------------------------------------------------------------------------------------------------

    def _work(self, group: Group) -> None:
        rest = self._write_output(group.items)
        if rest and self._output is not None:
            self._space.is_missing("output", self._output.path)
            self._queue.put_back_items(group, rest)
        if group.items and (fitting := self._space.fitting(group.items)) < len(group.items):
            self._space.is_missing("output", self._where)
            rest = group.items[fitting:]
            self._queue.put_back_items(group, rest)
        if group.batches and (fitting := self._space.fitting(group.batches)) < len(group.batches):
            self._put_back(group, fitting)
        group.age = not group.changes and self._space.ages
        for _ in range(8):
            if not group.changes:
                self._space.changed()
                return
            began = self._now()
            try:
                calls = self._commit(group)
            except lmdb.MapFullError:
                self._store.grow()
            except lmdb.Error as problem:
                self._refused(group, problem)
            else:
                self.times.spool.observe(self._now() - began)
                over = {"retire", *(["output"] if group.items and not rest else [])}
                if group.batches and not self._queue.batches_wait:
                    over.add("spool")
                self._space.committed(over, retired=group.deletes)
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
        began = self._now()
        written = self._output.write(data)
        self._output.sync()
        self.times.output.observe(self._now() - began)
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
        self._queue.put_back_batches(group, fitting)

    def _refused(self, group: Group, problem: lmdb.Error) -> None:
        """A commit failed. LMDB reports a short write as EIO, so only the free space tells a full disk from a broken one."""
        if self._store.free >= RESERVE + group.size or isinstance(problem, lmdb.PanicError):
            failpoints.reach("D2")
            raise DiskFailed(str(problem), where=self._where)
        if group.batches:
            self._space.refused()
            self._put_back(group, 0)
            return
        if group.deletes and self._most_deleted > 1:
            # What is deleted needs room as well, the more the more there is of it.
            self._most_deleted = 1
            return
        # Not even small changes find room: they wait too. What is in the output file stays there.
        alone = not group.items
        if group.items:
            self._space.is_missing("output", self._where)
            group.items = [item for item in group.items if not isinstance(item, Data)]
            self._queue.put_back_items(group, list(group.items))
        if alone and (group.deletes or group.consumers):
            self._space.retire_later()
        if alone:
            self._queue.put_back_deletes(group)
            group.age = False

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
            more = self._delete(changes, group, calls)
            if group.consumers:
                inbox.enter(changes, group.consumers)
            calls += group.entered
            for item in group.items:
                if isinstance(item, Deposit):
                    inbox.deposit(changes, item.row)
                    calls.append(item.done)
                elif isinstance(item, Enter):
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
        if group.consumers:
            failpoints.reach("R8")
        if group.deletes:
            self._most_deleted = min(2 * self._most_deleted, DELETED_AT_ONCE)
            failpoints.reach("S7")
            for delete in more:
                delete()
        return calls

    def _delete(self, changes: Changes, group: Group, calls: list[Callable[[], None]]) -> list[Callable[[], None]]:
        """Delete what is not needed any more, not too much at once.

        :return: what asks for the rest.
        """
        more: list[Callable[[], None]] = []
        if (goal := group.retire) is not None:
            done, freed = changes.retire(goal, self._most_deleted)
            calls.append(lambda: self._listener.has_retired(done, freed))
            if done < goal:
                more.append(partial(self._queue.retire, goal, soon=True))
        if (goal := group.trim) is not None:
            begin, spared, whole = inbox.trim(changes, goal, self._most_deleted)
            calls.append(lambda: self._listener.has_trimmed(begin, spared))
            if not whole:
                more.append(partial(self._queue.trim, goal, soon=True))
        return more

    def _close(self) -> None:
        done = self._queue.closing
        assert done is not None
        if not self._failed:
            try:
                if self._clean and not self._queue:
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
