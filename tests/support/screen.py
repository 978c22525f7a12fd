"""A person at a terminal: sees what a terminal emulator (pyte) makes of every byte, and presses keys.

Nothing here sleeps. :meth:`Person.wait_screen` shows the emulator one drawing of the program after another, in the order in which
they came, and asks its question after each. So a state that lasted for one drawing only is seen too, and none is seen half drawn.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pyte
from wcwidth import wcwidth

from tests.support.processes import MYSOCKET, PIPE, TIMEOUT, Program, Terminal, acquaint, free_port, mysocket

T = TypeVar("T")

#: What a terminal sends for a key (xterm, normal cursor keys).
KEYS = {
    "Enter": "\r",
    "Alt-Enter": "\x1b\r",
    "Tab": "\t",
    "Backspace": "\x7f",
    "Delete": "\x1b[3~",
    "Up": "\x1b[A",
    "Down": "\x1b[B",
    "Right": "\x1b[C",
    "Left": "\x1b[D",
    "Home": "\x1b[H",
    "End": "\x1b[F",
    "Escape": "\x1b",
}
#: Private modes (DEC) of interest; pyte keeps them shifted by 5.
CURSOR_KEYS, WRAP, CURSOR, BRACKETED_PASTE, ALTERNATE = 1, 7, 25, 2004, 1049

#: All that the program tells a terminal to do: looks, moves, erasing, and the modes it sets back.
SEQUENCE = re.compile(r"\x1b\[(?:[0-9;]*m|[0-9]*[ABCDK]|0?J|\?(?:1|7|12|25|2004)[hl])")
#: The end of a drawing, and the cursor shown behind it.
_DRAWN = re.compile(rb"\x1b\[\?7h\x1b\[0m(?:\x1b\[\?12l\x1b\[\?25h)?")
#: Seconds in which nothing more must come before something that is no whole drawing is looked at.
_REST = 0.2


def key(name: str) -> str:
    """What a terminal sends for this key: a name of KEYS, ``Ctrl-X``, or itself."""
    if name.startswith("Ctrl-"):
        return chr(ord(name[5].upper()) & 0x1F)
    return KEYS.get(name, name)


def forbidden(data: bytes) -> str:
    """What in these bytes a terminal must never get from this program, with what is around it; empty: nothing."""
    try:
        text = data.decode()
    except UnicodeDecodeError as problem:
        return f"no UTF-8: {data[max(0, problem.start - 40) : problem.end + 40]!r}"
    position = 0
    while position < len(text):
        sequence = SEQUENCE.match(text, position)
        if sequence is not None:
            position = sequence.end()
            continue
        character = text[position]
        # Tab and newline of a message are drawn as they are; ZWNJ and ZWJ join what is drawn.
        if not (character.isprintable() or character in "\r\n\b\t\u200c\u200d" or unicodedata.category(character) == "Zs"):
            return f"{character!r} in {text[max(0, position - 40) : position + 40]!r}"
        position += 1
    return ""


class Display(pyte.Screen):  # type: ignore[misc]
    """A terminal with all of its scrollback, whose lines are not folded anew when its width changes, as xterm's are not.

    "italics" of a cell stands for dim, which pyte does not know.
    """

    def __init__(self, columns: int, lines: int) -> None:
        self.above: list[dict[int, pyte.screens.Char]] = []
        super().__init__(columns, lines)

    def draw(self, data: str) -> None:
        # pyte gives up at a character of no width that does not combine (ZWJ, variation selectors).
        for piece in re.split("([\u200b-\u200d\ufe00-\ufe0f])", data):
            if piece and wcwidth(piece[0]) == 0 and not unicodedata.combining(piece[0]):
                self._join(piece)
            elif piece:
                super().draw(piece)

    def _join(self, character: str) -> None:
        line = self.buffer[self.cursor.y]
        for x in (self.cursor.x - 1, self.cursor.x - 2):
            if x in line and line[x].data:
                line[x] = line[x]._replace(data=line[x].data + character)
                return

    def index(self) -> None:
        if self.margins is None and self.cursor.y == self.lines - 1:
            self.above.append(self.buffer[0])
        super().index()

    def select_graphic_rendition(self, *attributes: int) -> None:
        super().select_graphic_rendition(*({2: 3, 22: 23}.get(attribute, attribute) for attribute in attributes))
        if 22 in attributes:
            super().select_graphic_rendition(22)

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        lines, columns = lines or self.lines, columns or self.columns
        gone = max(0, self.cursor.y - (lines - 1))
        for _ in range(gone):
            self.above.append(self.buffer[0])
            for y in range(self.lines - 1):
                self.buffer[y] = self.buffer[y + 1]
            self.buffer.pop(self.lines - 1, None)
        self.cursor.y -= gone
        for y in [y for y in self.buffer if y >= lines]:
            del self.buffer[y]
        for line in self.buffer.values():
            for x in [x for x in line if x >= columns]:
                del line[x]
        self.lines, self.columns = lines, columns
        self.cursor.x = min(self.cursor.x, columns - 1)

    def shown(self, line: dict[int, pyte.screens.Char]) -> str:
        """A line as text, without spaces at its end."""
        width = max(line, default=-1) + 1
        return "".join(line[x].data if x in line else " " for x in range(width)).rstrip()


class Person(Terminal):
    """The program, at a terminal of its own."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: dict[str, str],
        size: tuple[int, int] = (24, 80),
        stdin: Path | int | None = None,
        stdout: Path | int | None = None,
    ) -> None:
        self.display = Display(size[1], size[0])
        self._stream = pyte.Stream(self.display)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._fed = 0
        self.before: list[object] = []
        super().__init__(argv, env=env, size=size, keep=True, stdin=stdin, stdout=stdout)
        # The program has not come so far as to change it: Python takes longer to start.
        self.before = self.modes()

    # Looking --------------------------------------------------------------------------------------------------------------------

    @property
    def lines(self) -> list[str]:
        """What stands on the display, without spaces at the end of lines."""
        return [self.display.shown(self.display.buffer[y]) for y in range(self.display.lines)]

    @property
    def text(self) -> str:
        """Scrollback and display, as one text."""
        return "\n".join([*map(self.display.shown, self.display.above), *self.lines])

    @property
    def cursor(self) -> tuple[int, int]:
        """Column and line of the cursor, from 0."""
        return self.display.cursor.x, self.display.cursor.y

    @property
    def typed(self) -> str | None:
        """What stands in the prompt, a line each; None: there is no prompt. Long lines are not told from several ones."""
        lines = self.lines
        for y in range(len(lines) - 1, -1, -1):
            cell = self.display.buffer[y][0]
            if cell.data == ">" and cell.bold:
                below = [self._prompt_row(line) for line in lines[y + 1 :]]
                count = below.index(None) if None in below else len(below)
                return "\n".join([lines[y][2:], *(row or "" for row in below[:count])])
        # A long message whose first line is out of sight: the rows around the cursor.
        first = last = self.cursor[1]
        if not self.mode(BRACKETED_PASTE) or not lines[first].startswith("  "):
            return None
        while first and lines[first - 1].startswith("  "):
            first -= 1
        while last + 1 < len(lines) and lines[last + 1].startswith("  "):
            last += 1
        return "\n".join(line[2:] for line in lines[first : last + 1])

    @staticmethod
    def _prompt_row(line: str) -> str | None:
        return line[2:] if line.startswith("  ") else None

    @property
    def status(self) -> str:
        """The lines below the prompt; without a prompt, the last that is there."""
        lines = [line for line in self.lines if line]
        starts = [index for index, line in enumerate(lines) if line.startswith(">")]
        return "\n".join(line for line in lines[starts[-1] + 1 if starts else -1 :] if not line.startswith("  "))

    def dim(self, y: int, x: int) -> bool:
        """Is this cell of the display faint?"""
        return bool(self.display.buffer[y][x].italics)

    def colours(self) -> set[str]:
        """The colours on the display."""
        return {cell.fg for y in range(self.display.lines) for cell in self.display.buffer[y].values()} - {"default"}

    def mode(self, number: int) -> bool:
        """A private mode of the emulator: BRACKETED_PASTE and so on."""
        return number << 5 in self.display.mode

    def report(self) -> str:
        shown = "\n".join(f"|{line}" for line in self.lines)
        return f"{Program.report(self)}\n--- the display, cursor at {self.cursor}:\n{shown}\n--- raw:\n{self.screen[-3000:]!r}"

    # Waiting --------------------------------------------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        self._fed += len(data)
        self._stream.feed(self._decoder.decode(data))

    def catch_up(self) -> None:
        """Show the emulator all that has come."""
        self._feed(self._screen.data(self._fed))

    def wait_screen(self, question: Callable[[], T | None], what: str = "", timeout: float = TIMEOUT) -> T:
        """Wait until the answer is true for a drawing, this one or one that comes."""
        deadline = time.monotonic() + timeout
        while not (answer := question()):
            if not self._next_drawing(deadline):
                raise AssertionError(f"not seen within {timeout:g} s: {what}\n{self.report()}")
        return answer

    def _next_drawing(self, deadline: float) -> bool:
        while True:
            rest = self._screen.data(self._fed)
            drawn = _DRAWN.search(rest)
            if drawn is not None and not (drawn.end() == len(rest) and not drawn[0].endswith(b"h")):
                self._feed(rest[: drawn.end()])
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self._screen.wait_more(self._fed + len(rest), min(left, _REST if rest else left)):
                continue
            if rest:
                self._feed(rest)
                return True
            if self._screen.ended:
                return False

    def wait_seen(self, pattern: str, timeout: float = TIMEOUT) -> re.Match[str]:
        """Wait until the pattern is found in scrollback and display."""
        return self.wait_screen(lambda: re.search(pattern, self.text, re.MULTILINE), pattern, timeout)

    def wait_typed(self, text: str) -> None:
        """Wait until exactly this stands in the prompt."""
        self.wait_screen(lambda: self.typed == text, f"{text!r} in the prompt, {self.typed!r} is there")

    def wait_status_line(self, pattern: str) -> re.Match[str]:
        """Wait until the pattern is found below the prompt."""
        return self.wait_screen(lambda: re.search(pattern, self.status), f"status {pattern}")

    def wait_ready(self) -> None:
        """Wait for the prompt."""
        self.wait_screen(lambda: self.typed is not None and self.mode(BRACKETED_PASTE), "a prompt")

    def wait_bytes(self, size: int, timeout: float = TIMEOUT) -> None:
        """Wait until so many bytes have been written."""
        assert self._screen.wait_more(size - 1, timeout), f"no {size} bytes\n{self.report()}"

    def wait_raw(self, piece: bytes, timeout: float = TIMEOUT) -> None:
        """Wait until these bytes have been written."""
        assert self._screen.wait_for(lambda data: piece in data, timeout), f"no {piece!r}\n{self.report()}"

    def wait(self, timeout: float = TIMEOUT) -> int:
        status = super().wait(timeout)
        self.after = self.modes()
        self.left_nonblocking = self._kept >= 0 and self.nonblocking()
        self.let_go()
        self._screen.join(TIMEOUT)
        self.catch_up()
        return status

    # Doing ----------------------------------------------------------------------------------------------------------------------

    def type(self, text: str) -> None:
        """These characters, as fast as the terminal takes them."""
        data = text.encode("utf-8", "surrogateescape")
        while data:
            data = data[os.write(self._master, data[:1024]) :]

    def press(self, *names: str) -> None:
        """Press these keys."""
        for name in names:
            self.type(key(name))

    def say(self, text: str) -> None:
        """Type a line and Enter."""
        self.type(text + "\r")

    def paste(self, text: str) -> None:
        """Paste, as terminals do for programs that ask for brackets around it: a newline comes as the return key."""
        self.type("\x1b[200~" + text.replace("\n", "\r") + "\x1b[201~")

    def resize(self, lines: int, columns: int) -> None:
        self.catch_up()
        self.display.resize(lines, columns)
        super().resize(lines, columns)

    def hold(self) -> None:
        """The terminal reads nothing more, as with Ctrl-S or a line that hangs."""
        self._screen.hold()

    def release(self) -> None:
        """It reads again."""
        self._screen.release()

    # Checking -------------------------------------------------------------------------------------------------------------------

    def check_bytes(self) -> None:
        """Nothing that was written is forbidden."""
        found = forbidden(self.screen)
        assert not found, f"{found}\n{self.report()}"

    def check_given_back(self) -> None:
        """The terminal is as the program found it; to be asked after its end."""
        assert self.after == self.before, self.report()
        assert not self.left_nonblocking, f"O_NONBLOCK stayed\n{self.report()}"
        assert not self.mode(BRACKETED_PASTE) and not self.mode(ALTERNATE) and not self.mode(CURSOR_KEYS), self.report()
        assert self.mode(CURSOR) and self.mode(WRAP) and not self.display.cursor.hidden, self.report()
        assert self.cursor[0] == 0, f"the shell's prompt would not stand at the beginning of a line\n{self.report()}"


