"""`mysocket spool DIR`: what it says of a spool, that it loses no message from the list, and that it changes nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mysocket.cli import main
from mysocket.core.batch import END, MAX_PAYLOAD, Batch, ChunkCutter, Cutter, Flag, Kind, LineCutter, Piece, WholeCutter
from mysocket.core.inbox import Mark
from mysocket.ends.escape import escape
from mysocket.errors import CannotOpen, MySocketError, SpoolLocked, UnsafeSpool
from mysocket.inputs.place import Place
from mysocket.options import MAX_SPOOL, VERBS
from mysocket.spool.disk import DiskSpool
from mysocket.spool.interface import Bookmark, Recipient
from mysocket.spool.ledger import Entry
from mysocket.spool.lock import LOCK, SPOOL, open_directory
from mysocket.spool.opening import open_spool
from mysocket.spool.store import FILES
from mysocket.verbs import spool as verb
from tests.support.processes import MYSOCKET, ROOT, at_terminal, free_port, mysocket, read_some, wait_until

ACCEPTED = 1795364390.25
NOBODY = 65534
Capture = pytest.CaptureFixture[bytes]

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")


@contextmanager
def opened(path: Path, *, output: Path | None = None, keep_received: bool = False, time: float = ACCEPTED) -> Iterator[DiskSpool]:
    """A spool in use by this process, without a thread: what was given is committed on the way out."""
    spool = open_spool(
        str(path),
        role="session",
        capacity=MAX_SPOOL,
        output=str(output) if output is not None else None,
        keep_received=keep_received,
        host="here",
        post=lambda call: call(),
        now=lambda: 0.0,
        wall=lambda: time,
        random_bytes=os.urandom,
    )
    try:
        yield spool
    finally:
        spool.close(lambda: None)
        while spool.step():
            pass


def give(spool: DiskSpool, *pieces: Piece) -> None:
    """Accept pieces of the input, each in a batch of its own."""
    for piece in pieces:
        spool.append(piece)
        while spool.room < 2 * MAX_PAYLOAD:
            assert spool.step()
    while spool.step():
        pass


def lines(text: bytes, flags: int = 0) -> Piece:
    return Piece(Kind.LINES, flags, text)


def received(spool: DiskSpool, name: str, position: int, *, time: float, ended: bool = False) -> Entry:
    """Commit that a stream has come so far."""
    stream, node = hashlib.md5(name.encode()).digest(), hashlib.md5(b"node of " + name.encode()).digest()
    entry = Entry(stream, node, b"", True, name, Mark(position, 7, ended), time)
    spool.ledger.commit(entry, lambda: None)
    while spool.step():
        pass
    return entry


def status(path: Path, capture: Capture) -> dict[str, Any]:
    """The one object of --json."""
    capture.readouterr()
    assert verb.run(str(path), messages=False, inbox=False, json=True) == 0
    (line,) = capture.readouterr().out.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def rows(path: Path, capture: Capture) -> list[tuple[str, str]]:
    """What people read: labels, and what stands behind them."""
    capture.readouterr()
    assert verb.run(str(path), messages=False, inbox=False, json=False) == 0
    text = capture.readouterr().out.decode()
    return [(label, what.strip()) for label, _, what in (line.partition(" ") for line in text.splitlines())]


def listing(path: Path, capture: Capture) -> list[tuple[int, bytes]]:
    """What --messages --json lists: positions and texts."""
    capture.readouterr()
    assert verb.run(str(path), messages=True, inbox=False, json=True) == 0
    found = [json.loads(line) for line in capture.readouterr().out.splitlines()]
    return [(one["position"], one["text"].encode() if "text" in one else base64.b64decode(one["base64"])) for one in found]


def refusal(kind: type[MySocketError], path: Path, *, messages: bool = False) -> str:
    """What the user is told when the spool cannot be shown."""
    with pytest.raises(kind) as caught:
        verb.run(str(path), messages=messages, inbox=False, json=False)
    assert caught.value.status == 2 and str(path) in str(caught.value)
    return str(caught.value)


def state_of(path: Path) -> list[object]:
    """All that can be seen of the spool's files from outside, but for the lock, which everybody writes who holds it."""
    found: list[object] = [sorted(os.listdir(path)), (path / SPOOL).read_bytes()]
    for name in (path / SPOOL, path):
        about = name.stat()
        found.append((about.st_mode, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns))
    return found


def opened_by(pid: int) -> list[str]:
    """What a process has open, as far as it lives."""
    files = []
    with suppress(FileNotFoundError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # the descriptor of the listing itself
                files.append(os.readlink(file))
    return files


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path) -> Iterator[None]:
    """No descriptor is left open, whatever was refused."""
    yield
    assert [file for file in opened_by(os.getpid()) if file.startswith(str(tmp_path))] == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool"


# The numbers


