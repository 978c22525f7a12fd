"""Kills a durable sender and receiver at random moments, a thousand times, while messages flow and connections are reset.

    python -m tests.soak [--kills N] [--seed S] [--resets SECONDS] [--directory DIR]

The sender reads one input after another; each is given again from where its spool says it was accepted. The receiver writes a
file. When the sender leaves with 0 all of the input must stand in the file, once, in order. From time to time both begin with new
spools, so that they are killed while they make these, too. At the end one table is printed. The status is 0 if nothing was lost,
duplicated or reordered, and nobody hung or left with a status that was not due. 1,000 kills take a quarter of an hour.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.soak.messages import Count, compare, make_input
from tests.support.crashes import Pair

#: Seconds between two looks at the processes.
TICK: Final = 0.004
#: Seconds in which an input must have arrived, with any number of kills: a hang.
PATIENCE: Final = 120.0
#: Kills after which both begin with new spools.
ROUND: Final = 40
#: How the sender cuts its input, in one round or another.
CUTS: Final = ((), (), ("--stream",), ("--whole",), ("--null",))
PROGRESS: Final = 50
#: Seconds for which somebody stays dead.
PAUSES: Final = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.5, 1.5)


class Wrong(Exception):
    """The law is broken, or somebody does not do what is due."""


class Soak:
    """One run.

    :param kills: how many processes are killed.
    :param reset_every: seconds between resets of all connections, on average; 0: none.
    """

    def __init__(self, directory: Path, *, kills: int, seed: int, reset_every: float) -> None:
        self.count = Count()
        self.kills = self.resets = self.inputs = self.bytes = 0
        self._wanted = kills
        self._reset_every = reset_every
        self._directory = directory
        self._random = random.Random(seed)
        self._began = time.monotonic()

    def run(self) -> None:
        """Until all kills are done, and what was sent has arrived."""
        number = 0
        while self.kills < self._wanted:
            number += 1
            place = self._directory / f"{number}"
            place.mkdir()
            send, hub = self._random.choice(CUTS), self._random.random() < 0.3
            with Pair(place, send=send, receive=["--max-message", "64M"], hub=hub) as pair:
                try:
                    Round(self, pair, self._random).run(min(self._wanted, self.kills + ROUND))
                except (Wrong, AssertionError) as problem:
                    raise Wrong(f"{problem}\n{place} holds what is left\n{pair.report()}") from None
            shutil.rmtree(place)

    def killed(self) -> None:
        """One more."""
        self.kills += 1
        if self.kills % PROGRESS == 0:
            print(
                f"{self.kills} kills, {self.resets} resets, {self.inputs} inputs, {self.count.delivered} messages, "
                f"{self.bytes / 1e6:.0f} MB, {time.monotonic() - self._began:.0f} s",
                flush=True,
            )

    def interval(self) -> float:
        """Seconds until the next reset."""
        return self._random.expovariate(1 / self._reset_every) if self._reset_every else float("inf")


class Round:
    """One pair of spools, from their making on."""

    def __init__(self, soak: Soak, pair: Pair, choose: random.Random) -> None:
        self._soak = soak
        self._pair = pair
        self._random = choose
        self._checked = 0  # bytes of the file
        self._data = b""
        self._feed_from = self._feed_time = 0.0
        self._deadline = self._kill_at = 0.0
        self._size: int | None = None  # of the file at the last kill, until it grows
        self._restart: dict[str, float] = {"sender": 0.0, "receiver": 0.0}  # who does not run -> when it is to

    def run(self, kills: int) -> None:
        """Until so many kills are done in all, and the input then is through."""
        self._begin_input()
        self._plan_kill(early=True)
        next_reset = time.monotonic() + self._soak.interval()
        while True:
            now = time.monotonic()
            self._start_due(now)
            self._feed(now)
            if self._sender_is_through():
                if self._soak.kills >= kills:
                    break
                self._begin_input()
            self._check_receiver()
            if now > self._deadline:
                raise Wrong(f"an input has not arrived in {PATIENCE:g} s")
            if self._kill_is_due(now) and self._soak.kills < kills:
                self._kill(kills - self._soak.kills)
                self._plan_kill(early=self._random.random() < 0.25)
            if now >= next_reset:
                self._soak.resets += sum(relay.reset() for relay in self._pair.relays)
                next_reset = now + self._soak.interval()
            time.sleep(TICK)
        self._end()

    def _plan_kill(self, *, early: bool) -> None:
        """In the first moments of a process, or when messages flow again, or do not."""
        now = time.monotonic()
        self._size = self._file_size()
        self._kill_at = now + (self._random.uniform(0, 0.3) if early else self._random.uniform(1.5, 3))

    def _kill_is_due(self, now: float) -> bool:
        if self._size is not None and self._file_size() != self._size:
            self._size = None
            self._kill_at = min(self._kill_at, now + self._random.uniform(0, 0.6))
        return now >= self._kill_at

    def _file_size(self) -> int:
        return self._pair.output.stat().st_size if self._pair.output.exists() else 0

    # The input

    def _begin_input(self) -> None:
        self._data = make_input(self._random, self._soak.count.sent)
        self._pair.begin_input()
        self._feed_from, self._feed_time = time.monotonic(), self._random.choice((0.0, 0.5, 2.0))
        self._deadline = self._feed_from + PATIENCE
        self._restart.setdefault("sender", 0.0)

    def _feed(self, now: float) -> None:
        """Give the sender so much of the input as is its time, with pauses of random length."""
        if "sender" in self._restart or self._random.random() < 0.5:
            return
        part = (now - self._feed_from) / self._feed_time if self._feed_time else 1.0
        self._pair.feed(self._data if part >= 1 else self._data[: int(len(self._data) * part)], end=part >= 1)

    # The processes

    def _start_due(self, now: float) -> None:
        due = [who for who, when in self._restart.items() if now >= when]
        self._random.shuffle(due)
        for who in due:
            del self._restart[who]
            if who == "sender":
                self._pair.start_sender()
            else:
                self._pair.start_receiver()

    def _kill(self, most: int) -> None:
        running = [who for who in ("sender", "receiver") if who not in self._restart]
        chosen = running if self._random.random() < 0.2 else self._random.sample(running, min(1, len(running)))
        for who in chosen[:most]:
            status = self._pair.kill(self._pair.sender if who == "sender" else self._pair.receiver)
            if status == -signal.SIGKILL:
                self._soak.killed()
                self._restart[who] = time.monotonic() + self._random.choice(PAUSES)
            elif who == "receiver" or status:
                raise Wrong(f"the {who} left with status {status}")

    def _sender_is_through(self) -> bool:
        """It has left, which must be with 0; then the input must be in the file."""
        if "sender" in self._restart or self._pair.sender.running():
            return False
        status = self._pair.over(self._pair.sender)
        if status:
            raise Wrong(f"the sender left with status {status}")
        self._check_file()
        return True

    def _check_file(self) -> None:
        with self._pair.output.open("rb") as file:
            file.seek(self._checked)
            found = file.read()
        count = compare(self._data, found)
        self._soak.count.add(count)
        if count.wrong:
            raise Wrong(
                f"from byte {self._checked} on: {len(found)} bytes where {len(self._data)} were sent; {count.lost} messages "
                f"lost, {count.duplicated} duplicated, {count.reordered} reordered"
            )
        self._checked += len(found)
        self._soak.inputs += 1
        self._soak.bytes += len(found)

    def _check_receiver(self) -> None:
        if "receiver" not in self._restart and not self._pair.receiver.running():
            raise Wrong(f"the receiver left with status {self._pair.over(self._pair.receiver)}")

    def _end(self) -> None:
        """The file stays as it is, and the sender has nothing left."""
        self._start_due(float("inf"))
        self._pair.receiver.kill(signal.SIGTERM)
        status = self._pair.over(self._pair.receiver)
        if status not in (143, -signal.SIGTERM):
            raise Wrong(f"the receiver left with status {status} on SIGTERM")
        if self._file_size() != self._checked:
            raise Wrong(f"the file has {self._file_size()} bytes instead of {self._checked}")
        state = self._pair.sender_spool.state()
        if state is None or state.retired != state.end:
            raise Wrong(f"the sender left with 0, and its spool holds something: {state}")


def table(soak: Soak) -> str:
    """The result."""
    row = {"kills": soak.kills, "resets": soak.resets, "inputs": soak.inputs, **vars(soak.count)}
    return "\n".join(" ".join(f"{text:>10}" for text in line) for line in (row, row.values()))


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000, help="processes to kill (default 1000)")
    parser.add_argument("--seed", type=int, default=None, help="of the random choices; the moments differ all the same")
    parser.add_argument("--resets", type=float, default=0.3, help="seconds between resets, on average; 0: none (default 0.3)")
    parser.add_argument("--directory", type=Path, default=None, help="where the spools are made (default: a temporary one)")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(2**32)
    directory = Path(tempfile.mkdtemp(prefix="soak-", dir=arguments.directory))
    print(f"seed {seed}", flush=True)
    soak = Soak(directory, kills=arguments.kills, seed=seed, reset_every=arguments.resets)
    wrong = None
    began = time.monotonic()
    try:
        soak.run()
        shutil.rmtree(directory)
    except Wrong as problem:
        wrong = problem
    print(f"{table(soak)}\nseed {seed}, {soak.bytes / 1e6:.0f} MB, {time.monotonic() - began:.0f} s")
    if wrong is not None:
        print(f"WRONG: {wrong}")
    return 1 if wrong is not None else 0


if __name__ == "__main__":
    sys.exit(main())
