"""Inputs of numbered messages, and what became of them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

#: An input has up to so many bytes.
INPUTS: Final = (0, 100, 10_000, 1_000_000, 1_000_000, 4_000_000, 10_000_000, 30_000_000)
#: From how many to how many bytes a line has besides its number (None: it is empty) -> how often, of 100.
LINES: Final = {None: 8, (0, 20): 30, (20, 200): 40, (200, 5_000): 20, (5_000, 100_000): 2}
#: The same for a line that is longer than a batch; some inputs end in one.
LONG: Final = (260_000, 600_000)

Line = tuple[bytes, int]


@dataclass
class Count:
    """Messages."""

    sent: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0

    def add(self, other: Count) -> None:
        """Count these too."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def wrong(self) -> bool:
        """Something became of a message that must not."""
        return bool(self.lost or self.duplicated or self.reordered)


def make_input(choose: random.Random, first: int) -> bytes:
    """A random input of lines, numbered from `first` on. The last may lack its end."""
    wanted = choose.randint(0, choose.choice(INPUTS))
    kinds = list(LINES)
    lines: list[bytes] = []
    total = 0
    while total < wanted:
        kind = choose.choices(kinds, list(LINES.values()))[0]
        lines.append(b"" if kind is None else b"%d %s" % (first + len(lines), b"x" * choose.randint(*kind)))
        total += len(lines[-1]) + 1
    if lines and choose.random() < 0.3:
        lines.append(b"%d %s" % (first + len(lines), b"y" * choose.randint(*LONG)))
    end = b"" if choose.random() < 0.1 else b"\n"
    return b"\n".join(lines) + (end if lines else b"")


def compare(wanted: bytes, found: bytes) -> Count:
    """What became of the lines of an input."""
    sent = _lines(wanted)
    if wanted == found:
        return Count(len(sent), len(sent))
    return _judge(_named(sent), _named(_lines(found)))


def _judge(sent: list[Line], found: list[Line]) -> Count:
    places = {line: place for place, line in enumerate(sent)}
    seen: set[Line] = set()
    duplicated = reordered = 0
    latest = -1
    for line in found:
        place = places.get(line)
        if place is None or line in seen:
            duplicated += 1  # or torn: a piece of a line that comes as a whole too
            continue
        seen.add(line)
        reordered += place < latest
        latest = max(latest, place)
    lost = len(sent) - len(seen)
    # The bytes differ, so something is wrong, even if it is only the end of the last line.
    return Count(len(sent), len(found), lost or int(not duplicated and not reordered), duplicated, reordered)


def _lines(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _named(lines: Iterable[bytes]) -> list[Line]:
    """Each line, and the how manieth empty one it is behind a numbered one: so all are different."""
    named: list[Line] = []
    numbered, empty = b"", 0
    for line in lines:
        numbered, empty = (line, 0) if line else (numbered, empty + 1)
        named.append((numbered, empty))
    return named
