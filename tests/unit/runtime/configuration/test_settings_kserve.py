"""Settings that put the predictors on KServe."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.operations import wiring
from mlplatform.rollouts.serving.local import LocalPlane
from mlplatform.runtime.configuration.entrance import Entrance
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import ConfigInvalid, Refused
from mlplatform.scoring import wiring as scoring_wiring

ON = {"MLPLATFORM_KSERVE_NAMESPACE": "models", "MLPLATFORM_KSERVE_BUNDLES": "pvc://bundles/prod"}


def test_without_them_predictors_are_processes_that_read_a_folder() -> None:
    settings = load({})

    assert settings.kserve is None
    assert isinstance(wiring.serving_plane(settings), LocalPlane)
    assert scoring_wiring.storage_uri(settings)(settings.home.bundles / "0ab") == "bundle:0ab"


def test_with_them_pods_read_the_same_folder_from_a_volume() -> None:
    settings = load(ON)

    assert (
        scoring_wiring.storage_uri(settings)(Path("/home/bundles/0ab")) == "pvc://bundles/prod/0ab"
    )


BUCKET = {"MLPLATFORM_BUNDLE_STORE": "s3://models/prod/"}


def test_pods_read_bundles_from_the_bucket_where_there_is_one_and_need_no_volume() -> None:
    settings = load({"MLPLATFORM_KSERVE_NAMESPACE": "models", **BUCKET})
    uri = scoring_wiring.storage_uri(settings)

    assert uri(Path("/home/bundles") / ("ab" * 32)) == f"s3://models/prod/{'ab' * 32}"
    with pytest.raises(Refused, match="MLPLATFORM_KSERVE_BUNDLES"):
        uri(Path("/home/bundles/fraud-v1-abababab"))
    both = scoring_wiring.storage_uri(load(ON | BUCKET))
    assert both(Path("/home/bundles") / ("ab" * 32)) == f"s3://models/prod/{'ab' * 32}"
    assert both(Path("/b/fraud-v1-abababab")) == "pvc://bundles/prod/fraud-v1-abababab"
    assert load(settings.environment()).bundle_store == "s3://models/prod/"


@pytest.mark.parametrize("place", ["", "/mnt/bundles"])
def test_pods_read_no_folder_of_this_machine(place: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"MLPLATFORM_(BUNDLE_STORE|KSERVE_BUNDLES)"):
        load({"MLPLATFORM_KSERVE_NAMESPACE": "models", "MLPLATFORM_BUNDLE_STORE": place})


@pytest.mark.parametrize("place", ["bundles", "s3:/bucket", "s3://", "gs://bucket/x", "s3://b u"])
def test_a_store_is_a_bucket_or_an_absolute_folder(place: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"MLPLATFORM_BUNDLE_STORE.*s3://bucket/prefix, or the"):
        load({"MLPLATFORM_BUNDLE_STORE": place})


def test_a_store_is_not_the_folder_that_is_emptied_for_it() -> None:
    for given in (
        {"MLPLATFORM_HOME": "/srv/home", "MLPLATFORM_BUNDLE_STORE": "/srv/home/bundles"},
        {"MLPLATFORM_BUNDLES": "/srv/bundles", "MLPLATFORM_BUNDLE_STORE": "/srv/bundles/"},
    ):
        with pytest.raises(ConfigInvalid, match="another folder than that of this machine's"):
            load(given)


def test_children_get_them_too() -> None:
    settings = load(ON)

    assert load(settings.environment()).kserve == settings.kserve


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"MLPLATFORM_KSERVE_NAMESPACE": ""}, "KSERVE_NAMESPACE"),
        ({"MLPLATFORM_KSERVE_NAMESPACE": "Models"}, "KSERVE_NAMESPACE"),
        ({"MLPLATFORM_KSERVE_BUNDLES": ""}, "KSERVE_BUNDLES"),
        ({"MLPLATFORM_KSERVE_BUNDLES": "s3://bucket"}, "KSERVE_BUNDLES"),
        ({"MLPLATFORM_KSERVE_BUNDLES": "pvc://bundles/"}, "KSERVE_BUNDLES"),
        ({"MLPLATFORM_KSERVE_REPLICAS": "0"}, "KSERVE_REPLICAS"),
        ({"MLPLATFORM_KSERVE_REPLICAS": "two"}, "KSERVE_REPLICAS"),
        ({"MLPLATFORM_KSERVE_PROMETHEUS": "prometheus:9090"}, "KSERVE_PROMETHEUS"),
        ({"MLPLATFORM_KSERVE_PROMETHEUS": "http://a:b@prometheus"}, "KSERVE_PROMETHEUS"),
    ],
)
def test_half_or_wrong_settings_are_refused_by_name(changes: dict[str, str], key: str) -> None:
    with pytest.raises(ConfigInvalid, match=key):
        load({**ON, **changes})


def test_pods_are_scaled_where_it_is_said_who_has_the_metrics() -> None:
    settings = load(ON | {"MLPLATFORM_KSERVE_PROMETHEUS": "http://prometheus.monitoring:9090"})

    assert (scoring_wiring.scales(settings), scoring_wiring.scales(load(ON))) == (True, False)
    assert scoring_wiring.scales(load({})) is False
    assert load(settings.environment()).kserve == settings.kserve
    with pytest.raises(ConfigInvalid, match="KSERVE_NAMESPACE"):
        load({"MLPLATFORM_KSERVE_PROMETHEUS": "http://prometheus.monitoring:9090"})


def test_a_fixed_number_of_pods_and_an_autoscaler_exclude_each_other() -> None:
    both = {"MLPLATFORM_KSERVE_PROMETHEUS": "http://p:9090", "MLPLATFORM_KSERVE_REPLICAS": "1"}
    with pytest.raises(ConfigInvalid, match="an autoscaler chooses the number"):
        load(ON | both)


RAW = {"MLPLATFORM_RAW_GATEWAY": "edge/public", "MLPLATFORM_RAW_DOMAIN": "models.example.com"}


def test_raw_callers_come_through_a_gateway_that_children_know_too() -> None:
    settings = load(ON | RAW)

    assert settings.entrance == Entrance("edge", "public", "models.example.com")
    assert load(settings.environment()).entrance == settings.entrance
    assert load(ON).entrance is None


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (RAW, "RAW_GATEWAY"),
        (ON | RAW | {"MLPLATFORM_RAW_GATEWAY": "public"}, "RAW_GATEWAY"),
        (ON | RAW | {"MLPLATFORM_RAW_DOMAIN": ""}, "RAW_DOMAIN"),
        (ON | RAW | {"MLPLATFORM_RAW_DOMAIN": "*.example.com"}, "RAW_DOMAIN"),
    ],
)
def test_an_entrance_without_kserve_or_by_halves_is_refused(
    given: dict[str, str], key: str
) -> None:
    with pytest.raises(ConfigInvalid, match=key):
        load(given)
