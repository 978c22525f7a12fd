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
PARTS = ("setup.py", "MANIFEST.in", "LICENSE", "README.md", "NEWS.md", "tox.ini", "mysocket", "twisted", "docs")
#: What is installed beside the code: where, and what of the checkout.
DATA = {
    "share/man/man1": ["docs/man/mysocket.1"],
    "share/bash-completion/completions": ["docs/completions/mysocket"],
    "share/zsh/site-functions": ["docs/completions/_mysocket"],
    "share/fish/vendor_completions.d": ["docs/completions/mysocket.fish"],
    "share/doc/mysocket": ["README.md", "NEWS.md", "docs/*.md"],
}


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    """stdout of a command which knows nothing of this environment, and must end with status 0."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "COV"))}
    kept |= environ
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
    data = {name.partition(".data/data/")[2] for name in files if ".data/data/" in name}
    assert data == expected_data()
    assert {name for name in files if ".data/" not in name} == modules | {
        "mysocket/py.typed",
        "twisted/plugins/mysocket_plugin.py",
    }


def expected_data() -> set[str]:
    found = {f"{to}/{path.name}" for to, patterns in DATA.items() for pattern in patterns for path in ROOT.glob(pattern)}
    units = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs/systemd").rglob("*") if path.is_file()}
    return found | {f"share/doc/mysocket/{unit}" for unit in units}


def test_the_source_distribution_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """What a wheel is made of is in it, and what a person needs who reads it: documents, tests, how they are made."""
    checkout = copy_checkout(tmp_path / "checkout")
    builder = empty_environment(tmp_path / "builder")
    run(builder / "pip", "install", "-q", "setuptools", cwd=tmp_path)
    run(builder / "python", "setup.py", "-q", "sdist", "-d", tmp_path / "dist", cwd=checkout)
    (packed,) = (tmp_path / "dist").iterdir()
    shutil.unpack_archive(packed, tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert (unpacked / "docs/manual.py").exists()
    run(builder / "pip", "wheel", "-q", "--no-deps", "-w", tmp_path / "again", unpacked, cwd=tmp_path)
    (again,) = (tmp_path / "again").iterdir()
    first, second = ({name for name in zipfile.ZipFile(one).namelist() if ".dist-info/" not in name} for one in (wheel, again))
    assert second == first


@pytest.fixture(scope="module")
def documented(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and nothing that it needs to run: its man page and completions need nothing."""
    work = tmp_path_factory.mktemp("documented")
    bin_directory = empty_environment(work / "environment")
    run(bin_directory / "pip", "install", "-q", "--no-deps", wheel, cwd=work)
    return bin_directory.parent


def missing(command: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(command) is None, reason=f"{command} is not installed")


def test_documents_are_installed(documented: Path) -> None:
    there = {path.relative_to(documented).as_posix() for path in (documented / "share").rglob("*") if path.is_file()}
    assert there >= expected_data()


@missing("man")
def test_man_finds_the_page_by_the_path(documented: Path, tmp_path: Path) -> None:
    environ = {"PATH": f"{documented}/bin:{os.environ['PATH']}", "MANPATH": ""}
    shown = run("man", "-P", "cat", "mysocket", cwd=tmp_path, **environ)
    if "has been minimized" in shown:
        pytest.skip("the man of this system shows no pages")
    assert "netcat for messages that must arrive" in shown
    assert run("man", "-w", "mysocket", cwd=tmp_path, **environ).strip() == str(documented / "share/man/man1/mysocket.1")


COMPLETE = "COMP_LINE='mysocket --recv' COMP_POINT=15 COMP_CWORD=1 COMP_WORDS=(mysocket --recv)"


@missing("bash")
def test_bash_completes_from_what_is_installed(documented: Path, tmp_path: Path) -> None:
    installed = documented / "share/bash-completion/completions/mysocket"
    script = f". '{installed}'; {COMPLETE}; _mysocket; echo $COMPREPLY; complete -p mysocket"
    assert run("bash", "-c", script, cwd=tmp_path) == "--recv-only\ncomplete -F _mysocket mysocket\n"


@missing("zsh")
def test_zsh_knows_what_is_installed(documented: Path, tmp_path: Path) -> None:
    script = (
        f"fpath=('{documented}/share/zsh/site-functions' $fpath); autoload -Uz compinit; compinit -D -u; print $_comps[mysocket]"
    )
    assert run("zsh", "-f", "-c", script, cwd=tmp_path) == "_mysocket\n"


@missing("fish")
def test_fish_finds_what_is_installed(documented: Path, tmp_path: Path) -> None:
    environ = {
        "XDG_DATA_DIRS": f"{documented}/share:/usr/local/share:/usr/share",
        "PATH": f"{documented}/bin:{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    shown = run("fish", "-c", "complete -C 'mysocket --recv'", cwd=tmp_path, **environ)
    assert shown.startswith("--recv-only\t")


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
