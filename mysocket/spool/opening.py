"""Opening a spool: make it if there is none, look at what it says, and put its parts together."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from contextlib import ExitStack

import lmdb

from mysocket.core.wire import ID_SIZE
from mysocket.errors import CannotOpen, DiskFailed, MySocketError
from mysocket.spool import inbox
from mysocket.spool.disk import DiskSpool
from mysocket.spool.interface import Recipient
from mysocket.spool.lock import SPOOL, Directory, open_directory
from mysocket.spool.output import OutputFile
from mysocket.spool.space import RESERVE
from mysocket.spool.store import CONTROL, FILES, NEW, State, Store


def _recipient(state: State) -> Recipient | None:
    peer = state.peer
    if "node" not in peer:
        return None
    return Recipient(bytes.fromhex(peer["node"]), bytes.fromhex(peer["place"]), peer["name"])


def open_spool(
    path: str,
    *,
    role: str,
    capacity: int,
    long: int = 0,
    output: str | None = None,
    keep_received: bool = False,
    accept_loss: bool = False,
    host: str,
    post: Callable[[Callable[[], None]], None],
    now: Callable[[], float],
    wall: Callable[[], float],
    random_bytes: Callable[[int], bytes],
) -> DiskSpool:
    """Open the spool in the directory ``path``; make it if there is none.

    :param role: what this process is, for others that want the spool.
    :param capacity: bytes that may wait (``--max-spool``); ``long``: see :class:`~mysocket.spool.disk.DiskSpool`.
    :param output: the name of an output file whose length is committed with the positions of what is in it.
    :param keep_received: what is received goes to the inbox.
    :param accept_loss: take an output file that is shorter than it was.
    :raises MySocketError: somebody else holds it, it is not safe, or it is damaged.
    """
    with ExitStack() as undo:
        directory = open_directory(path, role=role, create=True, known=(*FILES, CONTROL))
        undo.callback(directory.close)
        if not directory.check(SPOOL):
            try:
                Store.make(directory, random_bytes(ID_SIZE), random_bytes(ID_SIZE))
            except (OSError, lmdb.Error) as problem:
                raise _not_written(directory, problem) from None
        elif directory.check(NEW):
            os.unlink(NEW, dir_fd=directory.fd)  # a process was killed while it made the file smaller
        store = Store(directory, capacity)
        undo.callback(store.close)
        try:
            state, entries, bookmarks = store.state(), store.entries(), store.bookmarks()
            recipient = _recipient(state)
            kept = inbox.state(store) if keep_received else None
        except (lmdb.Error, struct.error, ValueError, LookupError) as problem:
            raise CannotOpen(f"{problem}; it is damaged", where=f"the spool {path}") from None
        file = OutputFile(output, state.output, accept_loss=accept_loss) if output is not None else None
        if file is not None:
            undo.callback(file.close)
        try:
            with store.changes() as changes:
                changes.meta("clean", b"0")
                if file is not None:
                    changes.meta("output", json.dumps(file.row).encode())
                changes.commit()
        except lmdb.Error as problem:
            raise _not_written(directory, problem) from None
        spool = DiskSpool(
            directory,
            store,
            state,
            entries,
            recipient=recipient,
            bookmarks=bookmarks,
            host=host,
            capacity=capacity,
            long=long,
            post=post,
            now=now,
            wall=wall,
            output=file,
            inbox=kept,
        )
        undo.pop_all()
    return spool


def _not_written(directory: Directory, problem: Exception) -> MySocketError:
    """Why a spool could not be written: no room, or a disk that fails."""
    where, disk = f"the spool {directory.path}", os.fstatvfs(directory.fd)
    if disk.f_bavail * disk.f_frsize < RESERVE:
        return CannotOpen("its disk is full", where=where)
    return DiskFailed(str(problem).removeprefix(f"{directory.file(NEW)}: "), where=where)
