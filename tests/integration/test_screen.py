"""Two people at terminals, or one and a pipe: what is typed, what is shown, and that the terminal is as it was.

Every byte that the program writes goes through a terminal emulator; see tests/support/screen.py.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mysocket.core.batch import Batch, Flag, Kind, chain
from mysocket.core.wire import BATCH_REST, HEAD, MAGIC, NONE, Attach, Hello, Input, Ping, Resume, Start, Type, encode
from tests.support.processes import BANNER, DEVNULL, LINKED, MYSOCKET, PIPE, ROOT, Program, free_port, wait_until
from tests.support.screen import ALTERNATE, Desk, Person

NAME = re.escape(socket.gethostname())
TIME = r"\d\d:\d\d:\d\d"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Desk(tmp_path) as desk:
        yield desk


def left(person: Person, status: int) -> None:
    """It has ended so, wrote nothing that is forbidden, and gave the terminal back."""
    assert person.wait() == status, person.report()
    assert "Traceback" not in person.text, person.report()
    person.check_bytes()
    person.check_given_back()


def leave_both(person: Person, peer: Program) -> None:
    """The peer's input ends, then the person leaves."""
    peer.close_stdin()
    peer.wait_status(0)
    person.press("Ctrl-D")
    left(person, 0)


def messages(program: Program) -> list[str]:
    """The texts that a peer with ``--json`` has written."""
    return [json.loads(line)["text"] for line in program.stdout.split(b"\n")[:-1]]


# A conversation -----------------------------------------------------------------------------------------------------------------


def test_a_conversation_from_before_the_peer_has_come(desk: Desk) -> None:
    here, there = free_port(), free_port()
    one = desk.person(here, "localhost", there)
    one.wait_ready()
    one.say("before anybody came")
    one.say("the second")
    one.wait_screen(lambda: {"· before anybody came", "· the second"} <= set(one.lines), "both wait")
    one.wait_status_line("2 messages waiting")
    assert "✓" not in one.text
    two = desk.person(there, "localhost", here)
    two.wait_seen(rf"^{TIME} {NAME}: before anybody came\n{TIME} {NAME}: the second$")
    one.wait_seen(rf"^{TIME} ✓ before anybody came\n{TIME} ✓ the second$")
    one.wait_screen(lambda: not any(line.startswith("·") for line in one.lines), "nothing waits any more")
    one.wait_screen(lambda: "waiting" not in one.status, "the status line says so")
    two.say("hello back")
    one.wait_seen(rf"^{TIME} {NAME}: hello back$")
    y = next(y for y, line in enumerate(one.lines) if line.endswith(": hello back"))
    assert all(one.dim(y, x) for x in range(8)) and not one.dim(y, 12), "the time is faint, the message is not"
    assert one.display.buffer[y][9].fg == "cyan"
    two.wait_seen(r"✓ hello back$")
    two.say("EXIT")
    left(two, 0)
    one.wait_status_line("waiting for|next attempt|connecting")
    one.press("Ctrl-D")
    left(one, 0)
    assert "EXIT" not in one.text.replace("Type EXIT", ""), "EXIT is not sent"


def test_what_is_half_typed_stays_as_it_is_while_lines_arrive(desk: Desk) -> None:
    person, peer = desk.with_piped()
    person.type("half typed")
    person.press("Left", "Left", "Left", "Left", "Left")
    person.wait_screen(lambda: person.cursor[0] == 2 + 5, "the cursor in the middle")
    for number in range(40):  # more than the display has lines
        peer.write(b"line %d\n" % number)
        person.wait_seen(rf"{TIME} {NAME}: line {number}$")
        person.wait_screen(lambda: person.typed == "half typed" and person.cursor[0] == 7, "it stays")
        assert person.lines[person.cursor[1]] == "> half typed"
    person.type("way ")
    person.wait_typed("half way typed")
    person.press("Enter")
    peer.wait_output(b"half way typed\n")
    assert peer.stdout == b"half way typed\n"
    person.wait_typed("")
    seen = re.findall(r"line (\d+)$", person.text, re.MULTILINE)
    assert [int(number) for number in seen] == list(range(40))
    person.check_bytes()


def test_a_flood_while_one_types(desk: Desk) -> None:
    """20,000 lines as fast as they can come: each is there once, in order, whole; and so is the line typed meanwhile."""
    person, peer = desk.with_piped()
    count = 20_000
    peer.write(b"".join(b"flood %05d of the lines\n" % number for number in range(count)))
    typed = "typed, a key at a time, while all that comes"
    for character in typed:
        size = len(person.screen)
        person.type(character)
        # The next key is pressed when something more has arrived.
        person.wait_bytes(size + 1)
    person.press("Enter")
    peer.wait_output(typed.encode() + b"\n")
    assert peer.stdout == typed.encode() + b"\n"
    person.wait_screen(lambda: any(line.endswith(f"flood {count - 1:05} of the lines") for line in person.lines), "the end")
    person.wait_seen(rf"^{TIME} ✓ {typed}$")
    seen = re.findall(rf"^{TIME} {NAME}: flood (\d{{5}}) of the lines$", person.text, re.MULTILINE)
    assert [int(number) for number in seen] == list(range(count))
    assert person.text.count("flood") == count, "a piece of one besides"
    person.wait_typed("")
    leave_both(person, peer)


# The status line ----------------------------------------------------------------------------------------------------------------


def test_the_command_for_the_other_machine_works_as_it_is_printed(desk: Desk) -> None:
    person = desk.person(free_port(), "localhost", free_port())
    printed = person.wait_status_line(r"run: (mysocket .*)$")[1]
    words = shlex.split(printed)
    assert words[0] == "mysocket"
    other = desk.piped(*words[1:])
    person.wait_status_line(r"connected")
    person.wait_screen(lambda: "run:" not in person.status, "the command is gone")
    other.write(b"here I am\n")
    person.wait_seen(rf"{NAME}: here I am$")


