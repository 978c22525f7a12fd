"""MySocket: netcat for messages that must arrive. The names here are the public ones; docs/api.md describes them.

Importing ``mysocket`` imports nothing else (PEP 562): the command's fast paths must not pay for Twisted.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mysocket._version import __version__

if TYPE_CHECKING:
    from mysocket.api import Listener, connect, listen
    from mysocket.carriers.datagram import RawDatagramProtocol
    from mysocket.carriers.raw import RawFactory, RawProtocol
    from mysocket.carriers.stream import StreamFactory, StreamProtocol
    from mysocket.core.batch import Message
    from mysocket.core.session import Session
    from mysocket.errors import MySocketError
    from mysocket.peer import Peer

_PLACES = {
    "Listener": "mysocket.api",
    "Message": "mysocket.core.batch",
    "MySocketError": "mysocket.errors",
    "Peer": "mysocket.peer",
    "RawDatagramProtocol": "mysocket.carriers.datagram",
    "RawFactory": "mysocket.carriers.raw",
    "RawProtocol": "mysocket.carriers.raw",
    "Session": "mysocket.core.session",
    "StreamFactory": "mysocket.carriers.stream",
    "StreamProtocol": "mysocket.carriers.stream",
    "connect": "mysocket.api",
    "listen": "mysocket.api",
}

__all__ = [
    "Listener",
    "Message",
    "MySocketError",
    "Peer",
    "RawDatagramProtocol",
    "RawFactory",
    "RawProtocol",
    "Session",
    "StreamFactory",
    "StreamProtocol",
    "__version__",
    "connect",
    "listen",
]


def __getattr__(name: str) -> object:
    try:
        place = _PLACES[name]
    except KeyError:
        raise AttributeError(f"module 'mysocket' has no attribute {name!r}") from None
    return getattr(import_module(place), name)
