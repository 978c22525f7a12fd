"""The prompt: the line that is typed, and what stands around it. With keys.py, long.py and history.py the only room
that knows prompt_toolkit; of that no name is used that begins with an underscore.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, TextIO, cast
from typing import Protocol as Interface

from prompt_toolkit import data_structures
from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.layout import BufferControl, ConditionalContainer, Dimension, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.layout.screen import Char
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style
from prompt_toolkit.widgets import CompletionsToolbar, SearchToolbar

from mysocket.ends.descriptors import Writer
from mysocket.ends.escape import one_line
from mysocket.screen.commands import complete
from mysocket.screen.frames import Canvas, Frames, Size, terminal_size
from mysocket.screen.keys import bindings
from mysocket.screen.long import AroundTheCursor

PROMPT = "> "
#: Seconds that the end waits for a terminal that takes nothing.
PATIENCE = 1.0

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

    def broken(self, problem: str) -> None:
        """Something could not be drawn, or a key not be obeyed: the session cannot go on."""


class Prompt:
    """The prompt on this process's terminal.

    :param writer: writes to the terminal.
    :param fd: the terminal, for its size.
    """

    def __init__(self, reactor: Any, writer: Writer, fd: int, scene: Scene, history: History, environ: Mapping[str, str]) -> None:
        self._scene = scene
        self._fd = fd
        self._interrupted = False  # Ctrl-C was the key before
        self._open = self._stopped = False  # for what is typed
        self._between: Sequence[Line] = ()
        self._below: Sequence[Line] = ()
        self._task: asyncio.Task[None] | None = None
        self.buffer = Buffer(
            multiline=True, history=history, completer=_Commands(), complete_while_typing=False, accept_handler=self._accept
        )
        self.buffer.on_text_changed += self._changed
        canvas = Canvas()
        colours = not environ.get("NO_COLOR")
        output = Vt100_Output(
            cast(TextIO, canvas),
            lambda: data_structures.Size(*terminal_size(fd)),
            term=environ.get("TERM"),
            default_color_depth=None if colours else ColorDepth.MONOCHROME,
            enable_cpr=False,
        )
        self._app = self._application(output, STYLE if colours else PLAIN_STYLE)
        erase, redraw = self._app.renderer.erase, self._app.invalidate
        self._frames = Frames(reactor, writer, canvas, erase=erase, redraw=redraw, failed=self._broken)
        self._app.before_render += lambda _: self._look()
        self._app.after_render += lambda _: self._frames.push()
        #: Show lines above, and draw anew what stands around the prompt.
        self.show, self.refresh = self._frames.show, self._frames.refresh

    @property
    def size(self) -> Size:
        """Rows and columns of the terminal."""
        return terminal_size(self._fd)

    # The layout -----------------------------------------------------------------------------------------------------------------

    def _application(self, output: Vt100_Output, style: Style) -> Application[None]:
        search = SearchToolbar()
        typed = Window(
            BufferControl(
                self.buffer,
                input_processors=[AroundTheCursor()],
                search_buffer_control=search.control,
                preview_search=True,
            ),
            height=lambda: Dimension(min=1, max=max(1, self.size.rows // 2)),
            get_line_prefix=self._prefix,
            wrap_lines=True,
            dont_extend_height=True,
        )
        layout = HSplit(
            [
                self._part(lambda: self._between),
                ConditionalContainer(typed, Condition(lambda: self._open)),
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
            key_bindings=bindings(self.buffer, interrupt=self._interrupt, end=self._scene.end, suspend=self._suspend),
            input=Vt100Input(sys.stdin),
            output=output,
            erase_when_done=True,
            terminal_size_polling_interval=None,
        )
        app.ttimeoutlen = 0.1
        return app

    def _look(self) -> None:
        """Ask the scene, once for a drawing."""
        rows, width = self.size
        # What is typed comes first where there is little room.
        self._below = self._scene.status(width)[: max(0, rows - 3)]
        between = self._scene.waiting(width)
        self._between = between[max(0, len(between) - max(0, rows // 2 - len(self._below))) :]

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
        """Leave the terminal to the shell until it brings us back."""
        self._app.renderer.erase()
        self._frames.push()
        # Who is killed by the shell is woken in its background, where taking the terminal back would stop it again at once.
        terminate = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with self._app.input.detach(), self._app.input.cooked_mode():
            os.kill(0, signal.SIGTSTP)
        signal.signal(signal.SIGTERM, terminate)
        self._app.renderer.reset()
        self._app.invalidate()

    def close_input(self) -> None:
        """Take nothing more that is typed, but Ctrl-C."""
        self._open = False
        self.buffer.reset()
        self.refresh()

    # Beginning and end ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Draw, and read keys. The reactor is an asyncio one, and runs."""
        if not self._stopped:
            self._open = True
            self._frames.start()
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: self._broken(context.get("exception") or context["message"]))
            self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._app.run_async(handle_sigint=False, set_exception_handler=False)
        except EOFError:
            self._scene.end()  # the terminal was hung up
        except Exception as problem:
            self._broken(problem)

    def _broken(self, problem: object) -> None:
        self._frames.give_up()
        self._scene.broken(repr(problem))

    async def stop(self) -> None:
        """Show what is left to be shown, and give the terminal back as it was."""
        self._stopped = True
        self._frames.stop()
        if self._task is not None:
            if self._app.is_running and not self._app.is_done:
                self._app.exit()
            await self._task
        written = asyncio.get_running_loop().create_future()
        self._frames.finish(lambda: None if written.done() else written.set_result(None))
        with suppress(TimeoutError):
            await asyncio.wait_for(written, PATIENCE)


class _Commands(Completer):
    """Tab: names of commands, and of files behind those that take one."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        for text, shown, replaced in complete(document.text_before_cursor):
            yield Completion(text, -replaced, display=shown)
