"""The tours of the documents, typed as they are written: what they print is what is written there.

Two things are not taken literally: the ports, and `timeout 1`, which here ends a command not after a second but when it has shown
what it has to show. On a busy machine a second may be too short.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.processes import ROOT, TIMEOUT, free_port

SCRIPTS = Path(sys.executable).parent
#: `timeout 1 COMMAND` as it is here: until a file appears.
UNTIL_SHOWN = """#!/bin/sh
shift
"$@" &
while [ ! -e shown ] && kill -0 $! 2>/dev/null; do sleep 0.02; done
kill $! 2>/dev/null
wait $!
exit 124
"""


class Step(NamedTuple):
    command: str
    shown: list[str]


def tour(document: str) -> Iterator[Step]:
    text = (ROOT / document).read_text(encoding="utf-8")
    (part,) = re.findall(r"^##+ A tour\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in re.findall(r"^```\n(.*?)^```", part, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
    step: Step | None = None
    for line in lines:
        if line.startswith("$ "):
            if step is not None:
                yield step
            step = Step(line.removeprefix("$ "), [])
        else:
            assert step is not None
            step.shown.append(line)
    if step is not None:
        yield step


class Shell:
    """Types the steps."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "bin").mkdir()
        (directory / "bin" / "timeout").write_text(UNTIL_SHOWN)
        (directory / "bin" / "timeout").chmod(0o755)
        path = f"{directory / 'bin'}:{SCRIPTS}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "XDG_RUNTIME_DIR": str(directory)}
        self.ports = {port: str(free_port()) for port in ("9000", "9001", "9100", "9200")}

    def type(self, step: Step) -> list[str]:
        """What the command prints."""
        command = re.sub("|".join(self.ports), lambda found: self.ports[found[0]], step.command)
        (self.directory / "shown").unlink(missing_ok=True)
        with subprocess.Popen(
            ["bash", "-c", command], cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            printed: list[bytes] = []
            if "timeout" in command:
                if step.shown and "|" not in command:
                    printed = [process.stdout.readline() for _ in step.shown]
                else:
                    self.wait_until_given(command)
                (self.directory / "shown").touch()
            rest, _ = process.communicate(timeout=TIMEOUT)
        return (b"".join(printed) + rest).decode().splitlines()

    def wait_until_given(self, command: str) -> None:
        """The consumer has been given everything that is kept, and has acknowledged it."""
        words = command.split()
        service = words[words.index("--spool") + 1]
        name = words[words.index("--as") + 1] if "--as" in words else "default"
        deadline = time.monotonic() + TIMEOUT
        while True:
            assert time.monotonic() < deadline, command
            consumers = json.loads(self.run("mysocket", "status", "--json", "--spool", service))["inbox"]["consumers"]
            if any(one["name"] == name and one["attached"] is not None and not one["lag_bytes"] for one in consumers):
                return

    def run(self, *command: str) -> str:
        return subprocess.run(
            command, cwd=self.directory, env=self.environment, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT
        ).stdout

    def clean_up(self) -> None:
        for file in self.directory.glob("*.pid"):
            os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    found = Shell(tmp_path)
    yield found
    found.clean_up()


def likeness(line: str) -> object:
    """What of a line is the same every time."""
    if line.startswith("{"):
        fields = json.loads(line)
        return sorted(fields), fields["text"], fields["position"]
    # Figures of metrics, and positions, are the same every time; the rest of a row is of this machine and this moment.
    return line if line.startswith(("mysocket_", "acknowledged")) else re.split(r" {2,}", line)[0]


@pytest.mark.parametrize(("document", "tools"), [("README.md", ()), ("docs/operations.md", ("nc", "curl"))])
def test_the_tour_prints_what_is_written(shell: Shell, document: str, tools: tuple[str, ...]) -> None:
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"missing: {', '.join(missing)}")
    steps = list(tour(document))
    assert len(steps) > 15
    for step in steps:
        printed = shell.type(step)
        if "status" in step.command and step.shown[0].startswith("linked") and not step.shown[1:]:
            printed = printed[:1]  # the first row is shown
        assert [likeness(line) for line in printed] == [likeness(line) for line in step.shown], step.command
