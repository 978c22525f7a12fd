"""Spools without a thread: they commit when a test says so, and end as `kill -9` ends them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

from mysocket.core.batch import Batch
from mysocket.options import MAX_SPOOL
from mysocket.spool.committer import Committer
from mysocket.spool.disk import DiskSpool
from mysocket.spool.interface import Spool
from mysocket.spool.opening import open_spool
from mysocket.spool.output import OutputFile
from mysocket.spool.store import Store


def opened(
    path: Path | str,
    *,
    capacity: int = MAX_SPOOL,
    long: int = 0,
    output: Path | str | None = None,
    keep_received: bool = False,
    accept_loss: bool = False,
    post: Callable[[Callable[[], None]], None] = lambda call: call(),
    now: Callable[[], float] = lambda: 0.0,
    wall: Callable[[], float] = lambda: 0.0,
    seed: int = 1,
) -> DiskSpool:
    """The spool in the directory `path`; `seed` makes the ids of a new one."""
    return open_spool(
        str(path),
        role="session",
        capacity=capacity,
        long=long,
        output=None if output is None else str(output),
        keep_received=keep_received,
        accept_loss=accept_loss,
        host="host",
        post=post,
        now=now,
        wall=wall,
        random_bytes=Random(seed).randbytes,
    )


def committer_of(spool: DiskSpool) -> Committer:
    return spool._committer


def store_of(spool: DiskSpool) -> Store:
    return spool._committer._store


def output_of(spool: DiskSpool) -> OutputFile | None:
    return spool._committer._output


def has_tail(output: OutputFile) -> bool:
    """Is there something in the file that an earlier process wrote and did not commit?"""
    return output._tail


def full_of(spool: DiskSpool) -> dict[str, object]:
    """What waits for room on a disk."""
    return dict(spool._committer._space.full)


def settle(spool: Spool) -> None:
    """Commit whatever can be committed now."""
    if isinstance(spool, DiskSpool):
        while spool.step():
            pass


def close(spool: DiskSpool) -> None:
    """End it well."""
    closed: list[bool] = []
    spool.close(lambda: closed.append(True))
    while spool.step():
        pass
    assert closed


def kill(spool: DiskSpool) -> None:
    """End it as `kill -9` would: nothing more is written, and the descriptors are closed."""
    store, output = store_of(spool), output_of(spool)
    store.close()
    if output is not None:
        output.close()
    directory = store.directory
    for fd in (directory._lock, directory.fd):
        assert fd is not None
        os.close(fd)
    directory._lock, directory.fd = None, -1


def read_all(spool: Spool, position: int) -> list[Batch]:
    """The batches that can be read from `position` on, which is sought first."""
    batches: list[Batch] = []
    while not spool.seek(position):
        settle(spool)
    while position < spool.committed:
        batch = spool.read(position)
        if batch is None:
            settle(spool)
            batch = spool.read(position)
            if batch is None:
                break
        batches.append(batch)
        position = batch.end
    return batches
