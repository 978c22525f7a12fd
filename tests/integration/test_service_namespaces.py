"""Two services on two machines: network namespaces on one wire, which is pulled."""

from __future__ import annotations

import time

from tests.support.namespaces import TwoHosts, two_hosts
from tests.support.processes import Program, wait_until
from tests.support.service import Service, Yard, yard

__all__ = ["two_hosts", "yard"]  # the fixtures, used by their names below

PORT = 9000


def service(yard: Yard, hosts: TwoHosts, host: int) -> Service:
    """The service of this host."""
    peer = f"{hosts.addresses[1 - host]}:{PORT}"
    return yard.service("--port", PORT, "--peer", peer, "--spool", "SPOOL", name=f"host{host}", netns=hosts.names[host])


def on(yard: Yard, hosts: TwoHosts, service: Service, verb: str, *words: str) -> Program:
    """A command on the host of a service."""
    assert service.netns is not None
    return yard.mysocket(verb, "--spool", str(service.spool), *words, netns=service.netns)


def test_two_machines_and_a_wire(two_hosts: TwoHosts, yard: Yard) -> None:
    here = service(yard, two_hosts, 0)
    # Nobody is there yet: refused.
    on(yard, two_hosts, here, "send", "before").wait_status(0)
    wait_until(lambda: here.status()["dial"]["error"], "no error is known")
    refused = on(yard, two_hosts, here, "status")
    refused.wait_status(1)
    assert refused.stdout.startswith(b"not linked ") and b"refused" in refused.stdout, refused.stdout
    assert here.status()["out"]["waiting_messages"] == 1

    there = service(yard, two_hosts, 1)
    here.wait_status(linked=True)
    shown = on(yard, two_hosts, there, "attach", "--recv-only")
    on(yard, two_hosts, here, "send", "--delivered", "hello").wait_status(0)
    shown.wait_output(b"before\nhello\n")
    linked = on(yard, two_hosts, here, "status")
    linked.wait_status(0)
    assert linked.stdout.startswith(b"linked ") and two_hosts.addresses[1].encode() in linked.stdout

    two_hosts.pull()
    on(yard, two_hosts, here, "send", "behind", "the", "cut").wait_status(0)
    late = on(yard, two_hosts, here, "send", "--delivered", "-w", "0.5", "late")
    late.wait_status(3)
    assert here.status()["out"]["waiting_messages"] == 2
    # It is noticed when the peer has been silent for too long; this looks at what is said until then, and then.
    state = here.status()
    if state["linked"]:
        assert state["peers"][0]["heard"] > 0
    two_hosts.plug()
    shown.wait_output(b"late\n", 60)
    assert shown.stdout == b"before\nhello\nbehind the cut\nlate\n"
    here.wait_status(linked=True)
    wait_until(lambda: here.status()["out"]["waiting_bytes"] == 0, "not all is acknowledged")


def test_a_wire_that_is_cut_is_known_to_status(two_hosts: TwoHosts, yard: Yard) -> None:
    here, there = service(yard, two_hosts, 0), service(yard, two_hosts, 1)
    here.wait_status(linked=True)
    there.wait_status(linked=True)
    two_hosts.pull(0)
    began = time.time()
    # The peer is killed meanwhile, so nothing will answer again; its host resets what comes when the wire is back.
    there.kill()
    two_hosts.plug()
    state = here.wait_status(linked=False)
    assert began - 1 <= state["peers"][0]["away_since"] <= time.time() and state["peers"][0]["since"] is None
    cut = on(yard, two_hosts, here, "status")
    cut.wait_status(1)
    assert cut.stdout.startswith(b"not linked ")
    there.start()
    here.wait_status(linked=True)
