"""A log on one machine, followed by a service, arrives in a file and in a plain socket on another, whatever is killed or reset.

The file is identical. The socket gets every line, in order; behind a crash or a lost connection it may get some again, which is
all that a plain connection allows.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.logs import Log, first_times
from tests.support.namespaces import TwoHosts, two_hosts
from tests.support.processes import wait_until
from tests.support.service import Service, Yard, yard

__all__ = ["two_hosts", "yard"]  # the fixtures, used by their names below

KILLS, RESETS, SEED = 10, 20, 6
PORT, COLLECTOR, METRICS = 9000, 9200, 9100
#: Lines that are written before each fault.
STEP = 2000

FETCH = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"


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
    log, copy, collected = Log(tmp_path / "app.log", SEED), tmp_path / "all.log", tmp_path / "collected"
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
    repeats = len(data.splitlines()) - log.lines
    # Each crash of the hub repeats what it had not committed, 4 MiB at most; each reset what was on the way.
    assert repeats * 60 <= (KILLS + RESETS) * 4 * 1024 * 1024
    tell_the_story(two_hosts, sender, hub, log)


def report(what: str, *services: Service) -> str:
    return "\n".join([what, *(service.log[-3000:] for service in services)])


def settled(hosts: TwoHosts, sender: Service, log: Log) -> dict[str, float]:
    """The metrics of the sender when all of the log is acknowledged."""
    size = len(log.whole)

    def look() -> dict[str, float] | None:
        found = metrics(hosts, 0)
        both = found["mysocket_accepted_position_bytes"], found["mysocket_acknowledged_position_bytes"]
        return found if both == (size, size) else None

    return wait_until(look, report("not everything is acknowledged", sender), 60)


def tell_the_story(hosts: TwoHosts, sender: Service, hub: Service, log: Log) -> None:
    """Figures since the last start of each, and positions since the beginning."""
    before = said = settled(hosts, sender, log)
    for _ in range(3):
        seen = said["mysocket_reconnects_total"]
        log.write(STEP)
        wait_until(lambda: hosts.reset_connections(), "nothing was reset")

        def came_back(seen: float = seen) -> bool:
            # Who was not reset itself notices when it sends.
            log.write(1)
            return metrics(hosts, 0)["mysocket_reconnects_total"] > seen

        wait_until(came_back, report("it is not linked again", sender, hub), 60)
        said = settled(hosts, sender, log)
    heard = metrics(hosts, 1)
    assert said["mysocket_waiting_bytes"] == 0 and said["mysocket_linked"] == heard["mysocket_linked"] == 1
    fresh = said["mysocket_sent_bytes_total"] - said["mysocket_resent_bytes_total"]
    earlier = before["mysocket_sent_bytes_total"] - before["mysocket_resent_bytes_total"]
    assert fresh - earlier == len(log.whole) - before["mysocket_accepted_position_bytes"]
