"""The rows of the own stream and of the table ``meta``, and what a row takes in the file."""

from __future__ import annotations

from struct import Struct

from mysocket.core.wire import ID_SIZE

#: Bytes of a page, of its header, and what each entry on it takes besides its key and its row.
PAGE, PAGE_HEADER, NODE_HEADER = 4096, 16, 10
#: The number of the own stream. A number, so that the stream can go on under another id without a change of the rows.
OWN = 0

KEY = Struct(">IQ")
ROW = Struct(">QQBBd")
IDENTITY = Struct(f">{ID_SIZE}s{ID_SIZE}sQ")
MARK = Struct(">QQ")
INPUT = Struct(">Q?")


def disk_size(size: int) -> int:
    """Bytes that a batch of ``size`` bytes takes in the file, among others like it."""
    return row_size(KEY.size, size + ROW.size)


def row_size(key: int, row: int) -> int:
    """Bytes that a row takes in the file, its key and itself given in bytes.

    A page holds whole rows, behind its header; a row of more than half a page gets pages of its own, and a place on a shared one.
    """
    entry = key + row + NODE_HEADER
    if entry <= (PAGE - PAGE_HEADER) // 2:
        return PAGE // ((PAGE - PAGE_HEADER) // entry)
    return -(-(PAGE_HEADER + row) // PAGE) * PAGE + key + 8 + NODE_HEADER
