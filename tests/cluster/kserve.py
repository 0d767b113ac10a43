"""KServe's controller in the test cluster: the real one where it is given, or the stand-in."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from tests.cluster.kubernetes import TestCluster
from tests.cluster.layout import HERE, ROOT
from tests.cluster.processes import Failed, until

from mlplatform.rollouts.kubernetes.api import KubernetesApi
from mlplatform.runtime.errors import PlatformError

NAMESPACE: Final = "kserve"
MANIFESTS: Final = HERE / "manifests"
UNUSED: Final = frozenset({"llmisvc", "localmodel"})
"""Folders of KServe's definitions that the platform has no use for; they take a minute to read."""
PLURALS: Final = {
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "ClusterServingRuntime": "/apis/serving.kserve.io/v1alpha1/clusterservingruntimes",
}


@dataclass(frozen=True, slots=True)
class Real:
    """Where the controller and its definitions lie, as a user gives them."""

    manager: Path
    definitions: Path


def given() -> Real | None:
    """KServe's own controller, if KSERVE_MANAGER and KSERVE_CRDS name it.

    Raises:
        Failed: only one of them is set, or one names nothing.
    """
    manager, definitions = os.environ.get("KSERVE_MANAGER"), os.environ.get("KSERVE_CRDS")
    if not manager and not definitions:
        return None
    if not manager or not definitions:
        raise Failed("KSERVE_MANAGER (a binary) and KSERVE_CRDS (a folder) are set together or not")
    if not os.access(manager, os.X_OK) or not Path(definitions).is_dir():
        raise Failed(f"KSERVE_MANAGER={manager} or KSERVE_CRDS={definitions} is not there")
    return Real(Path(manager).absolute(), Path(definitions).absolute())


def named(real: Real | None) -> str:
    """Which controller runs, for people."""
    if real is None:
        return (
            "KServe controller: the stand-in of tests/cluster/standin (KSERVE_MANAGER is not set)"
        )
    return f"KServe controller: the real one, {real.manager}"


def install(cluster: TestCluster, real: Real | None) -> None:
    """Definitions, controller and the platform's own runtime; returns when services are taken."""
    api = cluster.api
    folders = [cluster.layout.cache / "gateway-api"]
    folders += [MANIFESTS] if real is None else [real.definitions]
    for document in documents(folders, "CustomResourceDefinition"):
        apply_definition(api, document)
    make_namespace(api, NAMESPACE)
    if real is None:
        _start_standin(cluster)
    else:
        _start_real(cluster, real)
    for priority in documents([ROOT / "platform" / "manifests" / "base" / "priorities.yaml"]):
        name = priority["metadata"]["name"]
        api.apply(f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}", priority, force=True)
    [runtime] = documents([ROOT / "kserve" / "runtimes" / "mlplatform-onnx.yaml"])
    until(lambda: _taken(api, runtime), "the serving runtime", within_s=60)


def documents(paths: list[Path], kind: str | None = None) -> Iterator[dict[str, Any]]:
    """What lies in files, or in a folder's files, of one kind or of all."""
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob("*.yaml")):
            if file.parent.name in UNUSED:
                continue
            for document in yaml.load_all(file.read_text(), yaml.CSafeLoader):
                if document and (kind is None or _is(document, kind)):
                    yield document


def _is(document: dict[str, Any], kind: str) -> bool:
    """Of the kind, and the whole of it: beside KServe's definitions lie patches of them."""
    return document.get("kind") == kind and "group" in document.get("spec", {})


def apply_definition(api: KubernetesApi, document: dict[str, Any]) -> None:
    """Apply a CustomResourceDefinition and wait until it is served."""
    document["metadata"].pop("creationTimestamp", None)
    document.pop("status", None)
    path = f"{PLURALS[document['kind']]}/{document['metadata']['name']}"
    api.apply(path, document, force=True)

    def established() -> bool:
        conditions = api.get(path).get("status", {}).get("conditions") or []
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    until(established, document["metadata"]["name"], within_s=120)


def make_namespace(api: KubernetesApi, name: str, **labels: str) -> None:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    api.apply(f"/api/v1/namespaces/{name}", body, force=True)


def _taken(api: KubernetesApi, runtime: dict[str, Any]) -> bool:
    """Applied; refused only while the controller's webhook is not listening yet."""
    try:
        api.apply(f"{PLURALS[runtime['kind']]}/{runtime['metadata']['name']}", runtime, force=True)
    except PlatformError as error:
        print(f"cluster: the runtime is not taken yet: {error}", flush=True)
        return False
    return True


