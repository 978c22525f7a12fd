"""The man page and the completions are what the one table of options says, and the man page is one to `man`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mysocket import errors
from mysocket.configfile import LARGEST, read
from mysocket.options import OPTIONS, VERBS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/man/mysocket.1"
HEADINGS = "NAME SYNOPSIS DESCRIPTION OPTIONS VERBS EXAMPLES CONFIGURATION FILES EXIT_STATUS ENVIRONMENT SEE_ALSO"


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What the command prints, on stderr too; its status is 0."""
    environ = {**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_what_is_checked_in_is_what_the_table_says() -> None:
    assert run(sys.executable, "docs/manual.py") == ""


def test_what_is_old_is_named_and_made_again(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "mysocket", tmp_path / "mysocket", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    table = tmp_path / "mysocket/options.py"
    table.write_text(table.read_text().replace('Option("keep-open", "k"', 'Option("stay-open", "k"'))
    (tmp_path / "docs/man/mysocket.1").unlink()
    done = subprocess.run([sys.executable, "docs/manual.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    named = [line.split()[0] for line in done.stdout.splitlines()]
    assert named == [
        "docs/man/mysocket.1",
        *(f"docs/completions/{name}" for name in ("mysocket", "_mysocket", "mysocket.fish")),
    ]
    run(sys.executable, "docs/manual.py", "--write", cwd=tmp_path)
    for name in named:
        text = (tmp_path / name).read_text().replace("\\-", "-")
        assert "stay-open" in text
        assert "--keep-open" not in text


def test_the_page_has_its_sections_and_all_that_can_be_typed() -> None:
    page = PAGE.read_text()
    assert re.findall(r"^\.SH (.*)$", page, re.MULTILINE) == [heading.replace("_", " ") for heading in HEADINGS.split()]
    assert page.isascii()
    plain = page.replace("\\-", "-")
    for option in (*OPTIONS, *(option for verb in VERBS.values() for option in verb.options)):
        names = [f"--{name}" for name in (option.long, *option.aliases)] + ([f"-{option.short}"] if option.short else [])
        assert all(rf"\fB{name}\fR" in plain for name in names)
    assert re.findall(r"^\.SS (\w+)$", plain, re.MULTILINE)[-len(VERBS) :] == [*VERBS]
    numbers = re.findall(r"\.TP\n\\fB([0-9, ]+)\\fR\n", plain)
    known = {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)}
    assert {int(number) for row in numbers for number in row.split(", ")} == known


def test_the_file_that_is_shown_is_one(tmp_path: Path) -> None:
    example = PAGE.read_text().partition(".SH CONFIGURATION")[2].partition(".RS\n")[2].partition(".RE")[0]
    example = example.replace("\\&", "").replace("\\-", "-")
    assert f"```toml\n{example}```" in (ROOT / "README.md").read_text(encoding="utf-8")
    path = tmp_path / "app.toml"
    path.write_text(example)
    assert path.stat().st_size < LARGEST
    assert [entry.option.long for entry in read(str(path))] == ["peer", "spool", "max-spool", "input", "wait", "verbose"]


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_man_has_nothing_to_say_against_it() -> None:
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", PAGE],
        env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "has been minimized" in done.stdout:
        pytest.skip("the man of this system shows no pages")
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.sub(r".\x08", "", done.stdout)
    assert re.search(r"^ +-p, --port PORT$", shown, re.MULTILINE)
    assert re.search(r'^ +max-spool = "2G"$', shown, re.MULTILINE)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_mandoc_has_nothing_to_say_against_it() -> None:
    assert run("mandoc", "-Tlint", PAGE) == ""
