"""Chunks of files, and the names that they get."""

from __future__ import annotations

import os
import unicodedata
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mysocket.core.batch import MAX_PAYLOAD, Kind
from mysocket.core.transfer import CHUNK, MAX_NAME, MAX_TEXT, Chunk, Part, numbered, read_chunk, safe_name, split_name
from mysocket.errors import RemoteProtocolError

ID = bytes(range(16))
#: Of any character there is, halves of pairs too.
ANYTHING = st.text(st.characters(exclude_categories=[]), max_size=400)

CHUNKS = [
    Chunk(Part.OFFER, ID, 12, text="report.csv"),
    Chunk(Part.OFFER, ID, 2**64 - 1, text=""),
    Chunk(Part.DATA, ID, 7, b"x"),
    Chunk(Part.DATA, ID, 2**63, b"\0" * CHUNK),
    Chunk(Part.END, ID, 12, text="größe.tar.gz", digest=sha256(b"").digest()),
    Chunk(Part.CANCEL, ID, 3, text="it was changed"),
    Chunk(Part.CANCEL, ID, 3),
]


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: f"{chunk.part.name}-{chunk.offset}")
def test_a_chunk_is_read_as_it_was_written(chunk: Chunk) -> None:
    piece = chunk.piece()
    assert (piece.kind, piece.flags) == (Kind.FILE, 0) and len(piece.payload) <= MAX_PAYLOAD
    for payload in (piece.payload, memoryview(piece.payload)):
        found = read_chunk(payload)
        assert (found.part, found.id, found.offset, bytes(found.data), found.text, found.digest) == (
            (chunk.part, chunk.id, chunk.offset, chunk.data, chunk.text, chunk.digest)
        )


def test_the_bytes_are_those_of_the_document() -> None:
    assert Chunk(Part.DATA, ID, 258, b"xyz").piece().payload == b"\2" + ID + (258).to_bytes(8, "big") + b"xyz"
    end = Chunk(Part.END, ID, 3, text="n", digest=b"d" * 32)
    assert end.piece().payload == b"\3" + ID + (3).to_bytes(8, "big") + b"d" * 32 + b"n"


def test_a_chunk_is_whole_pages_and_fits_into_a_batch() -> None:
    assert CHUNK % 4096 == 0 and MAX_PAYLOAD - 4096 < CHUNK + 25 <= MAX_PAYLOAD


def test_what_is_too_long_is_cut_between_characters() -> None:
    found = read_chunk(Chunk(Part.OFFER, ID, 1, text="ä" * MAX_TEXT).piece().payload)
    assert found.text == "ä" * (MAX_TEXT // 2)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\1",
        b"\1" + ID + b"\0" * 7,
        b"\0" + ID + b"\0" * 8,
        b"\5" + ID + b"\0" * 8,
        b"\2" + ID + b"\0" * 8,  # no bytes
        b"\3" + ID + b"\0" * 8 + b"d" * 31,  # no digest
        b"\1" + ID + b"\0" * 8 + b"n" * (MAX_TEXT + 1),
        b"\3" + ID + b"\0" * 8 + b"d" * 32 + b"n" * (MAX_TEXT + 1),
        b"\4" + ID + b"\0" * 8 + b"n" * (MAX_TEXT + 1),
    ],
)
def test_what_is_no_chunk_is_refused(payload: bytes) -> None:
    for one in (payload, memoryview(payload)):
        with pytest.raises(RemoteProtocolError):
            read_chunk(one)


@given(st.binary(max_size=80))
def test_garbage_is_a_chunk_or_refused(payload: bytes) -> None:
    try:
        chunk = read_chunk(payload)
    except RemoteProtocolError:
        return
    assert len(chunk.id) == 16 and 0 <= chunk.offset < 2**64 and len(chunk.digest) == 32 * (chunk.part is Part.END)


# Names --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("report.csv", "report.csv"),
        ("two words.txt", "two words.txt"),
        ("größe 日本.csv", "größe 日本.csv"),
        ("gro\u0308\u00dfe", "größe"),
        ("/etc/passwd", "passwd"),
        ("../../.ssh/authorized_keys", "authorized_keys"),
        ("C:\\boot.ini", "boot.ini"),
        ("a/..", "file"),
        ("a/.", "file"),
        (".", "file"),
        ("", "file"),
        ("dir/", "file"),
        (" ", "file"),
        (".bashrc", "bashrc"),
        (". .profile", "profile"),
        (". . .", "file"),
        ("-rf", "_rf"),
        (". -rf", "_rf"),
        ("a\0b\nc", "a_b_c"),
        ("\x1b]0;x\x07", "_]0;x_"),
        ("\u202efdp.exe", "_fdp.exe"),
        ("\ud800", "_"),
        ("x.", "x."),
        ("x ", "x"),
    ],
)
def test_names(text: str, name: str) -> None:
    assert safe_name(text) == name


@given(ANYTHING, st.sampled_from(["", ".csv", ".tar.gz", "/", "/../", " "]), st.integers(0, 10**9))
@example(". .x", "", 0)
@example("a" * 239 + " b", "", 1)
@example("ä" * 200, ".tar.gz", 10**9)
@example("x." + "y" * 300, "", 1)
def test_a_name_is_one_component_that_can_be_written(text: str, more: str, number: int) -> None:
    name = safe_name(text + more)
    assert name and "/" not in name and "\\" not in name and "\0" not in name and name[0] not in ".- " and name[-1] != " "
    assert name.isprintable() and unicodedata.is_normalized("NFC", name)
    assert len(name.encode()) <= MAX_NAME and len(numbered(name, number).encode()) <= 255
    assert safe_name(name) == name
    assert os.path.basename(name) == name


@given(ANYTHING)
def test_numbers_make_other_names_of_the_same_kind(text: str) -> None:
    name = safe_name(text)
    names = [numbered(name, number) for number in range(4)]
    assert len(set(names)) == 4 and names[0] == name
    assert {split_name(one)[1] for one in names[1:]} == {split_name(name)[1]}


def test_a_number_stands_before_the_extension() -> None:
    assert [numbered(name, 2) for name in ("a.csv", "a.tar.gz", "a", "a.b.c")] == [
        "a (2).csv",
        "a (2).tar.gz",
        "a (2)",
        "a.b (2).c",
    ]


def test_any_name_can_be_written(tmp_path: Path) -> None:
    for number, text in enumerate(["a" * 5000, "ä" * 5000, "日" * 5000, "x." + "y" * 5000, "\U0001f600" * 300, "\n" * 300]):
        (tmp_path / numbered(safe_name(text), 10**9 + number)).touch(exist_ok=False)