def test_the_command_of_one_who_only_listens(desk: Desk) -> None:
    person = desk.person("-p", 0)
    printed = person.wait_status_line(r"run: (mysocket .*)$")[1]
    person.wait_status_line("waiting for a connection")
    other = desk.person(*shlex.split(printed)[1:])
    person.wait_status_line(r"connected")
    other.say("here I am")
    person.wait_seen(rf"{NAME}: here I am$")


def test_the_command_of_one_who_only_dials(desk: Desk) -> None:
    person = desk.person("--peer", f"localhost:{free_port()}")
    printed = person.wait_status_line(r"run: (mysocket .*)$")[1]
    other = desk.piped(*shlex.split(printed)[1:])
    person.wait_status_line(r"connected")
    person.say("here I am")
    other.wait_output(b"here I am\n")


def test_it_talks_to_itself(desk: Desk) -> None:
    port = free_port()
    person = desk.person(port, "localhost", port)
    person.wait_status_line("connected")
    person.say("anybody there?")
    person.wait_seen(rf"^{TIME} {NAME}: anybody there\?$")
    person.wait_seen(rf"^{TIME} ✓ anybody there\?$")
    person.say("EXIT")
    left(person, 0)


def test_a_peer_that_is_killed_is_missed_and_found_again(desk: Desk) -> None:
    here, there = free_port(), free_port()
    person = desk.person(here, "localhost", there)
    person.wait_status_line(r"^localhost:\d+ · (not there yet, )?(connecting|next attempt in \d+ s)")
    peer = desk.piped(there, "localhost", here)
    person.wait_status_line(rf"^{NAME} · connected · last heard")
    peer.kill(signal.SIGKILL)
    person.wait_status_line(r"next attempt in \d+ s|connecting")
    assert "connected" not in person.status
    for number in range(3):
        person.say(f"while it is away {number}")
    person.wait_status_line("3 messages waiting")
    assert [line for line in person.lines if line.startswith("· ")] == [f"· while it is away {number}" for number in range(3)]
    again = desk.piped(there, "localhost", here)
    again.wait_output(b"while it is away 2\n")
    assert again.stdout == b"".join(b"while it is away %d\n" % number for number in range(3))
    person.wait_status_line("· connected")
    person.wait_screen(lambda: "waiting" not in person.status, "nothing waits")


def test_many_messages_that_wait_are_counted(desk: Desk) -> None:
    person = desk.person(free_port(), "localhost", free_port())
    person.wait_ready()
    for number in range(30):
        person.say(f"message {number}")
    person.wait_status_line("30 messages waiting")
    shown = [line for line in person.lines if line.startswith("·")]
    assert shown[-1] == "· message 29" and len(shown) <= 10 and re.search(r"\d+ more", shown[0]), person.report()
    assert person.typed == ""


def test_commands(desk: Desk) -> None:
    person, peer = desk.with_piped()
    person.say("/help")
    person.wait_seen(r"^/status")
    person.wait_typed("")
    person.say("/status")
    person.wait_seen(rf"^{NAME}: connected")
    person.wait_seen("everything sent has arrived")
    person.wait_typed("")
    person.say("/nothing of the kind")
    person.wait_seen("no command /nothing")
    person.wait_typed("/nothing of the kind")
    person.press("Ctrl-C")
    person.wait_typed("")
    person.say("//etc is a directory")
    peer.wait_output(b"/etc is a directory\n")
    person.type("/st")
    person.press("Tab")
    person.wait_typed("/status")
    person.press("Ctrl-C")
    person.wait_typed("")
    peer.close_stdin()
    peer.wait_status(0)
    person.say("/quit")
    left(person, 0)
    assert peer.stdout == b"/etc is a directory\n"


# Several lines ------------------------------------------------------------------------------------------------------------------


def test_messages_of_several_lines(desk: Desk) -> None:
    here, there = free_port(), free_port()
    peer = desk.piped(there, "localhost", here, "--json")
    person = desk.person(here, "localhost", there)
    person.wait_status_line("connected")
    person.type("one")
    person.press("Alt-Enter")
    person.type("two")
    person.wait_typed("one\ntwo")
    person.press("Enter")
    pasted = "\n".join(f"pasted line {number}" for number in range(500))
    person.paste(pasted)
    person.wait_screen(lambda: "pasted line 499" in (person.typed or ""), "what was pasted")
    person.press("Enter")
    person.paste("/usr/bin\n/quit\nEXIT")
    person.wait_screen(lambda: "EXIT" in (person.typed or ""), "what was pasted")
    person.press("Enter")
    person.say("the last")
    wait_until(lambda: len(messages(peer)) == 4, "4 messages", 30, peer, person)
    assert [text.removesuffix("\n") for text in messages(peer)] == ["one\ntwo", pasted, "/usr/bin\n/quit\nEXIT", "the last"]
    person.wait_seen(rf"^{TIME} ✓ one\n {{9}}two$")
    person.check_bytes()


def test_what_is_pasted_arrives_at_a_pipe_and_at_a_person_as_it_was(desk: Desk) -> None:
    person, peer = desk.with_piped()
    pasted = "".join(f"line {number} of five hundred\n" for number in range(500))
    person.paste(pasted.removesuffix("\n"))
    person.press("Enter")
    peer.wait_output(b"line 499 of five hundred\n")
    assert peer.stdout == pasted.encode()
    peer.write(b"not a command:\n")
    person.paste("a\tb")
    person.press("Enter")
    peer.wait_output(b"a\tb\n")


