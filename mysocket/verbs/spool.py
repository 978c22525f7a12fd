"""``mysocket spool DIR``: how far the streams of a spool have come, what waits in it, and what its inbox keeps.

Rules

1. Nothing in the spool is changed, but that a file that was cut short is filled up with zeros. It is read under the lock.
2. The lock is held while a chunk is read, never while it is written: a reader such as a pager may take its time.
3. What is listed is what waited, or was kept, when the listing began, all of it, a message that was broken off as far as it came.
   If some of it is delivered, or goes, meanwhile, that is an error.
"""

from __future__ import annotations

import base64
import json as jsons
import os
import select
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar

import lmdb

from mysocket.core.batch import Assembler, Batch, Flag, Kind, Message, chain, count, split
from mysocket.ends.escape import drawn_json, escape, one_line
from mysocket.errors import FAILED, CannotOpen, OutputFailed, PlaceUnknown, UsageError
from mysocket.inputs.place import PREFIX, Place
from mysocket.spool import inbox as inboxes
from mysocket.spool.committer import COUNTED
from mysocket.spool.inbox import InboxState
from mysocket.spool.ledger import Entry
from mysocket.spool.lock import SPOOL, open_directory
from mysocket.spool.store import FILES, State, Store

T = TypeVar("T")

STDOUT = 1
#: What is read at once, under the lock: bytes of payload, and batches.
CHUNK = 4 * 1024 * 1024
CHUNK_BATCHES = 65536
#: Bytes that are gathered for one write.
WRITE = 64 * 1024


def run(directory: str, *, messages: bool, inbox: bool, json: bool) -> int:
    """Print it; returns the exit status.

    :raises MySocketError: the spool cannot be read, or stdout not written.
    """
    if messages and inbox:
        raise UsageError("--messages and --inbox exclude each other: what waits to be sent, or what was received")
    terminal = os.isatty(STDOUT)
    seen = _read(directory, _look)
    if messages or inbox:
        form = partial(_message_json, terminal=terminal) if json else partial(_message_text, terminal=terminal)
        return _print(map(form, _messages(_kept(directory, seen) if inbox else _batches(directory, seen.state))))
    size, number = seen.state.end - seen.state.retired, None
    if size <= COUNTED:
        number = sum(map(count, _closed(_batches(directory, seen.state))))
    return _print([_status_json(seen, number) if json else _status_text(directory, seen, number)])


