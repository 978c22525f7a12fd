"""Frames: what is called written is on the terminal, and nothing keeps a person from leaving."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.task import Clock

from mysocket.screen.frames import BATCH, Canvas, Frames


class Terminal:
    """A writer whose terminal takes a drawing when it is told to."""

    def __init__(self) -> None:
        self.taken = b""
        self._held: list[tuple[bytes, Callable[[], None]]] = []

    @property
    def idle(self) -> bool:
        return not self._held

    def write(self, data: bytes, done: Callable[[], None]) -> None:
        self._held.append((data, done))

    def take(self) -> None:
        """Take what is there."""
        held, self._held = self._held, []
        for data, done in held:
            self.taken += data
            done()


class Screen:
    """Frames without a prompt."""

    def __init__(self) -> None:
        self.clock, self.terminal, canvas = Clock(), Terminal(), Canvas()
        self.failures: list[BaseException] = []
        self.written: list[str] = []
        self.frames = Frames(
            self.clock,
            self.terminal,  # type: ignore[arg-type]
            canvas,
            erase=lambda: None,
            redraw=lambda: self.frames.push(),
            failed=self._failed,
        )
        self.frames.start()

    def _failed(self, problem: BaseException) -> None:
        self.frames.give_up()
        self.failures.append(problem)

    def receive(self, name: str, lines: Iterator[str]) -> None:
        """Show what a peer sent."""
        self.frames.show(lines, lambda: self.written.append(name))

    def run(self) -> bytes:
        """Draw, until there is nothing more to be drawn; what the terminal got."""
        for _ in range(100):
            self.clock.advance(0.1)
            self.terminal.take()
        return self.terminal.taken


def broken() -> Iterator[str]:
    yield "whole\n"
    raise RuntimeError("a line that cannot be made")


def test_what_is_shown_is_called_written_when_the_terminal_has_it() -> None:
    screen = Screen()
    screen.receive("first", iter(["one\n", "two\n"]))
    screen.clock.advance(0.1)
    assert screen.written == [], "the terminal has not taken it"
    assert screen.run() == b"one\r\ntwo\r\n"
    assert screen.written == ["first"]


def test_nothing_is_called_written_behind_what_could_not_be_shown() -> None:
    """To acknowledge what came later acknowledges all before it."""
    screen = Screen()
    screen.receive("first", iter(["first\n"]))
    screen.receive("broken", broken())
    screen.receive("later", iter(["later\n"]))
    screen.run()
    assert len(screen.failures) == 1
    screen.receive("much later", iter(["much later\n"]))
    screen.frames.show(["why it ends\n"])
    assert b"why it ends" in screen.run()
    screen.frames.stop()
    screen.frames.finish(lambda: None)
    assert b"later" not in screen.run()
    assert not {"broken", "later", "much later"} & set(screen.written)


def test_a_message_of_many_lines_is_drawn_in_many_drawings() -> None:
    screen = Screen()
    screen.receive("long", iter(["x" * 99 + "\n"] * 10_000))
    sizes = []
    while not screen.written:
        screen.clock.advance(0.1)
        before = len(screen.terminal.taken)
        screen.terminal.take()
        sizes.append(len(screen.terminal.taken) - before)
    assert max(sizes) < 2 * BATCH and screen.terminal.taken == (b"x" * 99 + b"\r\n") * 10_000


def test_a_flood_that_is_not_drawn_yet_does_not_keep_a_person_from_leaving() -> None:
    screen = Screen()
    screen.receive("flood", iter(["x" * 99 + "\n"] * 1_000_000))
    screen.receive("later", iter(["later\n"]))
    screen.frames.show(["not delivered: 1 message\n"])
    screen.frames.stop()
    gone: list[bool] = []
    screen.frames.finish(lambda: gone.append(True))
    taken = screen.run()
    assert gone and len(taken) < 2 * BATCH
    assert b"not delivered: 1 message\r\n" in taken and b"later" not in taken
    assert screen.written == []
