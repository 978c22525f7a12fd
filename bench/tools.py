"""The command lines that are compared: each moves its stdin over TCP on loopback to the stdout of another process.

Every tool runs with its defaults, in its cheapest form for one direction: `--send-only` and `--recv-only` where it has them,
`-u` for socat; `nc -N`, so that it ends at the end of its input.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
US = "mysocket"


@dataclass(frozen=True)
class Tool:
    """How to receive on `port` and how to send to it. `back` is a second port, for the tool whose receiver knows its sender."""

    name: str
    receive: Callable[[int, int], list[str]]
    send: Callable[[int, int], list[str]]


def _mysocket(*words: str | int) -> list[str]:
    return [sys.executable, "-m", "mysocket", *map(str, words)]


# The main job of the README: both sides listen and dial, one side sends.
MYSOCKET = Tool(
    US,
    lambda port, back: _mysocket("-p", port, "--peer", f"127.0.0.1:{back}", "--recv-only"),
    lambda port, back: _mysocket("-p", back, "--peer", f"127.0.0.1:{port}", "--send-only"),
)
PEERS = (
    Tool(
        "nc",
        lambda port, _: ["nc", "-N", "-l", "127.0.0.1", str(port)],
        lambda port, _: ["nc", "-N", "127.0.0.1", str(port)],
    ),
    Tool(
        "socat",
        lambda port, _: ["socat", "-u", f"TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr", "-"],
        lambda port, _: ["socat", "-u", "-", f"TCP4:127.0.0.1:{port}"],
    ),
    Tool(
        "ncat",
        lambda port, _: ["ncat", "--recv-only", "-l", "127.0.0.1", str(port)],
        lambda port, _: ["ncat", "--send-only", "127.0.0.1", str(port)],
    ),
)


def tools() -> list[Tool]:
    """MySocket and every peer that is installed, in the order in which they take turns."""
    return [MYSOCKET, *(tool for tool in PEERS if shutil.which(tool.name))]


def machine() -> str:
    """What the figures were measured on, in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    cores = len(os.sched_getaffinity(0))
    twisted = subprocess.run(
        [sys.executable, "-c", "import twisted; print(twisted.__version__)"], check=False, capture_output=True, text=True
    ).stdout.strip()
    versions = [f"Python {platform.python_version()}", f"Twisted {twisted}", *(_version(tool.name) for tool in tools()[1:])]
    return f"{model}, {cores} cores, {platform.system()} {platform.release()}; {', '.join(versions)}"


def _version(name: str) -> str:
    option = {"nc": "-h", "socat": "-V", "ncat": "--version"}[name]
    done = subprocess.run([name, option], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    for line in (done.stdout + done.stderr).splitlines():
        if "ersion" in line or "patchlevel" in line:
            return line.strip().replace(" - see www.dest-unreach.org", "")
    return name