# Reading ------------------------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What a spool says, who has sent what, the latest last, when the first message that waits was accepted, the inbox, and how
    far the files were read that are inputs."""

    state: State
    entries: list[Entry]
    oldest: datetime | None
    inbox: InboxState
    files: list[Place]


def _read(path: str, look: Callable[[Store], T]) -> T:
    """Hold the spool for as long as ``look`` takes.

    :raises MySocketError: somebody else holds it, it is not safe, or it is damaged.
    """
    where = f"the spool {path}"
    with ExitStack() as undo:
        directory = open_directory(path, role="spool", create=False, known=FILES)
        undo.callback(directory.close)
        directory.check(SPOOL)
        store = Store(directory, 0, readonly=True)
        undo.callback(store.close)
        try:
            return look(store)
        except (lmdb.Error, struct.error, ValueError, ArithmeticError, OSError) as problem:
            raise CannotOpen(f"{problem}; it is damaged", where=where) from None


def _look(store: Store) -> Seen:
    state = store.state()
    first = next(store.batches(state.retired), None)
    oldest = datetime.fromtimestamp(first[2], UTC) if first is not None else None
    entries = sorted(store.entries().values(), key=lambda entry: entry.time)
    return Seen(state, entries, oldest, inboxes.state(store), _files(store.bookmarks()))


def _files(bookmarks: Mapping[str, bytes]) -> list[Place]:
    found = []
    for name, row in sorted(bookmarks.items()):
        if name.startswith(PREFIX):
            with suppress(PlaceUnknown):
                found.append(Place.decode(row, name))
    return found


def _batches(path: str, state: State) -> Iterator[Batch]:
    """What waited when the spool was in ``state``, in order and without a gap."""
    position, value = state.retired, state.retired_chain
    while position < state.end:
        chunk = _read(path, partial(_chunk, state=state, position=position, value=value))
        if chunk is None:
            raise CannotOpen("another process has used it meanwhile. Try again", where=f"the spool {path}")
        yield from chunk
        position, value = chunk[-1].end, chunk[-1].checksum


def _chunk(store: Store, *, state: State, position: int, value: int) -> list[Batch] | None:
    """Batches from ``position`` on, where the chain value is ``value``; None: they do not wait any more.

    :raises ValueError: they are not what was accepted.
    """
    now = store.state()
    if now.node != state.node or now.retired > position:
        return None
    found: list[Batch] = []
    size = 0
    for batch, before, _ in store.batches(position):
        if batch.start != position or before != value or chain(batch.payload, value) != batch.checksum:
            break
        found.append(batch)
        position, value = batch.end, batch.checksum
        size += len(batch.payload)
        if size >= CHUNK or len(found) >= CHUNK_BATCHES or position >= state.end:
            return found
    raise ValueError(f"what waits at position {position} is not what was accepted")


def _kept(path: str, seen: Seen) -> Iterator[Batch]:
    """What was in the inbox when that was ``seen``, in order and without a gap."""
    position = seen.inbox.begin
    while position < seen.inbox.end:
        chunk = _read(path, partial(_kept_chunk, seen=seen, position=position))
        if chunk is None:
            raise CannotOpen("another process has used it meanwhile. Try again", where=f"the spool {path}")
        yield from chunk
        position = chunk[-1].end


def _kept_chunk(store: Store, *, seen: Seen, position: int) -> list[Batch] | None:
    """Rows of the inbox from ``position`` on; None: they are not kept any more.

    :raises ValueError: they are not what was kept.
    """
    now = inboxes.state(store)
    if store.state().node != seen.state.node or now.begin > position:
        return None
    found = [Batch(row.at, row.kind, row.flags, 0, row.payload) for row in inboxes.rows(store, position, CHUNK)]
    found = [batch for batch in found if batch.start < seen.inbox.end]
    ends = [position, *(batch.end for batch in found)]
    if not found or [batch.start for batch in found] != ends[:-1]:
        raise ValueError(f"what is kept at position {position} of the inbox is not what was received")
    return found


def _closed(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches in which every message ends: one whose input was broken off ends where that did."""
    part: Batch | None = None
    for batch in batches:
        if part is not None and batch.kind == Kind.END:
            yield _end_of(part)
        yield batch
        part = batch if batch.flags & Flag.MORE else None
    if part is not None:
        yield _end_of(part)


def _end_of(part: Batch) -> Batch:
    return replace(part, start=part.end, flags=part.flags & ~Flag.MORE | Flag.UNTERMINATED, payload=b"")


def _messages(batches: Iterable[Batch]) -> Iterator[Message]:
    assembler = Assembler(sys.maxsize)
    for batch in _closed(batches):
        block = assembler.feed(batch)
        if block is not None:
            yield from split(block, sys.maxsize)


# Writing ------------------------------------------------------------------------------------------------------------------------


def _message_json(message: Message, *, terminal: bool) -> bytes:
    fields: dict[str, object] = {"position": message.position}
    try:
        fields["text"] = message.payload.decode()
    except UnicodeDecodeError:
        fields["base64"] = base64.b64encode(message.payload).decode()
    line = jsons.dumps(fields, ensure_ascii=False)
    return (drawn_json(line) if terminal else line).encode() + b"\n"


def _message_text(message: Message, *, terminal: bool) -> bytes:
    payload = escape(message.payload).removesuffix(b"\n") if terminal else message.payload
    return b"%d %b\n" % (message.position, payload)


