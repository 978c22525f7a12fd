"""The exact command to type on the other machine. Pure but for :func:`own_address`, which asks the kernel for a route."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Sequence

from mysocket.carriers.admission import plain_address
from mysocket.settings import Settings
from mysocket.values import bracketed, is_endpoint, split_host_port


def command(settings: Settings, ports: Sequence[int], address: str) -> str | None:
    """What makes the other side fit ours, or None: nobody can tell (endpoint strings).

    :param ports: the numbers that this side listens on; none if it only dials.
    :param address: this host, as the other machine can reach it.
    """
    peer, port = settings.peer, ports[0] if ports else None
    if peer is not None and is_endpoint(peer) or settings.port is not None and port is None:
        return None
    extra = " --udp" if settings.udp else " --raw" if settings.raw else ""
    if peer is None:
        return f"mysocket{extra} --peer {shlex.quote(_host_port(address, port))}" if port is not None else None
    theirs = split_host_port(peer)[1]
    if port is None:
        # Who only listens lets this machine's own processes in anyway. --allow takes no names.
        if address == "localhost":
            return f"mysocket{extra} -p {theirs}"
        return f"mysocket{extra} -p {theirs} --allow {shlex.quote(address)}" if plain_address(address) is not None else None
    return f"mysocket{extra} {theirs} {shlex.quote(address)} {port}"


def _host_port(host: str, port: int | None) -> str:
    return f"{bracketed(host)}:{port}"


def own_address(peer_host: str | None) -> str:
    """This host, as the peer can reach it: the address of the interface that leads there, or the host's name.

    No packet is sent, and no name is looked up.
    """
    if peer_host == "localhost":
        return "localhost"
    address = plain_address(peer_host) if peer_host is not None else None
    if address is None:
        return socket.gethostname()
    if address.is_loopback:
        return "localhost"
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            found: str = probe.getsockname()[0]
            return found
    except OSError:
        return socket.gethostname()
