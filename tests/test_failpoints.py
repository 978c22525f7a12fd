"""The crash labels: the process dies at the passage that was asked for, and at no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mysocket import failpoints

ROOT = Path(__file__).parents[1]
BEFORE = "import os, threading\nfrom mysocket.failpoints import armed, during, reach\n"


def run(code: str, crash_at: str | None) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new process with this MYSOCKET_CRASH_AT; what it prints unbuffered is there even if it was killed."""
    environment = {name: text for name, text in os.environ.items() if name != "MYSOCKET_CRASH_AT"}
    if crash_at is not None:
        environment["MYSOCKET_CRASH_AT"] = crash_at
    command = [sys.executable, "-u", "-c", BEFORE + code]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_docstring_explains_every_label_and_no_other() -> None:
    table = {word for word in (failpoints.__doc__ or "").split() if len(word) == 2 and word[0].isupper() and word[1].isdigit()}
    assert table == failpoints.LABELS


@pytest.mark.parametrize("unset", [None, ""])
def test_without_the_variable_nothing_happens(unset: str | None) -> None:
    done = run("for label in ('S0', 'S3'): reach(label); during(label); print(armed(label))", unset)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\nFalse\n", "")


def test_without_the_variable_a_passage_is_a_call_and_nothing_more() -> None:
    code = "import dis\nprint([i.opname for f in (reach, during) for i in dis.get_instructions(f) if 'CALL' in i.opname])"
    assert run(code, None).stdout == "[]\n"


@pytest.mark.parametrize("label", sorted(failpoints.LABELS))
def test_every_label_kills(label: str) -> None:
    done = run(f"print('before'); reach({label!r}); print('after')", label)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "before\n")


@pytest.mark.parametrize(("crash_at", "passages"), [("S3", 0), ("S3:1", 0), ("S3:2", 1), ("S3:12", 11)])
def test_it_dies_at_the_passage_asked_for(crash_at: str, passages: int) -> None:
    done = run("for passage in range(20): reach('S4'); reach('S3'); print(passage)", crash_at)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == [str(passage) for passage in range(passages)]


def test_another_label_does_not_count() -> None:
    done = run("for _ in range(10): reach('R3'); during('S2')\nprint('alive')", "S3")
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_armed_tells_before_the_fatal_passage_and_is_none_itself() -> None:
    code = "for _ in range(3):\n    print(armed('R6'), armed('R6'), armed('R5'))\n    reach('R6')"
    done = run(code, "R6:2")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "False False False\nTrue True False\n"


def test_during_returns_and_the_kill_falls_into_the_call_that_follows() -> None:
    """The read never ends by itself: only another thread can end this process. The moment is long, for a slow machine."""
    code = "from mysocket import failpoints; failpoints.MOMENT = 0.5\n"
    done = run(code + "read, write = os.pipe()\nduring('S2'); print('reading'); os.read(read, 1); print('read')", "S2")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "reading\n")


def test_during_counts_passages_like_reach() -> None:
    code = "for passage in range(4): print(passage); during('R2') if passage % 2 else reach('R2')\nos.read(os.pipe()[0], 1)"
    done = run(code, "R2:4")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "0\n1\n2\n3\n")


def test_a_process_at_its_end_is_killed_all_the_same() -> None:
    assert run("during('S7')", "S7").returncode == -signal.SIGKILL


@pytest.mark.parametrize("last", ["print('alive')", "reach('S5')"])
def test_passages_of_several_threads_are_all_counted(last: str) -> None:
    """4 threads pass 4 x 5000 times; the count is 20,001, so that exactly the passage after them kills."""
    code = f"""
def passages():
    for _ in range(5000): reach('S5')
threads = [threading.Thread(target=passages) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print('joined', armed('S5'))
{last}
"""
    done = run(code, "S5:20001")
    assert done.stdout.startswith("joined True\n")
    assert done.returncode == (-signal.SIGKILL if "reach" in last else 0)


@pytest.mark.parametrize(
    "wrong",
    ["S9", "X", "s3", "S3:", "S3:0", "S3:-1", "S3:two", "S3:1:2", "S3 ", "S3\n", ":3", "3", "S3:²", "S3,S4", "S3:" + "9" * 5000],
)
def test_a_bad_value_is_an_error_with_a_sentence(wrong: str) -> None:
    done = run("print('imported')", wrong)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mysocket: MYSOCKET_CRASH_AT=")
    assert "S0, S1" in done.stderr and done.stderr.count("\n") == 1
