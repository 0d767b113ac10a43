"""The cluster profile: everything named, or nothing started and every missing name told."""

from __future__ import annotations

from pathlib import Path

import pytest
from kubernetes.config import ConfigException
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.operations import wiring
from mlplatform.runtime.configuration.declarations import SETTINGS
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import ConfigInvalid

VARIABLE = "MLPLATFORM_PROFILE"
CLUSTER = {
    VARIABLE: "cluster",
    "MLPLATFORM_POSTGRES": "postgresql://u@db/platform",
    "MLPLATFORM_REDIS": "rediss://cache:6380/0",
    "MLPLATFORM_KAFKA": "broker:9092",
    "MLPLATFORM_KSERVE_NAMESPACE": "models",
    "MLPLATFORM_KSERVE_BUNDLES": "pvc://bundles",
    "MLPLATFORM_MLFLOW_POSTGRES": "postgresql://m@db/mlflow",
    "MLPLATFORM_MLFLOW_ARTIFACTS": "s3://models/mlflow",
}
NAMES = [s.variable for s in SETTINGS if s.in_cluster]


def test_without_a_word_the_profile_is_the_embedded_one_and_asks_for_nothing() -> None:
    assert load({}).profile == "embedded"
    kafka = load({VARIABLE: "embedded", "MLPLATFORM_KAFKA": "broker:9092"}).kafka
    assert kafka is not None
    assert kafka.hosts == ("broker:9092",)


def test_with_every_server_named_it_is_the_cluster_s_and_so_for_children() -> None:
    settings = load(CLUSTER)
    assert settings.profile == "cluster"
    assert load(settings.environment()) == settings


@pytest.mark.parametrize("name", NAMES)
def test_a_server_that_is_not_named_is_told_with_what_to_put_there(name: str) -> None:
    with pytest.raises(ConfigInvalid) as told:
        load({**CLUSTER, name: ""})
    text = str(told.value)
    assert [n for n in NAMES if f"{n}: " in text] == [name]
    assert f"\n  {name}: " in text


def test_all_that_are_not_named_are_told_at_once() -> None:
    with pytest.raises(ConfigInvalid) as told:
        load({VARIABLE: "cluster"})
    assert [n for n in NAMES if f"{n}: " in str(told.value)] == NAMES


def test_a_registry_elsewhere_has_its_own_database_and_bucket() -> None:
    given = {name: value for name, value in CLUSTER.items() if "_MLFLOW_" not in name}
    settings = load(given | {"MLPLATFORM_MLFLOW_URL": "http://mlflow.mlplatform:5000"})
    assert settings.profile == "cluster"


def test_another_profile_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="wanted: embedded or cluster"):
        load({VARIABLE: "production"})


def _in_no_pod(*_: object) -> None:
    raise ConfigException


def test_without_a_cluster_to_ask_up_says_so_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kubernetes.config.load_incluster_config", _in_no_pod)
    # The library read KUBECONFIG when it was imported; what the message names is that of now.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", "nowhere")
    monkeypatch.setattr("os.environ", {**CLUSTER, "KUBECONFIG": "nowhere"})
    wiring.settings.cache_clear()
    result = CliRunner().invoke(commands.app, ["up"])
    wiring.settings.cache_clear()
    assert isinstance(result.exception, ConfigInvalid)
    assert str(result.exception).startswith("KUBECONFIG is 'nowhere'; wanted: a file that says")
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_lacks_servers_says_which_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", {})
    wiring.settings.cache_clear()
    result = CliRunner().invoke(commands.app, ["up", "--profile", "cluster"])
    wiring.settings.cache_clear()
    assert isinstance(result.exception, ConfigInvalid)
    assert "MLPLATFORM_POSTGRES: postgresql://" in str(result.exception)
    assert list(tmp_path.iterdir()) == []
