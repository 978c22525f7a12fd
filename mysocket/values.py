"""What may stand behind an option: text -> value, or ValueError (UsageError) with the sentence that the user reads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mysocket.errors import UsageError

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

#: The least that a spool may hold, in bytes.
LEAST_SPOOL = 1024**2
# Prefixes of Twisted's own endpoint strings, and of Tor's.
_ENDPOINTS = frozenset({"tcp", "tcp6", "ssl", "tls", "unix", "haproxy", "systemd", "onion", "tor"})


def parse_size(text: str) -> int:
    """Bytes, at least 1: ``64k``, ``1M``, ``2G`` (powers of 1024), or a bare number."""
    match = re.fullmatch(r"([0-9]{1,15})([kKmMgG]?)", text)
    size = int(match[1]) * 1024 ** " kmg".index(match[2].lower() or " ") if match else 0
    if size < 1:
        raise ValueError(f"{text!r} is not a size; write a number of bytes from 1, or 64k, 1M, 2G")
    return size


def parse_duration(text: str, *, zero: bool = False) -> float:
    """Seconds, more than 0 unless `zero` allows it: ``500ms``, ``5s``, ``2m``, ``1h``, or a bare number of seconds."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|)", text)
    seconds = float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "": 1}[match[2]] if match else -1.0
    if seconds < 0 or (seconds == 0 and not zero):
        raise ValueError(
            f"{text!r} is not a length of time{'' if zero else ' above 0'}; write 500ms, 5s, 2m, 1h, or plain seconds"
        )
    return seconds


def parse_linger(text: str) -> float:
    """Seconds, 0 or more."""
    return parse_duration(text, zero=True)


def parse_address(text: str) -> str:
    """An IP address of this machine."""
    from ipaddress import ip_address  # what a short command does not need, it does not import

    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address; write one of this machine's, as 192.0.2.7 or 2001:db8::7") from None


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """A range of addresses, or one."""
    from ipaddress import ip_network

    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a range of addresses; write 10.0.0.0/8, 2001:db8::/32, or a single address") from None


def parse_spool_size(text: str) -> int:
    """Bytes, not too few."""
    size = parse_size(text)
    if size < LEAST_SPOOL:
        raise ValueError(f"{text!r} is too small; a spool has at least 1M")
    return size


def parse_file_name(text: str) -> str:
    """The name of a file or directory."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not a file name")
    return text


def parse_control_port(text: str) -> int | str:
    """What the ``--port`` of a service says: a number, or an endpoint string. Where that names a number, the service is known by
    it."""
    if not text:
        raise ValueError("it is empty; write what the --port of the service says")
    if named := re.fullmatch(r"tcp6?:(?:port=)?([0-9]+)(?::.*)?", text, re.DOTALL):
        text = named[1]
    return port_number(text, lowest=1) if text.isdecimal() and text.isascii() else text


def parse_metrics(text: str) -> tuple[str, int]:
    """``PORT`` or ``ADDR:PORT``: the address, or nothing (loopback), and the port (0: any)."""
    host, _, port = text.rpartition(":")
    if host:
        host = parse_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    return host, port_number(port, lowest=0)


def parse_consumer(text: str) -> str:
    """The name of a consumer."""
    from mysocket.control.protocol import check_name

    return check_name(text)


def parse_position(text: str) -> int:
    """A position in the inbox."""
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63:
        raise ValueError(f"{text!r} is not a position; write the number that attach --json calls position")
    return int(text)


class one_of:
    """Reads one of so many words, which the completions of the shells offer."""

    def __init__(self, *known: str) -> None:
        self.known = known

    def __call__(self, text: str) -> str:
        if text not in self.known:
            raise ValueError(f"{text!r} is unknown; write {' or '.join(self.known)}")
        return text


def is_endpoint(text: str, *, listening: bool = False) -> bool:
    """Whether `text` is a Twisted endpoint string: to be dialled, or, with `listening`, to be listened on.

    ``name:number`` is a host and its port where something is dialled, whatever the name: ``tcp:9000`` is an endpoint only to
    listen on.
    """
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9_]*):(.+)", text, re.DOTALL)
    if match is None:
        return False
    known = match[1] in _ENDPOINTS
    if re.fullmatch("[0-9]+", match[2]):
        return known and listening
    return known or listening or "=" in match[2]


def split_host_port(text: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` as the host, without brackets, and the port, 1 to 65535."""
    match = re.fullmatch(r"(?:\[([^][]*)\]|([^][]*)):([^:]*)", text, re.DOTALL)
    if match is None:
        raise UsageError(f"{text!r} is not HOST:PORT; an IPv6 address is written in brackets, as [2001:db8::7]:9000")
    address, name, port = match.groups()
    if not (address or name):
        raise UsageError(f"{text!r} names no host; write HOST:PORT")
    if address is not None and not _is_ipv6(address):
        raise UsageError(f"{address!r} is not an IPv6 address; only those are written in brackets")
    if name is not None and not re.fullmatch(r"[^\s:/]+", name):
        raise UsageError(f"{text!r} is not HOST:PORT; an IPv6 address is written in brackets, as [2001:db8::7]:9000")
    return address or name, port_number(port, lowest=1)


def _is_ipv6(text: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(text).version == 6
    except ValueError:
        return False


def port_number(text: str, lowest: int) -> int:
    """A port."""
    if not re.fullmatch("[0-9]+", text):
        raise UsageError(f"port {text!r} is not a number from {lowest} to 65535")
    number = int(text) if len(text) < 10 else 65536
    if not lowest <= number <= 65535:
        raise UsageError(f"port {text} is out of range: {lowest} to 65535")
    return number


def bracketed(host: str) -> str:
    """A host as it stands before a port."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
