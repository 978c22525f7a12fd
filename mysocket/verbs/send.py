"""``mysocket send``: give a message, or an input, to the service that runs here; or keep it in the spool of one that does not.

Rules

1. stdin is not touched where there is TEXT.
2. It is silent, and the status is 0, when all is accepted. Else it says how much is.
3. A spool that no service holds is appended to, each time for a moment; when a service takes it meanwhile, that gets the rest.
4. What is appended at once ends whole messages: no one comes behind half of one.
5. A file is one transfer. One that is given up in the middle ends with a word that says so, wherever that can still be said.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from mysocket.control.client import PATIENCE, Connection, find
from mysocket.control.protocol import REQUEST_SIZE
from mysocket.control.request import Request
from mysocket.control.sender import Input, Sender
from mysocket.core.batch import Flag, Piece
from mysocket.errors import INTERRUPTED, TIME_LIMIT, MySocketError, NoService, ServiceHidden, SpoolLocked, Unsent, UsageError
from mysocket.options import MAX_SPOOL, Cut
from mysocket.verbs.pieces import STDIN, Nothing, Stdin, interrupts, text_pieces

if TYPE_CHECKING:
    from mysocket.verbs.files import Files

STDERR = 2
#: Bytes that are appended to a spool at once, about; a message is not divided.
GROUP = 4 * 1024 * 1024
#: Seconds between two looks whether a spool has room, and between two at a service that is just starting.
LOOK, PAUSE = 0.2, 0.05
#: Bytes that a spool may hold beyond its bound so that the last word about a file finds room.
LAST_ROOM = 1024 * 1024


def run(
    *words: str,
    port: int | str | None,
    spool: str | None,
    file: tuple[str, ...],
    delivered: bool,
    wait: float | None,
    stream: bool,
    whole: bool,
    null: bool,
    verbose: bool,
    quiet: bool,
) -> int:
    """Send; returns the exit status.

    :raises MySocketError: not all of it was accepted.
    """
    cut: Cut = "stream" if stream else "whole" if whole else "null" if null else "lines"
    id = os.urandom(REQUEST_SIZE)
    files = _files(file, words, id) if file else None
    pieces = text_pieces(words, cut) if words else []
    source: Input = files if files is not None else Nothing() if words else Stdin(cut)
    if isinstance(source, Stdin) and not quiet and os.isatty(STDIN):
        _say("type what is to be sent; Ctrl-D ends it" + " (nothing is sent before that)" * whole)
    sending = _Sending(port, spool, delivered, wait, source, id=id, files=files, verbose=verbose, quiet=quiet)
    with interrupts() as wake:
        try:
            sending.run(pieces, wake)
        finally:
            sending.clear()
    return 0


def _files(paths: tuple[str, ...], words: tuple[str, ...], id: bytes) -> Files:
    """
    :raises UsageError: there is TEXT, too.
    :raises NotSendable: one cannot be sent.
    """
    if words:
        raise UsageError("--file and TEXT exclude each other: a file is sent as it is, and nothing with it")
    from mysocket.verbs.files import Files

    return Files(paths, id)


class _Sending:
    """One call of the verb."""

    def __init__(
        self,
        port: int | str | None,
        spool: str | None,
        delivered: bool,
        wait: float | None,
        source: Input,
        *,
        id: bytes,
        files: Files | None,
        verbose: bool,
        quiet: bool,
    ) -> None:
        self._port = port
        self._spool = spool
        self._delivered = delivered
        self._wait = wait
        self._source = source
        self._id = id
        self._files = files
        self._verbose = verbose
        self._quiet = quiet
        #: Bytes that were appended to the spool.
        self._kept = 0
        self._full = ""
        self._moved: Callable[[int], None] = lambda accepted: None
        self.clear: Callable[[], None] = lambda: None
        if files is not None and not quiet and os.isatty(STDERR):
            from mysocket.verbs.files import Meter, write_to

            meter = Meter(files.size, write_to(STDERR))
            self._moved, self.clear = meter.show, meter.clear

    def run(self, pieces: list[Piece], wake: int | None) -> None:
        connection = self._find() if self._spool is None else self._find_by_spool(self._spool)
        if connection is None and self._spool is not None:
            rest = self._keep(self._spool, pieces, wake)
            if rest is None:
                return
            pieces, connection = rest
        assert connection is not None
        self._give(connection, pieces, wake)

    def _tell(self, text: str) -> None:
        if not self._quiet:
            self.clear()
            _say(text)

    # To the service -------------------------------------------------------------------------------------------------------------

    def _find(self) -> Connection:
        return find(self._port, self._spool, patience=self._patience)

    @property
    def _patience(self) -> float:
        return PATIENCE if self._wait is None else min(PATIENCE, self._wait)

    def _find_by_spool(self, path: str) -> Connection | None:
        """The service that holds the spool, or None if none does.

        :raises MySocketError: another process holds it, or the service cannot be reached.
        """
        from mysocket.spool.lock import SHORT, holder

        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._find()
            except NoService as problem:
                text = problem.text
            held = holder(path)
            if held is None or held.role != "service":
                break
            # It takes its spool before it listens, and leaves it after it has ceased to.
            if time.monotonic() >= deadline:
                hidden = ServiceHidden(text, pid=held.pid, directory=path)
                if self._wait is None:
                    raise hidden
                raise Unsent("Nothing of it is accepted", why=f"{hidden} (-w {self._wait:g})", status=TIME_LIMIT)
            time.sleep(PAUSE)
        if held is not None and held.role not in SHORT:
            raise SpoolLocked(directory=path, pid=held.pid, role=held.role)
        if self._delivered:
            raise UsageError(f"no service runs on {path}, so nothing is delivered now; start it, or send without --delivered")
        return None

    def _give(self, connection: Connection, pieces: list[Piece], wake: int | None) -> None:
        request = Request(self._id)
        request.give(pieces)
        if self._source.ended:
            request.finish()
        sender = Sender(
            connection,
            request,
            self._source,
            wait=self._wait,
            delivered=self._delivered,
            wake=wake,
            tell=self._tell,
            before=self._kept,
            files=self._files,
            moved=self._moved,
        )
        try:
            sender.run()
        finally:
            sender.connection.close()
        if self._verbose:
            self.clear()
            kept = "" if connection.greeting.spool is not None else ", in memory"
            how = "acknowledged by the peer" if self._delivered else f"accepted by process {sender.connection.pid}{kept}"
            _say(f"{request.accepted} bytes {how}; position {request.position}")

    # Into the spool -------------------------------------------------------------------------------------------------------------

    def _keep(self, path: str, pieces: list[Piece], wake: int | None) -> tuple[list[Piece], Connection] | None:
        """Append to the spool all there is, or what there is until a service holds it: then return the rest, and the service.

        :raises MySocketError: not all could be appended.
        """
        while pieces or not self._source.ended:
            try:
                pieces = self._gather(pieces, wake)
                connection = self._append(path, pieces, wake)
            except MySocketError as problem:
                raise self._failed(str(problem), problem.status, self._cancel(path, pieces, problem.text)) from None
            except InterruptedError:
                cancelled = self._cancel(path, pieces, "the sender was interrupted")
                raise self._failed("Interrupted.", INTERRUPTED, cancelled) from None
            except TimeoutError:
                cancelled = self._cancel(path, pieces, "the sender has given up")
                why = f"Not accepted within {self._wait:g} s (-w): {self._full} is full."
                raise self._failed(why, TIME_LIMIT, cancelled) from None
            if connection is not None:
                return pieces, connection
            self._kept += sum(len(piece.payload) for piece in pieces)
            self._moved(self._kept)
            pieces = []
        if self._kept:
            self._tell(f"no service runs on {path}: kept in the spool; the next service or mysocket --spool {path} sends it")
        return None

    def _gather(self, pieces: list[Piece], wake: int | None) -> list[Piece]:
        """More of the input: what is there, up to the end of a message."""
        size = 0
        while not self._source.ended:
            inside = bool(pieces) and bool(pieces[-1].flags & Flag.MORE)
            if pieces and not inside and (size >= GROUP or not _ready(self._source.fileno(), wake, 0)):
                break
            if _ready(self._source.fileno(), wake, None):
                found = self._source.read()
                size += sum(len(piece.payload) for piece in found)
                pieces = [*pieces, *found]
        return pieces

    def _append(self, path: str, pieces: list[Piece], wake: int | None) -> Connection | None:
        """Append, when there is room; a service that has taken the spool meanwhile is returned instead."""
        from mysocket.spool.direct import Full, append

        deadline = None if self._wait is None else time.monotonic() + self._wait
        while pieces:
            try:
                append(path, pieces, capacity=MAX_SPOOL, wall=time.time, random_bytes=os.urandom)
                break
            except SpoolLocked as held:
                if held.fields["role"] == "service":
                    connection = self._find_by_spool(path)
                    if connection is not None:
                        return connection
                    continue
                raise
            except Full as full:
                if self._full != str(full):
                    self._full = str(full)
                    self._tell(f"{full} is full; waiting for room")
            left = LOOK if deadline is None else min(LOOK, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError
            _ready(None, wake, left)
        return None

    def _cancel(self, path: str, dropped: list[Piece], why: str) -> bool:
        """Say in the spool that the rest of a file will not come; True if that was to be said, and is."""
        from mysocket.spool.direct import Full, append

        if self._files is None or not self._kept or not (last := self._files.cancel(why, dropped)):
            return False
        try:
            append(path, last, capacity=MAX_SPOOL + LAST_ROOM, wall=time.time, random_bytes=os.urandom)
        except (MySocketError, Full):
            return False
        return True

    def _failed(self, why: str, status: int, cancelled: bool) -> Unsent:
        if not self._kept:
            return Unsent("Nothing of it is accepted", why=why, status=status)
        if cancelled:
            text = "The transfer is cancelled, and the other side will be told so; to send the file, begin anew"
            return Unsent(text, why=why, status=status)
        if self._files is not None:
            text = f"Of the transfer {self._kept} bytes are accepted, and the rest will not come; to send the file, begin anew"
            return Unsent(text, why=why, status=status)
        text = f"Of the input {self._kept} bytes are accepted; the rest can be given again (tail -c +{self._kept + 1})"
        return Unsent(text, why=why, status=status)


def _ready(fd: int | None, wake: int | None, timeout: float | None) -> bool:
    """Wait until ``fd`` can be read, at most ``timeout`` seconds.

    :raises InterruptedError: the user wants to leave.
    """
    poll = select.poll()
    for one in (fd, wake):
        if one is not None:
            poll.register(one, select.POLLIN)
    ready = {one for one, _ in poll.poll(None if timeout is None else timeout * 1000)}
    if wake in ready:
        raise InterruptedError
    return fd in ready


def _say(text: str) -> None:
    """One line for people. A stderr that cannot take it loses it."""
    with suppress(OSError):
        os.write(STDERR, f"mysocket: {text}\n".encode(errors="replace"))
