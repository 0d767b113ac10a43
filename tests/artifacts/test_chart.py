"""platform/chart without Helm: of this release, all components, reading what kustomize reads."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import jsonschema
import pytest
import yaml

from mlplatform.operations.cluster.check import OLDEST
from support.chart import CHART, COMPONENTS, ROOT
from support.kustomize import MANIFESTS

FOLDERS = ("base", "workloads", *(f"components/{name}" for name in COMPONENTS))


def values() -> dict[str, Any]:
    return yaml.safe_load((CHART / "values.yaml").read_text())


def schema() -> dict[str, Any]:
    return json.loads((CHART / "values.schema.json").read_text())


def test_the_chart_is_of_this_release() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == project["version"]
    assert chart["kubeVersion"] == f">={'.'.join(map(str, OLDEST))}.0-0"


def test_a_value_chooses_each_component_and_none_is_chosen_by_itself() -> None:
    assert values()["components"] == dict.fromkeys(COMPONENTS, False)
    assert sorted(schema()["properties"]["components"]["properties"]) == COMPONENTS


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"components": {"backups": True}}, "backups"),
        ({"settings": {"MLPLATFORM_GATEWAYS": 3}}, "3"),
        ({"settings": {"gateways": "3"}}, "gateways"),
        ({"image": {}}, "image"),
        ({"images": {"gateway": "x"}}, "gateway"),
        ({"patches": [{"metadata": {"name": "gateway"}}]}, "kind"),
    ],
)
def test_the_schema_refuses_what_would_do_nothing(changed: dict[str, Any], key: str) -> None:
    """A misspelt key is an error of `helm install`, and not an installation without it."""
    jsonschema.validate(values(), schema())
    with pytest.raises(jsonschema.ValidationError, match=key):
        jsonschema.validate({**values(), **changed}, schema())


@pytest.mark.parametrize("folder", FOLDERS)
def test_templates_read_every_key_of_a_kustomization(folder: str) -> None:
    """They know these keys, and strategic merges only; others would be left out in silence.

    Replacements are for an order of components, which a release doesn't have: all of its patches
    reach all of its objects.
    """
    text = (CHART / "manifests" / folder / "kustomization.yaml").read_text()
    listed = yaml.safe_load(text)
    known = {"resources", "patches", "configMapGenerator", "generatorOptions", "replacements"}
    assert listed.keys() <= {"apiVersion", "kind"} | known
    assert listed.get("generatorOptions", {}).keys() <= {"labels"}
    for made in listed.get("configMapGenerator", ()):
        assert made.keys() == {"name", "namespace", "files"}
    for patch in listed.get("patches", ()):
        assert patch.keys() <= {"target", "patch"}
        assert patch.get("target", {}).keys() <= {"kind", "name", "labelSelector"}
        content = yaml.safe_load(patch["patch"])
        assert isinstance(content, dict)
        assert content.pop("$patch", "delete") == "delete"
        assert "$patch" not in yaml.safe_dump(content)
    for name in listed.get("resources", ()):
        assert (MANIFESTS / folder / name).is_file()
