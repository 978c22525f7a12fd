"""Many senders in one process; bench/senders.py says what they hear on stdin and say on stdout."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

import mysocket

#: Handshakes at a time; a node takes at most 8 unfinished ones from one address.
TOGETHER = 6
LINE = b"x" * 99


async def main(reactor: Any, port: str, count: str, lines: str) -> None:
    """Link, wait for the word, send, end."""
    peers: list[mysocket.Peer] = []
    while len(peers) < int(count):
        group = min(TOGETHER, int(count) - len(peers))
        peers += await gatherResults([mysocket.connect(reactor, f"127.0.0.1:{port}", name="sender") for _ in range(group)])
    print("linked", flush=True)
    await deferToThread(sys.stdin.readline)
    sent = []
    for _ in range(int(lines)):
        # In turn: each line of each sender travels by itself.
        sent = [peer.send(LINE) for peer in peers]
        await DeferredList([sent[0]])
    await gatherResults(sent)
    await deferToThread(sys.stdin.readline)
    await gatherResults([peer.finish() for peer in peers])
    await gatherResults([peer.close() for peer in peers])


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
