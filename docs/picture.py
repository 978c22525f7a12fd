"""The picture of a session in README.md: `python docs/picture.py` runs two sessions at pseudo-terminals, prints what one of them
shows, and with `--write` puts it into the README.

Names, ports and times are put in: those of this machine would be another picture each time.
"""

from __future__ import annotations

import re
import socket
import sys
import tempfile
from itertools import count
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.processes import free_port  # noqa: E402
from tests.support.screen import Desk, Person  # noqa: E402

BEGIN, END = "<!-- picture: python docs/picture.py -->", "<!-- end of the picture -->"
SIZE = (24, 100)


def moments(place: Path) -> list[str]:
    """The screen at the moments that are shown."""
    found = []
    ours, theirs = free_port(), free_port()
    incoming = place / "incoming"
    report = place / "report.csv"
    report.write_bytes(b"x" * 1_200_000)
    with Desk(place) as desk:
        one = desk.person(ours, "localhost", theirs, size=SIZE)
        one.wait_status_line(r"not there yet, next attempt in 1 s")
        one.say("are you there?")
        one.wait_status_line(r"1 message waiting")
        found.append(shown(one, ours, theirs))
        other = desk.person(theirs, "localhost", ours, "--download-dir", incoming, size=SIZE)
        one.wait_seen("✓ are you there")
        other.wait_seen("are you there")
        other.say("yes. Can you send me the report?")
        one.wait_seen("the report")
        one.say(f"/send {report}")
        one.wait_seen("✓ /send report")
        one.paste("it has two parts:\n  sales, and\n  what we know of costs")
        one.press("Enter")
        one.wait_seen("✓ it has two parts")
        one.type("I am just ty")
        other.say("it is here 🎉 спасибо")
        one.wait_seen("спасибо")
        one.wait_typed("I am just ty")
        found.append(shown(one, ours, theirs))
        for person in (one, other):
            person.press("Ctrl-U")
            person.say("EXIT")
            person.wait_status(0)
    return found


def shown(person: Person, ours: int, theirs: int) -> str:
    """What is on the screen, with the names of the example."""
    text = person.text.rstrip()
    for before, after in (
        (rf"\b{ours}\b", "9000"),
        (rf"\b{theirs}\b", "9001"),
        (r"(run: mysocket \d+) localhost", r"\1 hosta"),
        (r"on the other machine", "on hostb"),
        (r"listening on .*", "listening on 0.0.0.0:9000 and [::]:9000 (connections are taken from hostb)"),
        (rf"{re.escape(socket.gethostname())} \([^)]*\)", "hostb (192.0.2.7:40112)"),
        (rf"\b{re.escape(socket.gethostname())}\b", "hostb"),
        (r"\blocalhost\b", "hostb"),
        (r"\d+ s ago", "just now"),
        (r"connecting", "not there yet, next attempt in 1 s"),
    ):
        text = re.sub(before, after, text)
    seconds = count(7, 8)
    return re.sub(r"^\d\d:\d\d:\d\d", lambda _: f"12:31:{next(seconds):02}", text, flags=re.MULTILINE)


def picture() -> str:
    """The fenced blocks."""
    with tempfile.TemporaryDirectory(prefix="mysocket-picture-") as place:
        first, second = moments(Path(place))
    said = "The other side is not there yet:", "And later:"
    blocks = zip(said, (f"hosta$ mysocket 9000 hostb 9001\n{first}", second), strict=True)
    return "\n\n".join(f"{words}\n\n```\n{text}\n```" for words, text in blocks)


def main() -> None:
    """Print it, or put it into the README."""
    text = picture()
    if sys.argv[1:] != ["--write"]:
        print(text)
        return
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
