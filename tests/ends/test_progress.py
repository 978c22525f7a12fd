"""The line that says how much is delivered."""

from __future__ import annotations

from twisted.internet.task import Clock

from mysocket.ends.progress import ProgressDisplay, ProgressLine, size_text


def test_the_line_is_drawn_again_and_leaves_nothing_behind() -> None:
    clock, written = Clock(), []
    delivered = [0]
    progress = ProgressDisplay(clock, ProgressLine(written.append), lambda: delivered[0], 2_000_000)
    delivered[0] = 1_000_000
    clock.advance(0.5)
    assert written == ["\r\x1b[K1.0 MB of 2.0 MB (50 %) delivered, 2.0 MB/s"]
    clock.advance(0.5)
    progress.stop()
    assert len(written) == 3 and written[-1] == "\r\x1b[K" and not clock.getDelayedCalls()


def test_a_pipe_has_no_total() -> None:
    clock = Clock()
    progress = ProgressDisplay(clock, ProgressLine(lambda text: None), lambda: 1500, None)
    clock.advance(1)
    assert progress.text() == "1.5 kB delivered, 1.5 kB/s"
    progress.stop()


def test_a_line_that_was_not_shown_needs_no_clearing() -> None:
    written: list[str] = []
    ProgressLine(written.append).clear()
    assert written == []


def test_sizes() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 2_500_000, 10**9)] == ["0 bytes", "999 bytes", "1.0 kB", "2.5 MB", "1.0 GB"]
