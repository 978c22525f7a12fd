"""The picture of a session in the README is what a session looks like."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_picture_in_the_readme_is_what_the_screen_shows() -> None:
    spec = importlib.util.spec_from_file_location("picture", ROOT / "docs" / "picture.py")
    assert spec is not None and spec.loader is not None
    picture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(picture)
    shown = (ROOT / "README.md").read_text(encoding="utf-8").partition(picture.BEGIN)[2].partition(picture.END)[0]
    assert shown.strip() == picture.picture(), "run: python docs/picture.py --write"
