"""The prompt: the line that is typed, the status below it, and lines that appear above. The one room that knows prompt_toolkit.

Rules

1. Nothing here ever waits for the terminal. What is drawn goes to a :class:`~mysocket.ends.descriptors.Writer`, whole drawings at
   a time; what it has not taken yet holds back further lines from above, and with them the peer.
2. Lines from above come in batches, each drawn once with the prompt below it: FRAMES a second, or as many as the terminal takes
   while more of them wait. They are made when they are drawn. So a flood costs a drawing per batch and not per line, and a key is
   never behind more than one of them.
3. Names of prompt_toolkit that begin with an underscore are not used.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import sys
import termios
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, TextIO, TypeVar, cast
from typing import Protocol as Interface

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import BufferControl, ConditionalContainer, Dimension, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.layout.screen import Char
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style
from prompt_toolkit.widgets import CompletionsToolbar, SearchToolbar
from twisted.internet.interfaces import IDelayedCall
from wcwidth import grapheme_boundary_before, iter_graphemes

from mysocket.ends.descriptors import Writer
from mysocket.ends.escape import one_line
from mysocket.screen.commands import complete

STDIN = 0
PROMPT = "> "
#: Drawings a second but for what is typed, while lines from above do not pile up; and characters in one of them, about.
FRAMES = 30
BATCH = 64 * 1024
#: Seconds that the end waits for a terminal that takes nothing.
PATIENCE = 1.0
#: Seconds between two drawings of the status line.
TICK = 1.0

STYLE = Style.from_dict({
    "dim": "ansibrightblack",
    "good": "ansigreen",
    "bad": "ansiyellow",
    "prompt": "bold",
})  # fmt: skip
PLAIN_STYLE = Style.from_dict({"dim": "", "good": "", "bad": "bold", "prompt": "bold"})

#: Format characters (Unicode 16, category Cf, but ZWNJ and ZWJ) and separators: what is pasted may hold them, and a terminal
#: obeys them. prompt_toolkit itself only knows the controls.
_FORMAT = (
    (0xAD, 0xAD), (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD), (0x70F, 0x70F), (0x890, 0x891), (0x8E2, 0x8E2),
    (0x180E, 0x180E), (0x200B, 0x200B), (0x200E, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB), (0x110BD, 0x110BD), (0x110CD, 0x110CD), (0x13430, 0x1343F), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A),
    (0xE0001, 0xE0001), (0xE0020, 0xE007F),
)  # fmt: skip
Char.display_mappings.update({chr(code): one_line(chr(code)) for first, last in _FORMAT for code in range(first, last + 1)})

_Pressed = TypeVar("_Pressed", bound=Callable[[KeyPressEvent], None])

#: A line of the parts that are always drawn: (class, text).
Line = Sequence[tuple[str, str]]


class Scene(Interface):
    """What the prompt asks while it draws, and tells when keys are pressed."""

    def waiting(self, width: int) -> Sequence[Line]:
        """The lines between what has been shown and the prompt."""

    def status(self, width: int) -> Sequence[Line]:
        """The lines below the prompt."""

    def line(self, text: str) -> bool:
        """Enter: a line, or several; False leaves them in the prompt."""

    def interrupt(self) -> None:
        """Ctrl-C, when there was nothing to clear, and again."""

    def hint(self, text: str) -> None:
        """Say something that helps."""

    def end(self) -> None:
        """Ctrl-D, or the terminal is gone."""


class _Canvas:
    """Stands for the terminal as a text file: collects what prompt_toolkit draws."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def write(self, text: str) -> None:
        self.drawn.append(text)

    def flush(self) -> None:
        """What is drawn goes out when the drawing is finished."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError("a canvas has no descriptor")


def terminal_size(fd: int) -> Size:
    """Rows and columns of a terminal; 24 and 80 where it does not know."""
    rows = columns = 0
    with suppress(OSError):
        rows, columns = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))[:2]
    return Size(rows=rows or 24, columns=columns or 80)


class Prompt:
    """The prompt on this process's terminal.

    :param writer: writes to the terminal.
    :param fd: the terminal, for its size.
    """

    def __init__(self, reactor: Any, writer: Writer, fd: int, scene: Scene, history: History, environ: Mapping[str, str]) -> None:
        self._reactor = reactor
        self._writer = writer
        self._scene = scene
        self._fd = fd
        self._canvas = _Canvas()
        colours = not environ.get("NO_COLOR")
        depth = None if colours else ColorDepth.MONOCHROME
        term = environ.get("TERM")
        self._output = Vt100_Output(
            cast(TextIO, self._canvas), lambda: terminal_size(fd), term=term, default_color_depth=depth, enable_cpr=False
        )
        self._above: deque[tuple[Iterator[str], Callable[[], None]]] = deque()
        self._done: list[Callable[[], None]] = []
        self._next_frame: IDelayedCall | None = None
        self._last_frame = float("-inf")
        self._crowded = False  # more lines wait than one drawing takes
        self._stale = False  # what is drawn is not what the scene would tell
        self._tick: IDelayedCall | None = None
        self._interrupted = False  # Ctrl-C was the key before
        self._open = self._stopped = False  # for what is typed
        self._between: Sequence[Line] = ()
        self._below: Sequence[Line] = ()
        self._task: asyncio.Task[None] | None = None
        self.buffer = Buffer(
            multiline=True, history=history, completer=_Commands(), complete_while_typing=False, accept_handler=self._accept
        )
        self.buffer.on_text_changed += self._changed
        self._app: Application[None] = self._application(STYLE if colours else PLAIN_STYLE)

    # The application ------------------------------------------------------------------------------------------------------------

    def _application(self, style: Style) -> Application[None]:
        search = SearchToolbar()
        typed = Window(
            BufferControl(self.buffer, search_buffer_control=search.control, preview_search=True),
            height=lambda: Dimension(min=1, max=max(1, self.size.rows // 2)),
            get_line_prefix=self._prefix,
            wrap_lines=True,
            dont_extend_height=True,
        )
        accepts = Condition(lambda: self._open)
        layout = HSplit(
            [
                self._part(lambda: self._between),
                ConditionalContainer(typed, accepts),
                CompletionsToolbar(),
                search,
                self._part(lambda: self._below),
            ]
        )
        if isinstance(sys.stdin, TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8")  # what is drawn is UTF-8 too, whatever the locale says
        app: Application[None] = Application(
            Layout(layout),
            style=style,
            key_bindings=self._bindings(),
            input=Vt100Input(sys.stdin),
            output=self._output,
            erase_when_done=True,
            terminal_size_polling_interval=None,
        )
        app.ttimeoutlen = 0.1
        app.before_render += lambda _: self._look()
        app.after_render += lambda _: self._push()
        return app

    def _look(self) -> None:
        """Ask the scene, once for a drawing."""
        width = self.size.columns
        self._between, self._below = self._scene.waiting(width), self._scene.status(width)

    def _part(self, lines: Callable[[], Sequence[Line]]) -> ConditionalContainer:
        def text() -> StyleAndTextTuples:
            found: StyleAndTextTuples = []
            for index, line in enumerate(lines()):
                found += [("", "\n")] if index else []
                found += [(f"class:{look}" if look else "", part) for look, part in line]
            return found

        window = Window(FormattedTextControl(text), height=lambda: Dimension.exact(len(lines())), dont_extend_height=True)
        return ConditionalContainer(window, Condition(lambda: bool(lines())))

    def _prefix(self, line: int, wraps: int) -> StyleAndTextTuples:
        return [("class:prompt", PROMPT if line == wraps == 0 else " " * len(PROMPT))]

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        typing = has_focus(self.buffer)

        def bind(*keys: str, filter: Any = typing) -> Callable[[_Pressed], _Pressed]:
            return bindings.add(*keys, filter=filter)

        @bind("enter")
        def accept(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle()

        @bind("escape", "enter")
        def another_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @bind("c-c")
        def clear(event: KeyPressEvent) -> None:
            self._interrupt()

        @bind("c-d", filter=typing & Condition(lambda: not self.buffer.text))
        def end(event: KeyPressEvent) -> None:
            self._scene.end()

        @bind("c-z")
        def suspend(event: KeyPressEvent) -> None:
            self._suspend()

        @bind("left")
        @bind("c-b")
        def left(event: KeyPressEvent) -> None:
            self.buffer.cursor_position = self._cluster_before()

        @bind("right")
        @bind("c-f")
        def right(event: KeyPressEvent) -> None:
            self.buffer.cursor_position = self._cluster_behind()

        @bind("backspace")
        def delete_before(event: KeyPressEvent) -> None:
            self.buffer.delete_before_cursor(self.buffer.cursor_position - self._cluster_before())

        @bind("delete")
        @bind("c-d", filter=typing & Condition(lambda: bool(self.buffer.text)))
        def delete_behind(event: KeyPressEvent) -> None:
            self.buffer.delete(self._cluster_behind() - self.buffer.cursor_position)

        return bindings

    # What a person takes for a character may be several code points (UAX 29): a letter with its accents, a family of emoji.

    def _cluster_before(self) -> int:
        position = self.buffer.cursor_position
        return grapheme_boundary_before(self.buffer.text, position) if position else 0

    def _cluster_behind(self) -> int:
        position = self.buffer.cursor_position
        return position + len(next(iter_graphemes(self.buffer.text[position : position + 256]), ""))

    # What is typed --------------------------------------------------------------------------------------------------------------

    def _accept(self, buffer: Buffer) -> bool:
        return not self._scene.line(buffer.text)

    def _changed(self, buffer: Buffer) -> None:
        self._interrupted = False

    def _interrupt(self) -> None:
        again = self._interrupted
        if self.buffer.text:
            self.buffer.reset()
        self._interrupted = True
        if again or not self._open:
            self._scene.interrupt()
        else:
            self._scene.hint("Ctrl-C again leaves")

    def _suspend(self) -> None:
        """Ctrl-Z: leave the terminal to the shell until it brings us back."""
        self._app.renderer.erase()
        self._push()
        with self._app.input.detach(), self._app.input.cooked_mode():
            os.kill(0, signal.SIGTSTP)
        self._app.renderer.reset()
        self._app.invalidate()

    def close_input(self) -> None:
        """Take nothing more that is typed, but Ctrl-C."""
        self._open = False
        self.buffer.reset()
        self.refresh()

    # What is drawn --------------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> Size:
        """Rows and columns."""
        return terminal_size(self._fd)

    def show(self, lines: Iterable[str], done: Callable[[], None] = lambda: None) -> None:
        """Show whole lines above the prompt; ``done`` is called when the terminal has them."""
        self._above.append((iter(lines), done))
        self._schedule()

    def refresh(self) -> None:
        """What the scene tells may have changed."""
        self._stale = True
        self._schedule()

    def _schedule(self) -> None:
        if self._next_frame is None and self._task is not None:
            delay = max(0.0, self._last_frame + 1 / FRAMES - self._reactor.seconds())
            self._next_frame = self._reactor.callLater(0 if self._crowded else delay, self._frame)

    def _frame(self) -> None:
        self._next_frame = None
        if not self._writer.idle:
            return  # what is being written calls again
        self._last_frame = self._reactor.seconds()
        self._stale = False
        if self._above:
            self._app.renderer.erase()
            self._write_above(BATCH)
        self._app.invalidate()

    def _write_above(self, most: int) -> None:
        size = 0
        drawn = []
        while self._above and size < most:
            lines, done = self._above[0]
            for line in lines:
                drawn.append(line)
                size += len(line)
                if size >= most:
                    break
            else:
                self._above.popleft()
                self._done.append(done)
        self._crowded = bool(self._above)
        self._output.write_raw("".join(drawn).replace("\n", "\r\n"))
        self._output.flush()

    def _push(self) -> None:
        """The drawing is finished: write it."""
        drawn, self._canvas.drawn = self._canvas.drawn, []
        done, self._done = self._done, []
        if not drawn:
            return

        def written() -> None:
            for call in done:
                call()
            if self._above or self._stale:
                self._schedule()

        self._writer.write("".join(drawn).encode("utf-8", "replace"), written)

    def _ticked(self) -> None:
        self._tick = self._reactor.callLater(TICK, self._ticked)
        self.refresh()

    # Beginning and end ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Draw, and read keys. The reactor is an asyncio one, and runs."""
        if self._stopped:
            return
        self._open = True
        self._write_above(BATCH)
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._tick = self._reactor.callLater(TICK, self._ticked)

    async def _run(self) -> None:
        try:
            await self._app.run_async(handle_sigint=False, set_exception_handler=False)
        except EOFError:
            self._scene.end()  # the terminal was hung up

    async def stop(self) -> None:
        """Show what is left to be shown, and give the terminal back as it was."""
        self._stopped = True
        for call in (self._next_frame, self._tick):
            if call is not None and call.active():
                call.cancel()
        if self._task is not None:
            if self._app.is_running and not self._app.is_done:
                self._app.exit()
            await self._task
        self._write_above(sys.maxsize)
        self._push()
        written = asyncio.get_running_loop().create_future()
        self._writer.write(b"", lambda: None if written.done() else written.set_result(None))
        with suppress(TimeoutError):
            await asyncio.wait_for(written, PATIENCE)


class _Commands(Completer):
    """Tab: names of commands, and of files behind those that take one."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        for text, shown, replaced in complete(document.text_before_cursor):
            yield Completion(text, -replaced, display=shown)
