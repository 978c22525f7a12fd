"""What is built installs where there is no checkout, and an editable install serves twistd too.

Needs a package index for Twisted and for the build; the checkout is copied first, so that a build leaves nothing in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.processes import Program, free_port

ROOT = Path(__file__).parents[2]
PARTS = ("setup.py", "MANIFEST.in", "LICENSE", "README.md", "mysocket", "twisted")


def run(*command: str | Path, cwd: Path) -> str:
    """stdout of a command which knows nothing of this environment, and must end with status 0."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "COV"))}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=kept, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} left with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy_checkout(to: Path) -> Path:
    to.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, to / part, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
        else:
            shutil.copy(ROOT / part, to / part)
    return to


def empty_environment(at: Path) -> Path:
    """The bin directory of a new virtual environment with nothing but pip."""
    run(sys.executable, "-m", "venv", at, cwd=at.parent)
    return at / "bin"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("build")
    checkout = copy_checkout(work / "checkout")
    builder = empty_environment(work / "builder")
    run(builder / "pip", "wheel", "-q", "--no-deps", "-w", work / "dist", checkout, cwd=work)
    (built,) = (work / "dist").iterdir()
    return built


def assert_at_home(bin_directory: Path, elsewhere: Path) -> None:
    """The command and twistd both know MySocket, in a directory that holds nothing of it."""
    elsewhere.mkdir()
    version = run(bin_directory / "mysocket", "--version", cwd=elsewhere)
    assert version.startswith("mysocket ")
    assert run(bin_directory / "python", "-m", "mysocket", "--version", cwd=elsewhere) == version
    listed = [line.split()[0] for line in run(bin_directory / "twistd", "--help", cwd=elsewhere).splitlines() if line.strip()]
    assert "mysocket" in listed
    assert run(bin_directory / "twistd", "mysocket", "--version", cwd=elsewhere) == version
    assert "--peer" in run(bin_directory / "twistd", "mysocket", "--help", cwd=elsewhere)
    here, there = free_port(), free_port()
    service = [bin_directory / "twistd", "-n", "mysocket", "--port", here, "--peer", f"localhost:{there}"]
    script = [bin_directory / "mysocket", there, "localhost", here]
    with (
        Program(list(map(str, service)), stdin=b"from twistd\n", cwd=elsewhere) as one,
        Program(list(map(str, script)), stdin=b"from the script\n", cwd=elsewhere) as other,
    ):
        assert (one.wait(), other.wait()) == (0, 0)
        assert (one.stdout, other.stdout) == (b"from the script\n", b"from twistd\n")


def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mysocket").rglob("*.py")}
    assert files == modules | {"mysocket/py.typed", "twisted/plugins/mysocket_plugin.py"}


def test_the_wheel_installs_runs_and_leaves_twisted_whole(wheel: Path, tmp_path: Path) -> None:
    bin_directory = empty_environment(tmp_path / "empty")
    run(bin_directory / "pip", "install", "-q", wheel, cwd=tmp_path)
    assert_at_home(bin_directory, tmp_path / "elsewhere")
    run(bin_directory / "pip", "uninstall", "-q", "-y", "mysocket", cwd=tmp_path)
    assert "mysocket" not in run(bin_directory / "twistd", "--help", cwd=tmp_path)


def test_an_editable_install_serves_twistd_too(tmp_path: Path) -> None:
    bin_directory = empty_environment(tmp_path / "editable")
    run(bin_directory / "pip", "install", "-q", "-e", copy_checkout(tmp_path / "checkout"), cwd=tmp_path)
    assert_at_home(bin_directory, tmp_path / "elsewhere")
