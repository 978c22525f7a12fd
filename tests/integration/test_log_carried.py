"""A log on one machine, followed by a service, arrives in a file and in a plain socket on another, whatever is killed or reset.

The file is identical. The socket gets every line, in order; behind a crash or a lost connection it may get some again, which is
all that a plain connection allows.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.namespaces import TwoHosts, two_hosts
from tests.support.processes import wait_until
from tests.support.service import Service, Yard, yard

__all__ = ["two_hosts", "yard"]  # the fixtures, used by their names below

KILLS, RESETS, SEED = 10, 20, 6
PORT, COLLECTOR, METRICS = 9000, 9200, 9100
#: Lines that are written before each fault.
STEP = 2000

FETCH = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"


class Log:
    """An application that writes a log, which is rotated under it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        self.whole = bytearray()
        self._rotations = 0
        self._chance = random.Random(SEED)

    def write(self, count: int) -> None:
        """So many lines, in writes that end anywhere."""
        text = b"".join(
            b"%08d %s\n" % (number, b"x" * self._chance.randrange(100)) for number in range(self.lines, self.lines + count)
        )
        self.lines += count
        self.whole += text
        with self.path.open("ab", buffering=0) as file:
            while text:
                size = self._chance.randrange(1, 20_000)
                file.write(text[:size])
                text = text[size:]

    def rotate(self) -> None:
        """As logrotate does: app.log.1 becomes app.log.2, and so on."""
        self._rotations += 1
        for number in range(self._rotations, 0, -1):
            before = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            os.rename(before, self.path.with_name(f"{self.path.name}.{number}"))


def numbers(data: bytes) -> list[int]:
    """The numbers of the lines, which are whole."""
    return [int(line[:8]) for line in data.splitlines()]


def first_times(data: bytes) -> bytes:
    """The lines in their order, those that came again left out."""
    found, seen = [], -1
    for line in data.splitlines(keepends=True):
        if int(line[:8]) > seen:
            found.append(line)
            seen = int(line[:8])
    return b"".join(found)


def metrics(hosts: TwoHosts, host: int) -> dict[str, float]:
    """What a service says of itself, by sample and labels."""
    text = hosts.on(host, sys.executable, "-c", FETCH, f"http://127.0.0.1:{METRICS}/metrics")
    assert text is not None
    return {
        sample.name + "".join(f",{name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.skipif(shutil.which("nc") is None, reason="missing: nc (apt-get install netcat-openbsd)")
def test_through_rotation_kills_and_resets(two_hosts: TwoHosts, yard: Yard, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    log, copy, collected = Log(tmp_path / "app.log"), tmp_path / "all.log", tmp_path / "collected"
    # `-k`: it takes the next connection when one has ended.
    collector = two_hosts.run(1, "nc", "-l", "-k", "127.0.0.1", COLLECTOR, stdin=b"", stdout=collected)
    sender = yard.service(
        *("--peer", f"{two_hosts.addresses[1]}:{PORT}", "--spool", "SPOOL", "--input", f"follow:{log.path}"),
        *("--metrics", METRICS),
        name="sender",
        netns=two_hosts.names[0],
    )
    hub = yard.service(
        *("--port", PORT, "--allow", f"{two_hosts.addresses[0]}/32", "--recv-only", "--spool", "SPOOL", "--metrics", METRICS),
        *("--output", copy, "--output", f"tcp:127.0.0.1:{COLLECTOR}"),
        name="hub",
        netns=two_hosts.names[1],
    )
    faults = ["kill sender"] * KILLS + ["kill hub"] * KILLS + ["reset"] * RESETS
    chance.shuffle(faults)
    done = dict.fromkeys(faults, 0)
    for number, fault in enumerate(faults):
        size = copy.stat().st_size if copy.exists() else 0
        log.write(STEP)
        if fault == "reset":
            log.write(STEP)
            done[fault] += two_hosts.reset_connections() > 0
        else:
            one = sender if fault == "kill sender" else hub
            one.kill()
            log.write(STEP)
            if number % 3 == 0:
                log.rotate()
                log.write(STEP)
            if number % 6 == 0:
                log.rotate()  # twice while nobody may have looked
                log.write(STEP)
            one.start()
            done[fault] += 1
        if number % 4 == 0:
            log.rotate()
        log.write(STEP)
        # Each fault is one of its own: something has passed since.
        wait_until(lambda size=size: copy.exists() and copy.stat().st_size > size, report("nothing passes", sender, hub), 60)  # type: ignore[misc]
    assert done == {"kill sender": KILLS, "kill hub": KILLS, "reset": RESETS}
    wait_until(lambda: copy.stat().st_size >= len(log.whole), report("not all has arrived", sender, hub), 60)
    assert copy.read_bytes() == bytes(log.whole)
    wait_until(lambda: collected.read_bytes().endswith(log.whole[-200:]), "the socket has not got all", 30, collector)
    data = collected.read_bytes()
    assert first_times(data) == bytes(log.whole)
    repeats = len(numbers(data)) - log.lines
    # Each crash of the hub repeats what it had not committed, 4 MiB at most; each reset what was on the way.
    assert repeats * 60 <= (KILLS + RESETS) * 4 * 1024 * 1024
    tell_the_story(two_hosts, sender, hub, log)


def report(what: str, *services: Service) -> str:
    return "\n".join([what, *(service.log[-3000:] for service in services)])


def tell_the_story(hosts: TwoHosts, sender: Service, hub: Service, log: Log) -> None:
    """Figures since the last start of each, and positions since the beginning."""
    wait_until(lambda: sender.status()["out"]["waiting_bytes"] == 0, report("something waits", sender))
    before = metrics(hosts, 0)
    for _ in range(3):
        log.write(STEP)
        wait_until(lambda: hosts.reset_connections(), "nothing was reset")
        wait_until(lambda: sender.status()["out"]["acknowledged"] == len(log.whole), report("not acknowledged", sender), 30)
    said, heard = metrics(hosts, 0), metrics(hosts, 1)
    assert said["mysocket_accepted_position_bytes"] == said["mysocket_acknowledged_position_bytes"] == len(log.whole)
    assert said["mysocket_waiting_bytes"] == 0 and said["mysocket_linked"] == heard["mysocket_linked"] == 1
    assert said["mysocket_reconnects_total"] - before["mysocket_reconnects_total"] >= 3
    fresh = said["mysocket_sent_bytes_total"] - said["mysocket_resent_bytes_total"]
    earlier = before["mysocket_sent_bytes_total"] - before["mysocket_resent_bytes_total"]
    assert fresh - earlier == len(log.whole) - before["mysocket_accepted_position_bytes"]
