"""Settings that put the predictors on KServe."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform import backends, wiring
from mlplatform.errors import ConfigInvalid
from mlplatform.serving.local import LocalPlane
from mlplatform.settings import load

ON = {"MLPLATFORM_KSERVE_NAMESPACE": "models", "MLPLATFORM_KSERVE_BUNDLES": "pvc://bundles/prod"}


def test_without_them_predictors_are_processes_that_read_a_folder() -> None:
    settings = load({})

    assert settings.kserve is None
    assert isinstance(wiring.serving_plane(settings), LocalPlane)
    assert backends.storage_uri(settings)(Path("/home/bundles/0ab")) == "file:///home/bundles/0ab"


def test_with_them_pods_read_the_same_folder_from_a_volume() -> None:
    settings = load(ON)

    assert backends.storage_uri(settings)(Path("/home/bundles/0ab")) == "pvc://bundles/prod/0ab"


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
    ],
)
def test_half_or_wrong_settings_are_refused_by_name(changes: dict[str, str], key: str) -> None:
    with pytest.raises(ConfigInvalid, match=key):
        load({**ON, **changes})
