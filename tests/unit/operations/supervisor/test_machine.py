"""`mlplatform doctor` names what is lacking, and each finding ends in what mends it."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.operations import wiring
from mlplatform.operations.supervisor import machine_facts
from mlplatform.operations.supervisor.machine import (
    HomeFacts,
    MachineFacts,
    Port,
    check,
    start_elsewhere,
)
from mlplatform.runtime.configuration.settings import Home, load
from mlplatform.runtime.processes.port_holders import Holder
from mlplatform.runtime.storage.disk import DiskSpace
from support.other_platform import platform_of

HOME = Path("/home/ana/var")
FINE = MachineFacts(
    python=(3, 11, 7),
    cores=2,
    memory_gb=8.0,
    disk=DiskSpace(50_000_000_000, 100_000_000_000),
    uid=1000,
    offset_s=0.01,
    synchronised=True,
    locked={},
    settings="",
    models="",
    left_out=(),
    home=HomeFacts(HOME, 1000),
    ports=(Port("MLPLATFORM_GATEWAY_PORT", 8080, None, 0),),
    running="ready",
    silent={},
)


def held(pid: int | None, name: str, home: Path | None) -> tuple[Port, ...]:
    return (Port("MLPLATFORM_GATEWAY_PORT", 8080, Holder(pid, name, home), 9080),)


def test_where_nothing_is_lacking_nothing_is_to_do() -> None:
    assert {(finding.state, finding.do) for finding in check(FINE)} == {("ok", "")}


@pytest.mark.parametrize(
    ("changes", "state", "seen", "do"),
    [
        ({"python": (3, 9, 2)}, "lacking", "3.9.2", "make setup PYTHON=python3.11"),
        ({"cores": 1}, "optional", "1; wanted: 2", "use a machine"),
        ({"memory_gb": 1.2}, "lacking", "1.2 GB are available; wanted: 4 GB", "end other programs"),
        (
            {"disk": DiskSpace(10**9, 10**11)},
            "lacking",
            "1.0 GB are free; wanted: 2 GB, and 5.0 GB (5% of the disk)",
            "MLPLATFORM_HOME=FOLDER mlplatform up",
        ),
        ({"synchronised": False}, "optional", "nothing keeps it on time", "timedatectl set-ntp"),
        ({"synchronised": None}, "unknown", "the kernel does not say", "date -u"),
        ({"offset_s": -2.5}, "lacking", "-2.500 s off", "timedatectl timesync-status"),
        ({"locked": {"numpy": ("2", "1")}}, "lacking", "numpy is 1; wanted: 2", "make setup"),
        ({"locked": {"numpy": ("2.4", None)}}, "lacking", "numpy is missing", "make setup"),
        (
            {"store": "s3://models/prod", "store_problem": "objects below s3://models/prod: 403"},
            "lacking",
            "objects below s3://models/prod: 403",
            "correct MLPLATFORM_BUNDLE_STORE",
        ),
        ({"locked": None}, "unknown", "no lock is here", "requirements"),
        ({"settings": "X is 1; wanted: 2"}, "lacking", "X is 1; wanted: 2", "docs/settings.md"),
        ({"models": "M is '/x'; wanted: folders"}, "lacking", "M is '/x'", "correct MLPLATFORM_"),
        ({"left_out": ("fraud",)}, "optional", "no folder of fraud", "model: `examples`)"),
        ({"home": HomeFacts(HOME, 7)}, "lacking", "belongs to uid 7, not to 1000", "chown -R 1000"),
        ({"home": HomeFacts(HOME, 1000, (HOME / "a",))}, "lacking", "others", "chmod -R go= /home"),
        (
            {"ports": held(77, "nginx", None)},
            "lacking",
            "is held by process 77 (nginx)",
            "MLPLATFORM_GATEWAY_PORT=9080 mlplatform up, or end that process (kill 77)",
        ),
        ({"ports": held(None, "", None)}, "lacking", "another user's", "=9080 mlplatform up"),
        (
            {"ports": held(77, "python", Path("/b"))},
            "lacking",
            "is held by the platform of /b",
            "MLPLATFORM_HOME=/b mlplatform down",
        ),
        ({"running": "stopped"}, "optional", f"none runs in {HOME}", "mlplatform up"),
        ({"silent": {"mlflow": "no answer"}}, "lacking", "mlflow: no answer", "mlplatform status"),
        ({"running": "starting"}, "lacking", "is starting", "mlplatform status"),
    ],
)  # fmt: skip
def test_each_finding_ends_in_what_mends_it(
    changes: dict[str, Any], state: str, seen: str, do: str
) -> None:
    found = [f for f in check(dataclasses.replace(FINE, **changes)) if f.state != "ok"]
    assert [f.state for f in found] == [state]
    assert seen in found[0].seen
    assert do in found[0].do


def test_the_home_of_the_platform_may_hold_its_ports() -> None:
    found = check(dataclasses.replace(FINE, ports=held(5, "python", HOME)))
    assert all(finding.state == "ok" for finding in found)


def test_one_command_starts_the_platform_beside_all_who_hold_its_ports() -> None:
    other, own = Holder(77, "nginx", None), Holder(5, "python", HOME)
    ports = (Port("A", 1, other, 11), Port("B", 2, own, 12), Port("C", 3, other, 13))
    facts = dataclasses.replace(FINE, ports=(*ports, Port("D", 4, None, 0)))
    assert start_elsewhere(facts) == "A=11 C=13 mlplatform up"
    assert start_elsewhere(FINE) == ""


def test_no_port_is_proposed_that_browsers_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_facts, "_is_free", lambda _: True)
    assert machine_facts._free_above(5000) == 6001
    assert machine_facts._free_above(8080) == 9080


def test_a_held_port_is_found_with_its_holder_and_a_free_one(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        settings = load({"MLPLATFORM_HOME": str(tmp_path), "MLPLATFORM_PAGE_PORT": str(port)})
        facts = machine_facts.read(settings.home, settings)
    (page,) = (p for p in facts.ports if p.variable == "MLPLATFORM_PAGE_PORT")
    assert page.holder is not None
    assert page.holder.pid == os.getpid()
    assert page.other != port
    assert facts.running == "stopped"


def test_a_port_of_another_homes_platform_is_told_by_that_home(tmp_path: Path) -> None:
    with platform_of(tmp_path / "other") as (pid, port):
        settings = load({"MLPLATFORM_HOME": str(tmp_path), "MLPLATFORM_PAGE_PORT": str(port)})
        facts = machine_facts.read(settings.home, settings)
    (page,) = (p for p in facts.ports if p.variable == "MLPLATFORM_PAGE_PORT")
    assert page.holder is not None
    assert (page.holder.pid, page.holder.home) == (pid, tmp_path / "other")


def test_a_platform_that_runs_in_another_home_is_named_where_none_runs() -> None:
    facts = dataclasses.replace(FINE, running="stopped", ports=held(77, "python", Path("/b")))
    (found,) = (finding for finding in check(facts) if finding.what == "platform")
    assert found.seen == f"none runs in {HOME}; a platform runs in /b: export MLPLATFORM_HOME=/b"
    assert (
        found.do
        == "use that, or start another beside it: MLPLATFORM_GATEWAY_PORT=9080 mlplatform up"
    )


def test_what_differs_from_the_lock_is_found(tmp_path: Path) -> None:
    lock = tmp_path / "flows.txt"
    lock.write_text(
        "pytest==0.0.1 \\\n    --hash=sha256:00\nno-such-thing==1.0 \\\n"
        "not-here==1.0 ; sys_platform == 'nowhere' \\\n    --hash=sha256:00\n"
    )
    found = machine_facts._differing(lock)
    assert found is not None
    assert found["pytest"][0] == "0.0.1"
    assert found["no-such-thing"] == ("1.0", None)
    assert "not-here" not in found
    assert machine_facts._differing(tmp_path / "none") is None


def test_a_model_of_the_home_that_no_folder_is_named_for_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    assert machine_facts.models_without_folder(home) == ()
    for name in ("fraud", "limits"):
        home.offline(name).mkdir(parents=True)
    assert machine_facts.models_without_folder(home) == ("limits",)
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("MLPLATFORM_MODELS", str(tmp_path / "none"))
    assert machine_facts.models_without_folder(home) == ("fraud", "limits")
    assert "wanted: a folder with a model's folder in it" in machine_facts._models()


def test_doctor_tells_also_where_the_settings_can_not_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLPLATFORM_PAGE_PORT", "many")
    wiring.settings.cache_clear()
    result = CliRunner().invoke(commands.app, ["doctor", "--json"])
    wiring.settings.cache_clear()
    assert result.exit_code == 1
    found = {finding["what"]: finding for finding in json.loads(result.stdout)}
    wanted = "a port, 1 to 65535, or unset it: the default is 8090"
    assert found["settings"]["seen"] == f"MLPLATFORM_PAGE_PORT is 'many'; wanted: {wanted}"
    assert not (tmp_path / "home").exists()


def test_doctor_gives_no_advice_on_the_modes_of_a_folder_of_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hosts").write_text("mine")
    tmp_path.chmod(0o755)
    monkeypatch.setenv("MLPLATFORM_HOME", str(tmp_path))
    wiring.settings.cache_clear()
    result = CliRunner().invoke(commands.app, ["doctor", "--json"])
    wiring.settings.cache_clear()
    found = {finding["what"]: finding for finding in json.loads(result.stdout)}
    home = found[f"home {tmp_path}"]
    assert home["state"] == "lacking"
    assert "holds hosts, and nothing in it was changed: name another folder" in home["seen"]
    assert home["do"] == "MLPLATFORM_HOME=FOLDER mlplatform up"


def test_a_bundle_store_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    place = tmp_path / "unmounted"
    settings = load(
        {"MLPLATFORM_HOME": str(tmp_path / "home"), "MLPLATFORM_BUNDLE_STORE": str(place)}
    )
    facts = machine_facts.read(settings.home, settings)
    assert (facts.store, "no such folder" in facts.store_problem) == (str(place), True)
    place.mkdir()
    assert machine_facts.read(settings.home, settings).store_problem == ""
    (found,) = [f for f in check(dataclasses.replace(FINE, store="s3://x")) if "store" in f.what]
    assert (found.state, found.what, found.seen) == ("ok", "bundle store s3://x", "answers")
