"""Files on their way: chunks and the payloads of FILE batches, and names that are safe to give to a file.

A transfer is a file that goes over a stream, in chunks. Rules

1. Each chunk is a batch of its own, names its transfer and says where its bytes belong. So messages and other transfers may come
   between two chunks, and a chunk that comes again, after a crash, may be written again: the file is the same.
2. OFFER comes first, END last; both have name and size, so that a receiver which was restarted in between needs no other memory
   than the bytes it has written. CANCEL may come instead of anything behind OFFER: the rest will not come.
3. END carries the SHA-256 of the whole file. The file has its name only when that was compared.
4. A name is what the sender calls the file, and may be anything: :func:`safe_name` makes one component of it that can be written.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from unicodedata import normalize

from mysocket.core.batch import MAX_PAYLOAD, Bytes, Kind, Piece
from mysocket.errors import RemoteProtocolError

_HEAD = Struct(">B16sQ")
#: Bytes of a chunk before its body.
HEAD_SIZE = _HEAD.size
#: Bytes of a file in one chunk, at most: whole pages, and with its head it fits into a batch.
CHUNK = (MAX_PAYLOAD - _HEAD.size) // 4096 * 4096
#: Bytes of a name or a reason, at most.
MAX_TEXT = 1024
#: Bytes of the name of a file in a directory, at most (NAME_MAX of Linux is 255), with room for " (999)".
MAX_NAME = 240
DIGEST_SIZE = 32


class Part(IntEnum):
    """What a chunk is (a byte)."""

    OFFER = 1
    DATA = 2
    END = 3
    CANCEL = 4


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of the transfer ``id`` (16 random bytes).

    :ivar offset: of DATA, where its bytes belong; of OFFER and END, the size of the file; of CANCEL, how far the transfer came.
    :ivar data: the bytes of DATA.
    :ivar text: the name of OFFER and END; why, of CANCEL.
    :ivar digest: the SHA-256 of END.
    """

    part: Part
    id: bytes
    offset: int
    data: Bytes = b""
    text: str = ""
    digest: bytes = b""

    def piece(self) -> Piece:
        """The piece of a stream that carries it."""
        body = self.data if self.part is Part.DATA else self.digest + _cut(self.text)
        return Piece(Kind.FILE, 0, b"".join((_HEAD.pack(self.part, self.id, self.offset), body)))


def _cut(text: str) -> bytes:
    return text.encode(errors="replace")[:MAX_TEXT].decode(errors="ignore").encode()


def read_chunk(payload: Bytes) -> Chunk:
    """The chunk that a FILE batch carries.

    :raises RemoteProtocolError: it is none.
    """
    if len(payload) < _HEAD.size:
        raise RemoteProtocolError("a piece of a file without a head")
    part, id, offset = _HEAD.unpack_from(payload)
    body = memoryview(payload)[_HEAD.size :]
    if part == Part.DATA and body:
        return Chunk(Part.DATA, id, offset, body)
    digest = DIGEST_SIZE if part == Part.END else 0
    if part not in (Part.OFFER, Part.END, Part.CANCEL) or not digest <= len(body) <= digest + MAX_TEXT:
        raise RemoteProtocolError(f"a piece of a file of an unknown kind ({part}, {len(body)} bytes)")
    return Chunk(Part(part), id, offset, text=str(body[digest:], "utf-8", "replace"), digest=bytes(body[:digest]))


def safe_name(text: str) -> str:
    """One component of a path, made of what a sender calls a file: never empty, hidden, an option, or larger than
    :data:`MAX_NAME` bytes; what cannot be seen is replaced."""
    name = normalize("NFC", text.replace("\\", "/").rsplit("/", 1)[-1])
    name = "".join(character if character.isprintable() else "_" for character in name).lstrip(". ").rstrip()
    if not name:
        return "file"
    if name[0] == "-":
        name = "_" + name[1:]
    stem, extension = split_name(name)
    if len(extension.encode()) > MAX_NAME // 2:
        stem, extension = name, ""
    room = MAX_NAME - len(extension.encode())
    return (stem.encode(errors="replace")[:room].decode(errors="ignore") + extension).rstrip()


def split_name(name: str) -> tuple[str, str]:
    """The stem of a name, and its extension with the dot; ``.tar.gz`` and the like are one extension."""
    stem, dot, extension = name.rpartition(".")
    if not stem:
        return name, ""
    extension = dot + extension
    if stem.endswith(".tar") and stem != ".tar":
        stem, extension = stem[:-4], ".tar" + extension
    return stem, extension


def numbered(name: str, number: int) -> str:
    """The name for a file when ``number`` others have it already: ``report (1).csv``."""
    if not number:
        return name
    stem, extension = split_name(name)
    return f"{stem} ({number}){extension}"
