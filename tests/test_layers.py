"""The import law of the house: a room imports only from its left, and nobody imports the reactor in passing.

Imports inside functions and under TYPE_CHECKING count as well: a room that needs a name from above, even once, is not below.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS = [
    *("errors", "failpoints", "_version", "metrics", "notices"),
    *(
        "core",
        "spool",
        "carriers",
        "ends",
        "inputs",
        "outputs",
        "logs",
        "sending",
        "receiving",
        "link",
        "strangers",
        "node",
        "watch",
        "control",
    ),
    *("values", "specs", "options", "settings", "configfile", "screen", "commandline", "peer", "api", "services", "runtime"),
    *("service", "foreground", "verbs", "cli", "tap"),
    # `python -m mysocket`, and the public names, which __init__ fetches only when they are asked for.
    *("__main__", "__init__"),
]

# Rooms that never import Twisted, not even inside a function. (cli may, to run a session.)
PURE = {
    "errors",
    "failpoints",
    "_version",
    "metrics",
    "notices",
    "logs",
    "core",
    "spool",
    "values",
    "specs",
    "options",
    "settings",
    "configfile",
}

# To the core, time, randomness, data from outside and places to put it are arguments.
WORLD = {
    "asyncio",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
}

Import = tuple[int, str, bool]  # line, dotted name, whether importing the module runs it


def imports(tree: ast.AST, package: str, at_import: bool = True) -> Iterator[Import]:
    """Every import below `tree` with absolute names; `from a import b` gives ``a.b``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{origin}.{alias.name}", at_import) for alias in node.names)
        else:
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            never = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            yield from imports(node, package, at_import and not later and not never)


def offences(source: str, module: str) -> list[str]:
    """What `source`, as the module mysocket.`module` (``core.wire``, ``core.__init__``), imports against the law."""
    room = module.split(".")[0]
    package = ".".join(["mysocket", *module.split(".")[:-1]])
    found = []
    for line, name, at_import in imports(ast.parse(source), package):
        top, *below = name.split(".")
        if top == "mysocket":
            target = below[0] if below else "__init__"
            if target not in ROOMS:
                why = "is no room of the house"
            elif ROOMS.index(target) > ROOMS.index(room):
                why = "lies to the right"
            elif room == "core" and target not in ("core", "errors"):
                why = "is not for the core"
            elif room == "__init__" and at_import and target != "_version":
                why = "makes importing mysocket import more"
            else:
                continue
        elif top == "twisted":
            if room in PURE:
                why = "is Twisted"
            elif at_import and (name + ".").startswith("twisted.internet.reactor."):
                why = "installs a reactor"
            else:
                continue
        elif room == "core" and (top in WORLD or (top not in sys.stdlib_module_names and top != "xxhash")):
            why = "is not for the core"
        else:
            continue
        found.append(f"{module}:{line}: {name} {why}")
    return found


def modules() -> dict[str, Path]:
    """Dotted names below mysocket, ``__init__`` written out, and their files."""
    package = ROOT / "mysocket"
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in sorted(package.rglob("*.py"))}