class Desk:
    """A person's home: what is started here has its own history, and is killed on the way out."""

    def __init__(self, path: Path) -> None:
        self.home = path / "home"
        self.home.mkdir()
        self.state = path / "state"
        self.env = {
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.state),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "",
            "PROMPT_TOOLKIT_COLOR_DEPTH": "",
        }
        self._stack = contextlib.ExitStack()
        self._programs: list[Program] = []

    @property
    def history(self) -> Path:
        """The file of the history."""
        return self.state / "mysocket" / "history"

    def person(
        self,
        *args: str | int | Path,
        argv: Sequence[str] = MYSOCKET,
        env: dict[str, str] | None = None,
        size: tuple[int, int] = (24, 80),
        stdin: Path | int | None = None,
        stdout: Path | int | None = None,
    ) -> Person:
        """MySocket at a terminal."""
        words = [*argv, *map(str, args)]
        return self._keep(Person(words, env={**self.env, **(env or {})}, size=size, stdin=stdin, stdout=stdout))

    def piped(self, *args: str | int | Path, stdin: bytes | Path | int = PIPE, stdout: Path | int = PIPE) -> Program:
        """MySocket between pipes."""
        return self._keep(mysocket(*args, stdin=stdin, stdout=stdout, env=self.env))

    def _keep(self, program: T) -> T:
        assert isinstance(program, Program)
        self._stack.enter_context(program)
        self._programs.append(program)
        acquaint(*self._programs)
        return program

    def with_piped(self, *args: str | int | Path, size: tuple[int, int] = (24, 80)) -> tuple[Person, Program]:
        """A person and a MySocket between pipes, linked."""
        here, there = free_port(), free_port()
        person = self.person(here, "localhost", there, *args, size=size)
        other = self.piped(there, "localhost", here)
        person.wait_status_line("connected")
        person.wait_ready()
        return person, other

    def close(self) -> None:
        """End what still runs."""
        self._stack.close()

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
