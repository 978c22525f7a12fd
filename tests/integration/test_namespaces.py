"""Across machines: two network namespaces on one wire, and what happens to wires."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.namespaces import TwoHosts, two_hosts
from tests.support.processes import DEVNULL, LINKED, MYSOCKET, UNDELIVERED, Program, wait_until

__all__ = ["two_hosts"]  # the fixture, used by its name below

SEED = 2  # of the order of faults and the moments at which they come

MEGA = 1_000_000


def sha256(path: Path) -> str:
    """The digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def input_file(path: Path, size: int, seed: int) -> Path:
    """A file of random bytes (so of lines of some 256 bytes, and a few long ones); the same for the same seed."""
    with path.open("wb") as file:
        file.write(random.Random(seed).randbytes(size))
    return path


def marks(total: int, count: int, seed: int) -> Iterator[int]:
    """`count` lengths of the output at which a fault comes, spread over the transfer but not evenly."""
    chance = random.Random(seed)
    step = total // (count + 2)
    for index in range(1, count + 1):
        yield index * step + chance.randrange(step // 2)


def inject(
    hosts: TwoHosts, outputs: list[Path], kinds: list[str], total: int, programs: list[Program], seed: int
) -> dict[str, int]:
    """Make one fault after another, each when the first output has reached the next mark; how many of each kind took effect.

    The next fault comes only after bytes went through again: each one is an interruption of its own.
    """
    done: dict[str, int] = dict.fromkeys(kinds, 0)
    watched = outputs[0]
    chance = random.Random(seed)
    for kind, mark in zip(kinds, marks(total, len(kinds), seed), strict=True):
        wait_until(lambda: watched.stat().st_size >= mark, f"no {mark} bytes in {watched.name}", 40, *programs)  # noqa: B023
        done[kind] += make(kind, hosts, outputs, chance)
    return done


def make(kind: str, hosts: TwoHosts, outputs: list[Path], chance: random.Random) -> int:
    """One fault of this kind; 1 if it took effect."""
    if kind == "reset":
        return int(hosts.reset_connections() > 0)
    if kind == "kill":
        return int(hosts.kill_sockets() > 0)
    if kind == "pull":
        hosts.pull(chance.randrange(2))
        settle(outputs)
        hosts.plug()
        return 1
    assert kind == "loss"
    hosts.loss(5)
    return 1


def settle(outputs: list[Path]) -> None:
    """Wait until nothing has come out for 30 looks in a row, a third of a second."""
    quiet = itertools.count()
    last: list[int] = []

    def silent() -> bool:
        nonlocal quiet, last
        now = [path.stat().st_size for path in outputs]
        if now != last:
            quiet, last = itertools.count(), now
        return next(quiet) >= 30

    wait_until(silent, "bytes come through a pulled link", 20)


def schedule(resets: int, kills: int, others: list[str], seed: int) -> list[str]:
    """So many faults of each kind, shuffled; loss comes first, for it lasts."""
    kinds = ["reset"] * resets + ["kill"] * kills + others
    random.Random(seed).shuffle(kinds)
    return ["loss", *kinds]


def test_fifty_megabytes_both_ways_through_resets_a_pulled_link_and_loss(two_hosts: TwoHosts, tmp_path: Path) -> None:
    size, total_resets = 50 * MEGA, 22
    inputs = [input_file(tmp_path / f"input{host}", size, host) for host in (0, 1)]
    outputs = [tmp_path / f"output{host}" for host in (0, 1)]
    two_hosts.slow(80)  # 10 MB/s: five seconds in all, so that each fault falls into the flow
    programs = [
        two_hosts.mysocket(
            host, "-p", 9000, "--peer", f"{two_hosts.addresses[1 - host]}:9000", stdin=inputs[host], stdout=outputs[1 - host]
        )
        for host in (0, 1)
    ]
    for program in programs:
        program.wait_line(LINKED)
    done = inject(two_hosts, outputs, schedule(16, total_resets - 16, ["pull"] * 3, SEED), size, programs, SEED)
    for program in programs:
        program.wait_status(0, 60)
    assert [sha256(path) for path in outputs] == [sha256(path) for path in inputs]
    assert done["reset"] + done["kill"] >= 20, f"too few faults took effect: {done}"
    assert done["pull"] == 3


@pytest.mark.parametrize("way", ["sender dials", "both dial"])
def test_one_way_through_twenty_resets(two_hosts: TwoHosts, tmp_path: Path, way: str) -> None:
    size = 20 * MEGA
    given, copy = input_file(tmp_path / "input", size, 7), tmp_path / "copy"
    two_hosts.slow(80)
    peer = [f"{address}:9001" for address in two_hosts.addresses]
    if way == "both dial":
        receive, send = ["-p", "9001", "--peer", peer[0]], ["-p", "9001", "--peer", peer[1]]
    else:
        receive, send = ["-p", "9001", "--allow", f"{two_hosts.addresses[0]}/32"], ["--peer", peer[1]]
    receiver = two_hosts.mysocket(1, *receive, "--recv-only", stdin=DEVNULL, stdout=copy)
    sender = two_hosts.mysocket(0, *send, "--send-only", stdin=given)
    sender.wait_line(LINKED)
    done = inject(two_hosts, [copy], ["reset"] * 21, size, [sender, receiver], SEED)
    sender.wait_status(0, 60)
    receiver.wait_status(0, 60)
    assert sha256(copy) == sha256(given)
    assert done["reset"] >= 20, f"too few resets took effect: {done}"


@pytest.mark.parametrize("fault", ["pull", "kill"])
def test_a_line_each_way_after_an_idle_link_broke(two_hosts: TwoHosts, fault: str) -> None:
    programs = [two_hosts.mysocket(host, "-p", 9000, "--peer", f"{two_hosts.addresses[1 - host]}:9000") for host in (0, 1)]
    for number in range(3):
        for host in (0, 1):
            line = f"line {number} from {host}\n".encode()
            programs[host].write(line)
            programs[1 - host].wait_output(line)
        if fault == "kill":
            if not two_hosts.kill_sockets():
                pytest.skip("this kernel cannot destroy sockets (CONFIG_INET_DIAG_DESTROY)")
        else:
            two_hosts.pull(number % 2)
            two_hosts.plug()
    for program in programs:
        program.close_stdin()
    for program in programs:
        program.wait_status(0)


def test_ipv6(two_hosts: TwoHosts) -> None:
    if two_hosts.on(0, "ip", "-6", "route", "get", two_hosts.addresses6[1], check=False) is None:
        pytest.skip("the kernel has no IPv6")
    programs = [
        two_hosts.mysocket(
            host, "-p", 9000, "--peer", f"[{two_hosts.addresses6[1 - host]}]:9000", stdin=f"from {host}\n".encode()
        )
        for host in (0, 1)
    ]
    for host, program in enumerate(programs):
        program.wait_status(0)
        assert program.stdout == f"from {1 - host}\n".encode()


def test_a_peer_that_vanishes_without_a_word(two_hosts: TwoHosts) -> None:
    """No FIN, no reset, no ICMP: only the silence tells, after the -w that was asked for."""
    receiver = two_hosts.mysocket(1, "-p", 9000, "--peer", f"{two_hosts.addresses[0]}:9000", "--recv-only", "-w", 5)
    sender = two_hosts.mysocket(0, "-p", 9000, "--peer", f"{two_hosts.addresses[1]}:9000", "--send-only", "-w", 5)
    sender.write(b"delivered\n")
    receiver.wait_output(b"delivered\n")
    two_hosts.pull(1)
    sender.write(b"not any more\nnor this\nand this\n")
    sender.close_stdin()
    sender.wait_status(3)
    assert re.search(UNDELIVERED, sender.stderr_text), sender.report()
    assert re.search(r"\b3\b", sender.stderr_text), sender.report()
    receiver.wait_status(3)  # its stream is open: it never says 0
    assert receiver.stdout == b"delivered\n"


def test_who_is_not_allowed_is_closed_without_a_byte(two_hosts: TwoHosts) -> None:
    if shutil.which("nc") is None:
        pytest.skip("nc is missing (apt-get install netcat-openbsd)")
    receiver = two_hosts.mysocket(1, "-p", 9000, "--allow", "10.99.0.0/16", "--recv-only", stdin=DEVNULL)
    assert receiver.listening_port() == 9000
    for _ in range(2):
        stranger = two_hosts.run(0, "nc", two_hosts.addresses[1], "9000", stdin=DEVNULL)
        stranger.wait()  # without -N nc keeps its side open and waits for the other's end: the receiver closed, asked nothing
        assert stranger.stdout == b""
    receiver.wait_line(rf"mysocket: .*{re.escape(two_hosts.addresses[0])}")
    refused = two_hosts.mysocket(0, "--peer", f"{two_hosts.addresses[1]}:9000", "--send-only", "-w", 2, stdin=b"let me in\n")
    refused.wait_status(3, 8)  # -w is short, and the 10 s of a handshake do not add to it
    assert re.search(r"--allow", refused.stderr_text), refused.report()
    assert re.search(UNDELIVERED, refused.stderr_text), refused.report()
    assert receiver.stdout == b""
    assert receiver.running()
    local = two_hosts.mysocket(1, "--peer", "127.0.0.1:9000", "--send-only", stdin=b"from loopback\n")
    local.wait_status(0)
    receiver.wait_status(0)
    assert receiver.stdout == b"from loopback\n"


def test_listen_only_takes_nobody_but_loopback_unless_told(two_hosts: TwoHosts) -> None:
    receiver = two_hosts.mysocket(1, "-p", 9000, "--recv-only", stdin=DEVNULL)
    receiver.listening_port()
    refused = two_hosts.mysocket(0, "--peer", f"{two_hosts.addresses[1]}:9000", "--send-only", "-w", 1, stdin=b"let me in\n")
    refused.wait_status(3, 8)  # -w is short, and the 10 s of a handshake do not add to it
    assert receiver.stdout == b""
    assert receiver.running()


def test_only_the_peers_address_may_connect(two_hosts: TwoHosts) -> None:
    two_hosts.on(0, "ip", "addr", "add", "10.98.0.77/24", "dev", "link0")
    receiver = two_hosts.mysocket(1, "-p", 9000, "--peer", f"{two_hosts.addresses[0]}:9000", "--recv-only", stdin=DEVNULL)
    receiver.listening_port()
    other = two_hosts.mysocket(
        0, "--bind", "10.98.0.77", "--peer", f"{two_hosts.addresses[1]}:9000", "--send-only", "-w", 1, stdin=b"from 77\n"
    )
    other.wait_status(3, 8)
    receiver.wait_line(r"mysocket: .*10\.98\.0\.77")
    right = two_hosts.mysocket(0, "--peer", f"{two_hosts.addresses[1]}:9000", "--send-only", stdin=b"from 1\n")
    right.wait_status(0)
    receiver.wait_status(0)
    assert receiver.stdout == b"from 1\n"


@pytest.mark.parametrize("how", ["limit", "interrupt"])
def test_a_lookup_that_hangs(two_hosts: TwoHosts, tmp_path: Path, how: str) -> None:
    """It listens all the same, and -w and Ctrl-C leave while the resolver still waits for its name server."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is missing (apt-get install util-linux)")
    resolver = tmp_path / "resolv.conf"
    resolver.write_text(f"nameserver {two_hosts.addresses[1]}\noptions timeout:10 attempts:3\n")
    two_hosts.mute(1, 53)
    inside = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    words = ["unshare", "-m", "sh", "-c", inside, str(resolver), *MYSOCKET, "-p", "0", "--peer", "somewhere.example:9000"]
    program = two_hosts.run(0, *words, *(["-w", "2"] if how == "limit" else []))
    program.listening_port()
    if how == "limit":
        program.wait_status(3, 4)
    else:
        program.kill(signal.SIGINT)
        program.wait_status(130, 2)