def _status_json(seen: Seen, messages: int | None) -> bytes:
    state, entries = seen.state, seen.entries
    fields: dict[str, Any] = {
        "stream": state.stream.hex(),
        "node": state.node.hex(),
        "peer": state.peer.get("text") or None,
        "peer_node": state.peer.get("node"),
        "peer_name": state.peer.get("name"),
        "accepted": state.end,
        "acknowledged": state.retired,
        "received": entries[-1].mark.position if entries else 0,
        "accepted_input": state.input_size,
        "input_complete": state.input_complete,
        "waiting_bytes": state.end - state.retired,
        "waiting_messages": messages,
        "oldest": _utc(seen.oldest) if seen.oldest is not None else None,
        "output": state.output.get("path"),
        "output_length": state.output.get("length"),
        "streams": [
            {
                "stream": entry.stream.hex(),
                "node": entry.node.hex(),
                "name": entry.name,
                "position": entry.mark.position,
                "ended": entry.mark.at_end,
            }
            for entry in entries
        ],
        "files": [{"inode": place.inode, "offset": place.offset, "size": place.size} for place in seen.files],
        "inbox": _inbox_json(seen.inbox),
    }
    # DEL is the one ASCII character that JSON takes as it is, and a terminal does not.
    return drawn_json(jsons.dumps(fields)).encode() + b"\n"


def _inbox_json(inbox: InboxState) -> dict[str, Any]:
    return {
        "begin": inbox.begin,
        "end": inbox.end,
        "kept_bytes": inbox.end - inbox.begin,
        "consumers": [
            {"name": name, "position": consumer.position, "lag_bytes": inbox.end - consumer.position}
            for name, consumer in sorted(inbox.consumers.items())
        ],
    }


def _utc(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _status_text(directory: str, seen: Seen, messages: int | None) -> bytes:
    state = seen.state
    rows = [
        ("spool", directory),
        ("stream", state.stream.hex()),
        ("node", state.node.hex()),
        ("peer", _peer_text(state)),
        ("accepted", f"position {state.end}"),
        ("acknowledged", f"position {state.retired}"),
        ("received", f"position {seen.entries[-1].mark.position if seen.entries else 0}"),
        ("waiting", _waiting_text(state, messages)),
    ]
    if seen.oldest is not None:
        rows.append(("oldest", f"accepted at {seen.oldest.astimezone().isoformat(timespec='seconds')}"))
    complete = "complete" if state.input_complete else "not complete"
    rows.append(("input", f"{state.input_size} bytes accepted, {complete}"))
    rows += [("file", f"inode {place.inode}, {place.offset} of {place.size} bytes accepted") for place in seen.files]
    if state.output:
        rows.append(("output", f"{state.output.get('path')}, {state.output.get('length')} bytes committed"))
    for entry in seen.entries:
        ended = "ended" if entry.mark.at_end else "not ended"
        sender = entry.name or f"node {entry.node.hex()}"
        rows.append(("from", f"{sender}, stream {entry.stream.hex()}, position {entry.mark.position}, {ended}"))
    inbox = seen.inbox
    if inbox.end or inbox.consumers:
        rows.append(("inbox", f"{inbox.end - inbox.begin} bytes kept, positions {inbox.begin} to {inbox.end}"))
    for name, consumer in sorted(inbox.consumers.items()):
        rows.append(("consumer", f"{name}, position {consumer.position}, {inbox.end - consumer.position} bytes behind"))
    # Names come from peers, paths from anywhere.
    return "".join(f"{label:13} {one_line(text, 8192)}\n" for label, text in rows).encode()


def _peer_text(state: State) -> str:
    peer = state.peer
    known = f"{peer.get('name') or 'without a name'}, node {peer['node']}" if "node" in peer else ""
    text = peer.get("text", "")
    return f"{text} ({known})" if text and known else text or known or "none yet"


def _waiting_text(state: State, messages: int | None) -> str:
    size = f"{state.end - state.retired} bytes"
    if state.at_end_mark:
        size += ", an end mark included"
    return size if messages is None else f"{messages} message{'s' * (messages != 1)} ({size})"


def _print(lines: Iterable[bytes]) -> int:
    """Write lines to stdout; returns the exit status.

    :raises OutputFailed: it cannot be written, for another reason than that its reader has gone.
    """
    try:
        gathered: list[bytes] = []
        size = 0
        for line in lines:
            gathered.append(line)
            size += len(line)
            if size >= WRITE:
                _write(b"".join(gathered))
                gathered, size = [], 0
        _write(b"".join(gathered))
    except BrokenPipeError:
        return FAILED
    except OSError as problem:
        raise OutputFailed(problem.strerror or str(problem), where="stdout") from None
    return 0


def _write(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(STDOUT, rest) :]
        except BlockingIOError:
            # Somebody who shares it has made it non-blocking.
            select.select([], [STDOUT], [])
