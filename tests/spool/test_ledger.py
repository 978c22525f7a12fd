"""What was received, by stream: entries as rows, and the ledger of a spool on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket.core.inbox import Mark
from mysocket.spool.disk import DiskSpool
from mysocket.spool.ledger import MAX_REPEAT, Entry
from tests.support.spools import close, kill, opened, settle, store_of

STREAM, OTHER = b"t" * 16, b"u" * 16
ID = st.binary(min_size=16, max_size=16)
U64 = st.integers(0, 2**64 - 1)
#: Of a durable node, or nothing. A place may well end in zeros.
PLACE = st.one_of(st.just(b""), st.binary(min_size=8, max_size=8).filter(any), st.just(b"1234567\0"))


def entry(position: int, stream: bytes = STREAM, at_end: bool = False) -> Entry:
    return Entry(stream, b"n" * 16, b"place678", True, "name", Mark(position, 7, at_end), 5.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(path: Path) -> Iterator[DiskSpool]:
    spool = opened(path)
    yield spool
    close(spool)


@given(
    stream=ID,
    node=ID,
    place=PLACE,
    durable=st.booleans(),
    name=st.text(st.characters(codec="utf-8"), max_size=64),
    mark=st.builds(Mark, U64, U64, st.booleans()),
    time=st.floats(allow_nan=False),
    until=U64,
)
def test_a_row_says_all_of_an_entry(
    stream: bytes, node: bytes, place: bytes, durable: bool, name: str, mark: Mark, time: float, until: int
) -> None:
    one = Entry(stream, node, place, durable, name, mark, time, until)
    assert Entry.decode(stream, one.encode()) == one


def test_an_entry_counts_when_it_is_committed(spool: DiskSpool) -> None:
    """What a link is told of earlier streams must not be ahead of the disk."""
    done: list[int] = []
    for position in (5, 9):
        spool.ledger.commit(entry(position), lambda position=position: done.append(position))  # type: ignore[misc]
    assert not done and spool.ledger.find(STREAM) is None and not list(spool.ledger)
    settle(spool)
    assert done == [5, 9] and spool.ledger.find(STREAM) == entry(9) and list(spool.ledger) == [entry(9)]


def test_the_ledger_knows_it_before_who_gave_it_is_told(spool: DiskSpool) -> None:
    found: list[Entry | None] = []
    spool.ledger.commit(entry(5), lambda: found.append(spool.ledger.find(STREAM)))
    settle(spool)
    assert found == [entry(5)]


def test_streams_do_not_touch_each_other(path: Path) -> None:
    spool = opened(path)
    for one in (entry(5), entry(7, OTHER), entry(6)):
        spool.ledger.commit(one, lambda: None)
    settle(spool)
    spool.ledger.forget(OTHER)
    spool.ledger.forget(b"never heard of..")
    assert spool.ledger.find(OTHER) is None and list(spool.ledger) == [entry(6)]
    close(spool)
    spool = opened(path)
    assert list(spool.ledger) == [entry(6)]
    close(spool)


def test_a_stream_may_be_forgotten_and_come_back(path: Path) -> None:
    spool = opened(path)
    spool.ledger.commit(entry(5), lambda: None)
    settle(spool)
    spool.ledger.forget(STREAM)
    spool.ledger.commit(entry(8), lambda: None)
    settle(spool)
    kill(spool)
    spool = opened(path)
    assert store_of(spool).entries() == {STREAM: entry(8)}
    close(spool)


def test_it_may_be_forgotten_while_one_looks_through_it(spool: DiskSpool) -> None:
    for one in (entry(5), entry(7, OTHER)):
        spool.ledger.commit(one, lambda: None)
    settle(spool)
    for one in spool.ledger:
        spool.ledger.forget(one.stream)
    assert not list(spool.ledger)


def test_closing_does_not_put_an_older_entry_over_a_newer_one(path: Path) -> None:
    """The newer one was given, and nobody has heard yet that it is committed. The older one, written by a process that was
    killed, is to be kept with what it may have repeated."""
    spool = opened(path)
    spool.ledger.commit(entry(5), lambda: None)
    spool.ledger.commit(entry(6, OTHER), lambda: None)
    settle(spool)
    kill(spool)
    spool = opened(path)
    spool.ledger.commit(entry(9), lambda: None)
    close(spool)
    found = store_of(spool := opened(path)).entries()
    assert found[STREAM].mark.position == 9
    assert found[OTHER] == replace(entry(6, OTHER), repeats_until=6 + MAX_REPEAT)
    close(spool)


def test_closing_does_not_bring_back_what_was_forgotten(path: Path) -> None:
    spool = opened(path)
    spool.ledger.commit(entry(5), lambda: None)
    settle(spool)
    kill(spool)
    spool = opened(path)
    spool.ledger.forget(STREAM)
    close(spool)
    spool = opened(path)
    assert not list(spool.ledger)
    close(spool)
