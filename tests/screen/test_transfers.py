"""The lines of files that come and go: as many as a screen has room for, and as long, whatever a peer says."""

from __future__ import annotations

from collections.abc import Callable

from mysocket.ends.downloads import Download
from mysocket.screen.bar import CELLS, Bar
from mysocket.screen.transfers import LISTED, Transfers


class FakeUpload:
    def __init__(self, under_way: list[FakeUpload], number: int, size: int = 1000) -> None:
        self._under_way = under_way
        self.id = number.to_bytes(16)
        self.name = f"f{number}"
        self.size = size
        self.acknowledged = 0
        self.delivered = self.given_up = False
        self.on_change: Callable[[], None] = lambda: None

    def cancel(self) -> None:
        self.given_up = True
        self._under_way.remove(self)
        self.on_change()


class FakeUploads:
    def __init__(self) -> None:
        self.under_way: list[FakeUpload] = []

    def send(self, path: str) -> FakeUpload:
        self.under_way.append(FakeUpload(self.under_way, len(self.under_way)))
        return self.under_way[-1]


def test_a_peer_that_sends_more_than_it_said_does_not_break_the_bar() -> None:
    bar = Bar("↓", "name", 1, 0, 0.0)
    line = bar.line(1 << 40, 1.0, 79)
    assert len(line) < 80 and line.count("█") == CELLS and " 100 % of 1 byte" in line and "left" not in line


def test_sizes_that_no_file_has() -> None:
    bar = Bar("↓", "name", (1 << 64) - 1, 0, 0.0)
    assert "  0 %" in bar.line(1, 10.0, 200) and len(bar.line(1, 10.0, 79)) < 80
    assert "100 %" in Bar("↓", "name", 0, 0, 0.0).line(0, 0.0, 79)


def test_many_files_leave_room_for_the_prompt() -> None:
    uploads = FakeUploads()
    transfers = Transfers(lambda: 0.0, lambda text: None, lambda: None)
    transfers.uploads = uploads
    for number in range(300):
        transfers.send(f"{number}")
    transfers.downloads = lambda: [Download(number.to_bytes(16, "little"), "hosta", f"d{number}", 10) for number in range(1000)]
    lines = transfers.lines(79)
    assert len(lines) == 2 * LISTED + 2, "some of each, and how many more there are"
    assert "f0" in lines[0] and lines[LISTED] == f"↑ and {300 - LISTED} more"
    assert "d0" in lines[LISTED + 1] and lines[-1] == f"↓ and {1000 - LISTED} more"
    assert len(transfers.lines(20)[-1]) <= 20


def test_what_is_over_has_no_line() -> None:
    uploads, arrived = FakeUploads(), list[str]()
    transfers = Transfers(lambda: 0.0, arrived.append, lambda: None)
    transfers.uploads = uploads
    for number in range(3):
        transfers.send(f"{number}")
    one, two, three = uploads.under_way
    assert transfers.cancel() == "f0" and len(transfers.lines(79)) == 2
    uploads.under_way.clear()
    two.delivered = True
    two.on_change()
    assert arrived == ["f1 (1.0 kB)"] and ["f2" in line for line in transfers.lines(79)] == [True] and three.name == "f2"
    assert one.given_up
