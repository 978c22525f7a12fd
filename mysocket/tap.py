"""twistd's view: the options of options.py as `usage.Options`, and makeService."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from twisted.application.service import IService
from twisted.python import usage

from mysocket._version import __version__
from mysocket.commandline import spell_out, with_config
from mysocket.errors import MySocketError, UsageError
from mysocket.logs import MARKS, Lines, is_journal
from mysocket.notices import failure
from mysocket.options import ANSWERS, FLAG, OPTIONS, REPEAT, VALUE, Option
from mysocket.settings import Settings, settings


class Options(usage.Options):
    synopsis = "[options] [LISTENER_PORT RECEIVER_HOST RECEIVER_PORT]"
    longdesc = "Messages that must arrive, as a service; the options are those of the command mysocket."
    optFlags: ClassVar = [[o.long, o.short, o.help] for o in OPTIONS if o.kind == FLAG and o.long not in ANSWERS]
    optParameters: ClassVar = [[o.long, o.short, o.default, o.help, o.read] for o in OPTIONS if o.kind == VALUE]

    settings: Settings

    def opt_version(self) -> None:
        """show the version and exit"""
        print(f"mysocket {__version__}")
        sys.exit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        explain: Callable[[str], str] = str
        try:
            # twistd changes its directory later: the file is the one that its user sees.
            spelled, positionals, explain = with_config(*spell_out(sys.argv[1:] if options is None else options))
            super().parseOptions([*spelled, "--", *positionals])
        except UsageError as error:
            if self.parent is not None:
                # twistd would print all its help, with the error below it, and leave with 1.
                mark = MARKS["error"] if is_journal(os.environ) else ""
                sys.stderr.write(f"{mark}mysocket: {explain(str(error))}\n")
                sys.exit(error.status)
            raise usage.UsageError(explain(str(error))) from error

    def parseArgs(self, *positionals: str) -> None:
        self.positionals = positionals

    def postOptions(self) -> None:
        self.settings = settings(self, self.positionals)
        if self.parent is None:
            return
        from mysocket.services.before import look

        # What twistd finds in the process that it forks, it tells in its own words and with status 1.
        try:
            look(self.settings, self.parent)
        except MySocketError as error:
            lines = Lines(self.settings.log_format, journal=is_journal(os.environ), now=time.time)
            sys.stderr.write(lines.line(failure(error)))
            sys.exit(error.status)


def _repeatable(option: Option) -> None:
    def collect(self: Options, text: str) -> None:
        self.setdefault(option.long, []).append(option.read(text))

    collect.__doc__ = option.help
    setattr(Options, f"opt_{option.long.replace('-', '_')}", collect)


for _option in OPTIONS:
    if _option.kind == REPEAT:
        _repeatable(_option)


def makeService(options: Options) -> IService:
    from mysocket.service import make_twistd_service

    return make_twistd_service(options.settings, options.parent)
