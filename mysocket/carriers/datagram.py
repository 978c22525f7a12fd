"""Plain datagrams: one message each way per datagram, as nc and socat speak them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import DatagramProtocol

#: The largest payload of a UDP datagram over IPv4 (RFC 768: 65,535 less both headers).
MAX_DATAGRAM = 65_507
#: What is read at once; Twisted's default of 8192 cuts longer datagrams without a word.
READ_SIZE = 65_536

Address = tuple[str, int]


class RawDatagramProtocol(DatagramProtocol):
    """One UDP socket, never connected: datagrams from any address come here, and the owner judges them.

    :param received: called with each datagram and the address (host, port) it came from.
    """

    def __init__(self, received: Callable[[bytes, Address], None]) -> None:
        self._received = received

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self._received(datagram, (addr[0], addr[1]))

    def send(self, datagram: bytes, address: Address) -> bool:
        """Send one datagram; False if the socket takes none now, and it should be tried again soon.

        :raises OSError: the network refuses it (no route, not permitted, ...).
        """
        transport: Any = self.transport
        try:
            transport.write(datagram, address)
        except BlockingIOError:
            return False
        except OSError as problem:
            if problem.errno in (errno.EAGAIN, errno.ENOBUFS):
                return False
            raise
        return True

    def takes(self, host: str) -> bool:
        """Can this socket send to the address ``host``, as it is written?"""
        transport: Any = self.transport
        six: bool = transport.addressFamily == socket.AF_INET6
        return six == (":" in host)
