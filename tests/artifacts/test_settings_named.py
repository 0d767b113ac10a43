"""Manifests, Terraform, images and documents name settings that there are, and document all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from mlplatform.commands.documents import settings
from mlplatform.runtime.configuration.declarations import DEFAULTS, PREFIX
from mlplatform.runtime.configuration.variables import HANDED_DOWN, OF_TESTS

ROOT: Final = Path(__file__).parents[2]
PLACES: Final = ("argo", "demo", "docs", "flows", "infra", "kserve", "notebooks", "observability")
SUFFIXES: Final = frozenset((".Dockerfile", ".hcl", ".ipynb", ".md", ".py", ".tf", ".yaml"))
NAMED: Final = re.compile(r"\bMLPLATFORM_[A-Z0-9_]*[A-Z0-9]\b")


def named() -> dict[Path, set[str]]:
    folders = (
        *(ROOT / place for place in PLACES),
        ROOT / "platform/manifests",
        ROOT / "platform/images",
    )
    found = (p for folder in folders for p in folder.rglob("*") if p.suffix in SUFFIXES)
    mine = (p for p in found if p.is_file() and ".terraform" not in p.parts)
    return {p: set(NAMED.findall(p.read_text())) for p in (*mine, ROOT / "README.md")}


def unknown(names: set[str]) -> set[str]:
    known = {PREFIX + name for name in DEFAULTS} | HANDED_DOWN
    return {name for name in names - known if not OF_TESTS.fullmatch(name)}


def test_every_variable_that_is_named_somewhere_is_a_setting() -> None:
    assert {p: found for p, names in named().items() if (found := unknown(names))} == {}


@pytest.mark.parametrize("name", ["MLPLATFORM_GATEWAY_PRT", "MLPLATFORM_ARGO"])
def test_a_misspelt_one_would_be_found(name: str) -> None:
    assert unknown({name, "MLPLATFORM_HOME", "MLPLATFORM_TEST_AXE"}) == {name}


def test_the_document_has_a_row_for_each_setting() -> None:
    (text,) = settings.render_files().values()
    rows = re.findall(r"^\| `(MLPLATFORM_\w+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(PREFIX + name for name in DEFAULTS)
