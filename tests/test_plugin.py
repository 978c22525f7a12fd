"""Twisted finds the plugin, and looking at it costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from twisted.application.service import IServiceMaker, Service
from twisted.plugin import IPlugin, getPlugins

from mysocket.tap import Options, makeService

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "twisted/plugins/mysocket_plugin.py"


def test_nothing_under_twisted_is_a_package() -> None:
    """An __init__.py there would stand before Twisted itself, or hide every other plugin."""
    assert [path for path in (ROOT / "twisted").rglob("*.py") if path != PLUGIN] == []
    assert not list((ROOT / "twisted").rglob("__init__.*"))


def test_the_plugin_module_imports_only_service_maker() -> None:
    """Every `twistd --help` loads it."""
    imports = [node for node in ast.walk(ast.parse(PLUGIN.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports] == ["from twisted.application.service import ServiceMaker"]


def test_the_plugin_module_leaves_the_reactor_and_the_tap_alone() -> None:
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); "
        "print([name for name in ('twisted.internet.reactor', 'mysocket.tap') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(PLUGIN)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_there_is_one_plugin_and_it_leads_to_the_options() -> None:
    import twisted.plugins

    found = [maker for maker in getPlugins(IServiceMaker, twisted.plugins) if maker.tapname == "mysocket"]
    assert len(found) == 1
    (maker,) = found
    assert IPlugin.providedBy(maker)
    assert maker.module == "mysocket.tap"
    assert maker.options is Options


def test_make_service_hands_over_the_settings_and_twistds_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, object]] = []
    service = Service()

    class Fake(ModuleType):
        @staticmethod
        def make_twistd_service(settings: object, parent: object) -> Service:
            calls.append((settings, parent))
            return service

    monkeypatch.setitem(sys.modules, "mysocket.service", Fake("mysocket.service"))
    options = Options()
    options.parent = Options()
    options.parseOptions(["-p", "9000"])
    assert makeService(options) is service
    assert calls == [(options.settings, options.parent)]
