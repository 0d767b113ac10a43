"""Any shell finds the platform of a home: by what its start wrote down, and by nothing else."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.processes.last_settings import for_command, for_start, remember
from mlplatform.runtime.processes.records import ProcessId, SupervisorRecord, write_supervisor

PORTS = {
    "MLPLATFORM_GATEWAY_PORT": "9080",
    "MLPLATFORM_PREFECT_PORT": "9200",
    "MLPLATFORM_PAGE_PORT": "9090",
    "MLPLATFORM_MLFLOW_PORT": "9500",
}


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """The environment of another shell than the one that started the platform."""
    given = {"MLPLATFORM_HOME": str(tmp_path / "home")}
    topics = {"MLPLATFORM_KAFKA": "127.0.0.1:9092", "MLPLATFORM_CLOCK": "replay"}
    settings = load({**given, **PORTS, **topics})
    settings.home.create()
    remember(settings)
    return given


def run(shell: dict[str, str], *, alive: bool = True) -> None:
    """A supervisor's record: of this process, or of one that has ended."""
    process = ProcessId.of(os.getpid())
    assert process is not None
    if not alive:
        process = ProcessId(process.pid, process.started_s - 1000)
    write_supervisor(load(shell).home, SupervisorRecord(process, "ready"))


def file_of(shell: dict[str, str]) -> Path:
    return Path(shell["MLPLATFORM_HOME"]) / "run" / "settings.json"


def test_a_shell_without_variables_finds_the_platform_that_runs(shell: dict[str, str]) -> None:
    run(shell)
    found = load(for_command(shell))
    assert found.gateway_url == "http://127.0.0.1:9080"
    assert (found.prefect_port, found.page_port, found.mlflow_port) == (9200, 9090, 9500)
    assert found.clock == "replay"
    assert str(found.kafka) == "127.0.0.1:9092"


def test_the_next_start_takes_over_ports_profile_and_clock_and_nothing_else(
    shell: dict[str, str],
) -> None:
    run(shell, alive=False)
    for environment in (for_start(shell), for_command(shell)):
        found = load(environment)
        assert (found.gateway_port, found.clock, found.profile) == (9080, "replay", "embedded")
        assert found.kafka is None


def test_a_variable_that_is_set_wins_at_a_start(shell: dict[str, str]) -> None:
    run(shell)
    assert load(for_start({**shell, "MLPLATFORM_GATEWAY_PORT": "7080"})).gateway_port == 7080


@pytest.mark.parametrize(
    ("name", "value"), [("MLPLATFORM_GATEWAY_PORT", "7080"), ("MLPLATFORM_CLOCK", "system")]
)
def test_a_command_that_contradicts_the_running_platform_says_so(
    shell: dict[str, str], name: str, value: str
) -> None:
    run(shell)
    known = {**PORTS, "MLPLATFORM_CLOCK": "replay"}[name]
    with pytest.raises(
        ConfigInvalid, match=rf"{name} is '{value}'; wanted: {known}, the value of.*down"
    ):
        for_command({**shell, name: value})
    assert for_command({**shell, name: known}) == for_command(shell)
    run(shell, alive=False)
    assert for_command({**shell, name: value})[name] == value


def test_a_variable_that_does_not_say_where_the_platform_is_may_differ(
    shell: dict[str, str],
) -> None:
    run(shell)
    assert load(for_command({**shell, "MLPLATFORM_LOG_LEVEL": "debug"})).log_level == "debug"


def test_a_home_without_a_start_knows_nothing(tmp_path: Path) -> None:
    given = {"MLPLATFORM_HOME": str(tmp_path / "none")}
    assert for_start(given) == for_command(given) == given


def test_a_home_that_was_moved_knows_nothing_of_the_other_places_platform(
    shell: dict[str, str], tmp_path: Path
) -> None:
    Path(shell["MLPLATFORM_HOME"]).rename(tmp_path / "moved")
    moved = {"MLPLATFORM_HOME": str(tmp_path / "moved")}
    assert for_start(moved) == moved


def test_a_home_by_another_name_is_the_same_home(shell: dict[str, str], tmp_path: Path) -> None:
    run(shell)
    (tmp_path / "other").symlink_to(shell["MLPLATFORM_HOME"])
    other = {"MLPLATFORM_HOME": str(tmp_path / "other")}
    assert for_command(other)["MLPLATFORM_GATEWAY_PORT"] == PORTS["MLPLATFORM_GATEWAY_PORT"]


def test_the_file_is_its_owners_alone(shell: dict[str, str]) -> None:
    assert stat.S_IMODE(file_of(shell).stat().st_mode) == 0o600


def _written(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def _variables(path: Path, **variables: str) -> None:
    start = json.loads(path.read_text())
    start["variables"] |= variables
    path.write_text(json.dumps(start))


def _a_link(path: Path) -> None:
    path.rename(path.with_suffix(".other"))
    path.symlink_to(path.with_suffix(".other"))


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_written('{"home": '), "truncated"),
        (_written('{"home": 3, "variables": {}}'), "Expected `str`"),
        (_written('{"home": "x", "variables": {}, "more": 1}'), "unknown field `more`"),
        (_written(" " * 70_000), "more than 65536 bytes"),
        (lambda p: _variables(p, MLPLATFORM_GATEWAY_PORT="0x50"), "GATEWAY_PORT is '0x50'"),
        (lambda p: _variables(p, LD_PRELOAD="/tmp/x.so"), "LD_PRELOAD, which is not a setting"),
        (lambda p: p.chmod(0o622), "others may write it"),
        (_a_link, "symbolic links"),
        (_a_folder, "it is not a plain file"),
    ],
    ids=["cut", "type", "field", "size", "value", "variable", "mode", "link", "folder"],
)
def test_a_file_that_no_start_wrote_is_refused_with_the_way_out(
    shell: dict[str, str], spoil: Callable[[Path], object], why: str
) -> None:
    path = file_of(shell)
    spoil(path)
    for read in (for_start, for_command):
        with pytest.raises(ConfigInvalid) as caught:
            read(shell)
        said = str(caught.value)
        assert said.startswith(f"{path}: ")
        assert why in said
        assert f"rm {path}" in said
