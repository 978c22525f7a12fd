"""Power cuts of the sender's and of the receiver's disk while messages flow: what was accepted arrives, and arrives once.

    python -m tests.soak.power --cuts 500 --seed 1

needs root, ext4 and loop devices (see tests/support/disks.py). Each cut is followed by `kill -9` (or follows it), the disk comes
back with what was synced, and the program is started again; the sender is given the input again from what it had accepted.

Laws

1. What the receiver has seen had been accepted: after a cut, the sender's spool holds all that ever was in FILE.
2. What the sender was told is acknowledged, and has retired, is in FILE after a cut of the receiver's disk.
3. FILE is a prefix of the input whenever it is looked at, and equal to it in the end.
4. The sender leaves with 0 only when all has arrived: a cut of the receiver's disk right behind that loses nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from mysocket.errors import DISK, OK, TERMINATED
from mysocket.spool.lock import open_directory
from mysocket.spool.store import FILES, State, Store
from tests.support.disks import PowerDisk, power_disk
from tests.support.processes import DEVNULL, LINKED, PIPE, TIMEOUT, Program, acquaint, free_port, mysocket

LINE: Final = 100
MIB: Final = 1 << 20
#: Bytes of input that come at once; and when more has to wait than a spool keeps in a file that it does not make smaller.
BURST: Final = (LINE, 2 * MIB)
BACKLOG: Final = (14 * MIB, 18 * MIB)
#: Bytes that the disks have for what may lie on them at the same time.
SENDER_SIZE: Final = 96 * MIB
#: How a program may have ended when it is looked for: by our signal, by the error or the lost page that the dead disk gave it.
ENDS: Final = (-signal.SIGKILL, -signal.SIGBUS, DISK)
#: Seconds in which a cut may come after what it waits for.
MOMENT: Final = 0.005
#: Which disks are cut in a round of each kind, and how often the kind comes.
KINDS: Final = {"sender": 6, "receiver": 6, "both": 3, "told": 2, "backlog": 1}
CUTS: Final = {"sender": 1, "receiver": 1, "both": 2, "told": 1, "backlog": 2}


def lines(start: int, end: int) -> bytes:
    """The input from byte `start` to byte `end`: numbered lines of `LINE` bytes."""
    first = start // LINE
    text = b"".join(b"%0*d\n" % (LINE - 1, number) for number in range(first, -(-end // LINE)))
    return text[start - first * LINE : end - first * LINE]


def spool_state(path: Path) -> State:
    """What a spool says that nobody holds."""
    directory = open_directory(str(path), role="spool", create=False, known=FILES)
    try:
        store = Store(directory, MIB, readonly=True)
        try:
            return store.state()
        finally:
            store.close()
    finally:
        directory.close()


@dataclass
class Machine:
    """A disk, and the program that keeps its spool there."""

    name: str
    disk: PowerDisk
    _program: Program | None = None

    @property
    def spool(self) -> Path:
        return self.disk.path / "spool"

    @property
    def program(self) -> Program:
        """The program that was started last."""
        assert self._program is not None
        return self._program

    def start(self, *arguments: str | int | Path, stdin: int) -> None:
        """Start the program, with its spool on the disk."""
        self._program = mysocket(*arguments, "--spool", self.spool, stdin=stdin)

    def cut(self, *, first_the_power: bool) -> int:
        """Cut the power; it comes back, the program does not.

        :return: the status with which the program ended.
        """
        if first_the_power:
            self.disk.cut()
            self.program.kill()
        else:
            self.program.kill()
            self.disk.cut()
        status = self.program.wait()
        self.program.close()
        self.disk.restore()
        return status

    def terminate(self) -> None:
        """The program leaves in peace."""
        self.program.kill(signal.SIGTERM)
        self.program.wait_status(TERMINATED)
        self.program.close()

    def close(self) -> None:
        """Kill the program if it runs."""
        if self._program is not None:
            self._program.close()


@dataclass
class Power:
    """Two machines, and what is known of the stream between them."""

    sender: Machine
    receiver: Machine
    random: random.Random
    #: Bytes of input that were given; whether there will be no more.
    given: int = 0
    ended: bool = False
    #: The most that was ever seen in FILE, and that the sender had accepted.
    seen: int = 0
    accepted: int = 0
    #: What was committed of FILE when the receiver's power was cut, and what came back: more, maybe, which nobody vouches for.
    committed: int = 0
    restored: int = 0
    #: What was looked at before that, and does not change any more.
    known: int = 0
    #: What happened so often.
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._ports = free_port(), free_port()

    # The programs

    def start_sender(self) -> None:
        """Start the sender, with the input from where its spool says."""
        own, other = self._ports
        state = spool_state(self.sender.spool) if self.sender.spool.exists() else None
        complete = state is not None and state.input_complete
        self.sender.start("-p", own, "--peer", f"127.0.0.1:{other}", "--send-only", stdin=DEVNULL if complete else PIPE)
        if not complete:
            self.sender.program.write(lines(state.input_size if state is not None else 0, self.given))
            if self.ended:
                self.sender.program.close_stdin()

    def start_receiver(self) -> None:
        """Start the receiver, which stays."""
        other, own = self._ports
        where = ("-p", own, "--peer", f"127.0.0.1:{other}", "--output", self.file)
        self.receiver.start(*where, "--recv-only", "-k", stdin=DEVNULL)
        acquaint(self.sender.program, self.receiver.program)

    # What is there

    @property
    def file(self) -> Path:
        return self.receiver.disk.path / "out"

    def size(self) -> int:
        """Bytes in FILE now."""
        try:
            size = self.file.stat().st_size
        except FileNotFoundError:
            return 0
        self.seen = max(self.seen, size)
        return size

    def report(self) -> str:
        """What a person needs to see when a law is broken."""
        return f"{self.given} given, {self.accepted} accepted, {self.seen} seen\n{self.sender.program.report()}"

    def wait_for(self, size: int) -> None:
        """Wait until FILE has so many bytes. Looked at often: what comes next is to come in the middle of the work."""
        deadline = time.monotonic() + TIMEOUT
        while self.size() < size:
            running = self.sender.program.running() and self.receiver.program.running()
            assert running and time.monotonic() < deadline, f"{self.size()} bytes instead of {size}\n{self.report()}"
            time.sleep(0.0002)

    def give(self, size: int) -> None:
        """More input."""
        start, self.given = self.given, self.given + size // LINE * LINE
        self.sender.program.write(lines(start, self.given))

    # Laws

    def check_file(self) -> None:
        """FILE is a prefix of the input. What a cut has left behind the committed bytes stays until the two have agreed."""
        size = self.size()
        end = self.committed if size == self.restored else size
        with contextlib.suppress(FileNotFoundError), self.file.open("rb") as file:
            file.seek(start := self.known)
            data, wanted = file.read(end - start), lines(start, end)
            if data != wanted:
                pairs = enumerate(zip(data, wanted, strict=False))
                wrong = next((place for place, (here, there) in pairs if here != there), len(data))
                here, there = (some[wrong : wrong + 2 * LINE] for some in (data, wanted))
                about = f"{here!r} instead of {there!r}, {end - start - wrong} bytes before the end"
                raise AssertionError(f"FILE is no prefix of the input: byte {start + wrong}, {about}\n{self.report()}")

    def check_retired(self, state: State) -> None:
        """What the sender had retired has come back with the receiver's disk, and is known to be there."""
        retired = min(state.retired, state.input_size)
        assert self.committed >= retired, f"{self.committed} bytes were kept, {retired} were acknowledged\n{self.report()}"
        self.counts["looks for what was retired"] += 1

    def check_spool(self) -> State:
        """The sender's spool has all that it ever had accepted, and all that ever was in FILE."""
        state = spool_state(self.sender.spool)
        assert state.input_size >= max(self.seen, self.accepted), (
            f"the spool has accepted {state.input_size} bytes\n{self.report()}"
        )
        assert state.end == state.input_size + state.input_complete
        self.accepted = state.input_size
        return state

    # Rounds

    def round(self, kind: str) -> None:
        """Something flows, and at some moment there is no power."""
        self.counts[kind] += 1
        if kind == "backlog":
            self._cut(self.receiver)
            self.give(self.random.randint(*BACKLOG))
            self.sender.program.wait_input_taken()
            self.start_receiver()
            self._flow(0.7)
            self._cut(self.sender)
            self.start_sender()
            return
        self.give(self.random.randint(*BURST))
        self._flow(0.0)
        if kind in ("receiver", "both", "told"):
            self._cut(self.receiver)
        if kind in ("sender", "both"):
            self._cut(self.sender)
        if kind == "told":
            # It leaves in peace, and so has written down all that it was told.
            self.sender.terminate()
        if kind in ("both", "told"):
            self.check_retired(self.check_spool())
        if kind in ("receiver", "both", "told"):
            self.start_receiver()
        if kind in ("sender", "both", "told"):
            self.start_sender()

    def _flow(self, least: float) -> None:
        """Wait for a random share of what is on its way, or no more than that the two are linked."""
        if self.random.random() < 0.2:
            self.sender.program.wait_line(LINKED)
            self.receiver.program.wait_line(LINKED)
            return
        size = self.size()
        self.wait_for(size + int((self.given - size) * self.random.uniform(least, 1.0)))
        # Not always when FILE has just grown.
        time.sleep(self.random.uniform(0, MOMENT))

    def _cut(self, machine: Machine) -> None:
        status = machine.cut(first_the_power=self.random.random() < 0.5)
        done = self.ended and machine is self.sender and status == OK
        assert status in ENDS or done, f"status {status} after a power cut\n{machine.program.report()}"
        self.counts[f"cuts of the {machine.name}'s disk"] += 1
        self.size()
        if machine is self.sender:
            self.check_spool()
        else:
            self._look_at_what_came_back()
        self.check_file()

    def _look_at_what_came_back(self) -> None:
        self.known, self.restored = self.committed, self.size()
        self.committed = int(spool_state(self.receiver.spool).output["length"])
        assert self.restored >= self.committed, f"{self.restored} bytes of {self.committed} came back\n{self.report()}"

    def finish(self) -> None:
        """The end of the input, with a cut on each side of it."""
        self.give(self.random.randint(*BURST))
        self.ended = True
        self.sender.program.close_stdin()
        self._flow(0.0)
        self._cut(self.sender)
        self.start_sender()
        self.sender.program.wait_status(OK)
        self._cut(self.receiver)
        self.known = 0
        self.check_file()
        assert self.committed == self.size() == self.given, f"{self.committed} bytes were kept\n{self.report()}"
        self.start_receiver()
        self.receiver.program.listening_port()
        self.receiver.terminate()
        assert self.size() == self.given, self.report()


