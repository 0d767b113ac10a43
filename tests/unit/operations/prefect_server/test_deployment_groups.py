"""Which flows share a limit, and in which order they are registered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlplatform.model.folders import model_names
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server.local_flows import HEAVY_ELSEWHERE, deployment_groups
from mlplatform.runtime.configuration.on_kubernetes import Argo
from mlplatform.runtime.configuration.settings import Home, Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(Home(tmp_path), "replay", 1, prefect_port=2, mlflow_port=3)


def test_each_flow_is_registered_once_and_the_approval_last(settings: Settings) -> None:
    """The supervisor takes Prefect for ready once the last one is there."""
    found = [
        deployment.name
        for group in deployment_groups(settings, model_names())
        for deployment in group.deployments
    ]
    assert sorted(found) == sorted(
        names.deployment(f, m) for f in names.RUNS for m in model_names()
    )
    assert found[-1] == names.deployment(names.APPROVAL_FLOW, model_names()[-1])


def test_heavy_runs_go_one_by_one_unless_their_work_is_elsewhere(settings: Settings) -> None:
    (heavy, others), argo = (
        deployment_groups(settings, model_names()),
        Argo("mlplatform", "s3://jobs"),
    )
    assert (heavy.limit, others.limit) == (1, 12)
    assert {names.parts(d.name)[0] for d in heavy.deployments} == names.HEAVY  # type: ignore[index]
    assert (
        deployment_groups(replace(settings, argo=argo), model_names())[0].limit == HEAVY_ELSEWHERE
    )
