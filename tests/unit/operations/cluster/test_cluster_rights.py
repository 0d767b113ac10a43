"""The list of rights: what adapters call, what the Roles give, and nothing beside either."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from mlplatform.model.folders import load_definition
from mlplatform.operations.cluster.rights import RIGHTS, Right
from mlplatform.operations.compute.argo import ArgoJobs
from mlplatform.operations.compute.artifacts import Artifacts
from mlplatform.operations.compute.jobs import Job
from mlplatform.rollouts.kubernetes.api import APPLY, KubernetesApi
from mlplatform.rollouts.serving.httproute import HttpRoutes
from mlplatform.rollouts.serving.kserve import KServePlane
from mlplatform.rollouts.serving.manifest import render
from mlplatform.runtime.configuration.entrance import Entrance
from mlplatform.runtime.errors import NotFound

ROOT = Path(__file__).parents[4]
FRAUD = load_definition("fraud")
ON_GPU = msgspec.structs.replace(FRAUD, accelerator="cuda")
AccessQuestion = tuple[str, str, str, str]
"""Where, verb, group, resource."""
VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


class Server(KubernetesApi):
    """Keeps objects by their path, and what was asked, as an API server's authorizer sees it."""

    def __init__(self) -> None:
        super().__init__(None, "models")
        self.objects: dict[str, dict[str, Any]] = {}
        self.asked: set[AccessQuestion] = set()

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content: str | None = None,
        query: Mapping[str, str] | None = None,
        accept: str = "",
    ) -> str:
        if path == "/apis/keda.sh/v1alpha1":  # discovery, which needs no right
            return json.dumps({"resources": [{"name": "scaledobjects"}]})
        named = self._note(method, path, content)
        if method == "POST":
            path = f"{path}/{(body or {})['metadata']['name']}"
        if method in ("POST", "PATCH"):
            merged = self.objects.setdefault(path, {"metadata": {}}) | dict(body or {})
            merged["metadata"] = {"uid": "1", **merged["metadata"]}
            self.objects[path] = merged
        if method == "GET" and not named:
            below = [o for p, o in self.objects.items() if p.rpartition("/")[0] == path]
            return json.dumps({"items": below})
        if path not in self.objects:
            raise NotFound(path)
        return json.dumps(self.objects[path])

    def _note(self, method: str, path: str, content: str | None) -> bool:
        """Whether it is about one object."""
        _, root, *parts = path.split("/")
        group = "" if root == "api" else parts.pop(0)
        parts.pop(0)
        where = "cluster"
        if parts[0] == "namespaces":
            where, parts = parts[1], parts[2:]
        kind, name = parts[0], "".join(parts[1:])
        verb = "list" if method == "GET" and not name else VERBS[method]
        self.asked.add((where, verb, group, kind))
        if content == APPLY:  # of what is not there yet it needs both
            self.asked.add((where, "create", group, kind))
        return bool(name)


def as_asked(rights: Iterable[Right]) -> set[AccessQuestion]:
    return {(r.where, r.verb, r.group, r.resource) for r in rights}


def test_adapters_call_what_the_list_has_and_all_of_it(tmp_path: Path) -> None:
    server = Server()
    server.objects["/api/v1/nodes/node"] = a_node()
    plane = KServePlane(server, "models", by_address=True, prometheus_url="http://prometheus:9090")
    scaled = render(FRAUD, 1, "1" * 64, "pvc://bundles/1", scales=True)
    on_gpu = render(ON_GPU, 2, "2" * 64, "pvc://bundles/2")
    for manifest in (scaled, on_gpu):
        plane.apply(manifest)
        name = manifest["metadata"]["name"]
        plane.status(name)
        plane.endpoint(name)
        plane.remove(name)
    plane.names()
    routes = HttpRoutes(server, "models", Entrance("edge", "public", "models.example"))
    routes.find("fraud")
    routes.write({"metadata": {"name": "fraud-raw-callers"}}, None)
    for folder in ("bucket", "in/items/1"):
        (tmp_path / folder).mkdir(parents=True)
    jobs = ArgoJobs(server, "jobs", Artifacts((tmp_path / "bucket").as_uri()), tmp_path / "cache")
    jobs.submit(a_job(tmp_path / "in"))
    jobs.cancel("some-job")

    assert server.asked == as_asked(RIGHTS)


def rules(file: str, role: str, where: str) -> set[AccessQuestion]:
    """What a Role or ClusterRole gives, one verb at a time."""
    documents = yaml.safe_load_all((ROOT / file).read_text())
    [found] = [
        d
        for d in documents
        if d["kind"] in ("Role", "ClusterRole") and d["metadata"]["name"] == role
    ]
    return {
        (where, verb, group, resource)
        for rule in found["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_roles_give_what_the_list_has_and_no_more() -> None:
    """But for addresses: pods reach predictors by the cluster's names."""
    accounts = "platform/manifests/base/accounts.yaml"
    given = rules(accounts, "rollouts", "models")
    given |= rules(accounts, "mlplatform-capacity", "cluster")
    given |= rules("argo/access.yaml", "mlplatform-starts-jobs", "jobs")

    assert given == as_asked(r for r in RIGHTS if r.use != "addresses")


def a_node() -> dict[str, Any]:
    room = {"nvidia.com/gpu": "8", "cpu": "64", "memory": "512Gi"}
    return {
        "metadata": {"name": "node"},
        "spec": {},
        "status": {"allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def a_job(inputs: Path) -> Job:
    return Job("some-job", "score", "fraud", inputs, ("1",), 60)
