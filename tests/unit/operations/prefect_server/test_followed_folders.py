"""Flows of model folders that appear while Prefect runs elsewhere: tried until they are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from mlplatform.model.declarations import AGAIN_S, POLL_S
from mlplatform.operations.prefect_server import cluster_flows, local_flows
from mlplatform.operations.prefect_server.prefect_server import DeploymentGroup
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.errors import Unavailable


class Enough(BaseException):
    """Ends a loop that runs as long as its process."""


class Server:
    """Takes the flows of models, but for the first time."""

    def __init__(self) -> None:
        self.registered: list[list[str]] = []
        self.is_away = True

    def register(self, settings: Settings, models: Sequence[str]) -> None:
        if self.is_away:
            self.is_away = False
            raise Unavailable("Prefect")
        self.registered.append(list(models))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(Home(tmp_path), "system", 1, prefect_port=2, mlflow_port=3)


def pauses(monkeypatch: pytest.MonkeyPatch, folders: list[list[str]]) -> list[float]:
    """The seconds between two looks, each of which sees the next of these folders."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(folders) == 1:
            raise Enough
        folders.pop(0)

    for module in (cluster_flows, local_flows):
        monkeypatch.setattr(module, "model_names", lambda: folders[0])
        monkeypatch.setattr(module.time, "sleep", sleep)
    return slept


def schedules(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to the schedules of models, in order."""
    seen: list[str] = []

    def pause(deployments: Sequence[str]) -> None:
        seen.extend(f"pause {name}" for name in deployments)

    def resume(deployments: Sequence[str]) -> None:
        seen.extend(f"resume {name}" for name in deployments)

    monkeypatch.setattr(local_flows, "scheduled_deployments", lambda model: [model])
    monkeypatch.setattr(local_flows, "pause", pause)
    monkeypatch.setattr(local_flows, "resume", resume)
    return seen


def test_on_a_cluster_new_flows_are_registered_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, both = Server(), ["fraud", "later"]
    gone = ["fraud"]
    slept = pauses(monkeypatch, [["fraud"], ["fraud"], both, both, gone, gone, both, both])
    monkeypatch.setattr(cluster_flows, "_registered", lambda models: {"fraud"} & {*models})
    monkeypatch.setattr(cluster_flows, "register_models", server.register)
    seen = schedules(monkeypatch)
    with pytest.raises(Enough):
        cluster_flows.follow_folders(settings)
    assert server.registered == [["later"]]
    assert seen == ["pause later", "resume later"]
    assert slept == [0.0, POLL_S, AGAIN_S, *[POLL_S] * 5]


def test_on_one_machine_new_flows_are_served_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, both, gone, begun = Server(), ["fraud", "later"], ["fraud"], list[list[str]]()
    pauses(monkeypatch, [["fraud"], ["fraud"], both, both, gone, gone, both, both])
    seen = schedules(monkeypatch)
    monkeypatch.setattr(local_flows, "deployment_groups", lambda settings, models: models)
    monkeypatch.setattr(local_flows, "begin", lambda settings, models: begun.append([*models]))

    retries: list[int] = []

    def add(groups: Sequence[DeploymentGroup]) -> None:
        retries.append(PREFECT_CLIENT_MAX_RETRIES.value())
        server.register(settings, groups)  # type: ignore[arg-type]

    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 7}), pytest.raises(Enough):
        local_flows.follow_folders(settings, ["fraud"], add)
    assert server.registered == begun == [["later"]]
    assert seen == ["pause later", "resume later"]
    assert set(retries) == {local_flows.RETRIES_OF_NEW}, "a run's would have the folder wait"


def test_a_folder_that_one_look_misses_is_not_gone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen, absent = schedules(monkeypatch), local_flows.AbsentFolders()
    for present in (["fraud", "later"], ["fraud"], ["fraud", "later"], ["fraud"]):
        absent.look({"fraud", "later"}, present)
    assert seen == []
    with caplog.at_level("INFO"):
        for present in (["fraud"], ["fraud", "later"], ["fraud", "later"]):
            absent.look({"fraud", "later"}, present)
    assert seen == ["pause later", "resume later"]
    assert [record.getMessage() for record in caplog.records] == [
        "the folder of later is gone: the schedules of its flows are paused until it is back",
        "the folder of later is back: the schedules of its flows go on",
    ]


def test_they_are_paused_twice_because_the_scheduler_may_be_planning_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, absent = schedules(monkeypatch), local_flows.AbsentFolders()
    for _ in range(5):
        absent.look({"fraud"}, [])
    assert seen == ["pause fraud", "pause fraud"]


def test_schedules_of_which_only_some_could_be_paused_are_all_resumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, absent = schedules(monkeypatch), local_flows.AbsentFolders()
    pause, following = local_flows.pause, ["rollout", "drift"]

    def half(deployments: Sequence[str]) -> None:
        following.remove("rollout")
        raise Unavailable("Prefect")

    monkeypatch.setattr(local_flows, "scheduled_deployments", lambda model: [*following])
    monkeypatch.setattr(local_flows, "pause", half)
    absent.look({"fraud"}, [])
    with pytest.raises(Unavailable):
        absent.look({"fraud"}, [])
    assert seen == []
    monkeypatch.setattr(local_flows, "pause", pause)
    absent.look({"fraud"}, [])
    absent.look({"fraud"}, ["fraud"])
    assert seen == ["pause rollout", "pause drift", "resume rollout", "resume drift"]
