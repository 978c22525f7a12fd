"""What ``--input`` and ``--output`` name: stdin or stdout, a file, an endpoint of Twisted, datagrams."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from mysocket.values import bracketed, is_endpoint, parse_file_name, port_number, split_host_port

#: The name of stdin, for --input, and of stdout, for --output.
STANDARD = "-"
# HOST:PORT alone: a slip of the pen, not the name of a file.
_HOST_PORT = r"(?:\[([0-9A-Fa-f:.]+)\]|([^/:]+)):([0-9]+)"
# Twisted's words for what is wrong with these are Python's. What names its arguments (port=9000) is left to it.
_TCP_SERVER = r"tcp6?:(?:[0-9]+(?::.*)?|.*=.*)"
_TCP_CLIENT = r"tcp:(?:(?:[^:\\]|\\.)+:[0-9]+(?::.*)?|.*=.*)"


class Place(Enum):
    """What kind of place it is."""

    STANDARD = "standard"
    FILE = "file"
    #: A file that grows, and is rotated.
    FOLLOW = "follow"
    #: Connections: to an input they are taken, an output makes one.
    ENDPOINT = "endpoint"
    UDP = "udp"


class Spec(NamedTuple):
    """One place. ``target`` is what stands behind the kind: a path, an endpoint string, a port, or ``host:port``."""

    place: Place
    target: str
    text: str

    @property
    def names_its_address(self) -> bool:
        """Does the endpoint string say on which address it listens, or need none?"""
        return not self.target.startswith(("tcp:", "tcp6:", "ssl:")) or ":interface=" in self.target

    def __str__(self) -> str:
        """As the user calls it, for people: a file of options may hold anything."""
        from mysocket.ends.escape import plain

        return plain(self.text)


def parse_input(text: str) -> Spec:
    """``-``, a file, ``follow:FILE``, a Twisted server endpoint string, ``udp:PORT`` or ``udp:systemd:…``."""
    if text == STANDARD:
        return Spec(Place.STANDARD, "", text)
    kind, _, rest = text.partition(":")
    if text in ("follow:", "udp:"):
        return _file(text)
    if kind == "follow":
        return Spec(Place.FOLLOW, parse_file_name(rest), text)
    if kind == "udp":
        if rest.startswith("systemd:"):
            return Spec(Place.UDP, rest, text)
        if ":" in rest:
            raise ValueError(f"{text!r}: write udp:PORT; the address to listen on is given with --bind ADDR")
        return Spec(Place.UDP, str(port_number(rest, lowest=0)), text)
    if kind in ("tcp", "tcp6") and rest and not re.fullmatch(_TCP_SERVER, text, re.DOTALL):
        raise ValueError(f"{text!r}: write {kind}:PORT; the address to listen on is {kind}:PORT:interface=ADDR")
    if is_endpoint(text, listening=True):
        return Spec(Place.ENDPOINT, text, text)
    if slip := re.fullmatch(_HOST_PORT, text):
        port = slip[3]
        raise ValueError(f"{text!r}: an input listens on this machine: write tcp:{port} or udp:{port}, or ./{text} for a file")
    return _file(text)


def parse_output(text: str) -> Spec:
    """``-``, a file, a Twisted client endpoint string, or ``udp:HOST:PORT``."""
    if text == STANDARD:
        return Spec(Place.STANDARD, "", text)
    if text.startswith("udp:"):
        host, port = split_host_port(text.removeprefix("udp:"))
        return Spec(Place.UDP, f"{bracketed(host)}:{port}", text)
    if text.startswith("follow:"):
        raise ValueError(f"{text!r}: only an input is followed; write {text.removeprefix('follow:')!r} to append to that file")
    if text.startswith("tcp:") and text != "tcp:" and not re.fullmatch(_TCP_CLIENT, text, re.DOTALL):
        raise ValueError(rf"{text!r}: write tcp:HOST:PORT (an IPv6 address with \: for each colon), or ./{text} for a file")
    if is_endpoint(text):
        return Spec(Place.ENDPOINT, text, text)
    if slip := re.fullmatch(_HOST_PORT, text):
        host = slip[2] or slip[1].replace(":", r"\:")
        raise ValueError(f"{text!r}: write tcp:{host}:{slip[3]} to connect there, or ./{text} for a file of that name")
    return _file(text)


def _file(text: str) -> Spec:
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*:", text):
        raise ValueError(f"nothing stands behind {text!r}; a file of that name is written ./{text}")
    return Spec(Place.FILE, parse_file_name(text), text)
