"""Timers follow the monotonic clock: a step of the wall clock neither stops nor fires them."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The wall clock is set back an hour as soon as the timer is set. A thread ends the process if the timer does not fire.
STEPPED = textwrap.dedent(
    """
    import os, sys, threading, time
    real, step = time.time, [0.0]
    time.time = lambda: real() + step[0]
    from twisted.internet import reactor
    if sys.argv[1] == "ours":
        from mysocket.runtime import use_monotonic_time
        use_monotonic_time(reactor)
    def fired():
        print("fired", flush=True)
        os._exit(0)
    def start():
        reactor.callLater(0.2, fired)
        step[0] = -3600.0
        threading.Timer(2.0, lambda: (print("frozen", flush=True), os._exit(0))).start()
    reactor.callWhenRunning(start)
    reactor.run()
    """
)


@pytest.mark.parametrize(("whose", "expected"), [("ours", "fired"), ("twisted's", "frozen")])
def test_a_step_of_the_wall_clock(whose: str, expected: str) -> None:
    """With Twisted's own clock the same timer is frozen; so this test can fail."""
    done = subprocess.run([sys.executable, "-c", STEPPED, whose], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == expected, done.stderr


def test_the_clock_is_set_in_one_place_which_both_front_ends_pass() -> None:
    setters = []
    for path in (ROOT / "mysocket").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and any(ast.unparse(target).endswith("reactor.seconds") for target in node.targets):
                setters.append(path.name)
    assert setters == ["runtime.py"]
    for front, function in (("foreground.py", "run"), ("service.py", "make_twistd_service")):
        tree = ast.parse((ROOT / "mysocket" / front).read_text())
        [body] = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function]
        assert any(isinstance(node, ast.Call) and ast.unparse(node.func) == "use_monotonic_time" for node in ast.walk(body))
