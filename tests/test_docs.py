"""What the documents say is so: the example runs, tables and example bytes are those of the code, links lead somewhere."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mysocket
from mysocket import errors
from mysocket.core import wire
from mysocket.core.batch import Batch, Flag, Kind, chain
from mysocket.core.reader import FrameReader
from mysocket.options import OPTIONS, Option

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "NEWS.md", *sorted((ROOT / "docs").glob("*.md"))]

NODE, STREAM = bytes(range(16)), bytes(range(16, 32))
GRANTED = 8 * 1024**2
PLACE = bytes(range(32, 40))
HELLO = wire.Hello(node=NODE, stream=STREAM, name="a", durable=True, input=wire.Input.FINITE, place=PLACE, files=True)
LINE = Batch(0, Kind.LINES, 0, chain(b"hi\n", 0), b"hi\n")
END = Batch(3, Kind.END, 0, chain(b"\x04", LINE.checksum), b"\x04")
GOLDEN: dict[str, wire.Frame] = {
    "HELLO": HELLO,
    "ATTACH": wire.Attach(STREAM),
    "RESUME": wire.Resume(STREAM, wire.NONE, 0, GRANTED),
    "START": wire.Start(0, 0),
    "BATCH LINES": LINE,
    "BATCH END": END,
    "ACK": wire.Ack(4, 4 + GRANTED),
    "BYE DONE": wire.Bye(wire.Reason.DONE),
    "PING": wire.Ping(3),
    "PONG": wire.Pong(3),
    "BYE LEFT": wire.Bye(wire.Reason.LEFT, "gone"),
}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """What stands below a heading, up to the next of its rank or a higher one."""
    rank = heading.index(" ")
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{rank}}} |\Z)", text(name), re.MULTILINE | re.DOTALL)
    assert found, f"{name} has no {heading!r}"
    return found[1]


def blocks(source: str, language: str) -> list[str]:
    """The fenced blocks of a language ("" for none)."""
    return [body for name, body in re.findall(r"^```(\w*)\n(.*?)^```$", source, re.MULTILINE | re.DOTALL) if name == language]


def rows(source: str) -> list[list[str]]:
    """The cells of every table row, heads and rules included."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in source.splitlines() if line.startswith("|")]


def anchors(source: str) -> set[str]:
    """The anchors of a document's headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", source, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# api.md


def test_the_example_program_prints_what_is_said(tmp_path: Path) -> None:
    example = section("docs/api.md", "## A complete example")
    (program,), (printed,) = blocks(example, "python"), blocks(example, "")
    (tmp_path / "example.py").write_text(program, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "example.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


def test_the_two_sessions_without_a_network() -> None:
    (block,) = blocks(text("docs/api.md"), "pycon")
    found = doctest.DocTestParser().get_doctest(block, {}, "api.md", "docs/api.md", 0)
    assert found.examples
    assert not doctest.DocTestRunner().run(found).failed


@pytest.mark.parametrize("name", sorted(set(mysocket.__all__) - {"__version__"}))
def test_public_names_are_described(name: str) -> None:
    assert re.search(rf"\b{name}\b", text("docs/api.md"))


# Options and statuses


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.long)
def test_each_option_is_named(option: Option) -> None:
    everything = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    names = [f"--{name}" for name in (option.long, *option.aliases)] + ([f"-{option.short}"] if option.short else [])
    for name in names:
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", everything), f"{name} is nowhere"


@pytest.mark.parametrize(("name", "heading"), [("README.md", "## Leaving"), ("docs/promise.md", "## Exit status")])
def test_statuses_are_those_of_the_code(name: str, heading: str) -> None:
    known = {value for constant, value in vars(errors).items() if constant.isupper() and isinstance(value, int)}
    numbers = [int(number) for row in rows(section(name, heading)) for number in re.findall(r"\b[0-9]+\b", row[0])]
    assert sorted(numbers) == sorted(known)


def test_every_error_has_one_of_them() -> None:
    known = {value for constant, value in vars(errors).items() if constant.isupper() and isinstance(value, int)}
    raised = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MySocketError)]
    assert {kind.status for kind in raised} <= known


def test_errors_that_are_named_exist() -> None:
    names = [name for row in rows(section("docs/api.md", "## Errors"))[2:] for name in re.findall(r"`(\w+)`", row[0])]
    assert names
    assert [name for name in names if not hasattr(errors, name)] == []


# protocol.md


def golden() -> dict[str, bytes]:
    """Name -> bytes of the example frames in the document; what is indented goes on the line before."""
    (block,) = blocks(section("docs/protocol.md", "### Example"), "")
    found: dict[str, bytes] = {}
    for line in block.splitlines():
        if match := re.match(r"([A-Z]+(?: [A-Z]+)*) ", line):
            name, line = match[1], line[match.end() :]
            found[name] = b""
        found[name] += bytes.fromhex(line)
    return found


@pytest.mark.parametrize("name", GOLDEN)
def test_example_bytes_are_what_is_sent(name: str) -> None:
    assert wire.encode(GOLDEN[name]) == golden()[name]


def test_every_frame_type_has_example_bytes() -> None:
    assert golden().keys() == GOLDEN.keys()
    assert {data[4] for data in golden().values()} == set(wire.Type)


def test_example_bytes_are_read_as_these_frames() -> None:
    frames: list[wire.Frame] = []
    FrameReader().feed(wire.MAGIC + b"".join(golden().values()), frames)
    assert frames == list(GOLDEN.values())


def test_the_hello_that_is_shown_is_its_body() -> None:
    (block,) = blocks(section("docs/protocol.md", "### Example"), "json")
    assert block.rstrip("\n").encode() == golden()["HELLO"][5:]
    keys = [row[0].strip("`") for row in rows(section("docs/protocol.md", "### 1 HELLO"))[2:]]
    assert keys == list(json.loads(block))


def test_the_magic_is_the_magic() -> None:
    assert f"`{wire.MAGIC.hex()}`" in section("docs/protocol.md", "## Bytes")


def test_frame_types_are_numbered_as_in_the_code() -> None:
    headings = re.findall(r"^### ([0-9].*)$", text("docs/protocol.md"), re.MULTILINE)
    numbered = {name: int(number) for heading in headings for number, name in re.findall(r"(\d+) (\w+)", heading)}
    assert numbered == {kind.name: kind.value for kind in wire.Type}


def test_reasons_kinds_and_flags_are_those_of_the_code() -> None:
    assert [(int(row[0]), row[1]) for row in rows(section("docs/protocol.md", "## Reasons"))[2:]] == [
        (reason.value, reason.name) for reason in wire.Reason
    ]
    names = {row[1]: row[0] for row in rows(section("docs/protocol.md", "### 5 BATCH"))}
    for one in [*Kind, *Flag]:
        assert names[str(one.name)] == str(one.value)


# All


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: no such heading"


def test_the_map_of_the_code_is_the_code() -> None:
    (block,) = blocks(section("README.md", "## Map of the code"), "")
    named = set(re.findall(r"^  (\S+) ", block, re.MULTILINE))
    there = {f"{path.name}/" if path.is_dir() else path.name for path in (ROOT / "mysocket").iterdir()}
    there = {name for name in there if not name.startswith("_") and (name.endswith(("/", ".py")))}
    assert named == there
    assert [name for name in re.findall(r"^(\S+/) ", block, re.MULTILINE) if not (ROOT / name).is_dir()] == []
