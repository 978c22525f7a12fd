"""``mysocket send``: give a message, or an input, to the service that runs here; or keep it in the spool of one that does not.

Rules

1. stdin is not touched where there is TEXT.
2. It is silent, and the status is 0, when all is accepted. Else it says how much is.
3. A spool that no service holds is appended to, each time for a moment; when a service takes it meanwhile, that gets the rest.
4. What is appended at once ends whole messages: no one comes behind half of one.
"""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

from mysocket.control.client import PATIENCE, Connection, find
from mysocket.control.request import Request
from mysocket.control.sender import Input, Sender
from mysocket.core.batch import Flag, Piece
from mysocket.errors import INTERRUPTED, TIME_LIMIT, MySocketError, NoService, ServiceHidden, SpoolLocked, Unsent, UsageError
from mysocket.options import MAX_SPOOL, Cut
from mysocket.verbs.pieces import STDIN, Nothing, Stdin, interrupts, text_pieces

STDERR = 2
#: Bytes that are appended to a spool at once, about; a message is not divided.
GROUP = 4 * 1024 * 1024
#: Seconds between two looks whether a spool has room, and between two at a service that is just starting.
LOOK, PAUSE = 0.2, 0.05


def run(
    *words: str,
    port: int | str | None,
    spool: str | None,
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
    pieces = text_pieces(words, cut) if words else []
    source: Input = Nothing() if words else Stdin(cut)
    if not words and not quiet and os.isatty(STDIN):
        _say("type what is to be sent; Ctrl-D ends it" + " (nothing is sent before that)" * whole)
    sending = _Sending(port, spool, delivered, wait, source, verbose=verbose, quiet=quiet)
    with interrupts() as wake:
        sending.run(pieces, wake)
    return 0


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
        verbose: bool,
        quiet: bool,
    ) -> None:
        self._port = port
        self._spool = spool
        self._delivered = delivered
        self._wait = wait
        self._source = source
        self._verbose = verbose
        self._quiet = quiet
        #: Bytes that were appended to the spool.
        self._kept = 0
        self._full = ""

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
        request = Request(os.urandom(16))
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
        )
        try:
            sender.run()
        finally:
            sender.connection.close()
        if self._verbose:
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
                raise self._failed(str(problem), problem.status) from None
            except InterruptedError:
                raise self._failed("Interrupted.", INTERRUPTED) from None
            except TimeoutError:
                why = f"Not accepted within {self._wait:g} s (-w): {self._full} is full."
                raise self._failed(why, TIME_LIMIT) from None
            if connection is not None:
                return pieces, connection
            self._kept += sum(len(piece.payload) for piece in pieces)
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

    def _failed(self, why: str, status: int) -> Unsent:
        if not self._kept:
            return Unsent("Nothing of it is accepted", why=why, status=status)
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
