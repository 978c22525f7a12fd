"""Files that are read to be sent: what is refused, what is read, and what is noticed of those who write to them meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mysocket.core.batch import MAX_PAYLOAD, Kind, Piece
from mysocket.core.transfer import CHUNK, Chunk, Part, read_chunk
from mysocket.ends.filereader import BLOCK, FileReader
from mysocket.errors import FileChanged, FileUnread, MySocketError, NotSendable
from tests.support.processes import ROOT

ID = bytes(range(16))


def file(tmp_path: Path, data: bytes, name: str = "file") -> str:
    path = tmp_path / name
    path.write_bytes(data)
    # Old enough that what is written in the same tick of the kernel's clock is seen.
    os.utime(path, (1e9, 1e9))
    return str(path)


def all_pieces(reader: FileReader) -> list[Piece]:
    pieces = [reader.offer()]
    while not reader.ended:
        pieces += reader.read()
    reader.close()
    return pieces


def chunks(pieces: list[Piece]) -> list[Chunk]:
    assert all(piece.kind is Kind.FILE and not piece.flags and len(piece.payload) <= MAX_PAYLOAD for piece in pieces)
    return [read_chunk(piece.payload) for piece in pieces]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
def test_a_file_is_one_transfer(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    offer, *between, end = chunks(all_pieces(FileReader(file(tmp_path, data), ID)))
    assert (offer.part, offer.id, offer.offset, offer.text) == (Part.OFFER, ID, size, "file")
    assert (end.part, end.offset, end.text, end.digest) == (Part.END, size, "file", sha256(data).digest())
    at = 0
    for chunk in between:
        assert chunk.part is Part.DATA and chunk.offset == at and chunk.data == data[at : at + CHUNK]
        at += len(chunk.data)
    assert at == size and len(between) == -(-size // CHUNK)


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * BLOCK + 3])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_another_process_goes_on(tmp_path: Path, size: int, share: float) -> None:
    path = file(tmp_path, os.urandom(size))
    first = FileReader(path, ID)
    whole = all_pieces(FileReader(path, ID))
    offset = int(size * share) // CHUNK * CHUNK if share < 1 else size
    second = FileReader(path, ID, first.stamp)
    while second.offset < offset:
        second.skip(min(1000, offset - second.offset))
    rest = all_pieces(second)
    first.close()
    assert rest[0] == whole[0] and rest[1:] == [*whole][len(whole) - len(rest) + 1 :]
    assert chunks(rest)[1].offset == offset


def test_it_ends_once(tmp_path: Path) -> None:
    reader = FileReader(file(tmp_path, b"x"), ID)
    assert len(reader.read()) == 2 and reader.read() == []
    reader.close()
    reader.close()


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        (b"plain", "plain"),
        (b"with space and \xc3\xa9", "with space and é"),
        (b"\xff\xfe\x80 latin \xe9", "��� latin �"),
        (b"-rf", "-rf"),
        (b"line\nfeed", "line\nfeed"),
        (b"x" * 255, "x" * 255),
    ],
)
def test_the_name_is_the_last_component(tmp_path: Path, name: bytes, sent: str) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "wb"):
        pass
    reader = FileReader(os.fsdecode(path), ID)
    offer, end = chunks(all_pieces(reader))
    assert reader.name == offer.text == end.text == sent


def test_the_target_of_a_link_is_sent_under_the_name_of_the_link(tmp_path: Path) -> None:
    file(tmp_path, b"data", "target")
    (tmp_path / "link").symlink_to("target")
    offer, data, _ = chunks(all_pieces(FileReader(str(tmp_path / "link"), ID)))
    assert offer.text == "link" and data.data == b"data"


# What is refused ----------------------------------------------------------------------------------------------------------------


def refusal(path: Path | str) -> str:
    with pytest.raises(NotSendable) as raised:
        FileReader(str(path), ID)
    assert raised.value.status == 2 and str(path).replace("\0", "")[:20] in str(raised.value)
    return str(raised.value)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    assert "it is a directory" in refusal(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    assert "no regular file" in refusal(tmp_path / "fifo")
    assert "no regular file" in refusal("/dev/zero")
    assert "no regular file" in refusal("/dev/null")
    assert "No such file" in refusal(tmp_path / "nothing")
    assert "Not a directory" in refusal(file(tmp_path, b"") + "/x")
    assert "File name too long" in refusal(tmp_path / ("x" * 300))
    (tmp_path / "loop").symlink_to("loop")
    assert "symbolic links" in refusal(tmp_path / "loop")
    refusal(f"{tmp_path}/a\0b")
    with pytest.raises(NotSendable):
        FileReader("", ID)


def test_the_writer_of_a_fifo_hears_nothing_of_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refusal(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device"):
        os.open(tmp_path / "fifo", os.O_WRONLY | os.O_NONBLOCK)


def test_a_file_that_may_not_be_read_is_refused() -> None:
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        _check_unreadable(file(Path(directory), b"x"))


def _check_unreadable(path: str) -> None:
    os.chmod(path, 0)
    code = "import os\nfrom mysocket.ends.filereader import *\nif os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
    code += f"try: FileReader({path!r}, bytes(16))\nexcept Exception as problem: print(type(problem).__name__, problem)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"NotSendable Cannot send {path}: Permission denied.\n", done.stderr


def test_a_file_that_has_more_than_it_says_is_given_up() -> None:
    """Files of /proc say that they are empty."""
    reader = FileReader("/proc/self/status", ID)
    with pytest.raises(FileChanged, match="grown beyond 0 bytes"):
        reader.read()
    reader.close()


# Who writes meanwhile ----------------------------------------------------------------------------------------------------------


def begun(tmp_path: Path) -> tuple[FileReader, str]:
    path = file(tmp_path, b"a" * (2 * BLOCK + 100))
    reader = FileReader(path, ID)
    assert len(reader.read()) == 4
    return reader, path


def change(reader: FileReader) -> str:
    with pytest.raises(FileChanged) as raised:
        while not reader.ended:
            reader.read()
    reader.close()
    assert reader.path in str(raised.value)
    return str(raised.value)


def test_a_file_that_shrinks_is_given_up(tmp_path: Path) -> None:
    for size in (2 * BLOCK + 99, BLOCK + 5, BLOCK, 0):
        reader, path = begun(tmp_path)
        os.truncate(path, size)
        assert "has shrunk" in (found := change(reader)) or f"and has {size}" in found


def test_a_file_that_grows_is_given_up(tmp_path: Path) -> None:
    reader, path = begun(tmp_path)
    with open(path, "ab") as more:
        more.write(b"b")
    assert "had 2064484 bytes, and has 2064485" in change(reader)
    # Also right before the end is said.
    reader = FileReader(path, ID)
    reader.skip(2 * BLOCK + 101)
    with open(path, "ab") as more:
        more.write(b"b")
    assert "grown beyond" in change(reader)


def test_a_file_that_is_written_to_is_given_up(tmp_path: Path) -> None:
    reader, path = begun(tmp_path)
    with open(path, "r+b") as inside:
        inside.write(b"b")
    assert "somebody has written to it" in change(reader)


def test_another_file_of_the_same_name_is_not_that_file(tmp_path: Path) -> None:
    reader, path = begun(tmp_path)
    stamp = reader.stamp
    os.rename(path, path + ".old")
    file(tmp_path, b"a" * (2 * BLOCK + 100))
    # Who has it open reads on what it has opened.
    assert chunks(all_pieces(reader))[-1].part is Part.END
    with pytest.raises(FileChanged, match="another file of the same name"):
        FileReader(path, ID, stamp)


def test_who_goes_on_finds_the_same_state_or_gives_up(tmp_path: Path) -> None:
    reader, path = begun(tmp_path)
    stamp = reader.stamp
    reader.close()
    FileReader(path, ID, stamp).close()
    os.utime(path, ns=(0, stamp.mtime_ns + 1))
    with pytest.raises(FileChanged):
        FileReader(path, ID, stamp)
    os.utime(path, ns=(0, stamp.mtime_ns))
    with open(path, "ab") as more:
        more.write(b"b")
    os.utime(path, ns=(0, stamp.mtime_ns))
    with pytest.raises(FileChanged):
        FileReader(path, ID, stamp)
    os.unlink(path)
    with pytest.raises(NotSendable):
        FileReader(path, ID, stamp)


def test_what_is_skipped_is_looked_at_as_well(tmp_path: Path) -> None:
    reader, path = begun(tmp_path)
    os.truncate(path, BLOCK + 5)
    with pytest.raises(FileChanged):
        reader.skip(BLOCK)
    reader.close()


def test_a_read_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, _ = begun(tmp_path)

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(FileUnread, match="Input/output error"):
        reader.read()
    reader.close()


def test_reads_that_give_less_are_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, read = os.urandom(CHUNK + 100), os.pread
    path = file(tmp_path, data)
    whole = all_pieces(FileReader(path, ID))
    monkeypatch.setattr(os, "pread", lambda fd, size, at: read(fd, min(size, 10_007), at))
    assert all_pieces(FileReader(path, ID)) == whole


def test_cancel_says_how_far_it_came(tmp_path: Path) -> None:
    reader, _ = begun(tmp_path)
    [chunk] = chunks([reader.cancel("why" * 1000)])
    assert (chunk.part, chunk.offset) == (Part.CANCEL, BLOCK) and chunk.text.startswith("whywhy") and len(chunk.text) == 1024
    reader.close()


def test_no_descriptor_is_left_where_it_fails(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    reader, path = begun(tmp_path)
    stamp = reader.stamp._replace(size=1)
    for _ in range(10):
        with pytest.raises(MySocketError):
            FileReader(path, ID, stamp)
        with pytest.raises(MySocketError):
            FileReader(str(tmp_path), ID)
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before