def test_a_terminal_that_pastes_without_brackets_sends_each_line(desk: Desk) -> None:
    person, peer = desk.with_piped()
    person.type("first\rsecond\rthird\r")
    peer.wait_output(b"first\nsecond\nthird\n")
    # What a kernel or tmux may give: line feeds.
    person.type("fourth\nfifth\n")
    peer.wait_output(b"fourth\nfifth\n")


def test_what_is_typed_before_the_program_is_ready_is_not_lost(desk: Desk) -> None:
    here, there = free_port(), free_port()
    person = desk.person(here, "localhost", there)
    person.type("typed ahead\nand half a")
    peer = desk.piped(there, "localhost", here)
    peer.wait_output(b"typed ahead\n")
    person.type(" line\r")
    peer.wait_output(b"and half a line\n")
    assert peer.stdout == b"typed ahead\nand half a line\n"


# What people write --------------------------------------------------------------------------------------------------------------

FAMILY = "👩‍👩‍👧‍👦"


@pytest.mark.parametrize(
    ("text", "keys", "arrives"),
    [
        ("grüße", ("Left", "Backspace"), "grüe"),
        ("漢字かな", ("Left", "Left", "Backspace"), "漢かな"),
        ("ne\u0301e", ("Left", "Backspace"), "ne"),
        ("ne\u0301e", ("Left", "Left", "Delete"), "ne"),
        (f"a{FAMILY}b", ("Left", "Backspace"), "ab"),
        (f"a{FAMILY}b", ("Left", "Left", "Left", "Right", "x"), f"ax{FAMILY}b"),
        ("👍🏽🇩🇪", ("Left", "Backspace"), "🇩🇪"),
        ("שלום עולם", ("Backspace",), "שלום עול"),
        ("नमस्ते", ("Home", "x"), "xनमस्ते"),
        ("❤️ 1️⃣", ("Left", "Left", "Backspace"), " 1️⃣"),
        ("one two three", ("Ctrl-W",), "one two "),
        ("abc", ("Ctrl-A", "Delete"), "bc"),
    ],
)
@pytest.mark.usefixtures("desk")
def test_editing_moves_by_what_people_take_for_a_character(
    scribe: tuple[Person, Program], text: str, keys: tuple[str, ...], arrives: str
) -> None:
    person, peer = scribe
    before = len(peer.stdout)
    person.type(text)
    person.press(*keys)
    person.press("Enter")
    wait_until(lambda: peer.stdout[before:].endswith(b"\n"), f"a line: {text}", 30, peer, person)
    assert peer.stdout[before:].decode() == arrives + "\n"
    person.wait_typed("")
    person.check_bytes()


@pytest.fixture(scope="module")
def scribe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Person, Program]]:
    """A person and a pipe, for many small tests."""
    with Desk(tmp_path_factory.mktemp("scribe")) as desk:
        yield desk.with_piped()


def test_wide_characters_are_counted_as_two_cells(scribe: tuple[Person, Program]) -> None:
    person, _ = scribe
    person.type("漢字かな")
    person.wait_screen(lambda: person.cursor[0] == 2 + 8, "four wide characters")
    person.press("Left")
    person.wait_screen(lambda: person.cursor[0] == 2 + 6, "the cursor before the last")
    person.press("Ctrl-C")
    person.wait_typed("")


@pytest.mark.parametrize("text", ["x" * 300, "漢字" * 100, "words and words " * 30 + "end", "a" + "字" * 39 + "b", FAMILY * 20])
def test_long_lines_wrap_and_arrive_whole(scribe: tuple[Person, Program], text: str) -> None:
    person, peer = scribe
    before = len(peer.stdout)
    person.type(text)
    person.press("Home")
    person.type(">>")
    person.press("End")
    person.type("<<")
    person.wait_screen(lambda: "<<" in (person.typed or ""), "all of it")
    # What joins two characters may be drawn at the end of a row or not at all.
    shown, whole = (re.sub("[\\s\u200d]", "", found) for found in (person.typed or "", f">>{text}<<"))
    assert shown == whole, person.report()
    person.press("Enter")
    wait_until(lambda: peer.stdout[before:].endswith(b"\n"), "a line", 30, peer, person)
    assert peer.stdout[before:].decode() == f">>{text}<<\n"
    person.wait_typed("")


def test_a_long_line_that_is_pasted_does_not_freeze_the_prompt(desk: Desk) -> None:
    """Only what is around the cursor is laid out, however much there is of it: this took minutes, and gigabytes."""
    person = alone(desk)
    person.paste("a" + "\u0301" * 100_000)
    person.type("behind")
    person.wait_raw(b"behind")
    person.press("Ctrl-A", "Right")
    person.type("here")
    person.wait_raw(b"here")
    person.kill(signal.SIGTERM)
    assert person.wait() == 143


def test_bytes_that_are_no_utf_8_arrive_as_they_were_typed(scribe: tuple[Person, Program]) -> None:
    person, peer = scribe
    before = len(peer.stdout)
    os.write(person._master, b"caf\xe9 \xff\r")
    wait_until(lambda: peer.stdout[before:].endswith(b"\n"), "a line", 30, peer, person)
    assert peer.stdout[before:] == b"caf\xe9 \xff\n"
    person.wait_seen(r"✓ caf\\xe9 \\xff$")
    person.wait_typed("")
    person.check_bytes()


def test_control_characters_that_are_pasted_arrive_and_are_shown_harmless(scribe: tuple[Person, Program]) -> None:
    person, peer = scribe
    before = len(peer.stdout)
    person.paste("a\x1b[2Jb\x07c\x9bd\u202ee")
    person.press("Enter")
    wait_until(lambda: peer.stdout[before:].endswith(b"\n"), "a line", 30, peer, person)
    assert peer.stdout[before:].decode() == "a\x1b[2Jb\x07c\x9bd\u202ee\n"
    person.wait_seen(r"✓ a\\x1b\[2Jb\\x07c\\x9bd\\u\{202e\}e$")
    person.check_bytes()


