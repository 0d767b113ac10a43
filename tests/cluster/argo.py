"""Argo's own workflow-controller in the test cluster, where it was built.

Its executor's image can't be built from the published module: pods are created and scheduled, and
do not run.
"""

from __future__ import annotations

from typing import Any, Final

from tests.cluster.kserve import apply_definition, documents, make_namespace
from tests.cluster.kubernetes import TestCluster
from tests.cluster.layout import ROOT, Layout

from mlplatform.rollouts.kubernetes.api import KubernetesApi

NAMESPACE: Final = "argo"
BINARY: Final = "workflow-controller"
VERSION: Final = "v4.0.5"
REPOSITORY: Final = """\
s3:
  bucket: jobs
  endpoint: s3.invalid
  insecure: true
"""
_PATHS: Final = {
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts/{name}",
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps/{name}",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/{name}",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings/{name}",
}


def is_built(layout: Layout) -> bool:
    """Whether the controller and its definitions are in the cache."""
    return (layout.bin / BINARY).exists() and (layout.cache / "argo").is_dir()


def install(cluster: TestCluster) -> None:
    """Definitions and controller, which sees to every namespace."""
    api = cluster.api
    for document in documents([cluster.layout.cache / "argo"], "CustomResourceDefinition"):
        apply_definition(api, document)
    make_namespace(api, NAMESPACE)
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "workflow-controller-configmap"},
        "data": {"artifactRepository": REPOSITORY},
    }
    api.apply(f"/api/v1/namespaces/{NAMESPACE}/configmaps/workflow-controller-configmap", settings)
    cluster.daemon(
        "argo",
        [
            *(str(cluster.layout.bin / BINARY), f"--namespace={NAMESPACE}"),
            *("--executor-image=mlplatform.test/argoexec:none", "--loglevel=info"),
        ],
        KUBECONFIG=str(cluster.layout.kubeconfig),
        LEADER_ELECTION_DISABLE="true",
    )


def allow_jobs(api: KubernetesApi, namespace: str) -> None:
    """The namespace, with what `argo/access.yaml` has."""
    make_namespace(api, namespace)
    for document in documents([ROOT / "argo" / "access.yaml"]):
        found: dict[str, Any] = document
        path = _PATHS[found["kind"]]
        api.apply(path.format(namespace=namespace, name=found["metadata"]["name"]), found)