def _start_standin(cluster: TestCluster) -> None:
    module = "tests.cluster.standin.controller"
    command = [sys.executable, "-m", module, str(cluster.layout.kubeconfig)]
    cluster.daemon("kserve", command, PYTHONPATH=f"{ROOT}:{ROOT / 'platform' / 'src'}")


def _start_real(cluster: TestCluster, real: Real) -> None:
    api, run = cluster.api, cluster.layout.run
    settings = {key: json.dumps(value) for key, value in _settings().items()}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "inferenceservice-config"},
        "data": settings,
    }
    api.apply(f"/api/v1/namespaces/{NAMESPACE}/configmaps/inferenceservice-config", config)
    certificates = run / "kserve" / "k8s-webhook-server" / "serving-certs"
    certificates.mkdir(parents=True)
    for suffix in ("crt", "key"):
        (certificates / f"tls.{suffix}").write_bytes(
            (run / "pki" / f"webhook.{suffix}").read_bytes()
        )
    cluster.daemon(
        "kserve",
        [
            str(real.manager),
            "--metrics-addr=127.0.0.1:18080",
            "--health-probe-addr=127.0.0.1:18081",
        ],
        KUBECONFIG=str(cluster.layout.kubeconfig),
        POD_NAMESPACE=NAMESPACE,
        TMPDIR=str(run / "kserve"),
    )
    _register_webhooks(api, cluster.layout.server, run)


def _settings() -> dict[str, dict[str, Any]]:
    """What the controller asks for before it starts; images of parts that no test uses, too."""
    pod = {"memoryRequest": "100Mi", "memoryLimit": "1Gi", "cpuRequest": "100m", "cpuLimit": "1"}
    agent = {"image": "kserve/agent:v0", **pod}
    return {
        "deploy": {"defaultDeploymentMode": "Standard"},
        "ingress": {
            "enableGatewayApi": True,
            "kserveIngressGateway": "kserve/kserve-ingress-gateway",
            "ingressGateway": "knative-serving/knative-ingress-gateway",
            "localGateway": "knative-serving/knative-local-gateway",
            "localGatewayService": "knative-local-gateway.istio-system.svc.cluster.local",
            "ingressDomain": "example.com",
            "ingressClassName": "istio",
            "domainTemplate": "{{ .Name }}-{{ .Namespace }}.{{ .IngressDomain }}",
            "urlScheme": "http",
            "disableIstioVirtualHost": True,
        },
        "storageInitializer": {"image": "kserve/storage-initializer:v0", **pod},
        "logger": {**agent, "defaultUrl": "http://default-broker"},
        "batcher": {**agent, "maxBatchSize": "32", "maxLatency": "5000"},
        "agent": agent,
        "router": {"image": "kserve/router:v0", **pod},
        "credentials": {"storageSpecSecretName": "storage-config", "gcs": {}, "s3": {}},
        "security": {"autoMountServiceAccountToken": False},
        "explainers": {},
        "inferenceService": {
            "resource": {
                "cpuLimit": "1",
                "memoryLimit": "512Mi",
                "cpuRequest": "100m",
                "memoryRequest": "256Mi",
            }
        },
    }


def _register_webhooks(api: KubernetesApi, server: str, run: Path) -> None:
    """By address, not by Service: the controller runs beside the API server and not in a pod."""
    authority = base64.b64encode((run / "pki" / "ca.crt").read_bytes()).decode()
    base = server.replace(":6443", ":9443")

    def hook(name: str, path: str, group: str, version: str, resource: str) -> dict[str, Any]:
        operations = ["CREATE"] if resource == "pods" else ["CREATE", "UPDATE"]
        return {
            "name": f"{name}.kserve-webhook-server.test",
            "clientConfig": {"url": f"{base}{path}", "caBundle": authority},
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "rules": [
                {
                    "apiGroups": [group],
                    "apiVersions": [version],
                    "operations": operations,
                    "resources": [resource],
                }
            ],
        }

    kind = "-serving-kserve-io-v1beta1-inferenceservice"
    serving = ("serving.kserve.io", "v1beta1", "inferenceservices")
    pods = hook("pods", "/mutate-pods", "", "v1", "pods")
    labelled = {"key": "serving.kserve.io/inferenceservice", "operator": "Exists"}
    pods["objectSelector"] = {"matchExpressions": [labelled]}
    root = "/apis/admissionregistration.k8s.io/v1"
    for registered, plural, hooks in (
        ("Mutating", "mutating", [hook("defaulter", f"/mutate{kind}", *serving), pods]),
        ("Validating", "validating", [hook("validator", f"/validate{kind}", *serving)]),
    ):
        body = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": f"{registered}WebhookConfiguration",
            "metadata": {"name": "kserve"},
            "webhooks": hooks,
        }
        api.apply(f"{root}/{plural}webhookconfigurations/kserve", body, force=True)
