"""Own messages leave in the order in which they were typed, each once, when the peer has acknowledged it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mysocket.screen.own import Message, Waiting


def test_what_nobody_has_taken_is_not_acknowledged() -> None:
    waiting = Waiting()
    for text in "abc":
        waiting.add(Message(text, 0.0))
    assert waiting.acknowledged(2**62) == [] and len(waiting) == waiting.untaken == 3
    first = waiting.take()
    assert first.text == "a" and waiting.untaken == 2
    assert waiting.acknowledged(2**62) == []
    first.position = 2
    assert waiting.acknowledged(1) == []
    assert [message.text for message in waiting.acknowledged(2)] == ["a"]
    assert [message.text for message in waiting.newest(5)] == ["b", "c"]
    assert [message.text for message in waiting.newest(1)] == ["c"]
    assert [message.text for message in waiting.drain()] == ["b", "c"] and len(waiting) == 0


@given(st.lists(st.one_of(st.just("add"), st.just("take"), st.integers(0, 40)), max_size=60))
def test_each_leaves_once_and_in_order(steps: list[str | int]) -> None:
    waiting, added, position, gone = Waiting(), 0, 0, []
    for step in steps:
        if step == "add":
            waiting.add(Message(str(added), 0.0))
            added += 1
        elif step == "take":
            if waiting.untaken:
                position += 2
                waiting.take().position = position
        else:
            left = waiting.acknowledged(int(step))
            assert all(message.position <= int(step) for message in left)
            gone += left
        assert len(waiting) == added - len(gone)
        assert [message.text for message in waiting.newest(3)] == [str(n) for n in range(len(gone), added)][-3:]
    gone += waiting.drain()
    assert [message.text for message in gone] == [str(number) for number in range(added)]