def rounds(cuts: int, chance: random.Random) -> Iterator[str]:
    """Kinds of rounds until there are so many cuts, less those of the end; each kind at least once."""
    left = cuts - 2
    for kind in KINDS:
        left -= CUTS[kind]
        yield kind
    while left > 0:
        kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
        left -= CUTS[kind]
        yield kind


def run(directory: Path, cuts: int, seed: int, *, progress: bool = False) -> Power:
    """So many cuts; skips where there are no such disks."""
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        machines = []
        for name, size in (("sender", SENDER_SIZE), ("receiver", (64 + 5 * cuts) * MIB)):
            (directory / name).mkdir()
            machines.append(Machine(name, stack.enter_context(power_disk(directory / name, size))))
            stack.callback(machines[-1].close)
        sender, receiver = machines
        power = Power(sender, receiver, chance)
        power.start_sender()
        power.start_receiver()
        for number, kind in enumerate(rounds(cuts, chance), 1):
            power.round(kind)
            if progress and number % 10 == 0:
                print(f"{number} rounds, {power.given} bytes: {dict(power.counts)}", flush=True)
        power.finish()
    return power


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.power", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cuts", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        try:
            power = run(Path(directory), options.cuts, options.seed, progress=True)
        except pytest.skip.Exception as reason:
            sys.exit(f"no power to cut here: {reason}")
    for what, count in sorted(power.counts.items()):
        print(f"{what}: {count}")
    print(f"{power.given} bytes given and received: lost 0, duplicated 0, reordered 0")


if __name__ == "__main__":
    main()
