"""What every kind of spool answers a link: one suite, in memory and on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mysocket.core.batch import END, Flag, Kind, Piece, chain
from mysocket.spool.interface import Recipient, Spool
from mysocket.spool.memory import BATCH_COST, MemorySpool
from tests.support.spools import close, opened, read_all, settle

LIMIT = 10_000


@pytest.fixture(params=["memory", "disk"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Spool]:
    if request.param == "memory":
        yield MemorySpool(b"s" * 16, LIMIT)
        return
    spool = opened(tmp_path / "spool", capacity=LIMIT)
    yield spool
    close(spool)


def line(text: bytes) -> Piece:
    return Piece(Kind.LINES, 0, text)


def test_pieces_get_positions_and_chain_values(log: Spool) -> None:
    first, last = log.append(line(b"one\n")), log.append(END)
    settle(log)
    assert (first.start, first.end, last.start, last.end, log.end, log.committed) == (0, 4, 4, 5, 5, 5)
    assert first.checksum == chain(b"one\n", 0) and last.checksum == chain(END.payload, first.checksum)
    assert read_all(log, 0) == [first, last]


def test_chain_values_are_known_at_every_boundary_that_was_read(log: Spool) -> None:
    first, second = log.append(line(b"one\n")), log.append(line(b"two\n"))
    settle(log)
    assert [log.chain_at(position) for position in (0, 8, 3, 9)] == [0, second.checksum, None, None]
    read_all(log, 0)
    assert [log.chain_at(position) for position in (0, 4, 8, 3, 9)] == [0, first.checksum, second.checksum, None, None]
    assert [log.is_boundary(position) for position in (4, 8, 3, 9)] == [True, True, False, False]
    log.retire(4)
    settle(log)
    assert [log.chain_at(position) for position in (0, 4, 8)] == [None, first.checksum, second.checksum]


def test_what_is_retired_is_gone_and_the_rest_is_read_again(log: Spool) -> None:
    batches = [log.append(line(b"%d\n" % number)) for number in range(5)]
    settle(log)
    log.retire(batches[1].end)
    settle(log)
    assert log.retired == batches[1].end
    for _ in range(2):
        assert read_all(log, log.retired) == batches[2:]
    log.retire(batches[-1].end)
    settle(log)
    assert log.retired == log.end and read_all(log, log.end) == []


def test_room_shrinks_by_what_is_kept_and_comes_back(log: Spool) -> None:
    before = log.room
    end = log.append(line(bytes(3000))).end
    assert before - log.room >= 3000
    log.append(line(bytes(7000)))
    settle(log)
    assert log.room <= 0
    log.retire(log.end)
    settle(log)
    assert log.room == before and end == 3000


def test_a_message_that_has_begun_may_exceed_the_room(tmp_path: Path) -> None:
    """A receiver that needs it whole acknowledges its parts together: without this both would wait for ever."""
    disk = opened(tmp_path / "spool", capacity=LIMIT, long=5000)
    for log in (MemorySpool(b"s" * 16, LIMIT, long=5000), disk):
        log.append(Piece(Kind.LINES, Flag.MORE, bytes(LIMIT - 1000)))
        assert log.room > 2000
        log.append(line(b"its end\n"))
        assert log.room <= 1000
    close(disk)


def test_a_backlog_of_tiny_messages_is_bounded_by_what_it_costs() -> None:
    log = MemorySpool(b"s" * 16, 100_000)
    count = 0
    while log.room > 0:
        log.append(line(b"\n"))
        count += 1
    assert count < 100_000 / BATCH_COST + 1


def test_the_end_mark(log: Spool) -> None:
    assert not log.at_end_mark
    log.append(line(b"x\n"))
    assert not log.at_end_mark
    end = log.append(END).end
    settle(log)
    assert log.at_end_mark
    log.retire(end)
    assert not log.at_end_mark


def test_whom_it_is_for(log: Spool) -> None:
    assert log.recipient is None
    log.remember(Recipient(b"n" * 16, b"p" * 8, "name"))
    assert log.recipient == Recipient(b"n" * 16, b"p" * 8, "name")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 3)), min_size=1, max_size=30), st.data())
def test_both_kinds_are_the_same_log(steps: list[tuple[int, int]], data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        memory, disk = MemorySpool(b"s" * 16, 2**20), opened(Path(directory) / "spool")
        ends = [0]
        for size, action in steps:
            for log in (memory, disk):
                log.append(line(b"x" * size))
            ends.append(memory.end)
            if action == 1:
                settle(disk)
            elif action == 2:
                settle(disk)
                position = data.draw(st.sampled_from([end for end in ends if end >= memory.retired]))
                for log in (memory, disk):
                    log.retire(position)
            elif action == 3:
                settle(disk)
                position = data.draw(st.sampled_from([end for end in ends if end >= memory.retired]))
                assert read_all(disk, position) == read_all(memory, position)
        settle(disk)
        assert (disk.retired, disk.committed, disk.end) == (memory.retired, memory.committed, memory.end)
        assert read_all(disk, disk.retired) == read_all(memory, memory.retired)
        close(disk)