def test_a_new_spool_says_that_it_is_empty(path: Path, capfdbinary: Capture) -> None:
    with opened(path) as spool:
        stream, node = spool.stream.hex(), spool.node.hex()
    assert status(path, capfdbinary) == {
        "stream": stream,
        "node": node,
        "peer": None,
        "peer_node": None,
        "peer_name": None,
        "accepted": 0,
        "acknowledged": 0,
        "received": 0,
        "accepted_input": 0,
        "input_complete": False,
        "waiting_bytes": 0,
        "waiting_messages": 0,
        "oldest": None,
        "output": None,
        "output_length": None,
        "files": [],
        "streams": [],
        "inbox": {"begin": 0, "end": 0, "kept_bytes": 0, "consumers": []},
    }
    assert rows(path, capfdbinary) == [
        ("spool", str(path)),
        ("stream", stream),
        ("node", node),
        ("peer", "none yet"),
        ("accepted", "position 0"),
        ("acknowledged", "position 0"),
        ("received", "position 0"),
        ("waiting", "0 messages (0 bytes)"),
        ("input", "0 bytes accepted, not complete"),
    ]


def test_a_used_spool_says_all_of_it(path: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    output = tmp_path / "out"
    with opened(path, output=output, time=ACCEPTED - 100) as spool:
        spool.address("hub.example:9001")
        spool.remember(Recipient(b"\xaa" * 16, b"", "hub"))
        give(spool, lines(b"one\n"), lines(b"two\n"), lines(b"three\n"))
        assert spool.seek(0) and spool.read(0)
        spool.retire(4)
        assert spool.output is not None
        spool.output.write(b"got\n", lambda: None)
        first = received(spool, "other", 9, time=2.0)
        last = received(spool, "hub", 4, time=3.0, ended=True)
        oldest = received(spool, "early", 11, time=1.0)
        stream, node = spool.stream.hex(), spool.node.hex()
    with opened(path, output=output) as spool:
        give(spool, lines(b"four\nfive\n"), END)
        spool.mark(Bookmark("input:x", Place(1, 77, 100, 120, 5, b"p" * 16).encode()))
        spool.mark(Bookmark("input:y", b"of another version"))
        spool.mark(Bookmark("send:z", b"no file"))
    assert status(path, capfdbinary) == {
        "stream": stream,
        "node": node,
        "peer": "hub.example:9001",
        "peer_node": "aa" * 16,
        "peer_name": "hub",
        "accepted": 25,
        "acknowledged": 4,
        "received": 4,
        "accepted_input": 24,
        "input_complete": True,
        "waiting_bytes": 21,
        "waiting_messages": 4,
        "oldest": datetime.fromtimestamp(ACCEPTED - 100, UTC).strftime("%Y-%m-%dT%H:%M:%S.250000Z"),
        "output": str(output),
        "output_length": 4,
        "files": [{"inode": 77, "offset": 100, "size": 120}],
        "streams": [
            {"stream": one.stream.hex(), "node": one.node.hex(), "name": one.name, "position": position, "ended": ended}
            for one, position, ended in ((oldest, 11, False), (first, 9, False), (last, 4, True))
        ],
        "inbox": {"begin": 0, "end": 0, "kept_bytes": 0, "consumers": []},
    }
    local = datetime.fromtimestamp(ACCEPTED - 100).astimezone().isoformat(timespec="seconds")
    assert rows(path, capfdbinary)[3:] == [
        ("peer", f"hub.example:9001 (hub, node {'aa' * 16})"),
        ("accepted", "position 25"),
        ("acknowledged", "position 4"),
        ("received", "position 4"),
        ("waiting", "4 messages (21 bytes, an end mark included)"),
        ("oldest", f"accepted at {local}"),
        ("input", "24 bytes accepted, complete"),
        ("file", "inode 77, 100 of 120 bytes accepted"),
        ("output", f"{output}, 4 bytes committed"),
        ("from", f"early, stream {oldest.stream.hex()}, position 11, not ended"),
        ("from", f"other, stream {first.stream.hex()}, position 9, not ended"),
        ("from", f"hub, stream {last.stream.hex()}, position 4, ended"),
    ]


def test_the_input_counts_anew_when_a_new_one_begins(path: Path, capfdbinary: Capture) -> None:
    def input_of() -> tuple[int, bool]:
        found = status(path, capfdbinary)
        return found["accepted_input"], found["input_complete"]

    with opened(path) as spool:
        give(spool, lines(b"one\n"))
    assert input_of() == (4, False)
    with opened(path) as spool:  # the input that was broken off goes on
        give(spool, lines(b"two\n"), END)
    assert input_of() == (8, True)
    with opened(path):
        pass
    assert input_of() == (8, True)
    with opened(path) as spool:
        give(spool, lines(b"x\n"))
    assert input_of() == (2, False)


def test_what_is_delivered_does_not_wait(path: Path, capfdbinary: Capture) -> None:
    with opened(path) as spool:
        give(spool, lines(b"one\n"), END)
        spool.retire(5)
    found = status(path, capfdbinary)
    assert (found["accepted"], found["acknowledged"], found["waiting_bytes"], found["waiting_messages"]) == (5, 5, 0, 0)
    assert found["oldest"] is None and found["input_complete"]
    assert listing(path, capfdbinary) == []


def test_of_very_much_only_the_bytes_are_told(path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as spool:
        give(spool, lines(b"one\ntwo\n"))
    monkeypatch.setattr(verb, "COUNTED", 8)
    assert status(path, capfdbinary)["waiting_messages"] == 2
    monkeypatch.setattr(verb, "COUNTED", 7)
    found = status(path, capfdbinary)
    assert (found["waiting_messages"], found["waiting_bytes"]) == (None, 8)
    assert found["oldest"] is not None
    assert ("waiting", "8 bytes") in rows(path, capfdbinary)


def test_messages_are_counted_up_to_64_mib() -> None:
    assert verb.COUNTED == 64 * 1024 * 1024


def test_peers_are_named_as_far_as_they_are_known(path: Path, capfdbinary: Capture) -> None:
    with opened(path) as spool:
        spool.address("[::1]:9001")
    assert ("peer", "[::1]:9001") in rows(path, capfdbinary)
    assert status(path, capfdbinary)["peer"] == "[::1]:9001"
    with opened(path) as spool:
        spool.remember(Recipient(b"\xbb" * 16, b"", ""))
    assert ("peer", f"[::1]:9001 (without a name, node {'bb' * 16})") in rows(path, capfdbinary)


def test_a_listener_knows_its_peer_by_its_node(path: Path, capfdbinary: Capture) -> None:
    with opened(path) as spool:
        spool.remember(Recipient(b"\xbb" * 16, b"", "hub"))
    found = status(path, capfdbinary)
    assert (found["peer"], found["peer_node"], found["peer_name"]) == (None, "bb" * 16, "hub")
    assert ("peer", f"hub, node {'bb' * 16}") in rows(path, capfdbinary)


def test_names_from_a_peer_cannot_reach_the_terminal_or_make_lines(path: Path, capfdbinary: Capture) -> None:
    name = "a\nstream 0\x1b[2J\u202e\x9b"
    with opened(path) as spool:
        spool.remember(Recipient(b"\xbb" * 16, b"", name))
        received(spool, name, 3, time=1.0)
        received(spool, "", 3, time=2.0)
    found = dict(rows(path, capfdbinary))
    assert found["peer"].startswith(r"a\x0astream 0\x1b[2J\u{202e}\x9b, node ")
    assert found["from"].startswith("node ")
    assert [label for label, _ in rows(path, capfdbinary)].count("stream") == 1
    assert status(path, capfdbinary)["streams"][0]["name"] == name
    verb.run(str(path), messages=False, inbox=False, json=True)
    assert capfdbinary.readouterr().out.isascii()


# The messages


def test_messages_are_listed_with_their_positions(path: Path, capfdbinary: Capture) -> None:
    with opened(path) as spool:
        give(
            spool,
            lines(b"one\ntwo\n"),
            lines(b"\n"),
            lines(b"h\xc3\xa9llo\n"),
            lines(b"bad \xff\n"),
            lines(b"a\0b\nc\0", Flag.NUL),
        )
        give(
            spool, Piece(Kind.BLOB, 0, b"x\ny\n"), Piece(Kind.BLOB, Flag.CHUNK, b"chunk"), lines(b"last", Flag.UNTERMINATED), END
        )
        give(spool, lines(b"next\n"))
    found = [
        (4, b"one"),
        (8, b"two"),
        (9, b""),
        (16, b"h\xc3\xa9llo"),
        (22, b"bad \xff"),
        (24, b"a"),
        (28, b"b\nc"),
        (32, b"x\ny\n"),
        (37, b"chunk"),
        (41, b"last"),
        (47, b"next"),
    ]
    assert listing(path, capfdbinary) == found
    assert status(path, capfdbinary)["waiting_messages"] == len(found)
    capfdbinary.readouterr()
    assert verb.run(str(path), messages=True, inbox=False, json=True) == 0
    out = capfdbinary.readouterr().out.splitlines()
    assert out[3] == '{"position": 16, "text": "héllo"}'.encode()
    assert out[4] == b'{"position": 22, "base64": "YmFkIP8="}'
    assert verb.run(str(path), messages=True, inbox=False, json=False) == 0
    assert capfdbinary.readouterr().out == b"".join(b"%d %b\n" % one for one in found)


def test_only_what_waits_is_listed(path: Path, capfdbinary: Capture) -> None:
    with opened(path) as spool:
        give(spool, lines(b"one\n"), lines(b"two\n"), lines(b"three\n"))
        spool.retire(4)
    assert listing(path, capfdbinary) == [(8, b"two"), (14, b"three")]


def test_a_long_message_is_put_together(path: Path, capfdbinary: Capture) -> None:
    long, whole = os.urandom(2 * MAX_PAYLOAD).replace(b"\n", b" ") + b"end", os.urandom(3 * MAX_PAYLOAD + 5)
    with opened(path) as spool:
        for cutter, data in ((LineCutter(), b"one\n" + long + b"\ntwo\n"), (WholeCutter(), whole)):
            give(spool, *cutter.feed(data), *cutter.finish(), END)
    found = listing(path, capfdbinary)
    assert [text for _, text in found] == [b"one", long, b"two", whole]
    assert [position for position, _ in found] == [4, 5 + len(long), 9 + len(long), 10 + len(long) + len(whole)]
    assert status(path, capfdbinary)["waiting_messages"] == 4


@pytest.mark.parametrize("behind", [[], [END], [END, lines(b"next\n")]], ids=["end", "end-mark", "next-input"])
@pytest.mark.parametrize("kind", [Kind.LINES, Kind.BLOB])
def test_a_message_that_was_broken_off_is_listed_as_far_as_it_came(
    path: Path, capfdbinary: Capture, kind: Kind, behind: list[Piece]
) -> None:
    with opened(path) as spool:
        give(spool, lines(b"one\n"), Piece(kind, Flag.MORE, b"begun, "), Piece(kind, Flag.MORE, b"gone on"), *behind)
    expected = [(4, b"one"), (18, b"begun, gone on"), (24, b"next")][: 3 if len(behind) > 1 else 2]
    assert listing(path, capfdbinary) == expected
    assert status(path, capfdbinary)["waiting_messages"] == len(expected)


def test_a_message_that_was_broken_off_goes_on_with_its_input(path: Path, capfdbinary: Capture) -> None:
    with opened(path) as spool:
        give(spool, lines(b"begun, ", Flag.MORE))
    with opened(path) as spool:
        give(spool, lines(b"gone on\ntwo\n"))
    assert listing(path, capfdbinary) == [(15, b"begun, gone on"), (19, b"two")]
    assert status(path, capfdbinary)["waiting_messages"] == 2


INPUTS = st.lists(
    st.tuples(st.sampled_from("lnws"), st.lists(st.binary(max_size=12) | st.sampled_from([b"\n", b"\0", b"ab\n"]))), max_size=4
)


@given(INPUTS, st.integers(1, 3))
@settings(max_examples=30)
def test_no_byte_is_lost_from_the_listing(inputs: list[tuple[str, list[bytes]]], at_once: int) -> None:
    """Whatever was cut however, the texts and delimiters listed are the inputs."""
    kinds: dict[str, Callable[[], Cutter]] = {"l": LineCutter, "n": lambda: LineCutter(b"\0"), "w": WholeCutter, "s": ChunkCutter}
    expected: list[bytes] = []
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        path = Path(directory, "spool")
        with opened(path) as spool:
            for kind, reads in inputs:
                cutter = kinds[kind]()
                give(spool, *(piece for data in reads for piece in cutter.feed(data)), *cutter.finish(), END)
                whole, delimiter = b"".join(reads), {"l": b"\n", "n": b"\0"}.get(kind)
                if delimiter is None:
                    expected += [data for data in ([whole] if kind == "w" else reads) if data]
                elif whole:
                    expected += whole.removesuffix(delimiter).split(delimiter)
        patch.setattr(verb, "CHUNK_BATCHES", at_once)
        state = verb._read(str(path), verb._look).state
        found = list(verb._messages(verb._batches(str(path), state)))
        assert [message.payload for message in found] == expected
        positions = [message.position for message in found]
        assert positions == sorted(set(positions)) and all(0 < position < state.end for position in positions)


# The inbox


def keep(spool: DiskSpool, *pieces: Piece, name: str = "other") -> None:
    """Receive pieces, each in a row of its own."""
    assert spool.inbox is not None
    for piece in pieces:
        before = next((entry.mark.position for entry in spool.ledger), 0)
        spool.inbox.deposit(Batch(before, piece.kind, piece.flags, 0, piece.payload), stream=b"s" * 16, peer=name)
        received(spool, name, before + len(piece.payload), time=1.0)


def kept(path: Path, capture: Capture) -> list[tuple[int, bytes]]:
    """What --inbox --json lists."""
    capture.readouterr()
    assert verb.run(str(path), messages=False, inbox=True, json=True) == 0
    found = [json.loads(line) for line in capture.readouterr().out.splitlines()]
    return [(one["position"], one["text"].encode() if "text" in one else base64.b64decode(one["base64"])) for one in found]


def test_the_inbox_says_who_is_how_far(path: Path, capfdbinary: Capture) -> None:
    with opened(path, keep_received=True) as spool:
        keep(spool, lines(b"one\n"), lines(b"two\nthree\n"))
        assert spool.inbox is not None
        for name, position in (("slow", 4), ("default", 14), ("at.8-x", 8)):
            spool.inbox.join(name)
            spool.inbox.acknowledge(name, position)
    found = status(path, capfdbinary)
    assert found["inbox"] == {
        "begin": 4,
        "end": 14,
        "kept_bytes": 10,
        "consumers": [
            {"name": "at.8-x", "position": 8, "lag_bytes": 6},
            {"name": "default", "position": 14, "lag_bytes": 0},
            {"name": "slow", "position": 4, "lag_bytes": 10},
        ],
    }
    assert found["waiting_bytes"] == 0 and listing(path, capfdbinary) == []
    assert [row for row in rows(path, capfdbinary) if row[0] in ("inbox", "consumer")] == [
        ("inbox", "10 bytes kept, positions 4 to 14"),
        ("consumer", "at.8-x, position 8, 6 bytes behind"),
        ("consumer", "default, position 14, 0 bytes behind"),
        ("consumer", "slow, position 4, 10 bytes behind"),
    ]
    assert kept(path, capfdbinary) == [(8, b"two"), (14, b"three")]
    capfdbinary.readouterr()
    assert verb.run(str(path), messages=False, inbox=True, json=False) == 0
    assert capfdbinary.readouterr().out == b"8 two\n14 three\n"


def test_what_the_inbox_keeps_is_listed_whole(path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    long, text = os.urandom(3 * MAX_PAYLOAD + 17), b"x" * (MAX_PAYLOAD + 5)
    with opened(path, keep_received=True) as spool:
        keep(
            spool,
            Piece(Kind.BLOB, 0, long),
            lines(b"a\0b\nc\0", Flag.NUL),
            lines(b"no end", Flag.UNTERMINATED),
            lines(text + b"\n" + b"short\n"),
            lines(b"\n"),
        )
    expected = [long, b"a", b"b\nc", b"no end", text, b"short", b""]
    found = kept(path, capfdbinary)
    assert [message for _, message in found] == expected
    assert found[0][0] == len(long) and found[-1][0] == len(long) + 6 + 6 + len(text) + 1 + 6 + 1
    monkeypatch.setattr(verb, "CHUNK", 1)
    assert kept(path, capfdbinary) == found
    with opened(path) as spool:  # one that keeps nothing leaves it as it is
        assert spool.inbox is None
    assert kept(path, capfdbinary) == found


def test_a_listing_of_an_inbox_in_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes meanwhile is not listed; what goes is missed."""
    monkeypatch.setattr(verb, "CHUNK", 1)
    with opened(path, keep_received=True) as spool:
        keep(spool, *(lines(b"%d\n" % number) for number in range(3)))
    seen = verb._read(str(path), verb._look)
    batches = verb._kept(str(path), seen)
    found = [next(batches)]
    with opened(path, keep_received=True) as spool:
        keep(spool, lines(b"later\n"))
    found += batches
    assert [bytes(batch.payload) for batch in found] == [b"0\n", b"1\n", b"2\n"]
    batches = verb._kept(str(path), seen)
    next(batches)
    with opened(path, keep_received=True) as spool:
        assert spool.inbox is not None
        spool.inbox.join("a")
        spool.inbox.acknowledge("a", 4)
    with pytest.raises(CannotOpen, match="another process has used it meanwhile"):
        list(batches)


def test_a_row_that_is_missing_from_the_inbox_is_told(path: Path) -> None:
    with opened(path, keep_received=True) as spool:
        keep(spool, *(lines(b"%d\n" % number) for number in range(4)))
    with closing(open_directory(str(path), role="session", create=False, known=FILES)) as directory:
        with closing(verb.Store(directory, 0)) as store, store.changes() as changes:
            changes.delete("inbox", (4).to_bytes(8, "big"))
            changes.commit()
    with pytest.raises(CannotOpen, match="what is kept at position 0 of the inbox is not what was received"):
        verb.run(str(path), messages=False, inbox=True, json=False)


def test_both_lists_at_once_are_refused(path: Path, capfdbinary: Capture) -> None:
    assert main(["spool", str(path), "--inbox", "--messages"]) == 2
    assert "--messages and --inbox exclude each other" in capfdbinary.readouterr().err.decode()


# Others who use the spool


def test_the_spool_is_free_while_it_is_written_what_was_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as spool:
        give(spool, *(lines(b"%d\n" % number) for number in range(5)))
    monkeypatch.setattr(verb, "CHUNK_BATCHES", 2)
    batches = verb._batches(str(path), verb._read(str(path), verb._look).state)
    found = [next(batches)]
    with opened(path) as spool:  # what is accepted meanwhile is not listed, and does no harm
        give(spool, lines(b"later\n"))
    found += batches
    assert [bytes(batch.payload) for batch in found] == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]


def test_a_listing_from_which_something_would_be_missing_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as spool:
        give(spool, *(lines(b"%d\n" % number) for number in range(5)))
    monkeypatch.setattr(verb, "CHUNK_BATCHES", 2)
    batches = verb._batches(str(path), verb._read(str(path), verb._look).state)
    next(batches)
    with opened(path) as spool:
        spool.retire(6)
    with pytest.raises(CannotOpen, match="another process has used it meanwhile"):
        list(batches)


def test_a_listing_does_not_go_on_in_another_spool(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (path, tmp_path / "other"):
        with opened(place) as spool:
            give(spool, *(lines(b"%d\n" % number) for number in range(5)))
    monkeypatch.setattr(verb, "CHUNK_BATCHES", 2)
    batches = verb._batches(str(path), verb._read(str(path), verb._look).state)
    next(batches)
    path.rename(tmp_path / "away")
    (tmp_path / "other").rename(path)
    with pytest.raises(CannotOpen, match="another process has used it meanwhile"):
        list(batches)


def test_a_process_that_stays_is_named(path: Path) -> None:
    with opened(path):
        told = refusal(SpoolLocked, path)
    assert f"process {os.getpid()} (session)" in told


def test_one_that_holds_it_for_a_moment_is_waited_for(path: Path) -> None:
    with opened(path) as spool:
        give(spool, lines(b"one\n"))
    with closing(open_directory(str(path), role="send", create=False, known=FILES)) as directory:
        with mysocket("spool", path, "--messages") as program:
            lock = str(path / LOCK)
            wait_until(lambda: lock in opened_by(program.pid), "does not come to the lock", 30, program)
            directory.close()
            program.wait_status(0)
            assert program.stdout == b"4 one\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_slow_reader_holds_up_nobody_and_a_signal_ends_it(path: Path, number: signal.Signals, status: int) -> None:
    with opened(path) as spool:
        give(spool, *(lines(b"x" * 100_000 + b"\n") for _ in range(30)))
    read, write = os.pipe()
    with closing(os.fdopen(read, "rb", buffering=0)) as reader:
        with mysocket("spool", path, "--messages", stdout=write) as program:
            os.close(write)
            assert select.select([reader], [], [], 30)[0]
            # It writes, and nobody reads: everything was read before, or else the lock is free for this.
            with opened(path) as spool:
                give(spool, lines(b"more\n"))
            program.kill(number)
            program.wait_status(status)
            assert program.stderr_text == ""


# Nothing is changed


def test_nothing_in_the_spool_is_changed(path: Path, capfdbinary: Capture) -> None:
    with opened(path) as spool:
        spool.address("hub:1")
        give(spool, lines(b"one\n" * 1000), END)
    before = state_of(path)
    status(path, capfdbinary)
    rows(path, capfdbinary)
    assert len(listing(path, capfdbinary)) == 1000
    assert state_of(path) == before


def test_an_unclean_end_stays_one(path: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """What a killed process left behind is for the next one that uses the spool."""
    output = tmp_path / "out"
    with opened(path, output=output) as spool:
        give(spool, lines(b"one\n"))
        (tmp_path / "copy").mkdir(0o700)
        (tmp_path / "copy" / SPOOL).write_bytes((path / SPOOL).read_bytes())
    (tmp_path / "copy" / SPOOL).chmod(0o600)
    output.write_bytes(b"a tail that is not committed")
    before = (tmp_path / "copy" / SPOOL).read_bytes()
    assert status(tmp_path / "copy", capfdbinary)["waiting_messages"] == 1
    assert (tmp_path / "copy" / SPOOL).read_bytes() == before
    assert output.read_bytes() == b"a tail that is not committed"


@pytest.mark.parametrize("kind", ["missing", "empty", "foreign"])
def test_where_is_no_spool_none_is_made(path: Path, kind: str) -> None:
    if kind != "missing":
        path.mkdir(0o700)
    if kind == "foreign":
        (path / "letter").write_text("dear")
    before = sorted(path.parent.rglob("*"))
    assert "there is no spool there" in refusal(CannotOpen, path)
    assert sorted(path.parent.rglob("*")) == before


# What cannot be shown


@only_root
def test_a_spool_of_somebody_else_is_not_read(path: Path) -> None:
    with opened(path):
        pass
    os.chown(path / SPOOL, NOBODY, NOBODY)
    assert "it belongs to user" in refusal(UnsafeSpool, path)
    os.chown(path, NOBODY, NOBODY)
    assert "it belongs to user" in refusal(UnsafeSpool, path)


@pytest.mark.parametrize(("name", "mode"), [(".", 0o755), (SPOOL, 0o640)])
def test_a_spool_that_is_open_to_others_is_not_read(path: Path, name: str, mode: int) -> None:
    with opened(path):
        pass
    (path / name).chmod(mode)
    assert "it is open to others" in refusal(UnsafeSpool, path)


def test_a_spool_behind_a_link_is_not_read(path: Path, tmp_path: Path) -> None:
    with opened(path):
        pass
    (path / SPOOL).rename(tmp_path / "elsewhere")
    (path / SPOOL).symlink_to(tmp_path / "elsewhere")
    assert "it is a symbolic link" in refusal(UnsafeSpool, path)


@pytest.mark.parametrize("data", [b"", b"x", b"dear diary\n" * 1000, bytes(100_000)], ids=["empty", "byte", "text", "zeros"])
def test_a_file_that_is_no_spool_is_refused(path: Path, data: bytes) -> None:
    with opened(path):
        pass
    (path / SPOOL).write_bytes(data)
    told = refusal(CannotOpen, path)
    assert "damaged" in told and "/proc/" not in told


def test_a_spool_of_another_version_is_refused(path: Path) -> None:
    with opened(path) as spool:
        give(spool, lines(b"one\n"))
    with closing(open_directory(str(path), role="session", create=False, known=FILES)) as directory:
        with closing(verb.Store(directory, 0)) as store, store.changes() as changes:
            changes.meta("format", b"1000")
            changes.commit()
    assert "another version" in refusal(CannotOpen, path)


@pytest.mark.parametrize("name", ["identity", "retired", "input", "peer", "output"])
def test_rows_that_are_damaged_are_told(path: Path, name: str) -> None:
    with opened(path) as spool:
        give(spool, lines(b"one\n"))
    with closing(open_directory(str(path), role="session", create=False, known=FILES)) as directory:
        with closing(verb.Store(directory, 0)) as store, store.changes() as changes:
            changes.meta(name, b"{?")
            changes.commit()
    assert "it is damaged" in refusal(CannotOpen, path)


def test_a_message_that_has_changed_on_the_disk_is_not_shown(path: Path) -> None:
    text = os.urandom(20_000).hex().encode()
    with opened(path) as spool:
        give(spool, lines(text + b"\n"))
    data = (path / SPOOL).read_bytes()
    (path / SPOOL).write_bytes(data.replace(text[20_000:20_032], b"x" * 32))
    assert "not what was accepted; it is damaged" in refusal(CannotOpen, path, messages=True)
    assert "not what was accepted; it is damaged" in refusal(CannotOpen, path)


def test_a_batch_that_is_missing_is_told(path: Path) -> None:
    with opened(path) as spool:
        give(spool, *(lines(b"%d\n" % number) for number in range(5)))
    with closing(open_directory(str(path), role="session", create=False, known=FILES)) as directory:
        with closing(verb.Store(directory, 0)) as store, store.changes() as changes:
            changes.delete("outbox", verb_key(4))
            changes.commit()
    assert "position 4 is not what was accepted" in refusal(CannotOpen, path)


def verb_key(position: int) -> bytes:
    return bytes(4) + position.to_bytes(8, "big")


@pytest.mark.parametrize("pages", [2, 3, 10, 0.5])
def test_a_file_that_was_cut_short_costs_a_sentence_and_no_core_dump(path: Path, pages: float) -> None:
    """LMDB maps the file: whoever looks behind its end gets SIGBUS."""
    with opened(path) as spool:
        give(spool, *(lines(b"x" * 999 + b"\n") for _ in range(500)))
    size = (path / SPOOL).stat().st_size
    os.truncate(path / SPOOL, int(size * pages) if pages < 1 else int(4096 * pages))
    with mysocket("spool", path, "--messages") as program:
        program.wait_status(2)
        assert f"Cannot open the spool {path}" in program.stderr_text and "it is damaged" in program.stderr_text


# The command line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("spool", "DIR is missing; the form is mysocket spool DIR [--messages] [--inbox] [--json]"),
        ("spool --json", "DIR is missing"),
        ("spool a b", "'b' is one argument too many; the form is mysocket spool DIR"),
        ("spool a --message", "unknown option --message; did you mean --messages?"),
        ("spool a --mes", "did you mean --messages?"),
        ("spool a --peer h:1", "unknown option --peer; mysocket spool --help lists them all"),
        ("spool -l a", "unknown option -l; mysocket spool --help lists them all"),
        ("spool a --json=1", "--json takes no value"),
        ("spool -JX a", "unknown option -X"),
    ],
)
def test_usage_errors(words: str, told: str, capfdbinary: Capture) -> None:
    assert main(words.split()) == 2
    out, err = capfdbinary.readouterr()
    assert out == b"" and err.startswith(b"mysocket: ") and told in err.decode()


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_a_name_no_directory_has(name: str, capfdbinary: Capture) -> None:
    assert main(["spool", name]) == 2
    assert capfdbinary.readouterr().err.decode() == f"mysocket: DIR: {name!r} is not a file name\n"


@pytest.mark.parametrize("words", ["spool --help", "spool -h", "spool -Jh a b c", "spool --help --nonsense"])
def test_help_of_a_verb(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words.split())
    out, err = capsys.readouterr()
    assert (left.value.code or 0, err) == (0, "")
    assert out.startswith("usage: mysocket spool DIR [--messages] [--inbox] [--json]\n")
    assert "--messages" in out and "-J, --json" in out


def test_every_verb_is_in_the_help_and_has_its_module(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    for name, row in VERBS.items():
        assert row.name == name and f" {name} {row.help}" in out
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert row.form in " ".join(capsys.readouterr().out.split())
        assert (ROOT / "mysocket" / "verbs" / f"{name}.py").is_file()
        fields = [option.field for option in row.options if option.field]
        names = [name for option in row.options for name in (option.long, option.short, *option.aliases) if name]
        assert len(fields) == len(set(fields)) and len(names) == len(set(names))


def test_only_the_first_word_is_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["9000", "spool"])
    assert left.value.code == 2
    assert "two arguments are not enough" in capsys.readouterr().err


# The command


def test_the_command_prints_what_its_options_say(path: Path) -> None:
    with opened(path) as spool:
        give(spool, lines(b"one\ntwo\n"))
    for words, expected in (
        (["-J", "--messages", path], b'{"position": 4, "text": "one"}\n{"position": 8, "text": "two"}\n'),
        (["--messages", "--", path], b"4 one\n8 two\n"),
    ):
        with mysocket("spool", *words) as program:
            program.wait_status(0)
            assert (program.stdout, program.stderr_text) == (expected, "")
    with mysocket("spool", path.name, cwd=path.parent, env={"PYTHONPATH": str(ROOT)}) as program:
        program.wait_status(0)
        assert program.stdout.startswith(b"spool         spool\nstream ") and program.stderr_text == ""


def test_the_command_imports_no_twisted(path: Path) -> None:
    with opened(path) as spool:
        give(spool, lines(b"one\n"))
    code = (
        "import sys; from mysocket.cli import main; status = main(sys.argv[1:]); "
        "sys.exit(9 if 'twisted' in sys.modules else status)"
    )
    done = subprocess.run([sys.executable, "-c", code, "spool", path, "--messages"], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"4 one\n", b"")


def test_errors_are_said_once_with_their_status(path: Path) -> None:
    with mysocket("spool", path) as program:
        program.wait_status(2)
        assert program.stderr_text == f"mysocket: Cannot open {path}: there is no spool there. Check the name.\n"


def test_a_reader_that_has_gone_ends_it_quietly(path: Path) -> None:
    with opened(path) as spool:
        give(spool, *(lines(b"%d\n" % number * 20_000) for number in range(10)))
    read, write = os.pipe()
    os.close(read)
    with closing(os.fdopen(write, "wb")), mysocket("spool", path, "--messages", stdout=write) as program:
        program.wait_status(1)
        assert program.stderr_text == ""
    command = ["/bin/sh", "-c", '"$@" | head -n 2', "sh", *MYSOCKET, "spool", str(path), "--messages"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"2 0\n4 0\n", b"")


def test_an_output_that_is_full_or_closed_is_told(path: Path) -> None:
    with opened(path) as spool:
        give(spool, lines(b"one\n"))
    before = state_of(path)
    with mysocket("spool", path, stdout=Path("/dev/full")) as program:
        program.wait_status(74)
        assert "Writing to stdout failed: No space left on device" in program.stderr_text
    command = ["/bin/sh", "-c", 'exec "$@" <&- >&-', "sh", *MYSOCKET, "spool", str(path)]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "mysocket: Cannot open stdout: it is closed; redirect it.\n")
    assert state_of(path) == before


def test_a_pipe_that_somebody_made_non_blocking_gets_everything(path: Path) -> None:
    with opened(path) as spool:
        give(spool, *(lines(b"x" * 100_000 + b"\n") for _ in range(10)))
    read, write = os.pipe()
    os.set_blocking(write, False)
    data = b""
    with closing(os.fdopen(read, "rb", buffering=0)):
        with mysocket("spool", path, "--messages", stdout=write) as program:
            os.close(write)
            while part := read_some(read):
                data += part
            program.wait_status(0)
    assert data == b"".join(b"%d %b\n" % (100_001 * number, b"x" * 100_000) for number in range(1, 11))


def test_at_a_terminal_messages_are_escaped(path: Path) -> None:
    with opened(path) as spool:
        give(spool, lines(b"\x1b[2Jclear\n"), Piece(Kind.BLOB, 0, b"two\nlines\n"))
    with at_terminal("spool", path, "--messages") as terminal:
        terminal.wait_status(0)
        assert terminal.screen_text == "10 \\x1b[2Jclear\n20 two\nlines\n"
    with at_terminal("spool", path, "--messages", "--json") as terminal:
        terminal.wait_status(0)
        assert [json.loads(line)["text"] for line in terminal.screen_text.splitlines()] == ["\x1b[2Jclear", "two\nlines\n"]


def test_at_a_terminal_json_holds_nothing_that_it_obeys(path: Path) -> None:
    text = "\x7f \x9b31m \u202e grüße"
    with opened(path) as spool:
        give(spool, lines(text.encode() + b"\n"))
    with at_terminal("spool", path, "--messages", "--json") as terminal:
        terminal.wait_status(0)
        shown = terminal.screen.replace(b"\r\n", b"\n")
    assert escape(shown) == shown and json.loads(shown)["text"] == text and "grüße".encode() in shown


def test_what_a_sender_left_behind_is_shown(path: Path) -> None:
    peer = f"127.0.0.1:{free_port()}"
    with mysocket("--peer", peer, "--spool", path, "-w", "0.5", stdin=b"one\ntwo\nthree") as sender:
        sender.wait_status(3)
    with mysocket("spool", path, "--json") as program:
        program.wait_status(0)
        found = json.loads(program.stdout)
    assert (found["peer"], found["accepted"], found["acknowledged"], found["accepted_input"]) == (peer, 14, 0, 13)
    assert (found["input_complete"], found["waiting_bytes"], found["waiting_messages"]) == (True, 14, 3)


def test_a_session_that_runs_is_named(path: Path) -> None:
    with mysocket("-p", "0", "--spool", path, "--recv-only") as session:
        session.listening_port()
        with mysocket("spool", path) as program:
            program.wait_status(2)
            assert f"is in use by process {session.pid} (session)" in program.stderr_text
