"""Counters as values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket.metrics import Counters, Meter

STEPS = st.lists(st.tuples(st.floats(0, 100), st.integers(0, 2**40)), max_size=50)


def test_what_comes_evenly_shows_its_rate() -> None:
    meter = Meter(tau=10.0)
    for tenth in range(1000):
        meter.add(50, tenth / 10)
    assert meter.rate(100.0) == pytest.approx(500, rel=0.02)


def test_one_amount_is_forgotten_by_a_factor_of_e_in_tau() -> None:
    meter = Meter(tau=2.0)
    assert meter.rate(0.0) == 0.0
    meter.add(100, 7.0)
    assert meter.rate(7.0) == 50.0 and meter.rate(9.0) == pytest.approx(50 / 2.718281828)
    assert meter.rate(1e9) == 0.0


@given(steps=STEPS, tau=st.floats(0.1, 100))
def test_asking_changes_nothing_and_all_that_came_is_in_the_rate(steps: list[tuple[float, int]], tau: float) -> None:
    asked, silent, now = Meter(tau), Meter(tau), 0.0
    for wait, amount in steps:
        asked.rate(now + wait / 2)
        now += wait
        for meter in (asked, silent):
            meter.add(amount, now)
    assert asked.rate(now) == silent.rate(now)
    total = sum(amount for _, amount in steps)
    assert 0 <= asked.rate(now) <= total / tau * (1 + 1e-9)
    assert asked.rate(now + 1) <= asked.rate(now)


def test_a_clock_that_goes_back_stands_still() -> None:
    meter = Meter(tau=1.0)
    meter.add(10, 100.0)
    meter.add(10, 50.0)
    assert meter.rate(0.0) == meter.rate(100.0) == 20.0
    assert meter.rate(101.0) == pytest.approx(20 / 2.718281828)


@pytest.mark.parametrize("tau", [0, -1, float("nan")])
def test_a_rate_needs_a_time(tau: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Meter(tau)


def test_rates_come_of_what_was_counted() -> None:
    counters, other = Counters(), Counters()
    counters.bytes_in += 120
    counters.tick(0.0)
    counters.tick(0.0)
    counters.bytes_out += 7
    counters.tick(0.0)
    assert (counters.rate_in.rate(0.0), counters.rate_out.rate(0.0)) == (12.0, 0.7)
    assert other.rate_in.rate(0.0) == 0.0
