"""Who reads a setting is what its row says: found in the code that each process can reach."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from mlplatform.process import ENTRIES
from mlplatform.runtime.configuration.declarations import (
    EVERY,
    INSTALLED,
    SETTINGS,
    Setting,
)
from mlplatform.runtime.configuration.other_programs import OTHERS
from support.reachable_code import Access, Code, Facts, Unit

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = ROOT / "platform" / "src"
CONFIGURATION: Final = "mlplatform.runtime.configuration"
PROCESS: Final = Unit("mlplatform.process", "_run")
UP: Final = Unit("mlplatform.commands.platform", "up")
COMMANDS: Final = Unit("mlplatform.commands", "")
FORK: Final = Unit("mlplatform.operations.prefect_server.flow_processes", "run_engine")
"""Runs in a fork of the process `flows`, which is a flow run."""
LOAD: Final = Unit(f"{CONFIGURATION}.settings", "load")
HANDED_ON: Final = Unit(f"{CONFIGURATION}.settings", "Settings.environment")
"""Parse and hand on every setting, whatever it is."""
TABLE_OF_OTHERS: Final = f"{CONFIGURATION}.other_programs"
READERS: Final = (*ENTRIES, "supervisor", "commands")

SETTINGS_CLASS: Final = f"{CONFIGURATION}.settings.Settings"
HOME: Final = f"{CONFIGURATION}.settings.Home"
PARTS: Final = {
    "home": HOME,
    "kserve": f"{CONFIGURATION}.on_kubernetes.OnKServe",
    "servers": f"{CONFIGURATION}.servers.Servers",
}
"""Parts of the settings of which every field is a value of its own; of the others, a server with
its password for example, who reads one reads all."""
OF_SETTINGS: Final = (SETTINGS_CLASS, *PARTS.values())
CALLED: Final = frozenset(("settings", "_settings", "home", "_home", *PARTS))
"""What code calls settings and their parts."""
PAIR: Final = ("KSERVE_NAMESPACE", "KSERVE_BUNDLES")
"""Set together: who asks whether there are predictors on KServe reads both."""
PARSERS: Final = {
    f"{CONFIGURATION}.model_roots.model_roots": "MODELS",
    f"{CONFIGURATION}.neighbours.has_neighbours": "PROFILE",
    f"{CONFIGURATION}.settings.log_level": "LOG_LEVEL",
    f"{CONFIGURATION}.settings.home_of": "HOME",
}
"""Functions that read one variable of an environment."""

UNUSED: Final[Mapping[tuple[Unit | str, str], str]] = {
    (Unit(f"{CONFIGURATION}.settings", "Home.create"), "BUNDLES"): (
        "decides whether the folder is made; what is in it, others read"
    ),
    ("flows", "BUNDLES"): "lists a registry's versions: their digests have the name of a folder",
    ("flows", "BUNDLE_STORE"): "as BUNDLES",
    ("flows", "BUNDLE_CACHE_MIB"): "as BUNDLES",
    ("flows", "BUNDLE_VOLUME_MIB"): "as BUNDLES",
    ("supervisor", "KEY_FILE"): "the option is declared beside those of `up`, which has it not",
}
"""Code, or a process, and a setting that it reads without an effect on its work: the reason."""


@functools.cache
def code() -> Code:
    package = (SOURCES / "mlplatform").rglob("*.py")
    trees = {_dotted(path.relative_to(SOURCES)): ast.parse(path.read_text()) for path in package}
    for path in (ROOT / "flows").glob("*.py"):
        trees[f"flows.{path.stem}"] = ast.parse(path.read_text())
    return Code(trees, known=OF_SETTINGS)


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def roots(reader: str) -> set[Unit]:
    """Where the code of a process begins."""
    if reader == "supervisor":
        return {UP}
    if reader == "commands":
        return {COMMANDS}
    module = ENTRIES[reader].module
    own = {PROCESS, *(Unit(module, name) for name in ("", "parser", "run"))}
    flows = {unit for unit in code().facts if unit.module.startswith("flows.")}
    return own | flows | {FORK} if reader == "flow-run" else own


@functools.cache
def reached(reader: str) -> Mapping[Unit, Unit | None]:
    others = {"supervisor": {COMMANDS}, "commands": {UP}, "flow-run": set[Unit]()}
    return code().reached(roots(reader), {LOAD, HANDED_ON, *others.get(reader, {FORK})})


def read_by(facts: Facts) -> Iterator[str]:
    """Names of the settings that code reads, without `PREFIX`."""
    for access in facts.accesses:
        yield from _of_access(access)
    for name in facts.names & PARSERS.keys():
        yield PARSERS[name]
    for setting in SETTINGS:
        if setting.field is None and setting.variable in facts.texts:
            yield setting.name


@functools.cache
def _of_access(access: Access) -> tuple[str, ...]:
    if access.of == SETTINGS_CLASS and access.name == "kserve":
        return PAIR
    found = tuple(s.name for s in SETTINGS if s.field and _holder(s.field) == access)
    if access.of == HOME and not found:
        return ("PROFILE",) if access.name == "has_neighbours" else ("HOME",)
    return found


def _holder(place: str) -> Access:
    """What code reads for a field of the settings, which its row names with dots."""
    part, _, name = place.partition(".")
    return Access(PARTS[part], name) if part in PARTS and name else Access(SETTINGS_CLASS, part)


@functools.cache
def found_readers() -> Mapping[str, Mapping[str, tuple[Unit, ...]]]:
    """Setting → each process that reads it, with the code from the reading back to its begin."""
    found: dict[str, dict[str, tuple[Unit, ...]]] = {s.name: {} for s in SETTINGS}
    for reader in READERS:
        for unit in reached(reader):
            if unit.module == LOAD.module and "." not in unit.name:
                continue  # the parsers
            for name in read_by(code().facts[unit]):
                if (unit, name) in UNUSED or (reader, name) in UNUSED:
                    continue
                found[name].setdefault(reader, tuple(_way(reached(reader), unit)))
    return found


def _way(found: Mapping[Unit, Unit | None], unit: Unit) -> Iterator[Unit]:
    at: Unit | None = unit
    while at is not None:
        yield at
        at = found[at]


def declared(read_by: Sequence[str]) -> set[str]:
    """The processes that a row of the table names."""
    without = {name for name, entry in ENTRIES.items() if not entry.has_settings}
    everybody = {EVERY: set(READERS), INSTALLED: set(READERS) - without}
    return everybody.get(tuple(read_by), set(read_by))


@pytest.mark.parametrize("setting", SETTINGS, ids=[s.name for s in SETTINGS])
def test_the_readers_of_a_setting_are_those_of_its_row(setting: Setting) -> None:
    found = found_readers()[setting.name]
    lacking = {name: found[name] for name in found.keys() - declared(setting.read_by)}
    assert (lacking, declared(setting.read_by) - found.keys()) == ({}, set())


def test_every_process_but_three_gets_settings() -> None:
    """By the name of that kind of readers."""
    *without, last = sorted(
        (name for name, entry in ENTRIES.items() if not entry.has_settings), reverse=True
    )
    assert (f"every process but {', '.join(without)} and {last}",) == INSTALLED


def test_code_has_settings_only_where_their_class_is_known() -> None:
    """Otherwise a reading would not be found."""
    unknown = {
        (unit, access.name)
        for unit, facts in code().facts.items()
        for access in facts.unknown
        if access.of in CALLED and not unit.module.startswith("mlplatform.rollouts.kubernetes")
    }
    assert unknown == set()


def test_each_exception_is_one() -> None:
    read = {
        key
        for reader in READERS
        for unit in reached(reader)
        for name in read_by(code().facts[unit])
        for key in ((unit, name), (reader, name))
    }
    assert UNUSED.keys() <= read


@pytest.mark.parametrize(
    ("name", "reader", "way"),
    [
        ("KAFKA", "commands", "operations.erasure.feature_rows"),
        ("REDIS", "page", "scoring.wiring"),
        ("POSTGRES", "worker", "scoring.wiring"),
        ("GATEWAYS", "commands", "operations.supervisor.platform"),
    ],
)
def test_a_reader_far_from_its_process_is_found(name: str, reader: str, way: str) -> None:
    assert f"mlplatform.{way}" in {unit.module for unit in found_readers()[name][reader]}


BY_NAME: Final = ("KUBECONFIG", "PGPASSFILE", "LD_LIBRARY_PATH")
"""Variables of other programs that code here reads by their names."""


@pytest.mark.parametrize("name", [*BY_NAME, "PREFECT_API_AUTH_STRING"])
def test_the_readers_of_another_programs_variable_are_those_of_its_row(name: str) -> None:
    (row,) = (other for other in OTHERS if other.covers(name))
    assert {reader for reader in READERS if _reads_of_others(reader, name)} == set(row.read_by)


def _reads_of_others(reader: str, name: str) -> bool:
    auth = Access(PARTS["servers"], "prefect_auth")
    linker = Unit("mlplatform.runtime.sandbox.process", "_start")
    for unit in reached(reader):
        facts = code().facts[unit]
        if name == "PREFECT_API_AUTH_STRING":
            is_read = auth in facts.accesses
        elif name == "LD_LIBRARY_PATH":
            is_read = unit == linker
        else:
            is_read = name in facts.texts and unit.module != TABLE_OF_OTHERS
        if is_read:
            return True
    return False


WORLD: Final = {
    "a.wiring": """
from a.settings import Settings
from a.stores import Redis
def store(settings: Settings):
    return Redis(settings.redis)
def unused(settings: Settings):
    return settings.kafka
""",
    "a.settings": """
class Settings:
    redis: str
    kafka: str
    port: int
    @property
    def url(self) -> str:
        return f"{self.port}"
""",
    "a.stores": """
class Redis:
    def __init__(self, url): ...
    def read(self): ...
""",
    "a.process": """
from a import wiring
from a.settings import Settings
class Page:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
    def shown(self):
        return wiring.store(self._settings)
    def hidden(self):
        return wiring.unused(self._settings)
def run(settings: Settings):
    page = Page(settings)
    page.shown()
    unused = settings.url
    unused.strip()
""",
}


def test_what_is_reached_is_read_and_nothing_else() -> None:
    world = Code(
        {name: ast.parse(text) for name, text in WORLD.items()}, known=["a.settings.Settings"]
    )
    found = world.reached([Unit("a.process", "run")])
    read = {a.name for unit in found for a in world.facts[unit].accesses if "Settings" in a.of}
    assert read == {"redis", "url", "port"}
    assert Unit("a.process", "Page.hidden") not in found
