"""One release has one number: no node starts these manifests with images of an earlier one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
VERSION: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PLACES: Final = ("argo", "kserve", "platform/manifests", "platform/src", "infra/terraform/local")
TAGGED: Final = re.compile(
    r"mlplatform/(?:gateway|flows|predictor|backup):([\w.-]+)|newTag: ([\w.-]+)"
)


def test_every_image_has_the_version_of_the_release() -> None:
    files = [p for place in PLACES for p in (ROOT / place).rglob("*")]
    files.append(ROOT / "compose.yaml")
    texts = {p: p.read_text() for p in files if p.suffix in (".yaml", ".py", ".tf")}
    tags = {(p, a or b) for p, text in texts.items() for a, b in TAGGED.findall(text)}
    assert len({p for p, _ in tags}) > 10
    assert {(p, tag) for p, tag in tags if tag != VERSION} == set()


def test_the_changelog_says_what_the_release_brings() -> None:
    assert re.search(rf"^## .*\b{re.escape(VERSION)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_a_release_is_told_in_sixty_lines_under_each_heading_once() -> None:
    _, *releases = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    for text in releases:
        lines = text.rstrip().splitlines()
        headings = [line for line in lines if line.startswith("### ")]
        assert len(lines) <= 61, lines[0]
        assert len(headings) == len(set(headings)), lines[0]
