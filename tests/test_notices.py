"""Events: the list is what the documents say and what the code uses, and one event is one line whatever is in it."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure

from mysocket.errors import AnotherPeer, CannotListen, MySocketError, RefusedByPeer, StateLoss
from mysocket.logs import FIELD, MARKS, Lines, cleaned, is_journal
from mysocket.notices import KINDS, LEVELS, NOTE, RESERVED, Notice, failure, notice, with_more
from mysocket.services.observer import make_observer, writer
from mysocket.watch import Voice

ROOT = Path(__file__).parents[1]
PLAIN = "a\\x0ab\\x0d\\x1b[2J\\u{202e}\\u{2028}\\x85\\x00\\x80"
NASTY = "a\nb\r\x1b[2J\u202e\u2028\x85\x00\udc80"


def test_the_table_of_the_documents_is_that_of_the_code() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    table = text[text.index("| event | level |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert rows == [
        [f"`{name}`", kind.level, ", ".join(f"`{field}`" for field in kind.fields), kind.meaning] for name, kind in KINDS.items()
    ]


def test_every_event_is_told_somewhere_and_no_other() -> None:
    """Names and fields are literals, so that this can be seen without running it."""
    told: dict[str, set[str]] = {}
    for path in (ROOT / "mysocket").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            first = node.args[0] if node.args else None
            if name in ("notice", "_tell") and isinstance(first, ast.Constant) and len(node.args) == 2:
                told.setdefault(first.value, set()).update(word.arg for word in node.keywords if word.arg)
    told.setdefault("failed", set()).add("status")  # these three are chosen by the class of an error
    assert set(told) | {"refused", "state_lost", NOTE} == set(KINDS)
    for name, fields in told.items():
        assert fields <= set(KINDS[name].fields), name


def test_no_field_takes_a_name_that_a_log_needs() -> None:
    for name, kind in KINDS.items():
        assert not RESERVED & set(kind.fields) and kind.level in LEVELS, name
        assert not any(field.startswith("log_") for field in kind.fields)


def test_an_unknown_event_or_field_is_found_at_once() -> None:
    with pytest.raises(LookupError):
        notice("linkd", "x")
    with pytest.raises(LookupError, match="who"):
        notice("linked", "x", who="y")


def test_a_notice_is_its_sentence() -> None:
    told = notice("linked", "linked with b", peer="b")
    assert told == "linked with b" and f"{told}!" == "linked with b!" and told.level == "info"
    longer = with_more(told, 3)
    assert isinstance(longer, Notice) and longer == "linked with b (and 3 more like it)" and longer.fields == {"peer": "b"}
    assert with_more(notice("rejected", "x"), 2).fields == {"left_out": 2}  # type: ignore[attr-defined]
    assert with_more("x", 0) == "x" and with_more("x", 1) == "x (and 1 more like it)"


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (StateLoss("x"), "state_lost"),
        (RefusedByPeer("x", peer="y"), "refused"),
        (AnotherPeer(ours="1", theirs="2"), "refused"),
        (CannotListen("x", where="y"), "failed"),
        (MySocketError("x"), "failed"),
    ],
)
def test_an_error_is_an_event(error: MySocketError, event: str) -> None:
    told = failure(error)
    assert (told.event, told.level, told) == (event, "error", str(error))
    assert told.fields == {"error": type(error).__name__, "status": error.status}


# Voices -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "level"), [("tell", "info"), ("detail", "debug"), ("complain", "warn")])
def test_what_is_no_notice_has_the_level_of_how_it_is_said(method: str, level: str) -> None:
    heard: list[Notice] = []
    getattr(Voice(heard.append, verbose=True), method)("x")
    assert [(one, one.event, one.level) for one in heard] == [("x", NOTE, level)]


def test_a_notice_keeps_its_level_however_it_is_said() -> None:
    heard: list[Notice] = []
    Voice(heard.append).complain(notice("room", "x"))
    Voice(heard.append, quiet=True).tell(notice("lost", "x"))
    Voice(heard.append, quiet=True).tell(failure(StateLoss("y")))  # of one sender of a hub, which goes on
    assert [one.level for one in heard] == ["info", "error"]


@given(st.text(), st.text())
def test_one_event_is_one_line(text: str, field: str) -> None:
    heard: list[Notice] = []
    Voice(heard.append).tell(notice("lost", text, reason=field))
    (told,) = heard
    assert not {unicodedata.category(character) for character in told} & {"Cc", "Cs", "Zl", "Zp"}
    for log_format in ("text", "json"):
        line = Lines(log_format, journal=True, now=lambda: 0.0).line(told)
        assert len(line.splitlines()) == 1 and line.endswith("\n") and line.encode()


# Lines --------------------------------------------------------------------------------------------------------------------------


def test_a_line_of_text() -> None:
    lines = Lines("text", journal=False, now=lambda: 0.0)
    assert lines.line("listening") == "mysocket: listening\n"
    assert lines.line(NASTY) == "mysocket: a\\x0ab\\x0d\\x1b[2J\\u{202e}\\u{2028}\\x85\\x00\\x80\n"


def test_a_line_of_json() -> None:
    line = Lines("json", journal=False, now=lambda: 1.5).line(notice("lost", "gone", peer="b", undelivered=3, reason=NASTY))
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:01.500000Z",
        "level": "warn",
        "event": "lost",
        "message": "gone",
        "peer": "b",
        "undelivered": 3,
        "reason": "a\\x0ab\\x0d\\x1b[2J\\u{202e}\\u{2028}\\x85\\x00\\x80",
    }
    assert line.isascii() and line.count("\n") == 1


def test_fields_are_bounded() -> None:
    told = cleaned(notice("closed", "x", reason="y" * 100_000), "info")
    assert told.fields["reason"] == "y" * FIELD


@pytest.mark.parametrize("level", LEVELS)
def test_the_journal_is_told_the_level(level: str) -> None:
    lines = Lines("text", journal=True, now=lambda: 0.0)
    assert lines.line("x", level) == f"{MARKS[level]}mysocket: x\n"  # type: ignore[arg-type, index]


def test_the_journal_is_known_by_its_device_and_inode() -> None:
    read, write = os.pipe()
    try:
        found = os.fstat(write)
        named = f"{found.st_dev}:{found.st_ino}"
        assert is_journal({"JOURNAL_STREAM": named}, write)
        for text in ("", "1:2", "nonsense", f"{named}0", f"{found.st_dev}", f"{found.st_dev + 1}:{found.st_ino}"):
            assert not is_journal({"JOURNAL_STREAM": text}, write)
        assert not is_journal({}, write)
    finally:
        os.close(read)
        os.close(write)
    assert not is_journal({"JOURNAL_STREAM": named}, write)


# twistd's log -------------------------------------------------------------------------------------------------------------------


class Twistd:
    """A log of Twisted with one observer."""

    def __init__(self, log_format: str, *, journal: bool = False) -> None:
        self.file = io.StringIO()
        self.events: list[dict[str, object]] = []
        observer = make_observer(self.file, log_format, journal=journal)
        self.publisher = LogPublisher(observer, self.events.append)

    def logger(self, name: str = "mysocket") -> Logger:
        return Logger(name, observer=self.publisher)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()


def test_twistds_log_has_real_levels_and_other_observers_see_the_fields() -> None:
    twistd = Twistd("text")
    voice = Voice(writer(twistd.logger()), verbose=True)
    voice.tell(notice("linked", "linked with b", peer="b"))
    voice.tell(notice("lost", "lost b"))
    voice.complain(failure(MySocketError("no")))
    voice.detail("by the way {not} a %s format")
    assert [re.sub(r"^\S+ ", "", line) for line in twistd.lines] == [
        "[mysocket#info] linked with b",
        "[mysocket#warn] lost b",
        "[mysocket#error] no",
        "[mysocket#debug] by the way {not} a %s format",
    ]
    assert [(event["event"], event.get("peer")) for event in twistd.events[:2]] == [("linked", "b"), ("lost", None)]


def test_twistds_log_as_json() -> None:
    twistd = Twistd("json")
    Voice(writer(twistd.logger())).tell(notice("linked", f"linked with {NASTY}", peer=NASTY))
    twistd.logger("twisted.internet.base").info("Received {signal}", signal="SIGTERM\nx")
    try:
        raise ValueError("line one\nline two")
    except ValueError:
        twistd.logger("twisted").failure("Unhandled", Failure())
    ours, theirs, failed = map(json.loads, twistd.lines)
    assert (ours["event"], ours["level"], ours["peer"]) == ("linked", "info", PLAIN)
    assert (theirs["event"], theirs["logger"], theirs["message"]) == (NOTE, "twisted.internet.base", "Received SIGTERM\\x0ax")
    assert failed["level"] == "error" and "line two" in failed["traceback"]
    assert set(ours) >= {"time", "level", "event", "message"} and ours["time"].endswith("Z")


def test_the_journal_gets_a_mark_on_each_line() -> None:
    twistd = Twistd("text", journal=True)
    twistd.logger().warn("one")
    try:
        raise ValueError("x")
    except ValueError:
        twistd.logger().failure("two", Failure())
    assert twistd.lines[0].startswith("<4>2") and twistd.lines[0].endswith("[mysocket#warn] one")
    assert len(twistd.lines) > 2 and all(line.startswith("<3>") for line in twistd.lines[1:])


@pytest.mark.parametrize(
    "name", ["log_legacy", "twisted.application._client_service.ClientService", "twisted.web.server.Site", "twisted.web"]
)
def test_the_noise_of_twisted_is_left_out_but_not_its_warnings(name: str) -> None:
    twistd = Twistd("text")
    twistd.logger(name).info("Scheduling retry 1")
    twistd.logger(name).warn("look here")
    assert len(twistd.lines) == 1 and twistd.lines[0].endswith("look here")
