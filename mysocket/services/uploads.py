"""Files that are sent from this session: read and hashed in a thread of their own, given to the own stream when there is room.

Rules

1. One after the other, in the order in which they were asked for. What was read waits here until the stream has room for it.
2. A message does not wait long behind a file. In memory no more of it is on the way than the peer takes in a moment (pace.py);
   in a spool it is safe, so it goes there as fast as it can, and leaves some room.
3. No piece of a file stands within a message.
4. With a spool, a file has a bookmark before anything of it is accepted: one kept alone and one that comes with pieces are
   committed in no order. Every group of pieces is committed together with the bookmark that says where the file stands then:
   the next process goes on from there. The last group, with END or CANCEL, leaves it empty; then it is deleted.
5. A peer that takes no files is not offered any. One that was accepted before that was known waits in the stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from os.path import abspath

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from mysocket.core.batch import Piece
from mysocket.core.transfer import Chunk, Part
from mysocket.ends.escape import one_line
from mysocket.ends.filereader import BLOCK, FileReader
from mysocket.ends.rounds import Rounds
from mysocket.ends.worker import Outcome
from mysocket.errors import MySocketError, NoFilesTaken, NotSendable
from mysocket.services.outlet import Outlet
from mysocket.services.pace import Flight
from mysocket.services.reading import Hand, Read, open_file, read_on
from mysocket.services.upload import PREFIX, Mark, State, Upload
from mysocket.spool.interface import Bookmark

#: Bytes of the id of a transfer.
ID_SIZE = 16
#: Blocks that are read ahead.
AHEAD = 2
#: Bytes of room that files leave to messages, at most; of a small spool a quarter.
LEFT = 1024 * 1024


def _bookmark(upload: Upload, *, ended: bool = False) -> Bookmark:
    return Bookmark(PREFIX + upload.id.hex(), b"" if ended else upload.mark.encode())


class _Job:
    """An upload that is under way."""

    def __init__(self, upload: Upload, *, begun: bool = False, kept: bool = True) -> None:
        self.upload = upload
        self.kept = kept  # its first bookmark is committed
        self.reader: FileReader | None = None
        self.ready: deque[tuple[Piece, int]] = deque()
        self.begun = begun  # OFFER is accepted
        self.asked = False  # the worker has something to do for it
        self.ended = False  # all of it is read
        #: What ends it before its end: the state it will have, and why.
        self.fate: tuple[State, str, MySocketError | None] | None = None


class Uploads:
    """See the module.

    :param wall: the time in seconds since the epoch.
    :param tell: hears what a user may want to know, and ``complain`` what one must know.
    """

    def __init__(
        self,
        outlet: Outlet,
        *,
        clock: IReactorTime,
        hand: Hand,
        random_bytes: Callable[[int], bytes],
        wall: Callable[[], float],
        tell: Callable[[str], None],
        complain: Callable[[str], None],
    ) -> None:
        self._outlet = outlet
        self._clock = clock
        self._hand = hand
        self._random = random_bytes
        self._wall = wall
        self._tell = tell
        self._complain = complain
        self._jobs: deque[_Job] = deque()
        self._flight = Flight()
        self._stopped = False
        self._given_up: list[Upload] = []  # because the session leaves
        #: Give what can be given. To be called when the own stream has come further, has room, or has a peer.
        self.go_on = Rounds(self._round)
        self._idle: list[Deferred[None]] = []

    # For users ------------------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Is any under way that is not accepted, all of it, by the own stream?"""
        return bool(self._jobs)

    @property
    def under_way(self) -> list[Upload]:
        """Those, in their order."""
        return [job.upload for job in self._jobs]

    def when_idle(self) -> Deferred[None]:
        """Fires when none is under way."""
        if not self._jobs:
            return succeed(None)
        self._idle.append(Deferred())
        return self._idle[-1]

    def send(self, path: str) -> Upload:
        """Send a file.

        :raises NotSendable: it cannot be opened, or is no regular file; or nothing can be sent.
        :raises NoFilesTaken: the peer that is linked takes none.
        """
        path = abspath(path)
        id = self._random(ID_SIZE)
        reader = FileReader(path, id)
        reader.close()
        if closed := "this session is leaving" if self._stopped else self._outlet.closed:
            raise NotSendable(closed, where=reader.shown)
        if self._outlet.takes_files is False:
            raise self._not_taken(reader.name)
        upload = Upload(self._clock, id, Mark(path, reader.stamp, 0, 0, self._wall()), self._cancel)
        job = _Job(upload, kept=False)
        self._jobs.append(job)

        def kept() -> None:
            job.kept = True
            self.go_on()

        self._outlet.mark(_bookmark(upload), kept)
        return upload

    def resume(self, bookmarks: Mapping[str, bytes], *, here: bool) -> None:
        """Go on with what an earlier process has left.

        :param here: now; else only say that it is there.
        """
        found = []
        for name, row in [*bookmarks.items()]:
            if not name.startswith(PREFIX):
                continue
            mark = Mark.decode(row)
            if mark is None:
                self._outlet.unmark(name)
            else:
                found.append((not mark.position, mark.since, bytes.fromhex(name.removeprefix(PREFIX)), mark))
        for asked, _, id, mark in sorted(found, key=lambda one: one[:3]):
            upload = Upload(self._clock, id, mark, self._cancel)
            where = f"{upload.shown}, of which {mark.offset} of {upload.size} bytes are accepted"
            if not here:
                self._tell(f"not sent to its end: {where}; a session at a terminal, or a service, goes on with it")
                continue
            self._tell(f"going on with {where}")
            if not asked:
                self._flight.gave(mark.position, 0, upload, mark.offset, last=False)
            self._jobs.append(_Job(upload, begun=not asked))
        if here:
            self.go_on()

    def stop(self) -> None:
        """The session leaves. With a spool the next one goes on; else what has begun is cancelled."""
        if self._stopped:
            return
        self._stopped = True
        for job in [*self._jobs]:
            if not self._outlet.durable:
                self._given_up.append(job.upload)
                job.fate = job.fate or (State.CANCELLED, "the sender has left", None)
            else:
                self._close(job)
        self.go_on()
        self._flight.quiet()

    def left(self) -> list[str]:
        """What is not sent to its end, a sentence each, when the session leaves."""
        kept = "{0.shown}: {0.offset} of {0.size} bytes are accepted; the next session at a terminal, or service, goes on with it"
        lost = "{0.shown}: {0.offset} of {0.size} bytes were read; it is cancelled"
        going_on = [kept.format(job.upload) for job in self._jobs if job.fate is None and self._outlet.durable]
        return going_on + [lost.format(upload) for upload in self._given_up]

    # What goes on ---------------------------------------------------------------------------------------------------------------

    def _round(self) -> None:
        if (stream := self._outlet.stream) is not None:
            self._flight.acknowledged(self._clock.seconds(), stream.retired)
        while self._jobs and self._step(self._jobs[0]):
            pass
        if not self._jobs:
            idle, self._idle = self._idle, []
            for deferred in idle:
                deferred.callback(None)

    def _step(self, job: _Job) -> bool:
        """Do something for the first of them; False if it has to wait, True if it, or the next, may go on."""
        outlet, stream = self._outlet, self._outlet.stream
        if (closed := outlet.closed) and not self._stopped:
            self._end(job, State.FAILED, NotSendable(closed, where=job.upload.shown))
            return True
        if job.fate is not None:
            return self._break_off(job)
        if self._stopped:
            return False
        if not job.begun and outlet.takes_files is False:
            self._end(job, State.FAILED, self._not_taken(job.upload.name))
            return True
        self._read_ahead(job)
        if stream is None or stream.in_message or not job.ready or not job.kept:
            return False
        if not outlet.durable and outlet.takes_files is None and not job.begun:
            return False  # whoever links may take none, and messages would wait behind it
        return self._give(job)

    def _give(self, job: _Job) -> bool:
        """Give what there is room for; False: nothing."""
        pieces: list[Piece] = []
        budget, size = self._budget(), 0
        offset = job.upload.offset
        while job.ready and size + len(job.ready[0][0].payload) <= budget:
            piece, offset = job.ready.popleft()
            pieces.append(piece)
            size += len(piece.payload)
        if not pieces:
            return False
        last = job.ended and not job.ready
        job.upload.offset = offset
        self._accept(job, pieces, last=last)
        if last:
            self._end(job, State.SENT)
        else:
            job.upload.tell()
        return True

    def _accept(self, job: _Job, pieces: list[Piece], *, last: bool) -> None:
        """Give pieces to the stream, with the bookmark that says so."""
        upload, stream = job.upload, self._outlet.stream
        assert stream is not None
        size = sum(len(piece.payload) for piece in pieces)
        position = stream.end + size
        upload.mark = upload.mark._replace(offset=upload.offset, position=position)
        self._flight.gave(position, size, upload, upload.offset, last=last)
        bookmark = _bookmark(upload, ended=last)
        self._outlet.accept(pieces, bookmark)
        job.begun = True
        if last:
            self._outlet.unmark(bookmark.name)

    def _budget(self) -> int:
        """Bytes of files that may be given now."""
        stream = self._outlet.stream
        if stream is None:
            return 0
        room = self._outlet.room - min(LEFT, stream.capacity // 4)
        if self._outlet.durable:
            return room
        return min(room, self._flight.allowance(self._clock.seconds()))

    # Reading --------------------------------------------------------------------------------------------------------------------

    def _read_ahead(self, job: _Job) -> None:
        if job.asked or job.ended or sum(len(piece.payload) for piece, _ in job.ready) > (AHEAD - 1) * BLOCK:
            return
        job.asked = True
        upload, reader = job.upload, job.reader
        work = partial(open_file, upload.id, upload.mark, job.begun) if reader is None else partial(read_on, reader)
        self._hand.do(work, partial(self._was_read, job))

    def _was_read(self, job: _Job, outcome: Outcome[Read]) -> None:
        job.asked = False
        if outcome.error is None:
            job.reader = outcome.value.reader
        if job not in self._jobs or self._stopped:
            self._close(job)
            return
        if outcome.error is not None:
            # The peer hears what, but not where it lies here, nor how this program works.
            why = "the sender cannot read it" if type(outcome.error) is MySocketError else outcome.error.text
            job.fate = job.fate or (State.FAILED, why, outcome.error)
        else:
            job.ready.extend(outcome.value.pieces)
            job.ended = outcome.value.reader.ended
        self.go_on()

    def _close(self, job: _Job) -> None:
        # It may be in use there at this moment: what is asked for comes back, and is closed then.
        reader = job.reader
        job.ready.clear()
        if reader is not None and not job.asked:
            job.reader = None
            self._hand.do(reader.close, lambda outcome: None)

    # The end --------------------------------------------------------------------------------------------------------------------

    def _cancel(self, upload: Upload, why: str) -> None:
        for job in [*self._jobs]:
            if job.upload is upload and job.fate is None:
                job.fate = State.CANCELLED, why, None
                if not job.begun:
                    self._end(job, State.CANCELLED)
        self.go_on()

    def _break_off(self, job: _Job) -> bool:
        """Say that the rest will not come; False: it cannot be said now."""
        assert job.fate is not None
        state, why, error = job.fate
        stream = self._outlet.stream
        if job.begun and stream is not None and not self._outlet.closed:
            if stream.in_message:
                return False
            self._accept(job, [Chunk(Part.CANCEL, job.upload.id, job.upload.offset, text=why).piece()], last=True)
        self._end(job, state, error)
        return True

    def _end(self, job: _Job, state: State, error: MySocketError | None = None) -> None:
        self._jobs.remove(job)
        self._close(job)
        if not job.begun:
            self._outlet.unmark(_bookmark(job.upload).name)
        job.upload.ended(state, error)
        if error is not None:
            self._complain(str(error))

    def _not_taken(self, name: str) -> MySocketError:
        return NoFilesTaken(peer=self._outlet.peer, name=one_line(name))