# History ------------------------------------------------------------------------------------------------------------------------


def alone(desk: Desk, *args: str | int) -> Person:
    """A person for whose peer nobody stands: what is typed waits."""
    person = desk.person(free_port(), "localhost", free_port(), *args)
    person.wait_ready()
    return person


def abandon(person: Person) -> None:
    """Leave without what waits."""
    person.kill(signal.SIGTERM)
    left(person, 143)


def test_history_goes_on_in_the_next_session(desk: Desk) -> None:
    first = alone(desk)
    for line in ("the oldest line", " not to be kept", "grüße 漢字", "several\nlines"):
        if "\n" in line:
            first.paste(line)
        else:
            first.type(line)
        first.press("Enter")
    first.wait_status_line("4 messages waiting")
    abandon(first)
    assert stat.S_IMODE(desk.history.stat().st_mode) == 0o600
    assert stat.S_IMODE(desk.history.parent.stat().st_mode) == 0o700
    assert b"not to be kept" not in desk.history.read_bytes()
    second = alone(desk)
    # The history is read while one types already; it is there when it is there.
    second.press("Up")
    second.wait_typed("several\nlines")
    second.press("Ctrl-C")
    second.wait_typed("")
    second.press("Ctrl-R")
    second.type("oldest")
    second.wait_screen(lambda: "the oldest line" in second.text, "what was searched")
    second.press("Enter")
    second.wait_typed("the oldest line")
    second.press("Enter")
    second.wait_status_line("1 message waiting")
    second.press("Up")
    second.wait_typed("the oldest line")
    second.press("Up", "Up", "Up")  # over both lines of one
    second.wait_typed("grüße 漢字")
    abandon(second)


@pytest.mark.parametrize("obstacle", ["directory", "symlink", "fifo", "unwritable", "file for a directory"])
def test_a_history_that_cannot_be_kept_costs_only_the_history(desk: Desk, obstacle: str) -> None:
    desk.history.parent.parent.mkdir()
    if obstacle == "file for a directory":
        desk.history.parent.write_text("in the way")
    else:
        desk.history.parent.mkdir(mode=0o700)
    elsewhere = desk.home / "elsewhere"
    if obstacle == "directory":
        desk.history.mkdir()
    elif obstacle == "symlink":
        elsewhere.write_text("precious")
        desk.history.symlink_to(elsewhere)
    elif obstacle == "fifo":
        os.mkfifo(desk.history)
    elif obstacle == "unwritable":
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        desk.history.parent.chmod(0o500)
    person = alone(desk)
    person.wait_seen("no history is kept")
    person.say("a line")
    person.wait_status_line("1 message waiting")
    person.press("Up")
    person.wait_typed("a line")
    abandon(person)
    if obstacle == "symlink":
        assert elsewhere.read_text() == "precious"


def test_what_is_received_into_a_file_has_its_time_if_asked_for(desk: Desk, tmp_path: Path) -> None:
    person, peer = desk.with_piped("--output", tmp_path / "output", "--timestamps")
    peer.write(b"received\n")
    peer.close_stdin()
    peer.wait_status(0)
    person.press("Ctrl-D")
    left(person, 0)
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT[\d:.]+\+\d\d:\d\d received\n", (tmp_path / "output").read_bytes())


# Leaving ------------------------------------------------------------------------------------------------------------------------


def test_control_c_clears_the_line_and_the_second_leaves(desk: Desk) -> None:
    person, peer = desk.with_piped()
    person.type("never mind")
    person.press("Ctrl-C")
    person.wait_typed("")
    person.wait_seen("Ctrl-C again leaves")
    person.say("and on")
    peer.wait_output(b"and on\n")
    person.wait_seen("✓ and on")
    person.press("Ctrl-C")
    person.wait_screen(lambda: person.text.count("Ctrl-C again leaves") == 2, "a key in between begins anew")
    person.press("Ctrl-C")
    left(person, 130)
    assert peer.stdout == b"and on\n"


def test_two_control_c_with_something_undelivered(desk: Desk) -> None:
    """The first leaving says how many wait, and waits for them; the next one leaves without."""
    here, there = free_port(), free_port()
    person = desk.person(here, "localhost", there)
    peer = desk.piped(there, "localhost", here)
    person.wait_status_line("connected")
    peer.kill(signal.SIGKILL)
    person.wait_screen(lambda: "connected" not in person.status, "it is gone")
    person.say("one")
    person.say("two")
    person.wait_status_line("2 messages waiting")
    person.press("Ctrl-C", "Ctrl-C")
    person.wait_seen(r"2 messages \(8 bytes\) not delivered yet; waiting for that")
    assert person.running()
    person.press("Ctrl-C")
    left(person, 130)
    assert re.search(r"not delivered: 2 messages", person.text), person.report()
    assert re.search(rf"^{TIME} · one\n{TIME} · two$", person.text, re.MULTILINE), person.report()


def test_two_control_c_before_anybody_has_come(desk: Desk) -> None:
    """What was typed for nobody yet waits as well."""
    person = alone(desk)
    person.say("one")
    person.say("two")
    person.wait_status_line("2 messages waiting")
    person.press("Ctrl-C", "Ctrl-C")
    person.wait_seen(r"2 messages \(8 bytes\) not delivered yet; waiting for that")
    assert person.running()
    person.press("Ctrl-C")
    left(person, 130)
    assert re.search(rf"^{TIME} · one\n{TIME} · two$", person.text, re.MULTILINE), person.report()
    assert re.search("not delivered: 2 messages", person.text), person.report()


