"""components/model-folders of the manifests: what registers the flows of later folders."""

from __future__ import annotations

from pathlib import Path

import yaml

from mlplatform.operations.prefect_server import cluster_flows
from support.kustomize import MANIFESTS, has_kubectl, installation
from support.manifest_schemas import unknown

COMPONENT = MANIFESTS / "components" / "model-folders" / "kustomization.yaml"


def test_every_field_is_one_that_kubernetes_has() -> None:
    (patch,) = yaml.safe_load(COMPONENT.read_text())["patches"]
    spec = yaml.safe_load(patch["patch"])["spec"]["template"]["spec"]
    assert [unknown(one, "V1Container", "") for one in spec["containers"]] == [[]]


@has_kubectl
def test_an_installation_with_it_follows_folders_beside_the_worker(tmp_path: Path) -> None:
    built = installation(tmp_path, "model-folders")
    spec = built["Deployment", "prefect-worker"]["spec"]["template"]["spec"]
    follow, worker = sorted(spec["containers"], key=lambda one: str(one["name"]))
    (register,) = spec["initContainers"]
    assert (follow["name"], worker["name"]) == ("follow", "prefect-worker")
    options = cluster_flows.parser().parse_args(follow["args"])
    assert options.follow
    assert not cluster_flows.parser().parse_args(register["args"]).follow
    for name in ("image", "command", "envFrom", "securityContext", "volumeMounts"):
        assert follow[name] == register[name], name
