"""Files as inputs: each byte once, whatever is done to the file, and whenever the process that reads it is killed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mysocket.core.batch import MAX_PAYLOAD, Assembler, Batch, Flag, Kind, Piece, split
from mysocket.errors import InputMissing, InputRefused, InputUnread, PlaceUnknown, WholeTooLong
from mysocket.inputs import follow as follow_module
from mysocket.inputs import openfile, rotation, succession
from mysocket.inputs.cutting import Lines
from mysocket.inputs.follow import Follower, Found, bookmark_name
from mysocket.inputs.place import PREFIX, REACH, Place, fingerprint
from mysocket.inputs.succession import LINGER, MAX_HELD, WATCH_LEFT

LIMIT = 16 * 1024**2
NUL_OR_LF = {True: b"\0", False: b"\n"}


def messages(pieces: list[Piece]) -> list[bytes]:
    """The messages as they were in the file, with their delimiters."""
    found: list[bytes] = []
    parts = b""
    for piece in pieces:
        assert piece.payload and len(piece.payload) <= MAX_PAYLOAD
        parts += piece.payload
        if piece.flags & Flag.MORE:
            continue
        if piece.kind is Kind.BLOB:
            found.append(parts)
        else:
            *lines, rest = parts.split(end := NUL_OR_LF[bool(piece.flags & Flag.NUL)])
            found += [line + end for line in lines]
            assert bool(rest) == bool(piece.flags & Flag.UNTERMINATED)
            found += [rest] if rest else []
        parts = b""
    assert not parts, "the last piece has MORE"
    return found


class Desk:
    """A directory with a file ``app.log`` in it, and one follower after the other that reads it.

    :param small: read and looked at in small steps, so that every border is crossed.
    """

    def __init__(self, directory: Path, *, follow: bool = True, cut: str = "lines", longest: int = LIMIT) -> None:
        self.directory = directory
        self.path = directory / "app.log"
        self.follow, self.cut, self.longest = follow, cut, longest
        self.time = 0.0
        self.news: list[str] = []
        self.losses: list[str] = []
        #: What was given; and where the file stood behind each portion of it.
        self.got: list[bytes] = []
        self.committed = b""
        self.follower: Follower | None = None
        self.ended = False

    def start(self, place: bytes | None = None) -> Follower:
        """The next process; the one before was killed."""
        self.kill()
        self.ended = False
        self.follower = Follower(
            str(self.path),
            follow=self.follow,
            cut=self.cut,
            max_message=self.longest,
            place=self.committed if place is None else place,
            now=lambda: self.time,
        )
        return self.follower

    def kill(self) -> None:
        if self.follower is not None:
            self.follower.close()
            self.follower = None

    def note(self, found: Found) -> None:
        self.news += found.news
        self.losses += found.losses
        self.ended = found.ended

    def read(self, limit: int = 1 << 20) -> list[bytes]:
        """One portion, which is committed with its place."""
        follower = self.follower or self.start()
        found = follower.read(limit)
        self.note(found)
        new = messages(found.pieces)
        if found.pieces:
            self.committed = found.place
            self.got += new
        return new

    def read_all(self) -> list[bytes]:
        """Until nothing comes any more, whatever time that takes."""
        before, quiet = len(self.got), 0
        while quiet < 3 and not self.ended:
            if self.read():
                quiet = 0
            else:
                quiet += 1
                self.time += LINGER
        return self.got[before:]

    def write(self, data: bytes, name: str = "app.log") -> None:
        with open(self.directory / name, "ab") as file:
            file.write(data)

    def move(self, old: str, new: str) -> None:
        os.rename(self.directory / old, self.directory / new)

    def make_room(self) -> None:
        """app.log.1 becomes app.log.2, and so on."""
        numbers = [int(name[8:]) for name in os.listdir(self.directory) if name.startswith("app.log.") and name[8:].isdigit()]
        for number in sorted(numbers, reverse=True):
            self.move(f"app.log.{number}", f"app.log.{number + 1}")

    def rotate(self) -> None:
        """As logrotate does with numbers."""
        self.make_room()
        if self.path.exists():
            self.move("app.log", "app.log.1")

    def age(self, name: str, seconds: float) -> None:
        """Written to so long after the beginning."""
        os.utime(self.directory / name, (1e9 + seconds, 1e9 + seconds))

    @property
    def place(self) -> Place:
        return Place.decode(self.committed, "")


def open_below(directory: Path) -> list[str]:
    """What this process has open there, as far as the system can tell."""
    found = []
    for fd in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [path for path in found if path.startswith(f"{directory}/")]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.kill()
    assert not open_below(tmp_path)


# Lines and messages -------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_from_its_start_and_then_what_is_written(desk: Desk) -> None:
    desk.write(b"one\ntwo\n")
    assert desk.read() == [b"one\n", b"two\n"] and desk.read() == []
    desk.write(b"three\n")
    assert desk.read() == [b"three\n"] and not desk.news and not desk.losses and not desk.ended


def test_a_line_waits_for_its_end(desk: Desk) -> None:
    desk.write(b"one\ntw")
    assert desk.read() == [b"one\n"] and desk.place.offset == 4
    assert desk.read() == []
    desk.write(b"o\n")
    assert desk.read() == [b"two\n"] and desk.place.offset == 8


def test_a_line_that_waits_is_read_by_the_next_process(desk: Desk) -> None:
    desk.write(b"one\ntw")
    desk.read_all()
    desk.start()
    desk.write(b"o\nthree")
    assert desk.read_all() == [b"two\n"]
    desk.start()
    desk.write(b"\n")
    assert desk.read_all() == [b"three\n"]


def test_messages_that_end_in_nul(tmp_path: Path) -> None:
    desk = Desk(tmp_path, cut="null")
    desk.write(b"one\ntwo\0three\0fo")
    assert desk.read() == [b"one\ntwo\0", b"three\0"]
    desk.write(b"ur\0")
    assert desk.read() == [b"four\0"]
    desk.kill()


def test_empty_lines_and_strange_bytes_pass(desk: Desk) -> None:
    data = b"\n\n\xff\0\r\n" + bytes(set(range(256)) - {10}) + b"\n\n"
    desk.write(data)
    assert b"".join(desk.read()) == data


@pytest.mark.parametrize("size", [MAX_PAYLOAD - 1, MAX_PAYLOAD, MAX_PAYLOAD + 1, 3 * MAX_PAYLOAD + 5])
def test_a_line_longer_than_a_batch_comes_whole(desk: Desk, size: int) -> None:
    line = os.urandom(size).replace(b"\n", b"x")
    desk.write(b"before\n" + line)
    assert desk.read(1) == [b"before\n"] and desk.read(1) == [] and desk.read() == []
    desk.write(b"\nbehind\n")
    found = desk.follower.read(1) if desk.follower else None
    assert found is not None and messages(found.pieces)[0] == line + b"\n"
    assert Place.decode(found.place, "").offset in (7 + size + 1, 7 + size + 1 + 7)


def test_a_line_longer_than_the_limit_goes_out_as_several(tmp_path: Path) -> None:
    desk = Desk(tmp_path, longest=10)
    desk.write(b"x" * 10 + b"\n" + b"y" * 25 + b"\nshort\n" + b"z" * 11)
    assert desk.read_all() == [b"x" * 10 + b"\n", b"y" * 10, b"y" * 10, b"yyyyy\n", b"short\n", b"z" * 10]
    desk.write(b"z" * 9 + b"\n")
    assert desk.read_all() == [b"z" * 10 + b"\n"]
    assert len(desk.news) == 1 and "--max-message (10 bytes)" in desk.news[0] and not desk.losses
    desk.rotate()
    desk.write(b"w" * 30 + b"\n")
    assert desk.read_all() == [b"w" * 10, b"w" * 10, b"w" * 10 + b"\n"] and len(desk.news) == 2
    desk.kill()


def test_a_long_line_is_not_held_beyond_the_limit(tmp_path: Path) -> None:
    longest = MAX_PAYLOAD * 2 + 17
    desk = Desk(tmp_path, longest=longest)
    desk.write(b"x" * (longest * 3))
    assert [len(part) for part in desk.read_all()] == [longest, longest]
    desk.start()
    desk.write(b"\nbehind\n")
    assert [len(part) for part in desk.read_all()] == [longest + 1, 7]
    desk.kill()


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 25), st.sampled_from([b"\n", b"\0"]), st.integers(1, 40))
def test_pieces_are_whole_messages_within_the_limit(sizes: list[int], longest: int, delimiter: bytes, batch: int) -> None:
    block = b"".join(bytes([65 + number]) * size + delimiter for number, size in enumerate(sizes))
    if not block:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mysocket.inputs.cutting.MAX_PAYLOAD", batch)
        pieces = Lines(delimiter, longest).whole(block)
    assert b"".join(piece.payload for piece in pieces) == block
    assert all(0 < len(piece.payload) <= batch for piece in pieces)
    # Whoever needs whole messages finds none that is too long.
    assembler, at, found = Assembler(longest), 0, 0
    for piece in pieces:
        whole = assembler.feed(Batch(at, piece.kind, piece.flags, 0, piece.payload))
        at += len(piece.payload)
        found += len([*split(whole, longest)]) if whole is not None else 0
    assert not assembler.held
    assert found == sum(max(1, -(-size // longest)) for size in sizes)


# Read once ----------------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_to_its_end_and_its_last_line_is_a_message(tmp_path: Path) -> None:
    desk = Desk(tmp_path, follow=False)
    desk.write(b"one\ntwo")
    found = desk.start().read(1 << 20)
    assert found.ended and messages(found.pieces) == [b"one\n", b"two"]
    assert found.pieces[-1].flags == Flag.UNTERMINATED
    assert Place.decode(found.place, "").offset == 7
    desk.kill()


def test_a_file_is_read_again_only_where_it_has_grown(tmp_path: Path) -> None:
    desk = Desk(tmp_path, follow=False)
    desk.write(b"one\ntwo")
    desk.read_all()
    desk.start()
    assert desk.read_all() == [] and desk.ended
    desk.write(b" and a half\nthree\n")
    desk.start()
    assert desk.read_all() == [b" and a half\n", b"three\n"] and not desk.news
    desk.kill()


def test_a_file_that_was_written_anew_is_read_from_its_start(tmp_path: Path) -> None:
    desk = Desk(tmp_path, follow=False)
    desk.write(b"one\ntwo\n")
    desk.read_all()
    for anew in (b"1\n", b"one\nTWO\nthree\n"):
        desk.path.write_bytes(anew)
        desk.start()
        assert b"".join(desk.read_all()) == anew
        assert "sent from its start" in desk.news.pop()
    # A copy of it that is longer goes on: so rsync and editors write.
    (tmp_path / "new").write_bytes(anew + b"four\n")
    desk.move("new", "app.log")
    desk.start()
    assert desk.read_all() == [b"four\n"] and not desk.news
    desk.kill()


def test_without_a_place_it_is_read_from_its_start(tmp_path: Path) -> None:
    desk = Desk(tmp_path, follow=False)
    desk.write(b"one\n")
    desk.read_all()
    desk.start(b"")
    assert desk.read_all() == [b"one\n"]
    desk.kill()


@pytest.mark.parametrize("size", [0, 1, MAX_PAYLOAD, 2 * MAX_PAYLOAD + 1])
@pytest.mark.parametrize("cut", ["whole", "stream"])
def test_a_file_without_lines(tmp_path: Path, cut: str, size: int) -> None:
    desk = Desk(tmp_path, follow=False, cut=cut)
    data = os.urandom(size)
    desk.write(data)
    desk.start()
    got = desk.read_all()
    assert desk.ended and b"".join(got) == data
    if cut == "whole":
        assert got == ([data] if data else [])
    desk.write(b"more\n")
    desk.start()
    assert desk.read_all() == [b"more\n"]
    desk.kill()


def test_chunks_are_marked_as_such(tmp_path: Path) -> None:
    desk = Desk(tmp_path, follow=False, cut="stream")
    desk.write(b"x\n" * MAX_PAYLOAD)
    found = desk.start().read(MAX_PAYLOAD)
    assert {(piece.kind, piece.flags) for piece in found.pieces} == {(Kind.BLOB, Flag.CHUNK)} and not found.ended
    desk.kill()


def test_the_whole_of_a_file_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    desk = Desk(tmp_path, follow=False, cut="whole", longest=10)
    desk.write(b"0123456789")
    assert desk.read_all() == [b"0123456789"]
    desk.start(b"")
    desk.write(b"0")
    with pytest.raises(WholeTooLong, match="10 bytes"):
        desk.read()
    desk.kill()


def test_what_is_followed_has_no_end(tmp_path: Path) -> None:
    for cut in ("whole", "stream"):
        with pytest.raises(ValueError, match="no end"):
            Follower("x", follow=True, cut=cut, max_message=1)


# What is no file ----------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_an_error_or_waited_for(desk: Desk) -> None:
    desk.follow = False
    with pytest.raises(InputMissing, match=r"app\.log does not exist.*follow:"):
        desk.read()
    desk.follow = True
    desk.start()
    assert desk.read() == [] and desk.read() == []
    assert desk.news == [f"waiting for {desk.path}: it does not exist"] and not desk.losses
    desk.write(b"one\n")
    assert desk.read() == [b"one\n"]


def test_a_directory_is_an_error_or_waited_for(desk: Desk) -> None:
    desk.path.mkdir()
    desk.follow = False
    with pytest.raises(InputRefused, match="it is a directory"):
        desk.read()
    desk.follow = True
    desk.start()
    assert desk.read() == [] and desk.read() == []
    assert desk.losses == [f"waiting for {desk.path}: it is a directory"]
    desk.path.rmdir()
    desk.write(b"one\n")
    assert desk.read() == [b"one\n"]


@pytest.mark.parametrize("follow", [True, False])
def test_a_fifo_and_a_device_are_refused(desk: Desk, follow: bool) -> None:
    desk.follow = follow
    os.mkfifo(desk.path)
    with pytest.raises(InputRefused, match="stdin"):
        desk.read()
    desk.path.unlink()
    desk.path.symlink_to("/dev/zero")
    desk.start()
    with pytest.raises(InputRefused, match="stdin"):
        desk.read()


def test_a_fifo_in_the_place_of_a_followed_file_is_told_once(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read_all()
    desk.rotate()
    os.mkfifo(desk.path)
    desk.write(b"two\n", "app.log.1")
    assert desk.read_all() == [b"two\n"] and len(desk.losses) == 1
    desk.path.unlink()
    desk.write(b"three\n")
    assert desk.read_all() == [b"three\n"] and len(desk.losses) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.path.chmod(0)
    desk.follow = False
    with pytest.raises(InputRefused, match="Permission"):
        desk.read()
    desk.follow = True
    desk.start()
    assert desk.read() == desk.read() == [] and len(desk.losses) == 1
    desk.path.chmod(0o600)
    assert desk.read() == [b"one\n"] and desk.news == [f"{desk.path} can be read now"]


def test_a_new_file_that_may_not_be_read_is_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write(b"one\n")
    desk.read()
    desk.rotate()
    desk.write(b"two\n")

    def refuse(path: str) -> openfile.OpenFile:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(succession, "open_file", refuse)
        assert desk.read_all() == [] and desk.losses == [f"waiting for {desk.path}: Permission denied"]
    assert desk.read_all() == [b"two\n"]


def test_a_disk_that_fails_is_an_error(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write(b"one\n")
    desk.read()

    def fail(*args: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        with pytest.raises(InputUnread, match="Input/output error"):
            desk.read()


def test_a_link_whose_target_changes_is_a_rotation(desk: Desk) -> None:
    pods = desk.directory / "pods"
    pods.mkdir()
    desk.path.symlink_to("pods/0.log")
    assert desk.read() == []
    desk.write(b"one\ntwo", "pods/0.log")
    assert desk.read() == [b"one\n"]
    desk.path.unlink()
    desk.path.symlink_to("pods/1.log")
    desk.write(b"\nlast of it\n", "pods/0.log")
    desk.write(b"first of the next\n", "pods/1.log")
    assert desk.read_all() == [b"two\n", b"last of it\n", b"first of the next\n"]
    # While no process is here, too.
    desk.kill()
    desk.write(b"second\n", "pods/1.log")
    desk.path.unlink()
    desk.path.symlink_to("pods/2.log")
    desk.write(b"third\n", "pods/2.log")
    assert desk.read_all() == [b"second\n", b"third\n"] and not desk.losses


def test_the_name_of_the_bookmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    one = bookmark_name(str(tmp_path / "real" / "app.log"))
    assert one.startswith(PREFIX) and not one.startswith(("file:", "send:"))
    assert bookmark_name(str(tmp_path / "link" / "app.log")) != one
    monkeypatch.chdir(tmp_path / "real")
    assert bookmark_name("app.log") == bookmark_name("./x/../app.log") == one
    assert bookmark_name(str(tmp_path / "real" / "app.log.1")) != one
    # A link is what it is called, not what it points to at the moment.
    (tmp_path / "real" / "current").symlink_to("app.log")
    assert bookmark_name("current") != one
    assert bookmark_name(os.fsdecode(b"\xff\xfe.log"))


# Rotation while it is read ------------------------------------------------------------------------------------------------------


def test_a_renamed_file_is_read_to_its_end_first(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read()
    desk.rotate()
    desk.write(b"two\nunfini", "app.log.1")
    assert desk.read_all() == [b"two\n"]
    desk.write(b"three\n")
    assert desk.read() == []  # who writes may still write to the old one
    desk.write(b"shed\nlast", "app.log.1")
    desk.time += LINGER / 2
    assert desk.read() == [b"unfinished\n"]
    desk.time += LINGER / 2
    assert desk.read() == []
    desk.time += LINGER
    assert desk.read() == [b"last", b"three\n"] and desk.place.offset == 6 and not desk.losses


def test_what_is_unfinished_in_the_old_file_is_flagged(desk: Desk) -> None:
    desk.write(b"x")
    desk.read()
    desk.rotate()
    desk.write(b"y\n")
    desk.read()
    desk.time += LINGER
    assert desk.follower is not None
    found = desk.follower.read(1 << 20)
    assert found.pieces == [Piece(Kind.LINES, Flag.UNTERMINATED, b"x"), Piece(Kind.LINES, 0, b"y\n")]


def test_a_deleted_file_is_read_to_its_end_first(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read()
    desk.write(b"two\n")
    desk.path.unlink()
    desk.write(b"three\n")
    assert desk.read_all() == [b"two\n", b"three\n"] and not desk.losses and not desk.news


def test_a_new_file_with_nothing_in_it_does_not_end_the_old_one(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read()
    desk.rotate()
    desk.write(b"")
    for number in range(5):
        desk.time += 100
        assert desk.read() == []
        desk.write(b"%d\n" % number, "app.log.1")
        assert desk.read() == [b"%d\n" % number]
    desk.write(b"new\n")
    assert desk.read_all() == [b"new\n"] and not desk.losses


def test_what_is_written_to_a_file_that_was_left_is_said_to_be_missing(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read()
    desk.rotate()
    desk.write(b"two\n")
    desk.read_all()
    desk.write(b"late\n", "app.log.1")
    assert desk.read_all() == []
    assert len(desk.losses) == 1 and "at least 5 bytes were written" in desk.losses[0]
    desk.write(b"later\n", "app.log.1")
    desk.rotate()
    desk.write(b"three\n")
    assert desk.read_all() == [b"three\n"] and len(desk.losses) == 1


def test_a_file_that_was_left_is_not_watched_for_ever(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read()
    desk.rotate()
    desk.write(b"two\n")
    desk.read_all()
    desk.time += WATCH_LEFT + 1
    desk.read()
    desk.write(b"late\n", "app.log.1")
    assert desk.read_all() == [] and not desk.losses


def test_rotations_while_nothing_is_read_lose_nothing(desk: Desk) -> None:
    desk.write(b"0\n")
    follower = desk.start()
    for number in range(1, 6):
        desk.note(follower.look())
        desk.rotate()
        desk.write(b"%d\n" % number)
        # The oldest are deleted: they are held.
        (desk.directory / "app.log.2").unlink(missing_ok=True)
    assert desk.read_all() == [b"%d\n" % number for number in range(6)] and not desk.losses


def test_several_rotations_between_two_looks_lose_nothing(desk: Desk) -> None:
    desk.write(b"0\n")
    desk.read()
    for number in range(1, 30):
        desk.rotate()
        desk.write(b"%d\n" % number)
    assert desk.read_all() == [b"%d\n" % number for number in range(1, 30)] and not desk.losses


def test_files_that_are_deleted_before_anybody_sees_them_may_be_missing(desk: Desk) -> None:
    desk.write(b"0\n")
    desk.read()
    for number in range(1, 4):
        (desk.directory / "app.log.1").unlink(missing_ok=True)
        desk.rotate()
        desk.write(b"%d\n" % number)
    assert desk.read_all() == [b"2\n", b"3\n"] and len(desk.losses) == 1 and "may be missing" in desk.losses[0]


@pytest.mark.parametrize("turns", [1, 2, 4])
def test_nothing_is_concluded_while_files_are_renamed(desk: Desk, monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    """A look at the directory passes one over that is renamed at that moment; and before one is opened it has another name."""
    scan, real_open, left = rotation._scan, succession.open_file, [0]

    def stir() -> bool:
        left[0] -= 1
        if left[0] >= 0:
            desk.make_room()
        return left[0] >= 0

    def stirred_scan(*args: Any) -> list[rotation.Entry]:
        found = scan(*args)
        return [entry for entry in found if entry is not found[left[0] // 2 % len(found)]] if stir() and left[0] % 2 else found

    def stirred_open(path: str) -> openfile.OpenFile:
        if path != str(desk.path):
            stir()
        return real_open(path)

    desk.write(b"0 is a line\n")
    desk.read()
    for restart, stirred in product((True, False), ("scan", "open")):
        for number in range(turns):
            desk.rotate()
            desk.write(b"%d is another line\n" % number)
        if restart:
            desk.start()
        with monkeypatch.context() as patch:
            if stirred == "scan":
                patch.setattr(rotation, "_scan", stirred_scan)
            else:
                patch.setattr(succession, "open_file", stirred_open)
            for left[0] in (60, 1):
                desk.read()
        desk.read_all()
    assert desk.got == [b"0 is a line\n", *(b"%d is another line\n" % number for _ in range(4) for number in range(turns))]
    assert not desk.losses


def test_files_that_are_renamed_before_they_are_opened(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open, left = succession.open_file, [0]

    def stirred_open(path: str) -> openfile.OpenFile:
        if path != str(desk.path) and left[0]:
            left[0] -= 1
            desk.make_room()
        return real_open(path)

    desk.write(b"0\n")
    desk.read()
    desk.rotate()
    desk.write(b"1\n")
    desk.rotate()
    desk.write(b"2\n")
    monkeypatch.setattr(succession, "open_file", stirred_open)
    left[0] = 1
    assert desk.read() == [] and not left[0]
    assert desk.read_all() == [b"1\n", b"2\n"]


def test_a_file_that_is_rotated_away_when_it_was_just_found(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open, turns = succession.open_file, [2, 3]

    def rotated_then(path: str) -> openfile.OpenFile:
        file = real_open(path)
        if path == str(desk.path):
            while turns:
                desk.rotate()
                desk.write(b"%d\n" % turns.pop(0))
        return file

    desk.write(b"0\n")
    desk.read()
    desk.rotate()
    desk.write(b"1\n")
    monkeypatch.setattr(succession, "open_file", rotated_then)
    assert desk.read_all() == [b"1\n", b"2\n", b"3\n"]


@pytest.mark.parametrize("restart", [False, True])
def test_nothing_is_passed_over_because_too_many_files_are_open(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    desk.write(b"one\n")
    desk.read()
    if restart:
        desk.kill()
    for line in (b"two\n", b"three\n"):
        desk.rotate()
        desk.write(line)

    def refuse(path: str) -> openfile.OpenFile:
        if path.endswith("log.1"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return openfile.open_file(path)

    with monkeypatch.context() as patch:
        patch.setattr(succession, "open_file", refuse)
        desk.read_all()
    desk.read_all()
    assert desk.got == [b"one\n", b"two\n", b"three\n"] and not desk.losses


def test_what_came_and_went_is_read_before_there_is_another(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read()
    desk.rotate()
    desk.write(b"two\n")
    desk.rotate()
    desk.write(b"three\n")
    desk.rotate()
    assert desk.read_all() == [b"two\n", b"three\n"]


def test_more_rotations_than_are_held_open_lose_nothing_as_long_as_the_files_are_there(desk: Desk) -> None:
    desk.write(b"0\n")
    follower = desk.start()
    for number in range(1, 2 * MAX_HELD + 9):
        desk.note(follower.look())
        desk.rotate()
        desk.write(b"%d\n" % number)
    desk.note(follower.look())
    assert len(open_below(desk.directory)) <= MAX_HELD + 1
    assert len(desk.losses) == 1 and f"{MAX_HELD} files are held open" in desk.losses[0]
    assert desk.read_all() == [b"%d\n" % number for number in range(2 * MAX_HELD + 9)]


def test_a_rotation_that_was_undone(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read()
    desk.move("app.log", "aside")
    desk.write(b"two\n")
    assert desk.read_all() == [b"two\n"]
    desk.path.unlink()
    desk.move("aside", "app.log")
    desk.write(b"three\n")
    assert desk.read_all() == [b"three\n"]
    desk.move("app.log", "aside")
    desk.write(b"four\n")
    assert desk.read_all() == [b"four\n"]
    desk.move("aside", "app.log")
    desk.write(b"five\n")
    assert desk.read_all() == [b"five\n"]


def test_names_with_dates(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read()
    for day in range(20, 25):
        desk.move("app.log", f"app.log-202611{day}")
        desk.write(b"%d\n" % day)
    assert desk.read_all() == [b"%d\n" % day for day in range(20, 25)] and not desk.losses


# Rotation while no process was here ---------------------------------------------------------------------------------------------


def turned(desk: Desk, names: list[str], *, first: float = 100) -> None:
    """Rotated while nobody was here: the rest of the file is in the first, and each has a line of its own."""
    for number, name in enumerate(names):
        desk.write(b"in %s\n" % name.encode(), name)
        desk.age(name, first + number)


@pytest.mark.parametrize(
    "names",
    [
        ["app.log.1"],
        ["app.log.3", "app.log.2", "app.log.1"],
        ["app.log.12", "app.log.11", "app.log.10", "app.log.9"],
        ["app.log-20261121", "app.log-20261122", "app.log-20261123"],
        ["app.log.2026-11-21", "app.log.2026-11-22"],
        ["app-20261121.log", "app-20261122.log"],
        ["app.log-20261121-101010.1", "app.log-20261121-111111"],
        ["app.log-20261121", "app.log-2026112104.backup"],  # logrotate's name for one that came between its two steps
        ["called whatever one likes", "app.log.1"],
    ],
)
@pytest.mark.parametrize("same_time", [False, True])
def test_a_file_that_was_rotated_meanwhile_is_found(desk: Desk, names: list[str], same_time: bool) -> None:
    desk.write(b"one line, and more\n")
    desk.read()
    desk.kill()
    desk.move("app.log", names[0])
    turned(desk, names)
    if same_time:
        for name in names:
            desk.age(name, 100)
    desk.write(b"now\n")
    expected = [*(b"in %s\n" % name.encode() for name in names), b"now\n"]
    if same_time and not names[0].startswith("app"):
        del expected[1]  # nobody can tell which came first
        os.unlink(desk.directory / names[1])
    assert desk.read_all() == expected and not desk.losses
    assert len(desk.news) == 1 and names[0] in desk.news[0]


def test_a_file_that_nobody_wrote_to_for_long_is_left_at_once(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read()
    desk.kill()
    desk.rotate()
    turned(desk, ["app.log.1"])
    desk.write(b"now\n")
    assert desk.read() == [b"in app.log.1\n", b"now\n"]


def test_what_only_looks_like_a_rotated_file_is_left_alone(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read()
    desk.kill()
    desk.rotate()
    turned(desk, ["app.log.1"])
    for name in (
        "app.log.bak",
        "app-error.log",
        "app.log.3.gz",
        "app.log.1.tmp",
        "xapp.log.1",
        "app.log2",
        "app.log.2x",
        "other",
    ):
        desk.write(b"not this\n", name)
        desk.age(name, 200)
    desk.write(b"now\n")
    (desk.directory / "app.log.5").mkdir()
    (desk.directory / "app.log.6").symlink_to("other")
    os.mkfifo(desk.directory / "app.log.7")
    # Older than what was read.
    desk.write(b"old\n", "app.log.9")
    desk.age("app.log.9", 50)
    assert desk.read_all() == [b"in app.log.1\n", b"now\n"] and not desk.losses


def test_the_rest_is_found_while_the_file_itself_is_not_there_yet(desk: Desk) -> None:
    desk.write(b"one\ntwo\n")
    desk.read(1)
    desk.write(b"three\n")
    desk.kill()
    desk.rotate()
    assert desk.read_all() == [b"three\n"]
    desk.write(b"four\n")
    assert desk.read_all() == [b"four\n"] and not desk.losses


def test_a_file_that_is_nowhere_is_waited_for_before_its_loss_is_told(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read()
    desk.kill()
    desk.move("app.log", "../aside")  # the disk is not there yet
    assert desk.read_all() == [] and not desk.losses
    desk.write(b"two\n", "../aside")
    desk.move("../aside", "app.log")
    assert desk.read_all() == [b"two\n"] and not desk.losses


@pytest.mark.parametrize("known", [0, 4])
def test_a_rest_that_cannot_be_found_is_told(desk: Desk, known: int) -> None:
    desk.write(b"one\n")
    if known:
        desk.write(b"2345")
    desk.read_all()
    desk.kill()
    shutil.copy(desk.path, desk.directory / "app.log.2.gz")
    desk.path.unlink()
    desk.write(b"other\n", "app.log.1")
    desk.write(b"now\n")
    os.utime(desk.directory / "app.log.1", (2e9, 2e9))
    desk.write(b"older\n", "app.log.3")
    desk.age("app.log.3", 0)
    assert desk.read_all() == [b"other\n", b"now\n"]
    (text,) = desk.losses
    assert ("at least 4 bytes behind byte 4" if known else "lines behind byte 4 may be missing") in text
    assert "rotated" in text and f"Look into {desk.directory}/app.log.2.gz" in text


def test_an_inode_that_is_used_again_is_another_file(desk: Desk) -> None:
    desk.write(b"one is a line of some length\n")
    desk.read()
    desk.kill()
    inode = desk.path.stat().st_ino
    # As if: the same file, with other contents, under the same name and under others.
    for name in ("app.log", "app.log.1", "another"):
        desk.path.write_bytes(b"two is a line of some length, too\n")
        if name != "app.log":
            desk.move("app.log", name)
            assert (desk.directory / name).stat().st_ino == inode
            os.utime(desk.directory / name, (1, 1))
            desk.write(b"now\n")
        committed = desk.committed
        assert desk.read_all() == ([b"now\n"] if name != "app.log" else [b"two is a line of some length, too\n"]), name
        assert len(desk.losses) == 1 and "is not found" in desk.losses.pop()
        desk.committed = committed
        desk.kill()
        if name != "app.log":
            desk.move(name, "app.log")


def test_a_few_bytes_do_not_make_an_unrelated_file_ours(desk: Desk) -> None:
    desk.write(b"\n")
    desk.read()
    desk.kill()
    desk.write(b"private\n")
    desk.move("app.log", "diary")  # its inode, and one newline in common
    desk.write(b"now\n")
    assert desk.read_all() == [b"now\n"] and len(desk.losses) == 1


def test_another_device_number_does_not_matter(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read()
    desk.write(b"two\n")
    desk.start(desk.place._replace(device=4711).encode())
    assert desk.read_all() == [b"two\n"] and not desk.losses
    desk.start(desk.place._replace(device=4711, inode=42).encode())
    desk.write(b"three\n")
    assert desk.read_all() == [b"three\n"] and not desk.losses


# Truncation ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anew", [b"1\n", b"ONE\n", b"one longer line\n" * 100])
@pytest.mark.parametrize("restart", [False, True])
def test_a_truncated_file_is_read_from_its_start(desk: Desk, anew: bytes, restart: bool) -> None:
    desk.write(b"one\n")
    desk.read()
    desk.age("app.log", 5)
    if restart:
        desk.kill()
    with open(desk.path, "r+b") as file:
        file.truncate()
        file.write(anew)
    assert b"".join(desk.read_all()) == anew
    said = desk.losses if restart else desk.news
    assert len(said) == 1 and "truncated" in said[0] and not (desk.news if restart else desk.losses)


def test_a_truncated_file_that_ends_as_before_is_another(desk: Desk) -> None:
    desk.write(b"one\n" + b"x\n" * REACH)
    desk.read()
    anew = b"ONE\n" + b"x\n" * (REACH + 5)
    desk.path.write_bytes(anew)
    assert b"".join(desk.read_all()) == anew
    desk.path.write_bytes(b"one\n" + anew[4:])
    desk.start()
    assert b"".join(desk.read_all()) == b"one\n" + anew[4:]


@pytest.mark.parametrize("restart", [False, True])
def test_a_copy_from_earlier_is_not_the_rest(desk: Desk, restart: bool) -> None:
    desk.write(b"x\n" * 5, "app.log.1")
    desk.age("app.log.1", 1)
    desk.write(b"x\n" * 3)
    desk.age("app.log", 2)
    desk.read_all()
    if restart:
        desk.kill()
    desk.path.write_bytes(b"y\n")
    assert desk.read_all() == [b"y\n"]


def test_what_is_known_to_be_lost_by_a_truncation_is_told(desk: Desk) -> None:
    desk.write(b"one\ntwo\nthree\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow_module, "LEAST_READ", 4)
        assert desk.read(1) == [b"one\n"]
        desk.path.write_bytes(b"1\n")
        assert desk.read_all() == [b"1\n"]
    assert len(desk.losses) == 1 and "at least 10 bytes are missing" in desk.losses[0]


def test_an_unfinished_line_of_a_truncated_file_is_given(desk: Desk) -> None:
    desk.write(b"one\ntw")
    desk.read_all()
    desk.path.write_bytes(b"1\n")
    assert desk.read_all() == [b"tw", b"1\n"]


@pytest.mark.parametrize("restart", [False, True])
def test_the_copy_of_a_truncated_file_is_read_to_its_end_first(desk: Desk, restart: bool) -> None:
    desk.write(b"one\ntw")
    desk.read_all()
    if restart:
        desk.kill()
    for number in range(3):
        desk.write(b"o\nthree\n" if not number else b"%d\n" % number)
        desk.write(b"unfinished")
        desk.make_room()
        shutil.copy(desk.path, desk.directory / "app.log.1")
        os.truncate(desk.path, 0)
    desk.write(b"now\n")
    assert desk.read_all() == [b"two\n", b"three\n", b"unfinished", b"1\n", b"unfinished", b"2\n", b"unfinished", b"now\n"]
    assert not desk.losses and len(desk.news) == 1


def test_a_file_that_is_cut_while_it_is_read_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, follow=False)
    desk.write(b"one\n" * 5000)
    assert desk.read(8192) and not desk.ended
    desk.path.write_bytes(b"anew\n")
    assert desk.read_all()[-1] == b"anew\n" and desk.ended and "truncated" in "".join(desk.news)
    desk.kill()


# Places -------------------------------------------------------------------------------------------------------------------------

NUMBER = st.integers(0, 2**64 - 1)


@given(
    st.builds(Place, NUMBER, NUMBER, NUMBER, NUMBER, st.integers(-(2**63) + 1, 2**63 - 1), st.binary(min_size=16, max_size=16))
)
def test_a_place_is_what_was_encoded(place: Place) -> None:
    assert Place.decode(place.encode(), "x") == place


@given(st.binary(max_size=80))
def test_garbage_is_no_place(row: bytes) -> None:
    with pytest.raises(PlaceUnknown):
        Place.decode(row, "x")


def test_a_place_that_cannot_be_understood_is_an_error(desk: Desk) -> None:
    desk.write(b"one\n")
    desk.read()
    row = desk.committed
    for damaged, why in ((row[:-1], "damaged"), (bytes([9, *row[1:]]), "version 9"), (row[:8] + b"x" + row[9:], "damaged")):
        with pytest.raises(PlaceUnknown, match=why):
            desk.start(damaged)


def test_a_file_from_the_far_future(desk: Desk) -> None:
    assert Place(1, 2, 3, 4, 10**30, b"x" * 16).encode()
    assert Place(1, 2, 3, 4, -(10**30), b"x" * 16).encode()


def test_a_place_knows_what_lies_before_it(desk: Desk) -> None:
    data = os.urandom(5 * REACH).replace(b"\n", b"x") + b"\n"
    desk.write(data[:-1])
    desk.read_all()
    desk.write(b"\n" + b"unfinished" * REACH)
    assert desk.read_all() == [data]
    assert desk.place.print == fingerprint(data[:REACH], data[-REACH:]) and desk.place.offset == len(data)
    assert desk.place.size == len(data) + 10 * REACH


def test_a_closed_follower_reads_nothing(desk: Desk) -> None:
    desk.write(b"one\n")
    follower = desk.start()
    follower.close()
    assert follower.read(10) == Found([], b"", [], False, []) and follower.look().pieces == []
    follower.close()


# All together -------------------------------------------------------------------------------------------------------------------


@contextmanager
def small_steps() -> Iterator[None]:
    """Files are read a few bytes at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow_module, "LEAST_READ", 7)
        patch.setattr(follow_module, "MAX_PAYLOAD", 64)
        yield


