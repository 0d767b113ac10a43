"""Flows of model folders that appear while Prefect runs elsewhere: tried until they are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

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


def test_on_a_cluster_new_flows_are_registered_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, both = Server(), ["fraud", "later"]
    slept = pauses(monkeypatch, [["fraud"], ["fraud"], both, both, ["fraud"], both, both])
    monkeypatch.setattr(cluster_flows, "_registered", lambda models: {"fraud"} & {*models})
    monkeypatch.setattr(cluster_flows, "register_models", server.register)
    with pytest.raises(Enough):
        cluster_flows.follow_folders(settings)
    assert server.registered == [["later"]]
    assert slept == [0.0, POLL_S, AGAIN_S, POLL_S, POLL_S, POLL_S, POLL_S]


def test_on_one_machine_new_flows_are_served_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, both, begun = Server(), ["fraud", "later"], list[list[str]]()
    pauses(monkeypatch, [["fraud"], ["fraud"], both, both, ["fraud"], both, both])
    monkeypatch.setattr(local_flows, "deployment_groups", lambda settings, models: models)
    monkeypatch.setattr(local_flows, "begin", lambda settings, models: begun.append([*models]))

    def add(groups: Sequence[DeploymentGroup]) -> None:
        server.register(settings, groups)  # type: ignore[arg-type]

    with pytest.raises(Enough):
        local_flows.follow_folders(settings, ["fraud"], add)
    assert server.registered == begun == [["later"]]
