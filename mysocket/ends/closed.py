"""Standard descriptors that were closed when the program started. Imports no Twisted: it comes first, whatever is to be done."""

from __future__ import annotations

import os


def fill_closed() -> set[int]:
    """Open /dev/null on each of the descriptors 0 to 2 that is closed, before anything else can get its number.

    :return: those that were closed.
    """
    closed = {fd for fd in (0, 1, 2) if _is_closed(fd)}
    while closed:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            break
        os.set_inheritable(fd, True)
    return closed


def _is_closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False
