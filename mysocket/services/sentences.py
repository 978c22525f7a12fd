"""What a session says of the messages and files it holds, when it begins and when it ends."""

from __future__ import annotations

from collections.abc import Iterator

from mysocket.link import Link
from mysocket.sending import messages_text
from mysocket.spool.disk import DiskSpool


def beginning(spool: DiskSpool, *, sends: bool) -> Iterator[str]:
    """What an earlier process has left."""
    if spool.news:
        yield spool.news
    waiting = spool.end - spool.retired
    if waiting and sends:
        yield f"{waiting} bytes wait in {spool.path} to be delivered"
    elif waiting:
        yield f"{waiting} bytes wait in {spool.path}; with --recv-only they are not sent"


def kept(spool: DiskSpool, size: int, messages: int | None) -> Iterator[str]:
    """What is not delivered, of ``size`` bytes, and stays on disk; and what could not be put there."""
    if size:
        yield (
            f"not delivered: {messages_text(messages, size)}, positions {spool.retired} to {spool.retired + size}; they are kept "
            f"in {spool.path}, and the next mysocket --spool {spool.path} sends them"
        )
    if spool.uncommitted:
        yield f"{spool.uncommitted} bytes were read and could not be kept in {spool.path}: give them again"


def lost(link: Link, *, input_ended: bool) -> Iterator[str]:
    """What is not delivered and goes with the process."""
    spool, size = link.sending.spool, link.sending.undelivered
    if size:
        rest = "" if input_ended else ", nor the input that was not read yet"
        yield (
            f"not delivered: {link.sending.undelivered_text()}, positions {spool.retired} to {spool.retired + size}{rest}; "
            "they were held in memory and are lost"
        )


def why_it_stays(link: Link, whom: str, spool: DiskSpool | None) -> str:
    """A person who has said EXIT wants to know why the program does not leave."""
    leave = "Ctrl-C twice leaves without" if spool is None else f"Ctrl-C leaves, and {spool.path} keeps them"
    return f"{link.sending.undelivered_text()} not delivered yet; waiting for {whom}. {leave}."


def full(where: str) -> str:
    """A disk has no room."""
    return f"the disk of {where} is full: what needs room waits; it goes on by itself when there is some"
