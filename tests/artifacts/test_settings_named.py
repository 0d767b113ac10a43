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
from mlplatform.runtime.configuration.declarations import DEFAULTS, EVERY, PREFIX, SETTINGS, Setting
from mlplatform.runtime.configuration.variables import HANDED_DOWN, OF_TESTS

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "platform/src/mlplatform"
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


READERS: Final = {
    "commands/": {"commands"},
    "operations/backup/": {"commands"},
    "operations/wiring.py": {"flow-run", "commands"},
    "operations/actions/": {"flow-run", "commands"},
    "operations/supervisor/mlflow_server.py": {"mlflow"},
    "operations/supervisor/": {"supervisor"},
    "operations/prefect_server/local_flows.py": {"flows"},
    "operations/prefect_server/server.py": {"prefect"},
    "observing/exporter/": {"exporter"},
    "observing/events/": {"events"},
    "observing/page/": {"page"},
    "scoring/gateway/": {"gateway"},
    "scoring/worker/process.py": {"worker"},
    "decisions/topics/wiring.py": {"worker", "outbox", "log-publisher", "log-replicator"},
    "decisions/replication/replicator.py": {"log-replicator"},
}
"""Of a module that is one process's, or of processes that all have it: who reads what it names."""


def unread(path: str, text: str) -> set[tuple[str, str]]:
    """Settings that a module reads for a process that the table does not list."""
    readers = next((who for start, who in READERS.items() if path.startswith(start)), set[str]())
    named = set(re.findall(r"\b(?:settings|given|shared\.settings|_settings)\.([a-z_.]+)", text))
    return {
        (setting.name, reader)
        for setting in SETTINGS
        for reader in readers - set(setting.read_by)
        if setting.read_by != EVERY and fields_of(setting) & named
    }


def fields_of(setting: Setting) -> set[str]:
    """Fields and properties of `Settings` by which a module reads it: a part that may be missing
    stands for its first setting."""
    part = (setting.field or "").partition(".")[0]
    first = next(s.name for s in SETTINGS if (s.field or "").partition(".")[0] == part)
    whole = {part} if first == setting.name and part not in ("", "home", "servers") else set[str]()
    return whole | {setting.field or "", setting.name.lower()}


def test_readers_are_processes_that_there_are() -> None:
    known = {*ENTRIES, "supervisor", "commands", *EVERY}
    assert {s.name: unknown for s in SETTINGS if (unknown := set(s.read_by) - known)} == {}


def test_who_reads_a_setting_is_listed_as_its_reader() -> None:
    modules = {p.relative_to(PACKAGE).as_posix(): p for p in PACKAGE.rglob("*.py")}
    assert {n: found for n, p in modules.items() if (found := unread(n, p.read_text()))} == {}
    assert all(any(name.startswith(start) for name in modules) for start in READERS)


def test_a_reader_that_is_not_listed_would_be_found() -> None:
    assert unread("observing/page/process.py", "settings.gateways") == {("GATEWAYS", "page")}
    assert unread("observing/events/process.py", "settings.mlflow_url") == {
        ("MLFLOW_URL", "events")
    }


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
        if not {process, *EVERY} & set(by_variable[name].read_by)
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
