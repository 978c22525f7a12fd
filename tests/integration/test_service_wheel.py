"""The promise, on what is installed: nothing that was accepted is lost, or comes twice, whatever is killed meanwhile.

Needs a package index, as test_package.py does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_package import empty_environment, run, wheel
from tests.support.processes import PIPE, Program, free_port, wait_until
from tests.support.service import Service, Yard

__all__ = ["wheel"]  # the fixture, used by its name below

CLIENTS, MESSAGES, PORTIONS = 100, 1000, 10
#: Which services are killed while a portion is on its way.
KILLED = ["", "both", "here", "there", "both", "there", "here", "both", "", ""]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment with nothing but what was built."""
    work = tmp_path_factory.mktemp("installed")
    bin_directory = empty_environment(work / "environment")
    run(bin_directory / "pip", "install", "-q", wheel, cwd=work)
    return bin_directory


@pytest.fixture
def built_yard(installed: Path, tmp_path: Path) -> Iterator[Yard]:
    with Yard(tmp_path, [str(installed / "twistd")], [str(installed / "mysocket")]) as yard:
        yield yard


def portion(client: int, number: int) -> bytes:
    """So much of what a client sends."""
    size = MESSAGES // PORTIONS
    return b"".join(b"client %d message %d\n" % (client, one) for one in range(number * size, (number + 1) * size))


def accepted(service: Service) -> int:
    found = service.status()["out"]["accepted"]
    assert isinstance(found, int)
    return found


def test_a_hundred_clients_and_services_that_are_killed(built_yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    yard = built_yard
    here, there = free_port(), free_port()
    one = yard.service("--port", here, "--peer", f"127.0.0.1:{there}", "--spool", "SPOOL", name="here")
    other = yard.service("--port", there, "--peer", f"127.0.0.1:{here}", "--spool", "SPOOL", name="there")
    began = time.monotonic()
    senders: list[Program] = [yard.mysocket("send", *one.where, stdin=PIPE) for _ in range(CLIENTS)]
    moments: list[int] = []
    kills = {"here": 0, "there": 0}
    for number, killed in enumerate(KILLED):
        for client, sender in enumerate(senders):
            sender.write(portion(client, number))
        if killed:
            # Somewhere in the middle of what has just been written.
            wanted = moments[-1] + len(portion(0, 0)) * CLIENTS // 2 if moments else 1
            wait_until(lambda: accepted(one) >= wanted, "nothing goes on", 60, *senders[:1])  # noqa: B023
            moments.append(accepted(one))
            for service in (one, other):
                if killed in ("both", service.directory.name):
                    service.kill()
                    kills[service.directory.name] += 1
            for service in (one, other):
                if not service.is_running():
                    service.start()
    for sender in senders:
        sender.close_stdin()
    for sender in senders:
        sender.wait_status(0, 60)
    sent = time.monotonic() - began
    consumer = yard.mysocket("attach", "--recv-only", "--json", "--as", "t", *other.where)
    wait_until(lambda: consumer.stdout.count(b"\n") >= CLIENTS * MESSAGES, "not all has come", 60, consumer)
    found: dict[int, list[int]] = {client: [] for client in range(CLIENTS)}
    for line in consumer.stdout.splitlines():
        _, client, _, number = json.loads(line)["text"].split()
        found[int(client)].append(int(number))
    assert all(numbers == list(range(MESSAGES)) for numbers in found.values())
    took = time.monotonic() - began
    yard.call("stop", *one.where)
    yard.call("stop", *other.where)
    assert min(kills.values()) >= 3
    with capsys.disabled():
        print(
            f"\n{CLIENTS} clients, {CLIENTS * MESSAGES} messages, each exactly once and in order; kill -9 of the sending service "
            f"{kills['here']} times, of the receiving one {kills['there']} times, at {moments} bytes accepted; "
            f"sent in {sent:.1f} s, all read after {took:.1f} s"
        )