@pytest.mark.parametrize("end", ["EXIT", "/quit", "Ctrl-D"])
def test_who_leaves_with_something_undelivered_waits_and_leaves_when_the_peer_has_come(desk: Desk, end: str) -> None:
    here, there = free_port(), free_port()
    person = desk.person(here, "localhost", there)
    person.wait_ready()
    person.say("for whoever comes")
    person.wait_status_line("1 message waiting")
    person.press(*(["Ctrl-D"] if end == "Ctrl-D" else [end, "Enter"]))
    person.wait_screen(lambda: any("1 message" in line and "leaving when" in line for line in person.lines), "why it stays")
    peer = desk.piped(there, "localhost", here, stdin=DEVNULL)
    peer.wait_status(0)
    left(person, 0)
    assert peer.stdout == b"for whoever comes\n"
    assert re.search(rf"^{TIME} ✓ for whoever comes$", person.text, re.MULTILINE), person.report()


@pytest.mark.parametrize("end", ["EXIT", "/quit", "Ctrl-D"])
def test_who_has_nothing_to_send_leaves_at_once(desk: Desk, end: str) -> None:
    person = alone(desk)
    person.press(*(["Ctrl-D"] if end == "Ctrl-D" else [end, "Enter"]))
    left(person, 0)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_from_outside(desk: Desk, number: int, status: int) -> None:
    person, _ = desk.with_piped()
    person.type("half a line")
    person.wait_typed("half a line")
    person.kill(number)
    left(person, status)


def test_a_peer_that_sends_only_is_told_of(desk: Desk) -> None:
    here, there = free_port(), free_port()
    person = desk.person(here, "localhost", there)
    desk.piped(there, "localhost", here, "--send-only", stdin=PIPE)
    person.wait_status_line("connected")
    person.say("to one who does not listen")
    person.wait_seen("(?i)only sends|takes nothing|does not take")
    person.kill(signal.SIGTERM)
    left(person, 143)


