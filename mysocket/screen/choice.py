"""Is this a session for the screen? To be asked before the reactor is imported: prompt_toolkit lives on asyncio's event loop."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec

from mysocket.settings import Settings


def is_for_screen(settings: Settings, environ: Mapping[str, str], terminals: tuple[bool, bool] | None = None) -> bool:
    """Does a person sit at stdin and stdout, whose terminal can do more than a typewriter?

    :param terminals: whether stdin and stdout are terminals; asked of the system unless given.
    """
    stdin, stdout = terminals if terminals is not None else (os.isatty(0), os.isatty(1))
    if not (stdin and stdout) or settings.plain_terminal or environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        return False
    if settings.other_inputs or not settings.reads_stdin or not settings.only_file:
        return False
    if settings.raw or settings.udp or settings.json or settings.cut != "lines":
        # Nothing is typed; or what comes need not be lines; or it is for programs.
        return False
    return find_spec("prompt_toolkit") is not None
