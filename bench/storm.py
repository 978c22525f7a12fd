"""Reconnect storms: what thousands of senders do to a hub that comes back, by several back-offs.

`python -m bench.storm` plays 10,000 senders on a turned clock (bench/herd.py says what is real and what is a model), and prints
the table of docs/operations.md. `--senders N` plays others, `--all` every combination; `--real` lets some hundred real senders
lose a real hub, and measures what they cost it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from bench import comeback
from bench.herd import ACCEPT, HANDSHAKE, HOUR, POWER_CUT, RESTART, Outage, Policy, Scene, Story, play
from mysocket.carriers import build

OURS = "**full jitter, 0.4 s × 1.6 … 30 s** (MySocket)"


def back_off(first: float, factor: float, last: float, spread: Callable[[float, float], float]) -> Policy:
    """A policy. ``spread``: the longest wait and a random number -> the wait."""
    return lambda random: lambda attempt: spread(min(last, first * factor ** (min(attempt, 50) - 1)), random())


def none(longest: float, chance: float) -> float:
    return longest


def half(longest: float, chance: float) -> float:
    return longest * (1 - chance / 2)


def full(longest: float, chance: float) -> float:
    return build.SHORTEST_RETRY + chance * (longest - build.SHORTEST_RETRY)


#: None: what MySocket does. With each what is played by default: the rest says the same again.
POLICIES: dict[str, tuple[Policy | None, tuple[Outage, ...]]] = {
    "no jitter, 0.32 s × 1.6 … 10 s": (back_off(0.32, 1.6, 10, none), (RESTART, POWER_CUT, HOUR)),
    "half jitter, 0.32 s × 1.6 … 10 s (before)": (back_off(0.32, 1.6, 10, half), (RESTART, POWER_CUT, HOUR)),
    "full jitter, 0.4 s × 1.6 … 10 s": (back_off(0.4, 1.6, 10, full), (RESTART, HOUR)),
    OURS: (None, (RESTART, POWER_CUT, HOUR)),
    "full jitter, 0.4 s × 1.6 … 60 s": (back_off(0.4, 1.6, 60, full), (HOUR,)),
    "full jitter, 0.4 s × 2 … 30 s": (back_off(0.4, 2, 30, full), (RESTART, HOUR)),
    "full jitter, 2 s × 2 … 30 s": (back_off(2, 2, 30, full), (RESTART, HOUR)),
}
HEAD = (
    "| back-off | hub away | round trip | attempts | a second, at most: hub away | hub back | turned away | SYNs dropped "
    "| half, 99 %, all are back after | busiest second of the hub |"
)


def scenes(senders: int, every: bool) -> Iterator[tuple[str, str, Scene]]:
    """What is played: the policy, what is said of the scene, the scene."""
    for name, (_, outages) in POLICIES.items():
        for outage in (RESTART, POWER_CUT, HOUR) if every else outages:
            yield name, outage.name, Scene(outage, senders)
            if every or name == OURS and outage is RESTART:
                yield name, outage.name, Scene(outage, senders, round_trip=0.05)
    yield OURS, f"{RESTART.name}; all senders behind one address", Scene(RESTART, senders, one_address=True)
    for total, each in ((256, 64), (1024, 1024)):
        what = f"{RESTART.name}; the hub takes {total} strangers, {each} from one address"
        yield OURS, what, Scene(RESTART, senders, strangers=total, strangers_per_address=each)


def row(played: tuple[str, str, Scene]) -> str:
    """Play one scene."""
    name, what, scene = played
    story = play(scene, POLICIES[name][0])
    cells = (
        name,
        what,
        f"{scene.round_trip * 1e3:g} ms",
        f"{sum(story.attempts.values()):,}",
        f"{story.peak_away:,}",
        f"{story.peak:,}",
        f"{story.turned_away:,}",
        f"{story.dropped:,}",
        ", ".join(f"{story.share_back(share):.1f}" for share in (0.5, 0.99, 1)) + " s",
        f"{story.busiest:.0%}",
    )
    return f"| {' | '.join(cells)} |"


def table(senders: int, every: bool) -> Iterator[str]:
    """The lines of the table, as they are ready; a process for each core plays them."""
    yield HEAD
    yield "|---" * 10 + "|"
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(row, scenes(senders, every))


def simulated(senders: int) -> Iterable[tuple[str, Story]]:
    """The senders' own policy, for the common table of `python -m bench`."""
    for outage in (RESTART, POWER_CUT, HOUR):
        yield outage.name, play(Scene(outage, senders))


def main() -> None:
    """Print the table, or measure."""
    parser = argparse.ArgumentParser(prog="python -m bench.storm", description=__doc__, allow_abbrev=False)
    parser.add_argument("--senders", type=int, default=10_000, help="play so many (10000)")
    parser.add_argument("--real", type=int, nargs="?", const=300, help="so many real senders (300) instead, and a real hub")
    parser.add_argument("--all", action="store_true", help="every combination; some minutes")
    options = parser.parse_args()
    if options.real is None:
        print(f"{options.senders:,} senders; a hub that needs {(ACCEPT + HANDSHAKE) * 1e6:.0f} µs of CPU for a handshake.\n")
        for line in table(options.senders, options.all):
            print(line, flush=True)
        return
    away = comeback.turned_away(2000)
    seen = comeback.measure(options.real)
    cost = seen.cpu / seen.senders
    print(f"the hub's CPU: {away * 1e6:.0f} µs for a connection too many, {cost * 1e6:.0f} µs for a sender that comes back")
    played = play(Scene(RESTART, options.real))
    print(f"attempts of {options.real} senders: {seen.attempts} seen, {sum(played.attempts.values())} played")
    print(f"half and all are back after: {seen.half:.2f} and {seen.last:.2f} s seen, ", end="")
    print(f"{played.share_back(0.5):.2f} and {played.share_back(1):.2f} s played")


if __name__ == "__main__":
    main()
