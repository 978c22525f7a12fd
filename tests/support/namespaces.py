"""Two machines on one: network namespaces joined by a veth pair, and the faults that can be made between them.

Everything is made by name and deleted by that exact name, also when a test fails half-way. It needs root, iproute2
(`ip`, `ss`, `tc`), nftables and nsenter; the fixture skips with a reason where one of them is missing.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import MYSOCKET, PIPE, Program, acquaint, wait_until

TOOLS = ("ip", "ss", "nft", "nsenter")
LINK = "link0"  # the name of the veth end in both namespaces

# Every segment on the wire but the first of a connection and the last: what an established connection sends.
_RESET_TABLE = f"""
table inet mys_reset {{
    chain in {{
        type filter hook input priority 0;
        meta iifname "{LINK}" tcp flags & (syn | rst) == 0 counter reject with tcp reset
    }}
}}
"""
_LOSS_TABLE = """
table inet mys_loss {{
    chain in {{
        type filter hook input priority 0;
        meta iifname "{link}" numgen random mod 100 < {percent} counter drop
    }}
}}
"""
_MUTE_TABLE = """
table inet mys_mute {{
    chain in {{
        type filter hook input priority 0;
        udp dport {port} drop
    }}
}}
"""


class TwoHosts:
    """Two hosts, numbered 0 and 1, on one wire. Their addresses are the same in every test: the namespaces are new."""

    addresses = ("10.98.0.1", "10.98.0.2")
    addresses6 = ("fd00::1", "fd00::2")

    def __init__(self) -> None:
        self.names = tuple(f"mys{os.getpid()}-{secrets.token_hex(4)}-{host}" for host in (0, 1))
        self._programs: list[Program] = []
        try:
            for name in self.names:
                _call("ip", "netns", "add", name)
            _call("ip", "link", "add", LINK, "netns", self.names[0], "type", "veth", "peer", "name", LINK, "netns", self.names[1])
            for host in (0, 1):
                self._ip(host, "link", "set", "lo", "up")
                self._ip(host, "addr", "add", f"{self.addresses[host]}/24", "dev", LINK)
                self._ip(host, "link", "set", LINK, "up")
                self._add_address6(host)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill what was started here and delete both namespaces. May be called twice."""
        for program in self._programs:
            with contextlib.suppress(Exception):
                program.close()
        for name in self.names:
            if Path("/run/netns", name).exists():
                subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    # Programs

    def run(
        self,
        host: int,
        *argv: str | int | Path,
        stdin: bytes | Path | int = PIPE,
        stdout: Path | int = PIPE,
    ) -> Program:
        """Start a program on this host; it is killed at the end of the test at the latest."""
        program = Program([str(word) for word in argv], stdin=stdin, stdout=stdout, netns=self.names[host])
        self._programs.append(program)
        acquaint(*self._programs)
        return program

    def mysocket(
        self, host: int, *args: str | int | Path, stdin: bytes | Path | int = PIPE, stdout: Path | int = PIPE
    ) -> Program:
        """Start MySocket on this host."""
        return self.run(host, *MYSOCKET, *args, stdin=stdin, stdout=stdout)

    # Faults

    def reset_connections(self, timeout: float = 5.0) -> int:
        """Answer established connections with a TCP reset, on both hosts, until at least one segment was; how many were.

        The host that sent the segment sees a reset; the other may be left with a half-open connection, as when a NAT box forgets.
        0 means that nothing was sent within `timeout` seconds, so that nothing was reset.
        """
        for host in (0, 1):
            self._nft(host, _RESET_TABLE)
        try:
            wait_until(lambda: self._rejected() > 0, "nothing was reset", timeout)
        except AssertionError:
            return 0
        finally:
            count = self._rejected()
            for host in (0, 1):
                self._nft(host, "delete table inet mys_reset")
        return count

    def kill_sockets(self) -> int:
        """Destroy the established TCP sockets of host 0 with `ss -K`; how many the kernel did destroy (0: none, or it cannot)."""
        killed = self.on(0, "ss", "-H", "-K", "-t", "-n", "state", "established")
        return len([line for line in (killed or "").splitlines() if line.strip()])

    def pull(self, host: int = 1) -> None:
        """Pull the cable at this host: no packet passes, and the other host merely has no carrier."""
        self._ip(host, "link", "set", LINK, "down")

    def plug(self) -> None:
        """Put the cable back, wherever it was pulled; the IPv6 addresses, which the kernel forgets meanwhile, are set again."""
        for host in (0, 1):
            self._ip(host, "link", "set", LINK, "up")
            self._add_address6(host)

    def loss(self, percent: int) -> None:
        """Drop this part of the packets that arrive at each host, chosen at random, until `clear`."""
        self._drop_table("mys_loss")
        for host in (0, 1):
            self._nft(host, _LOSS_TABLE.format(link=LINK, percent=percent))

    def mute(self, host: int, port: int) -> None:
        """Let this host swallow what is sent to this UDP port, without an ICMP error: who asks there waits."""
        self._nft(host, _MUTE_TABLE.format(port=port))

    def slow(self, megabits: int) -> None:
        """Limit the wire to this rate each way by a token bucket, so that a fault falls into the middle of a transfer."""
        for host in (0, 1):
            shaped = self.on(
                host, *f"tc qdisc replace dev {LINK} root tbf rate {megabits}mbit burst 128kb latency 100ms".split(), check=False
            )
            if shaped is None:
                pytest.skip("the kernel has no tbf queue, or tc is missing: the wire cannot be slowed")

    def clear(self) -> None:
        """Take back every fault; the rate limit stays."""
        for table in ("mys_loss", "mys_reset", "mys_mute"):
            self._drop_table(table)
        self.plug()

    # The machinery

    def on(self, host: int, *argv: str, check: bool = True, stdin: str | None = None) -> str | None:
        """Run a short command on this host and return its stdout; None if it failed and `check` is false."""
        try:
            return _call("nsenter", f"--net=/run/netns/{self.names[host]}", "--", *argv, stdin=stdin)
        except (AssertionError, FileNotFoundError):
            if check:
                raise
            return None

    def _ip(self, host: int, *words: str) -> None:
        _call("ip", "-n", self.names[host], *words)

    def _add_address6(self, host: int) -> None:
        # Without IPv6 in the kernel the IPv4 tests still run. nodad: usable at once.
        with contextlib.suppress(AssertionError):
            self._ip(host, "addr", "replace", f"{self.addresses6[host]}/64", "dev", LINK, "nodad")

    def _nft(self, host: int, script: str) -> None:
        self.on(host, "nft", "-f", "-", stdin=script)

    def _drop_table(self, table: str) -> None:
        for host in (0, 1):
            self.on(host, "nft", "delete", "table", "inet", table, check=False)

    def _rejected(self) -> int:
        total = 0
        for host in (0, 1):
            text = self.on(host, "nft", "list", "table", "inet", "mys_reset", check=False) or ""
            total += sum(map(int, re.findall(r"counter packets (\d+)", text)))
        return total


def missing() -> str | None:
    """Why two hosts cannot be made here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"missing: {', '.join(absent)} (apt-get install iproute2 nftables util-linux)"
    return None


@pytest.fixture
def two_hosts() -> Iterator[TwoHosts]:
    """Two hosts on one wire, gone after the test."""
    if reason := missing():
        pytest.skip(reason)
    try:
        hosts = TwoHosts()
    except AssertionError as error:
        pytest.skip(f"the kernel gives no network namespaces or veth: {error}")
    try:
        yield hosts
    finally:
        hosts.close()


def _call(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, input=stdin or "", timeout=30)
    assert done.returncode == 0, f"{' '.join(argv)}: status {done.returncode}: {done.stderr.strip()}"
    return done.stdout
