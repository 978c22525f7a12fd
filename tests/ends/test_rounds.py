"""Work that asks for more of itself."""

from __future__ import annotations

import pytest

from mysocket.ends.rounds import Rounds


def test_who_is_asked_within_a_round_makes_another_and_goes_no_deeper() -> None:
    depth, deepest, left = [0], [0], [3000]

    def work() -> None:
        depth[0] += 1
        deepest[0] = max(deepest[0], depth[0])
        if left[0]:
            left[0] -= 1
            rounds()
            rounds()
        depth[0] -= 1

    rounds = Rounds(work)
    rounds()
    assert left == [0] and deepest == [1] and not rounds.again


def test_an_error_ends_the_rounds_and_they_can_begin_again() -> None:
    fail = [True]
    done: list[int] = []

    def work() -> None:
        if fail[0]:
            raise ValueError
        done.append(1)

    rounds = Rounds(work)
    with pytest.raises(ValueError):
        rounds()
    fail[0] = False
    rounds()
    assert done == [1]