def test_a_peer_of_another_version_is_told_of(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        person = desk.person(free_port(), "127.0.0.1", listener.getsockname()[1])
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(30)
            assert connection.recv(len(MAGIC)) == MAGIC
            hello = Hello(versions=(99,), node=b"n" * 16, stream=b"s" * 16, name="from the future")
            connection.sendall(MAGIC + encode(hello))
            person.wait_seen("(?i)version")
    assert person.wait() != 0
    person.check_given_back()


def test_a_port_that_is_taken_is_an_error_at_start(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        person = desk.person(holder.getsockname()[1], "localhost", free_port())
        left(person, 2)
    assert re.search(r"(?i)in use|taken", person.text), person.report()


def test_a_terminal_that_is_hung_up_ends_the_session(desk: Desk) -> None:
    person, peer = desk.with_piped()
    person.say("the last word")
    peer.wait_output(b"the last word\n")
    person.kill(signal.SIGHUP)
    assert person.wait() == -signal.SIGHUP


def test_a_kill_leaves_nothing_that_the_kernel_could_have_kept(desk: Desk) -> None:
    """The shell sets the modes of the terminal back; what belongs to the open file it would not. Nothing can be done for modes of
    the emulator (bracketed paste), which no kernel knows of."""
    person, _ = desk.with_piped()
    person.kill(signal.SIGKILL)
    assert person.wait() == -signal.SIGKILL
    assert not person.left_nonblocking


# The window changes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(24, 120), (12, 80), (40, 100)])
def test_a_window_that_grows_or_gets_lower(desk: Desk, size: tuple[int, int]) -> None:
    resized(desk, size)


@pytest.mark.parametrize("size", [(24, 60), (24, 40), (10, 30)])
def test_a_window_that_gets_narrower(desk: Desk, size: tuple[int, int]) -> None:
    resized(desk, size)


def resized(desk: Desk, size: tuple[int, int]) -> None:
    person, peer = desk.with_piped()
    person.type("a line that is being typed")
    person.wait_typed("a line that is being typed")
    peer.write(b"before\n")
    person.wait_seen("before$")
    person.resize(*size)
    peer.write(b"after\n")
    person.wait_seen(rf"^{TIME} {NAME}: after$")
    person.wait_screen(lambda: person.typed == "a line that is being typed", "the prompt is whole")
    person.wait_screen(lambda: sum("connected" in line for line in person.lines) == 1, "one status line")
    assert sum(line.startswith(">") for line in person.lines) == 1, person.report()
    person.type("!")
    person.press("Enter")
    peer.wait_output(b"a line that is being typed!\n")
    assert len(re.findall("(before|after)$", person.text, re.MULTILINE)) == 2
    person.check_bytes()


def test_a_window_that_changes_while_lines_arrive(desk: Desk) -> None:
    person, peer = desk.with_piped()
    person.type("typed")
    count = 3000
    peer.write(b"".join(b"flood %05d\n" % number for number in range(count)))
    for lines, columns in ((24, 100), (24, 60), (40, 60), (12, 50), (24, 80)):
        person.wait_bytes(len(person.screen) + 1)
        person.resize(lines, columns)
    person.wait_screen(lambda: any(line.endswith(f"flood {count - 1:05}") for line in person.lines), "the end")
    raw = re.findall(rb"flood (\d{5})\r", person.screen)
    assert [int(number) for number in raw] == list(range(count)), "each was drawn once, in order"
    person.wait_typed("typed")
    assert sum(line.startswith(">") for line in person.lines) == 1, person.report()


@pytest.mark.parametrize("size", [(1, 80), (2, 80), (3, 80), (4, 20), (24, 12)])
def test_in_the_smallest_window_one_sees_what_one_types(desk: Desk, size: tuple[int, int]) -> None:
    here, there = free_port(), free_port()
    person = desk.person(here, "localhost", there, size=size)
    person.wait_ready()
    person.say("one")
    person.say("two")
    person.type("typed")
    person.wait_typed("typed")
    peer = desk.piped(there, "localhost", here, stdin=DEVNULL)
    peer.wait_output(b"one\ntwo\n")
    person.press("Ctrl-C")
    person.say("EXIT")
    left(person, 0)


class Tmux:
    """A session in tmux, which folds its lines anew when its width changes, as most terminals do today (xterm does not)."""

    def __init__(self, desk: Desk, tmp_path: Path, *argv: str | int) -> None:
        self._socket = str(tmp_path / "tmux")
        self._env = {**os.environ, **desk.env}
        command = f"cd {shlex.quote(str(ROOT))} && clear && echo && exec {shlex.join([*MYSOCKET, *map(str, argv)])}"
        self("new-session", "-d", "-x", "80", "-y", "24", command)

    def __call__(self, *words: str) -> str:
        command = ["tmux", "-S", self._socket, "-f", os.devnull, *words]
        return subprocess.run(command, capture_output=True, text=True, env=self._env, timeout=30).stdout

    def type(self, text: str) -> None:
        self("send-keys", "-l", text)

    @property
    def text(self) -> str:
        return self("capture-pane", "-p", "-S", "-").rstrip()

    def wait(self, *wanted: str) -> None:
        wait_until(lambda: all(piece in self.text for piece in wanted), f"{wanted} in tmux")

    def __enter__(self) -> Tmux:
        return self

    def __exit__(self, *error: object) -> None:
        self("kill-server")


needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is missing (apt-get install tmux)")


@needs_tmux
def test_a_terminal_that_folds_its_lines_anew(desk: Desk, tmp_path: Path) -> None:
    here, there = free_port(), free_port()
    with Tmux(desk, tmp_path, here, "localhost", there) as tmux:
        peer = desk.piped(there, "localhost", here)
        tmux.wait("connected")
        tmux.type("half typed " * 12 + "and")
        tmux.wait("and")
        for width in (60, 100, 45, 80):
            peer.write(b"before %d, and long enough to be wrapped where the window is as narrow as that\n" % width)
            tmux.wait(f"before {width}")
            tmux("resize-window", "-x", str(width), "-y", "24")
            wait_until(lambda width=width: tmux("display", "-p", "#{pane_width}").strip() == str(width), "the new width")
            peer.write(b"after %d\n" % width)
            tmux.wait(f"after {width}", "connected")
        tmux.type(" sent\r")
        peer.wait_output(b"and sent\n")
        assert peer.stdout == b"half typed " * 12 + b"and sent\n"
        found = re.findall(r"(before|after) (\d+)", tmux.text)
        assert found == [(when, width) for width in ("60", "100", "45", "80") for when in ("before", "after")]


@needs_tmux
@pytest.mark.xfail(
    strict=True,
    reason="rows above the cursor (waiting messages, a message of several rows) that fold when the window gets narrower leave "
    "their first pieces above: erasing goes up as many rows as were drawn, and no program knows whether its terminal folds",
)
def test_a_terminal_that_folds_its_lines_anew_is_left_without_pieces(desk: Desk, tmp_path: Path) -> None:
    with Tmux(desk, tmp_path, free_port(), "localhost", free_port()) as tmux:
        tmux.wait("localhost:", ">")
        for number in range(3):
            tmux.type(f"waiting {number} {'x' * 50}\r")
        tmux.wait("3 messages waiting")
        tmux("resize-window", "-x", "40", "-y", "24")
        wait_until(lambda: tmux("display", "-p", "#{pane_width}").strip() == "40", "the new width")
        tmux.type("typed")
        tmux.wait("> typed")
        assert len(re.findall("^· waiting", tmux.text, re.MULTILINE)) == 3


# Ctrl-Z -------------------------------------------------------------------------------------------------------------------------


def test_control_z_and_fg(desk: Desk) -> None:
    here, there = free_port(), free_port()
    shell = desk.person(argv=["bash", "--norc", "--noprofile", "-i"], env={"PS1": "shell$ ", "HISTFILE": ""})
    shell.wait_seen(r"^shell\$$")
    peer = desk.piped(there, "localhost", here)
    shell.say(shlex.join([*MYSOCKET, str(here), "localhost", str(there)]))
    shell.wait_status_line("connected")
    shell.type("half typed")
    shell.wait_typed("half typed")
    shell.press("Ctrl-Z")
    shell.wait_seen(r"Stopped[^\n]*\n(.*\n)*shell\$$")
    shell.say("echo in $((40 + 2)) the shell")
    shell.wait_seen(r"^in 42 the shell$")
    peer.write(b"while it was stopped\n")
    shell.say("fg")
    shell.wait_seen(rf"^{TIME} {NAME}: while it was stopped$")
    shell.wait_typed("half typed")
    shell.type(", and on")
    shell.press("Enter")
    peer.wait_output(b"half typed, and on\n")
    peer.close_stdin()
    peer.wait_status(0)
    shell.press("Ctrl-D")
    shell.wait_seen(r"shell\$\s*\Z")
    shell.say("exit 7")
    assert shell.wait() == 7


def test_who_is_killed_by_the_shell_while_stopped_ends(desk: Desk) -> None:
    shell = desk.person(argv=["bash", "--norc", "--noprofile", "-i"], env={"PS1": "shell$ ", "HISTFILE": ""})
    shell.wait_seen(r"^shell\$$")
    shell.say(shlex.join([*MYSOCKET, str(free_port()), "localhost", str(free_port())]))
    shell.wait_status_line("next attempt")
    shell.press("Ctrl-Z")
    shell.wait_seen(r"Stopped[^\n]*\n(.*\n)*shell\$$")
    shell.say("kill %1; while kill -0 %1 2>/dev/null; do sleep 0.1; done; echo it has $((1 + 1)) ended")
    shell.wait_seen(r"^it has 2 ended$")
    shell.say("exit 7")
    assert shell.wait() == 7


# A hostile peer -----------------------------------------------------------------------------------------------------------------

NASTY = [
    *(bytes([code]) for code in range(32) if code != 10),
    b"\x7f",
    *(bytes([code]) for code in range(128, 160)),
    *(chr(code).encode() for code in range(128, 160)),
    b"\x1b]0;title\x07",
    b"\x1b]52;c;ZWNobyBoYWNrZWQK\x07",
    b"\x1b]8;;http://example.com\x1b\\link\x1b]8;;\x1b\\",
    b"\x1b[2J\x1b[H\x1b[3J",
    b"\x1b[10A\x1b[5;5H",
    b"\x1b[?1049h",
    b"\x1b[?1000h\x1b[?1006h",
    b"\x1b[200~rm -rf\r\x1b[201~",
    b"\x1b[201~\r",
    b"\x1b[6n\x1b[c\x1bZ\x05",
    b"\x1bP+q544e\x1b\\",
    b"\x1bc",
    b"\x9b31m\x9d0;x\x9c",
    "\u202eevil\u202c \u2066x\u2069 \u200e\u200f\u061c".encode(),
    "\u2028\u2029\ufeff\u00ad\U000e0041".encode(),
    b"\xed\xa0\x80 \xf4\x90\x80\x80 \xc0\x80 \xff\xfe",
]


class RawPeer:
    """Dials, and sends what it likes; it takes what the other side sends."""

    def __init__(self, port: int, name: str = "raw") -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.position = self.acknowledged = self._chain = 0
        self.heard = b""
        self._pongs: set[int] = set()
        stream = b"s" * 16
        hello = Hello(node=b"n" * 16, stream=stream, name=name, input=Input.OPEN)
        self._connection.sendall(MAGIC + encode(hello) + encode(Attach(stream)))
        assert self._exactly(len(MAGIC)) == MAGIC
        while self.read() != Type.RESUME:
            pass
        self._connection.sendall(encode(Start(0, 0)))

    def read(self) -> int:
        """Read a frame, and answer; returns its type."""
        length, kind = HEAD.unpack(self._exactly(HEAD.size))
        body = self._exactly(length - 1)
        if kind == Type.ATTACH:
            self._connection.sendall(encode(Resume(body, NONE, 0, 2**30)))
        elif kind == Type.BATCH:
            self.heard += body[BATCH_REST.size :]
        elif kind == Type.ACK:
            self.acknowledged = int.from_bytes(body[:8], "big")
        elif kind == Type.PONG:
            self._pongs.add(int.from_bytes(body, "big"))
        return kind

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._connection.recv(size - len(data))
            assert part, "the connection was closed"
            data += part
        return data

    def send(self, payload: bytes, flags: int = 0, kind: int = Kind.LINES) -> None:
        """A batch."""
        self._chain = chain(payload, self._chain)
        self._connection.sendall(encode(Batch(self.position, kind, flags, self._chain, payload)))
        self.position += len(payload)

    def ping(self, number: int) -> None:
        """Send a PING, and wait for its PONG."""
        self._connection.sendall(encode(Ping(number)))
        while number not in self._pongs:
            self.read()

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()


def test_nothing_that_a_peer_sends_is_obeyed(desk: Desk) -> None:
    person = desk.person(here := free_port(), "127.0.0.1", free_port())
    person.wait_ready()
    person.wait_seen("listening on")
    person.type("my line")
    person.wait_typed("my line")
    with RawPeer(here, "\x1b]0;x\x07\u202e\x9bname\r\n> ") as peer:
        for data in NASTY:
            peer.send(data + b"\n")
        for data in NASTY:
            # One message, cut between any two bytes.
            for index in range(len(data)):
                peer.send(data[index : index + 1], Flag.MORE)
            peer.send(b"\n")
        peer.send(b"one\nmessage\rwith\x1b[1A all\n", kind=Kind.BLOB)
        peer.send("漢".encode()[:2], Flag.MORE, Kind.BLOB)
        peer.send("漢".encode()[2:] + b" whole\n", kind=Kind.BLOB)
        peer.send(b"the end of it\n")
        person.wait_seen("the end of it$")
        assert "漢 whole" in person.text
        person.check_bytes()
        assert person.display.title == "" and not person.mode(ALTERNATE)
        assert person.typed == "my line" and person.lines[person.cursor[1]] == "> my line"
        person.press("Ctrl-C")
        person.wait_typed("")
        person.say("/status")
        person.wait_seen("connected, last heard")
        person.press("Ctrl-C", "Ctrl-C")
        left(person, 130)


def test_a_command_that_was_pasted_from_a_hostile_page_is_shown_harmless(desk: Desk) -> None:
    person = alone(desk)
    person.paste("/\x1b]0;x\x07\x9b2J\u202e")
    person.press("Enter")
    person.wait_seen("There is no command")
    person.press("Ctrl-C")
    person.wait_typed("")
    person.paste("/send /no/such\x1b[2J\u202efile")
    person.press("Enter")
    person.wait_seen("(?i)no such file|cannot send")
    person.press("Ctrl-C", "Ctrl-C")
    left(person, 130)


def test_a_message_of_very_many_lines_does_not_hide_what_one_types(desk: Desk) -> None:
    person = desk.person(here := free_port(), "127.0.0.1", free_port())
    person.wait_seen("listening")
    with RawPeer(here) as peer:
        for _ in range(3):
            peer.send(b"\n" * 100_000, Flag.MORE, Kind.BLOB)
        peer.send(b"the last line\n", kind=Kind.BLOB)
        person.wait_raw(b" " * 9 + b"\r")
        person.type("typed")
        person.wait_raw(b"the last line")
    assert 0 < person.screen.find(b"typed") < person.screen.find(b"the last line")
    assert person.screen.count(b"\n" + b" " * 9 + b"\r") > 250_000


def test_what_cannot_be_drawn_ends_the_session_and_is_not_acknowledged(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BREAKING)
    here = free_port()
    person = desk.person(here, "127.0.0.1", free_port(), env={"PYTHONPATH": str(tmp_path)})
    person.wait_seen("listening")
    with RawPeer(here) as peer:
        peer.send(b"good\n")
        while peer.acknowledged < 5:
            peer.read()
        peer.send(b"bad\n")
        peer.send(b"good again\n")
        left(person, 1)
        with pytest.raises((AssertionError, ConnectionError)):
            while True:
                peer.read()
        assert peer.acknowledged == 5
    assert re.search("The screen failed.*cannot be drawn", person.text), person.report()


BREAKING = """
import mysocket.screen.lines as lines

received = lines.Lines.received


def breaking(self, message, name, at):
    if b"bad" in message:
        raise RuntimeError("cannot be drawn")
    return received(self, message, name, at)


lines.Lines.received = breaking
"""


def test_a_name_with_a_nul_is_no_file(desk: Desk) -> None:
    person = alone(desk)
    person.paste("/send /etc\0/x")
    person.press("Tab", "Enter")
    person.wait_seen(r"Cannot send /etc\\x00/x")
    person.press("Ctrl-C", "Ctrl-C")
    left(person, 130)


# Without the screen -------------------------------------------------------------------------------------------------------------

HIDING = """
import sys
from importlib.machinery import PathFinder


class Hiding:
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] == "prompt_toolkit" else PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""


@pytest.mark.parametrize("why", ["--plain-terminal", "TERM=dumb", "TERM=", "without prompt_toolkit"])
def test_the_kernel_edits_the_line(desk: Desk, tmp_path: Path, why: str) -> None:
    here, there = free_port(), free_port()
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    env = {
        "TERM=dumb": {"TERM": "dumb"},
        "TERM=": {"TERM": ""},
        "without prompt_toolkit": {"PYTHONPATH": str(tmp_path)},
    }.get(why, {})
    person = desk.person(here, "localhost", there, *(["--plain-terminal"] if why.startswith("--") else []), env=env)
    peer = desk.piped(there, "localhost", here)
    person.wait_text(re.escape(BANNER))
    person.wait_text(LINKED)
    person.type("a line\n/status\n")
    peer.wait_output(b"a line\n/status\n")
    peer.write(b"back\x1b[2J\n")
    person.wait_text(r"(?m)^back\\x1b\[2J$")
    peer.close_stdin()
    peer.wait_status(0)
    person.type("EXIT\n")
    assert person.wait() == 0
    assert b"\x1b" not in person.screen
    assert person.after == person.before
    assert not desk.history.exists()


def test_no_screen_where_an_end_is_no_terminal(desk: Desk, tmp_path: Path) -> None:
    here, there = free_port(), free_port()
    (tmp_path / "input").write_bytes(b"from a file\n/status\n")
    one = desk.person(here, "localhost", there, stdin=tmp_path / "input")
    two = desk.person(there, "localhost", here, stdout=tmp_path / "output")
    assert one.wait() == 0
    two.type("EXIT\n")
    assert two.wait() == 0
    assert (tmp_path / "output").read_bytes() == b"from a file\n/status\n"
    for person in (one, two):
        assert b"\x1b" not in person.screen.replace(b"\r\x1b[K", b""), person.report()


def test_no_color_takes_the_colours_only(desk: Desk) -> None:
    here, there = free_port(), free_port()
    person = desk.person(here, "localhost", there, env={"NO_COLOR": "1"})
    person.wait_ready()
    peer = desk.piped(there, "localhost", here)
    person.wait_status_line("connected")
    peer.write(b"hello\n")
    person.wait_seen(rf"{NAME}: hello$")
    person.say("back")
    person.wait_seen("✓ back")
    leave_both(person, peer)
    used = {int(number) for found in re.findall(rb"\x1b\[([0-9;]*)m", person.screen) for number in found.split(b";") if number}
    assert used <= {0, 1, 2, 22}, used


# A terminal that does not read --------------------------------------------------------------------------------------------------


def test_a_terminal_that_does_not_read_holds_the_peer_back_and_loses_nothing(desk: Desk) -> None:
    person = desk.person(here := free_port(), "127.0.0.1", free_port())
    person.wait_ready()
    person.wait_seen("listening on")
    count = 20_000
    with RawPeer(here) as peer:
        person.wait_status_line("connected")
        person.hold()
        for first in range(0, count, 1000):
            peer.send(b"".join(b"flood %05d of the lines\n" % number for number in range(first, first + 1000)))
        for number in range(20):
            # The heartbeat goes on, and what is acknowledged is not more than what the terminal has taken.
            peer.ping(number)
            assert peer.acknowledged < peer.position, "nothing holds the peer back"
            time.sleep(0.05)
        person.type("not frozen\r")
        while b"not frozen\n" not in peer.heard:
            peer.read()
        person.release()
        while peer.acknowledged < peer.position:
            peer.read()
    person.wait_raw(b"flood %05d of the lines\r" % (count - 1))
    found = re.findall(rb"flood (\d{5}) of the lines\r", person.screen)
    assert [int(number) for number in found] == list(range(count))
    person.check_bytes()
