"""Where a file stands that is read: kept in the spool together with what was read of it. No Twisted here.

A file is known by its inode, and by what lies before the offset: its first bytes, and those just before. Both are needed. Inodes
are used again, and names too; a device has another number after the next boot.
"""

from __future__ import annotations

import os
from struct import Struct
from struct import error as StructError
from typing import NamedTuple
from zlib import crc32

from xxhash import xxh3_64_hexdigest, xxh3_128_digest

from mysocket.errors import PlaceUnknown

#: The name of the bookmark of a file that is read begins so.
PREFIX = "input:"
#: Bytes at the beginning, and before the offset, by which a file is known.
REACH = 1024
VERSION = 1
_ROW = Struct(">BQQQQq16s")
_CHECK = Struct(">I")
_LATEST = 2**63 - 1


def known_as(path: str) -> str:
    """The name by which the file at ``path`` is known, however it is written.

    The directory counts as it really is, so that two ways to it are one; the file's own name counts as it is written, for it may
    be a link that points to another file after each rotation (Kubernetes does so).
    """
    directory, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(directory), name)


def bookmark_name(path: str) -> str:
    """The name of the bookmark of the file at ``path``: as it is written, from the root on.

    No link in it counts as what it points to. It may point to another directory when the next process begins, and that has to
    find out then that the file it knew is not there.
    """
    return PREFIX + xxh3_64_hexdigest(os.fsencode(os.path.abspath(path)))


def fingerprint(head: bytes, before: bytes) -> bytes:
    """16 bytes.

    :param head: the first bytes of what was read, ``REACH`` at most.
    :param before: the last of them, as many.
    """
    return xxh3_128_digest(head + before)


class Place(NamedTuple):
    """
    :param offset: so many bytes of the file were given.
    :param size: bytes that it was seen to have; not less.
    :param mtime_ns: when it was written to, as far as that was seen.
    :param print: what lies before the offset (:func:`fingerprint`).
    """

    device: int
    inode: int
    offset: int
    size: int
    mtime_ns: int
    print: bytes

    def encode(self) -> bytes:
        """What a spool keeps."""
        # A file may be as old, or as far in the future, as anybody likes.
        mtime = max(-_LATEST, min(_LATEST, self.mtime_ns))
        row = _ROW.pack(VERSION, self.device, self.inode, self.offset, self.size, mtime, self.print)
        return row + _CHECK.pack(crc32(row))

    @classmethod
    def decode(cls, row: bytes, where: str) -> Place:
        """The place in a row of a spool.

        A row that cannot be read is an error, and the file is not begun anew: that would repeat all of it, in silence, to
        somebody who was promised that nothing is repeated.

        :raises PlaceUnknown:
        """
        try:
            version, *fields = _ROW.unpack_from(row)
            (check,) = _CHECK.unpack(row[_ROW.size :])
        except StructError:
            version, fields, check = (row[0] if row else 0), [], -1
        if version != VERSION:
            raise PlaceUnknown(f"it has version {version}, and this program knows {VERSION}", where=where)
        if check != crc32(row[: _ROW.size]):
            raise PlaceUnknown("it is damaged", where=where)
        return cls(*fields)
