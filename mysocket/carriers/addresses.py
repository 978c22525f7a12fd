"""Addresses, as people read them."""

from __future__ import annotations

import os

from twisted.internet.address import IPv4Address, IPv6Address

from mysocket.carriers.admission import plain_address
from mysocket.carriers.stream import StreamProtocol


def peer_text(carrier: StreamProtocol) -> str:
    """The address of the other end of a connection."""
    return address_text(carrier.connected_to)


def host_of(carrier: StreamProtocol) -> str | None:
    """The address text of the other end, or None for a Unix socket."""
    host = getattr(carrier.connected_to, "host", None)
    return host if isinstance(host, str) else None


def local_text(carrier: StreamProtocol) -> str:
    """This end of a connection, without the port."""
    host = getattr(carrier.connected_from, "host", None)
    return _plain(host) if isinstance(host, str) else address_text(carrier.connected_from)


def address_text(address: object) -> str:
    """An address for people."""
    if isinstance(address, IPv4Address | IPv6Address):
        return host_port_text(address.host, address.port)
    name = getattr(address, "name", None)
    if isinstance(name, bytes):
        return f"unix:{ascii(os.fsdecode(name))[1:-1]}" if name else "a Unix socket"
    return "the peer"


def host_port_text(host: str, port: int) -> str:
    """Host and port; an IPv4 address that came through an IPv6 socket reads as what it is."""
    text = _plain(host)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def _plain(host: str) -> str:
    return str(plain_address(host) or host)
