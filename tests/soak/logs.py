"""Kills a service that follows a log, and the hub that writes it to a file and to a plain socket, at random moments.

    python -m tests.soak.logs [--kills N] [--seed S] [--directory DIR]

The log is written all the time and rotated, also while nobody looks; connections between the two are reset. A service that is
killed is started again, at once or a little later.

The law: the file is the log, byte for byte. The socket got every line in order; some again, but only from the beginning of a
connection on. At the end one line is printed for each. The status is 0 if that holds.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.support.logs import Log, LogCollector, first_times
from tests.support.processes import free_port
from tests.support.proxy import CuttingProxy
from tests.support.service import Service, Yard

#: Seconds in which what was written must have arrived when nobody is killed any more.
PATIENCE: Final = 120.0
#: A frame from the hub is where a connection is reset, one in so many.
RESET: Final = 30
#: What a crash of the hub may repeat to a socket, in bytes.
REPEATED: Final = 4 * 1024 * 1024


class Wrong(Exception):
    """The law is broken."""


class Soak:
    """One run."""

    def __init__(self, yard: Yard, directory: Path, kills: int, seed: int) -> None:
        self.kills = {"sender": 0, "hub": 0}
        self.copy = directory / "all.log"
        (directory / "logs").mkdir()
        self.log = Log(directory / "logs" / "app.log", seed)
        self.collector = LogCollector()
        self._wanted = kills
        self._random = chance = random.Random(seed)
        port = free_port()
        self.proxy = CuttingProxy(port, lambda frame: chance.randrange(RESET) == 0)
        self.hub = yard.service(
            *("--port", port, "--recv-only", "--spool", "SPOOL"),
            *("--output", self.copy, "--output", f"tcp:127.0.0.1:{self.collector.port}"),
            name="hub",
        )
        self.sender = yard.service(
            *("--peer", f"127.0.0.1:{self.proxy.port}", "--spool", "SPOOL", "--input", f"follow:{self.log.path}"), name="sender"
        )

    def run(self) -> None:
        """Until all kills are done, and everything has arrived."""
        self.log.write(1)
        # What was rotated away before it was followed at all is not followed.
        self._wait(lambda: self.copy.exists() and self.copy.stat().st_size > 0, "nothing arrives")
        shown = 0
        while (done := sum(self.kills.values())) < self._wanted:
            self._work()
            self._kill()
            if done - shown >= 50:
                shown = done
                print(f"{done} kills, {self.log.lines} lines, {self.log.rotations} rotations", flush=True)
        self._wait(lambda: self.copy.stat().st_size >= len(self.log.whole), "not all has arrived")
        if self.copy.read_bytes() != bytes(self.log.whole):
            raise Wrong("the file is not the log")
        self._wait(lambda: self.collector.data().endswith(bytes(self.log.whole[-200:])), "the socket has not got all")
        if first_times(self.collector.data()) != bytes(self.log.whole):
            raise Wrong("a line is missing at the socket, or out of order")
        for one in self.collector.connections:
            if first_times(one) != bytes(one)[: one.rfind(b"\n") + 1]:
                raise Wrong("a line came twice within one connection")
        if self.repeated > (self.kills["hub"] + self.proxy.cuts) * REPEATED:
            raise Wrong(f"{self.repeated} bytes came again")

    @property
    def repeated(self) -> int:
        """Bytes that came to the socket again."""
        return len(self.collector.data()) - len(self.log.whole)

    def _work(self) -> None:
        for _ in range(self._random.randrange(1, 6)):
            self.log.write(self._random.randrange(1, 3000))
            if self._random.random() < 0.3:
                self.log.rotate()
            time.sleep(self._random.random() * 0.1)

    def _kill(self) -> None:
        victims: list[Service] = self._random.choice([[self.sender], [self.hub], [self.sender, self.hub]])
        for one in victims:
            one.kill()
            self.kills["sender" if one is self.sender else "hub"] += 1
        if self._random.random() < 0.5:
            self._work()
        for one in victims:
            one.start()

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise Wrong(what)
            time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.logs", description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.directory) as place, Yard(Path(place)) as yard:
        soak = Soak(yard, Path(place), options.kills, options.seed)
        try:
            soak.run()
        except Wrong as problem:
            sizes = f"{len(soak.log.whole)} bytes written, {soak.copy.stat().st_size} in the file"
            print(f"seed {options.seed}: {problem}; {sizes}\n{soak.sender.log[-4000:]}\n{soak.hub.log[-4000:]}")
            return 1
        kills = ", ".join(f"{count} of the {what}" for what, count in soak.kills.items())
        print(f"kills: {kills}; {soak.proxy.cuts} resets; {soak.log.rotations} rotations; {soak.log.lines} lines")
        print("the file: lost 0, duplicated 0, reordered 0")
        print(
            f"the socket: lost 0, reordered 0; {soak.repeated} bytes came again, "
            f"over {len(soak.collector.connections)} connections"
        )
        print(f"seed {options.seed}, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
