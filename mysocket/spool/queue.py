"""What waits for the committer, and in which portions it is taken.

Rules

1. Batches of the own stream, and what was received (items), are each taken in the order in which they were given, in groups.
2. What belongs together is never parted: parts of a message that are accepted together, data and the entry behind it.
3. Deleting waits for company, or a moment: alone it is not worth a sync. What it makes room for makes it due at once.
4. What found no room on a disk is put back in its place; the rest goes on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping

from mysocket.spool.inbox import Consumer
from mysocket.spool.space import Space
from mysocket.spool.work import Appended, Data, Deposit, Group, Item, Question, Reopen, Tail, is_joined

#: Bytes of payload in one commit, at most, but for what is never parted.
GROUP = 4 * 1024 * 1024
#: Entries and other small things in one commit, at most.
GROUP_ITEMS = 4096
#: What is retired waits for company so long (seconds), or until it is so much (bytes).
RETIRE_DELAY = 0.1
RETIRE_SIZE = 2 * 1024 * 1024


class Queue:
    """Given to by the reactor thread, taken from by the committer's.

    :param now: time in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        #: To be held by whoever changes anything.
        self.wake = threading.Condition()
        #: Called when all that was given is committed, or has to wait.
        self.flush: list[Callable[[], None]] = []
        #: Called when everything is closed; from then on nothing more is given.
        self.closing: Callable[[], None] | None = None
        self._now = now
        self._batches: deque[Appended] = deque()
        self._items: deque[Item] = deque()
        self._questions: list[Question] = []
        self._consumers: dict[str, Consumer | None] = {}
        self._entered: list[Callable[[], None]] = []
        self._retire: int | None = None
        self._retired = 0
        self._trim: int | None = None
        self._delete_at = 0.0  # when to delete, at the latest

    def __bool__(self) -> bool:
        """Does anything that was given for good still wait?"""
        return bool(self._batches or self._items or self._consumers)

    @property
    def batches_wait(self) -> bool:
        """Is there any that was not taken?"""
        with self.wake:
            return bool(self._batches)

    # Giving ---------------------------------------------------------------------------------------------------------------------

    def append(self, appended: Appended) -> None:
        with self.wake:
            self._batches.append(appended)
            if not is_joined(appended):
                self.wake.notify()

    def give(self, *items: Item) -> None:
        with self.wake:
            self._items.extend(items)
            if not is_joined(items[-1]):
                self.wake.notify()

    def ask(self, question: Question) -> None:
        with self.wake:
            self._questions.append(question)
            self.wake.notify()

    def enter_consumers(self, consumers: Mapping[str, Consumer | None], done: Callable[[], None]) -> None:
        with self.wake:
            self._consumers.update(consumers)
            self._entered.append(done)
            self.wake.notify()

    def retire(self, position: int, *, soon: bool) -> None:
        with self.wake:
            self._delete_soon(0.0 if soon else RETIRE_DELAY)
            self._retire = max(position, self._retire or 0)
            self.wake.notify()

    def trim(self, position: int, *, soon: bool = False) -> None:
        with self.wake:
            self._delete_soon(0.0 if soon else RETIRE_DELAY)
            self._trim = max(position, self._trim or 0)
            self.wake.notify()

    def _delete_soon(self, delay: float) -> None:
        due = self._now() + delay
        nothing = self._retire is None and self._trim is None
        self._delete_at = due if nothing else min(self._delete_at, due)

    # Taking: the lock is held ---------------------------------------------------------------------------------------------------

    def take(self, space: Space, *, only_questions: bool) -> Group | None:
        """The next group, or None if there is nothing to do now.

        :param only_questions: nothing is written any more.
        """
        group = Group(questions=self._questions)
        if group.questions:
            self._questions = []
        if not only_questions:
            if space.is_there("spool"):
                self._take_batches(group)
            if space.is_there("output"):
                self._take_items(group)
            if space.is_there("retire"):
                self._take_deletes(group, hurry=bool(space.full))
            group.look = space.look_at is not None and self._now() >= space.look_at
        if group.questions or group.changes or group.look:
            return group
        return None

    def _take_batches(self, group: Group) -> None:
        size = 0
        while self._batches and (size < GROUP or is_joined(group.batches[-1])):
            group.batches.append(self._batches.popleft())
            size += len(group.batches[-1].batch.payload)
        while group.batches and is_joined(group.batches[-1]):
            # The rest of them is being given at this moment.
            self._batches.appendleft(group.batches.pop())

    def _take_items(self, group: Group) -> None:
        size, agreed, items = 0, False, group.items
        # Data and the entry behind it: a length that is committed without the position would count twice.
        while self._items and (size < GROUP and len(items) < GROUP_ITEMS or is_joined(items[-1])):
            if isinstance(self._items[0], Reopen) and items:
                break  # what came before belongs to the file before
            if isinstance(self._items[0], Data) and agreed:
                break  # what is agreed is committed before anything is written: a tail behind it is another
            item = self._items.popleft()
            items.append(item)
            agreed = agreed or isinstance(item, Tail)
            size += len(item.data) if isinstance(item, Data) else len(item.row.payload) if isinstance(item, Deposit) else 0
            if isinstance(item, Reopen):
                break
        while items and is_joined(items[-1]):
            self._items.appendleft(items.pop())

    def _take_deletes(self, group: Group, *, hurry: bool) -> None:
        group.consumers, self._consumers = self._consumers, {}
        group.entered, self._entered = self._entered, []
        if self._retire is None and self._trim is None:
            return
        much = self._retire is not None and self._retire - self._retired >= RETIRE_SIZE
        due = much or self._now() >= self._delete_at
        if group.changes or due or hurry or self.flush or self.closing is not None:
            group.retire, self._retire = self._retire, None
            group.trim, self._trim = self._trim, None
            self._retired = group.retire or self._retired

    def patience(self, space: Space) -> float | None:
        """Seconds until what waits may be done, or None if nothing waits for a time to come."""
        deletes = self._retire is not None or self._trim is not None
        waiting = {"spool": self._batches, "output": self._items, "retire": deletes or self._consumers}
        times = [when for what, when in space.full.items() if waiting[what]]
        if deletes and "retire" not in space.full:
            times.append(self._delete_at)
        if space.look_at is not None:
            times.append(space.look_at)
        return max(0.001, min(times) - self._now()) if times else None

    # Putting back ---------------------------------------------------------------------------------------------------------------

    def put_back_batches(self, group: Group, fitting: int) -> None:
        """All but so many batches wait."""
        with self.wake:
            self._batches.extendleft(reversed(group.batches[fitting:]))
        del group.batches[fitting:]

    def put_back_items(self, group: Group, items: Collection[Item]) -> None:
        """These, the last of the group, wait."""
        if items:
            with self.wake:
                self._items.extendleft(reversed([*items]))
            del group.items[-len(items) :]

    def put_back_deletes(self, group: Group) -> None:
        """What is to be deleted, and how far consumers are, waits."""
        with self.wake:
            self._consumers = {**group.consumers, **self._consumers}
            self._entered = [*group.entered, *self._entered]
            if group.retire is not None:
                self._retire = max(group.retire, self._retire or 0)
            if group.trim is not None:
                self._trim = max(group.trim, self._trim or 0)
        group.consumers, group.entered, group.retire, group.trim = {}, [], None, None
