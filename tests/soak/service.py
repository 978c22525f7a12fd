"""Kills two services, their clients and a consumer at random moments, while messages are handed over and read.

    python -m tests.soak.service [--kills N] [--seed S] [--directory DIR]

Each service is sent to and read from. Clients of two kinds hand messages over: some give lines to one `mysocket send`, others run
it once for each message. A service that is killed is started again at once; a client finds it by itself. A consumer says itself
what it has (`--ack none`, the position noted behind each message), is killed too, and skips what comes again up to that.

The law: each message of a client that ended with 0 was read once, by position, and those of each client in order; of one that was
killed, a part from its beginning. At the end one table is printed. The status is 0 if that holds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from tests.support.processes import PIPE, Program
from tests.support.service import Client, Service, Yard, two

#: Lines that one client gives to its stdin, and single messages that one runs for.
LINES: Final = 3000
SINGLE: Final = 5
CLIENTS: Final = 6
#: Seconds in which what is accepted must have been read, and in which a client must end when nobody is killed any more.
PATIENCE: Final = 120.0
TICK: Final = 0.02


class Wrong(Exception):
    """The law is broken."""


class Sending:
    """A client: a stdin of lines, or some messages one after another."""

    def __init__(self, yard: Yard, service: Service, number: int, single: bool) -> None:
        self.number = number
        self.service = service
        self._yard = yard
        self._left = SINGLE if single else 0
        self.total = SINGLE if single else LINES
        self.killed = False
        self.program = self._next() if single else self._stream()

    def _next(self) -> Program:
        self._left -= 1
        text = f"client {self.number} message {self.total - 1 - self._left}"
        return self._yard.mysocket("send", *self.service.where, *text.split())

    def _stream(self) -> Program:
        data = b"".join(b"client %d message %d\n" % (self.number, one) for one in range(LINES))
        program = self._yard.mysocket("send", *self.service.where, stdin=PIPE)
        program.write(data)
        program.close_stdin()
        return program

    def kill(self) -> None:
        self.program.kill()
        self.killed = True

    def is_over(self) -> bool:
        """Has it ended, for good?"""
        if self.program.running():
            return False
        if not self.killed and self.program.wait() != 0:
            raise Wrong(f"a client has ended badly: {self.program.report()}")
        if self._left and not self.killed:
            self.program = self._next()
            return False
        return True


class Consumer:
    """Reads the inbox of one service, and notes behind each message how far it has come."""

    def __init__(self, yard: Yard, service: Service) -> None:
        self.service = service
        self.noted = 0
        self.skipped = self.kills = 0
        self.found: dict[int, list[int]] = defaultdict(list)
        self._yard = yard
        self._start()

    def _start(self) -> None:
        self._program = self._yard.mysocket(
            "attach", "--recv-only", "--json", "--as", "soak", "--ack", "none", *self.service.where
        )
        self._read = 0

    def kill(self) -> None:
        self.look()
        self._program.kill()
        self._program.wait()
        self.kills += 1
        self._start()

    def look(self) -> None:
        """Note what has come. One that found no service when it began, for that was just killed, begins again."""
        over = not self._program.running()
        text = self._program.stdout
        whole = text[self._read : text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            message: dict[str, Any] = json.loads(line)
            if message["position"] <= self.noted:
                self.skipped += 1
                continue
            self.noted = message["position"]
            _, client, _, number = message["text"].split()
            self.found[int(client)].append(int(number))
        if over:
            if "No service was found" not in self._program.stderr_text:
                raise Wrong(f"a consumer has ended: {self._program.report()}")
            self._start()

    def acknowledge(self) -> None:
        """What is noted need not be kept."""
        if self.noted and self.service.is_running():
            try:
                with Client(self.service) as client:
                    client.ask({"do": "ack", "as": "soak", "position": self.noted})
            except (OSError, AssertionError):
                pass  # it has just been killed


class Soak:
    """One run."""

    def __init__(self, yard: Yard, kills: int, seed: int) -> None:
        self.yard = yard
        self.services = two(yard)
        self.consumers = [Consumer(yard, service) for service in reversed(self.services)]
        self.kills = {"services": 0, "clients": 0, "consumers": 0}
        self._wanted = kills
        self._random = random.Random(seed)
        self._clients: list[Sending] = []
        self._sent: list[Sending] = []

    def run(self) -> None:
        """Until all kills are done, and what was accepted is read."""
        shown = 0
        while (done := sum(self.kills.values())) < self._wanted:
            self._keep_sending()
            self._kill_one()
            for consumer in self.consumers:
                consumer.look()
                if self._random.random() < 0.2:
                    consumer.acknowledge()
            time.sleep(self._random.random() * 0.5)
            if done - shown >= 50:
                shown = done
                print(f"{done} kills, {len(self._sent)} clients, {sum(map(self._read, self._sent))} messages", flush=True)
        self._wait_until(lambda: self._keep_sending(more=False) == 0, "clients do not end")
        self._wait_until(lambda: not self._missing(), "not everything is read")
        for one in self._sent:
            found = self._found(one)
            if found != list(range(len(found))) or not one.killed and len(found) != one.total:
                raise Wrong(f"client {one.number} (killed: {one.killed}): {len(found)} of {one.total}: {found[:20]}")

    def _keep_sending(self, *, more: bool = True) -> int:
        self._clients = [one for one in self._clients if not one.is_over()]
        while more and len(self._clients) < CLIENTS:
            service = self._random.choice(self.services)
            if not service.is_running():
                service.start()
            self._clients.append(Sending(self.yard, service, len(self._sent), self._random.random() < 0.3))
            self._sent.append(self._clients[-1])
        return len(self._clients)

    def _kill_one(self) -> None:
        what = self._random.choice(["services", "services", "services", "clients", "consumers"])
        if what == "services":
            victims = list(self._random.choice([self.services[:1], self.services[1:], self.services]))
            for service in victims:
                service.kill()
            for service in victims:
                service.start()
            self.kills[what] += len(victims)
        elif what == "clients":
            self._random.choice(self._clients).kill()
            self.kills[what] += 1
        else:
            self._random.choice(self.consumers).kill()
            self.kills[what] += 1

    def _consumer_of(self, one: Sending) -> Consumer:
        return self.consumers[self.services.index(one.service)]

    def _found(self, one: Sending) -> list[int]:
        return self._consumer_of(one).found.get(one.number, [])

    def _read(self, one: Sending) -> int:
        return len(self._found(one))

    def _missing(self) -> list[Sending]:
        for consumer in self.consumers:
            consumer.look()
        return [one for one in self._sent if not one.killed and self._read(one) < one.total]

    def tell(self) -> None:
        """How things are, for whoever has to find out why."""
        for service, consumer in zip(reversed(self.services), self.consumers, strict=True):
            found = service.status() if service.is_running() else "does not run"
            print(f"{service.directory.name}: {json.dumps(found)}; noted {consumer.noted}\n{consumer._program.report()}")
        for one in self._missing():
            print(f"client {one.number} of {one.service.directory.name}: {self._read(one)} of {one.total} read")

    def _wait_until(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise Wrong(what)
            time.sleep(TICK)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.service", description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.directory) as place, Yard(Path(place)) as yard:
        soak = Soak(yard, options.kills, options.seed)
        try:
            soak.run()
        except Wrong as problem:
            print(f"seed {options.seed}: {problem}")
            soak.tell()
            return 1
        kills = ", ".join(f"{count} of {what}" for what, count in soak.kills.items())
        read = sum(len(numbers) for consumer in soak.consumers for numbers in consumer.found.values())
        again = sum(consumer.skipped for consumer in soak.consumers)
        print(f"kills: {kills}; {len(soak._sent)} clients; {read} messages read once and in order, {again} skipped by position")
        print(f"lost 0, duplicated 0, reordered 0; seed {options.seed}, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
