"""Appends to a spool that nobody holds, for a moment: what ``mysocket send --spool DIR`` does when no service runs.

Rules

1. What is given at once is committed at once, or nothing of it is.
2. The bound of the spool is kept, and so is the room that is left to others on the disk.
3. The input of a session is not touched. If the last message is one whose input was broken off, only that input can end it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from shlex import quote

import lmdb

from mysocket import failpoints
from mysocket.core.batch import Batch, Piece, chain
from mysocket.core.wire import ID_SIZE
from mysocket.errors import CannotOpen, DiskFailed, UsageError
from mysocket.spool.lock import SPOOL, Directory, open_directory
from mysocket.spool.rows import disk_size
from mysocket.spool.space import RESERVE
from mysocket.spool.store import CONTROL, FILES, State, Store

ROLE = "send"


class Full(Exception):
    """There is no room now; the text says where."""


def append(
    path: str, pieces: Sequence[Piece], *, capacity: int, wall: Callable[[], float], random_bytes: Callable[[int], bytes]
) -> int:
    """Commit pieces, which end whole messages, to the spool in the directory ``path``; made if there is none.

    :param capacity: bytes that may wait.
    :param wall: the time in seconds since the epoch.
    :return: where the stream stands behind them.
    :raises Full: there is no room for all of them now, and nothing was appended.
    :raises MySocketError: somebody else holds it, it is not safe, it is damaged, or a message is unfinished.
    """
    where = f"the spool {path}"
    needed = sum(disk_size(len(piece.payload)) for piece in pieces)
    if needed > capacity:
        raise UsageError(f"{where} holds {capacity} bytes at most, and this takes {needed} at once")
    with ExitStack() as undo:
        directory = open_directory(path, role=ROLE, create=True, known=(*FILES, CONTROL))
        undo.callback(directory.close)
        try:
            if not directory.check(SPOOL):
                Store.make(directory, random_bytes(ID_SIZE), random_bytes(ID_SIZE))
        except (OSError, lmdb.Error) as problem:
            raise _refused(where, directory, needed, problem) from None
        store = Store(directory, capacity)
        undo.callback(store.close)
        try:
            state = store.state()
        except (lmdb.Error, struct.error, ValueError, LookupError) as problem:
            raise CannotOpen(f"{problem}; it is damaged", where=where) from None
        if state.more:
            raise UsageError(
                f"the last message in {where} is not complete: its input was broken off. Give a session the rest of it "
                f"(mysocket --spool {quote(path)} …), then send again"
            )
        if state.waiting_size + needed > capacity:
            raise Full(where)
        if needed > store.free - RESERVE:
            raise Full(f"the disk of {where}")
        try:
            return _commit(store, state, pieces, wall())
        except lmdb.MapFullError:
            raise Full(where) from None
        except (OSError, lmdb.Error) as problem:
            raise _refused(where, directory, needed, problem) from None


def _commit(store: Store, state: State, pieces: Sequence[Piece], time: float) -> int:
    end, value = state.end, state.end_chain
    with store.changes() as changes:
        for piece in pieces:
            batch = Batch(end, piece.kind, piece.flags, chain(piece.payload, value), piece.payload)
            changes.append(batch, value, time)
            end, value = batch.end, batch.checksum
        failpoints.reach("S1")
        failpoints.during("S2")
        changes.commit()
    failpoints.reach("S3")
    return end


def _refused(where: str, directory: Directory, needed: int, problem: Exception) -> Exception:
    """A commit failed. LMDB reports a short write as EIO, so only the free space tells a full disk from a broken one."""
    disk = os.fstatvfs(directory.fd)
    if disk.f_bavail * disk.f_frsize < RESERVE + needed and not isinstance(problem, lmdb.PanicError):
        return Full(f"the disk of {where}")
    return DiskFailed(str(problem), where=where)