@pytest.mark.parametrize("module", modules())
def test_a_room_imports_only_from_its_left(module: str) -> None:
    assert module.split(".")[0] in ROOMS, "a new room needs its place in ROOMS"
    assert offences(modules()[module].read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("core.wire", "import mysocket.link", "to the right"),
        ("core.wire", "from mysocket import link", "to the right"),
        ("core.wire", "from ..link import Link", "to the right"),
        ("core.wire", "from .. import link", "to the right"),
        ("core.__init__", "from ..spool import memory", "to the right"),
        ("core.wire", "def f():\n    from mysocket.node import Node", "to the right"),
        ("core.wire", "if TYPE_CHECKING:\n    from mysocket.spool.interface import Spool", "to the right"),
        ("core.wire", "from mysocket.failpoints import at", "not for the core"),
        ("core.wire", "import time", "not for the core"),
        ("core.wire", "from os import urandom", "not for the core"),
        ("core.wire", "import lmdb", "not for the core"),
        ("core.wire", "from twisted.python import log", "is Twisted"),
        ("spool.memory", "def f():\n    import twisted", "is Twisted"),
        ("options", "import twisted.python.usage", "is Twisted"),
        ("verbs.spool", "from mysocket.cli import say", "to the right"),
        ("carriers.build", "from mysocket.settings import Settings", "to the right"),
        ("ends.sink", "from mysocket.settings import Settings", "to the right"),
        ("api", "from mysocket.services.base import EndpointService", "to the right"),
        ("services.base", "from mysocket.service import make", "to the right"),
        ("service", "from mysocket.cli import main", "to the right"),
        ("link", "import mysocket", "to the right"),
        ("link", "from mysocket import nothing", "no room"),
        ("__init__", "from mysocket.errors import MySocketError", "makes importing"),
        ("node", "from twisted.internet import reactor", "installs a reactor"),
        ("cli", "import twisted.internet.reactor as r", "installs a reactor"),
        ("cli", "try:\n    from twisted.internet.reactor import run\nexcept ImportError:\n    pass", "installs a reactor"),
        ("cli", "class C:\n    from twisted.internet import reactor", "installs a reactor"),
    ],
)
def test_the_check_finds(module: str, source: str, why: str) -> None:
    (found,) = offences(source, module)
    assert why in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.wire", "import struct, xxhash\nfrom mysocket.errors import UsageError\nfrom .batch import Batch"),
        ("core.__init__", "from . import wire"),
        ("spool.memory", "from mysocket.core.batch import Batch\nimport os"),
        ("link", "from mysocket.ends import sink\nfrom twisted.internet.interfaces import IReactorTime"),
        ("service", "from mysocket.settings import Settings"),
        ("spool.disk", "import lmdb\nfrom mysocket import failpoints\nfrom mysocket.core.batch import Batch"),
        ("verbs.spool", "import lmdb\nfrom mysocket.ends.escape import escape\nfrom mysocket.spool.store import Store"),
        ("cli", "def main():\n    from mysocket.verbs.spool import run"),
        ("cli", "def main():\n    from twisted.internet import reactor\n    from mysocket.service import run"),
        ("__main__", "from mysocket.cli import main"),
        ("__init__", "from mysocket._version import __version__\ndef __getattr__(name):\n    from mysocket import api"),
        ("__init__", "if TYPE_CHECKING:\n    from mysocket.api import connect"),
        ("node", "from twisted.internet.reactors import x"),
    ],
)
def test_the_check_lets_pass(module: str, source: str) -> None:
    assert offences(source, module) == []


def left_in_modules(imported: list[str], watched: str) -> str:
    """``True`` or ``False``: whether a fresh interpreter that imports `imported` then has `watched` in sys.modules."""
    code = "import importlib, sys\nfor name in sys.argv[2:]: importlib.import_module(name)\nprint(sys.argv[1] in sys.modules)"
    command = [sys.executable, "-c", code, watched, *imported]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_importing_every_module_installs_no_reactor() -> None:
    # __main__ runs the program where it is imported.
    names = [f"mysocket.{module}".removesuffix(".__init__") for module in modules() if module != "__main__"]
    assert left_in_modules(names, "twisted.internet.reactor") == "False"


def test_the_command_line_the_core_the_spool_and_verbs_import_no_twisted() -> None:
    """They are there when a command starts, so each of them must leave Twisted out by whatever it imports."""
    names = [f"mysocket.{module}" for module in modules() if module.startswith(("core.", "spool.", "verbs."))]
    names = [name.removesuffix(".__init__") for name in ["mysocket.cli", *names]]
    assert {"mysocket.core.session", "mysocket.spool.disk", "mysocket.verbs.spool"} <= set(names)
    assert left_in_modules(names, "twisted") == "False"


def test_importing_mysocket_imports_its_version_at_most() -> None:
    code = "import sys, mysocket; print([name for name in sys.modules if name.startswith(('mysocket.', 'twisted'))])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout in ("[]\n", "['mysocket._version']\n")


def test_the_fresh_interpreter_would_tell() -> None:
    assert left_in_modules(["twisted.internet.reactor"], "twisted.internet.reactor") == "True"