class Log(RuleBasedStateMachine):
    """A program writes lines, each with a number of its own; its log is rotated; and the process that reads it is killed.

    What it must give: every line once and in order; with a line that has no end when its file was left, as far as it was written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.temporary = TemporaryDirectory()
        self.desk = Desk(Path(self.temporary.name), longest=1 << 20)
        self.small = small_steps()
        self.small.__enter__()
        self.number = self.ticks = 0
        self.expected: list[bytes] = []
        self.open_line = b""
        #: Where the program writes to, and whether that has the name.
        self.log = open(self.desk.path, "ab", buffering=0)
        self.named = True
        #: Places that were committed, and how much had been given there.
        self.commits: list[tuple[bytes, int]] = []
        self.copied = self.renamed = False

    def teardown(self) -> None:
        try:
            self.settle()
            assert self.desk.got == self.expected
            assert not self.desk.losses
        finally:
            self.desk.kill()
            self.log.close()
            self.small.__exit__(None, None, None)
            self.temporary.cleanup()

    # The program

    def write(self, data: bytes) -> None:
        self.log.write(data)
        # The clock of a file system may stand still between two rotations, which that of a test does not.
        self.ticks += 1
        os.utime(self.log.fileno(), (1e9 + self.ticks, 1e9 + self.ticks))

    def line(self, width: int = 0) -> bytes:
        self.number += 1
        return b"%d " % self.number + b"." * width

    @initialize()
    def begin(self) -> None:
        """A place is committed, or nobody could know that there was a file before the one that is found."""
        self.write_lines(1, 20)
        self.read(300)

    @rule(count=st.integers(1, 5), width=st.sampled_from([0, 3, 90, 400]))
    def write_lines(self, count: int, width: int) -> None:
        self.end_line()
        for _ in range(count):
            self.expected.append(self.line(width) + b"\n")
            self.write(self.expected[-1])

    @rule(width=st.integers(1, 100))
    def write_part(self, width: int) -> None:
        part = b"_" * width if self.open_line else self.line(width)
        self.open_line += part
        self.write(part)

    @rule()
    def end_line(self) -> None:
        if self.open_line:
            self.expected.append(self.open_line + b"\n")
            self.open_line = b""
            self.write(b"\n")

    @precondition(lambda self: not self.named)
    @rule()
    def begin_a_new_file(self) -> None:
        if self.open_line:  # stays so
            self.expected.append(self.open_line)
            self.open_line = b""
        self.log.close()
        self.log = open(self.desk.path, "ab", buffering=0)
        self.named = True
        self.write_lines(1, 0)

    # Those who rotate its log

    @precondition(lambda self: not self.copied and self.named)
    @rule(dated=st.booleans(), create=st.booleans(), at_once=st.booleans())
    def rotate(self, dated: bool, create: bool, at_once: bool) -> None:
        if dated:
            self.desk.move("app.log", f"app.log-{20260000 + self.ticks}")
        else:
            self.desk.rotate()
        if create:
            self.desk.write(b"")
        self.renamed, self.named = True, False
        if at_once:
            self.begin_a_new_file()

    @precondition(lambda self: not self.renamed)
    @rule(unseen=st.integers(0, 3))
    def copy_and_truncate(self, unseen: int) -> None:
        """Something must have been given of this state of the file, for only what was seen can be found again in the copy."""
        desk = self.desk
        self.settle()
        self.write_lines(unseen, 5)
        self.copied = True
        desk.make_room()
        shutil.copy2(desk.path, desk.directory / "app.log.1")
        os.truncate(desk.path, 0)
        self.write_lines(1, 0)
        # Seen before this happens again, as it is looked at four times a second.
        self.desk.read_all()

    @precondition(lambda self: not self.copied and self.named and self.desk.follower is not None)
    @rule()
    def delete(self) -> None:
        """What nobody can find again is read by the process that holds it, if that goes on long enough."""
        self.settle()
        self.desk.path.unlink()
        self.renamed, self.named = True, False
        self.write_lines(1, 50)
        self.begin_a_new_file()
        self.desk.read_all()
        self.commits = []

    # Those who read it

    def settle(self) -> None:
        self.end_line()
        self.desk.read_all()

    @rule(limit=st.integers(1, 300))
    def read(self, limit: int) -> None:
        if self.desk.read(limit):
            self.commits.append((self.desk.committed, len(self.desk.got)))

    @rule()
    def look(self) -> None:
        if self.desk.follower is not None:
            self.desk.note(self.desk.follower.look())

    @rule(seconds=st.sampled_from([0.1, LINGER, 10.0]))
    def wait(self, seconds: float) -> None:
        self.desk.time += seconds

    @rule()
    def kill(self) -> None:
        self.desk.start()

    @precondition(lambda self: self.commits and not self.copied)
    @rule(which=st.integers(0, 3))
    def kill_before_the_commit(self, which: int) -> None:
        """What was not committed is read again; it may be the last few portions."""
        index = max(0, len(self.commits) - 1 - which)
        self.desk.committed, count = self.commits[index]
        del self.commits[index + 1 :]
        del self.desk.got[count:]
        self.desk.start()

    @invariant()
    def what_was_given_is_the_beginning_of_what_was_written(self) -> None:
        assert self.desk.got == self.expected[: len(self.desk.got)]
        assert not self.desk.losses


Log.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLog = Log.TestCase
