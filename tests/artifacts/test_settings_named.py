"""Manifests, Terraform, images and documents name settings that there are, and document all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from mlplatform.commands.documents import settings
from mlplatform.process import ENTRIES
from mlplatform.runtime.configuration.declarations import (
    DEFAULTS,
    EVERY,
    INSTALLED,
    PREFIX,
    SETTINGS,
)
from mlplatform.runtime.configuration.variables import HANDED_DOWN, OF_TESTS

ROOT: Final = Path(__file__).parents[2]
WORKLOADS: Final = ROOT / "platform/manifests/workloads"
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


def test_readers_are_processes_that_there_are() -> None:
    known = {*ENTRIES, "supervisor", "commands", *EVERY, *INSTALLED}
    assert {s.name: unknown for s in SETTINGS if (unknown := set(s.read_by) - known)} == {}


def test_a_pod_is_told_only_what_its_process_reads() -> None:
    """Beside what all are told alike, by the ConfigMap."""
    by_variable = {s.variable: s for s in SETTINGS}
    told = {
        (process, name)
        for pod in (d for f in sorted(WORKLOADS.glob("*.yaml")) for d in documents(f))
        for process, names in processes_of(pod)
        for name in names & by_variable.keys()
    }
    assert ("mlflow", "MLPLATFORM_MLFLOW_POSTGRES") in told
    assert {
        (process, name)
        for process, name in told
        if not {process, *EVERY, *INSTALLED} & set(by_variable[name].read_by)
    } == set()


def documents(file: Path) -> list[Any]:
    return [d for d in yaml.safe_load_all(file.read_text()) if isinstance(d, dict)]


def processes_of(document: Any) -> Iterator[tuple[str, set[str]]]:
    """The name of a process that a container starts, and the variables that it is told."""
    if isinstance(document, dict):
        command = document.get("command")
        if isinstance(command, list) and "mlplatform.process" in command:
            name = command[command.index("mlplatform.process") + 1]
            env = document.get("env") or []
            yield name, {e["name"] for e in env if isinstance(e, dict)}
        document = list(document.values())
    if isinstance(document, list):
        for part in document:
            yield from processes_of(part)
