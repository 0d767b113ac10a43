"""Who opens which port of whom, as network policies name them, and the pods of the manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from mlplatform.operations.prefect_server import cluster_flows
from mlplatform.runtime.configuration import settings

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "platform" / "manifests"
FOLDERS = (
    "base",
    "workloads",
    *(f"components/{name}" for name in ("backup", "bundle-store", "events", "gateways")),
    *("components/sign-in", "components/spark"),
)
PLATFORM, MODELS = "mlplatform", "mlplatform-models"
Path_ = tuple[str, int]
"""Whom, as a policy names them, and the port."""

STATE, TELEMETRY = "namespaces mlplatform/state", "namespaces mlplatform/telemetry"
PREDICTORS = "pods serving.kserve.io/inferenceservice in mlplatform-models"
NAMES = {("namespaces kube-system", 53)}
API_SERVER = {("anybody", 443), ("anybody", 6443)}


def documents() -> list[dict[str, Any]]:
    found = []
    for folder in FOLDERS:
        listed = yaml.safe_load((MANIFESTS / folder / "kustomization.yaml").read_text())
        for name in listed["resources"]:
            found += list(yaml.safe_load_all((MANIFESTS / folder / name).read_text()))
    return found


DOCUMENTS = documents()
[TOLD] = [d["data"] for d in DOCUMENTS if d["metadata"]["name"] == "platform" and "data" in d]
SETTINGS = settings.load(TOLD)


def pods() -> dict[str, dict[str, Any]]:
    """Pod templates by what makes them."""
    found = {
        d["metadata"]["name"]: d["spec"]["template"]
        for d in DOCUMENTS
        if d["kind"] in ("StatefulSet", "Deployment")
    }
    for cron in (d for d in DOCUMENTS if d["kind"] == "CronJob"):
        found[cron["metadata"]["name"]] = cron["spec"]["jobTemplate"]["spec"]["template"]
    run = cluster_flows.template(MANIFESTS / "workloads" / "flow-run.yaml", "flows:2")
    return found | {"flow-run": run["job_configuration"]["job_manifest"]["spec"]["template"]}


def own(service: str) -> Path_:
    """A server of the platform, by its Service: its pods, and the port that they listen on."""
    [found] = [d for d in DOCUMENTS if d["kind"] == "Service" and d["metadata"]["name"] == service]
    [name] = found["spec"]["selector"].values()
    [port] = [p["targetPort"] for p in found["spec"]["ports"] if p["name"] == "http"]
    chosen = [p for p in pods().values() if found["spec"]["selector"].items() <= labels(p).items()]
    ports = [p for pod in chosen for p in pod["spec"]["containers"][0]["ports"]]
    [listens] = {p["containerPort"] for p in ports if p["name"] == port}
    return f"pods {name}", listens


def labels(pod: dict[str, Any]) -> dict[str, str]:
    return dict(pod["metadata"]["labels"])


def port(url: str, default: int = 0) -> int:
    return urlsplit(url).port or default


POSTGRES = (STATE, port(TOLD["MLPLATFORM_POSTGRES"]))
REDIS = (STATE, port(TOLD["MLPLATFORM_REDIS"]))
assert SETTINGS.kafka is not None
KAFKA = {
    (STATE, listens)
    for listens in (
        int(SETTINGS.kafka.hosts[0].rpartition(":")[2]),
        9092,  # without TLS
        9096,  # of users, where Amazon runs the brokers
    )
}
HTTPS = (STATE, 443)
COLLECTOR = (TELEMETRY, 4318)  # OTLP over HTTP; the setting names no port of its own
SPARK = {("namespaces mlplatform/spark", port) for port in (7077, 7079)}
OPENS: dict[str, set[Path_]] = {
    # Routes and keys, features and buckets, the issuer's keys.
    "gateway": {POSTGRES, REDIS, HTTPS, COLLECTOR, (PREDICTORS, 8080), (PREDICTORS, 8081)},
    # As the first, and its publisher.
    "gateway-more": {
        *(POSTGRES, REDIS, HTTPS, COLLECTOR, *KAFKA),
        *((PREDICTORS, 8080), (PREDICTORS, 8081)),
    },
    "replicator": KAFKA,
    # Journal and online store, of views that a topic feeds.
    "worker-fraud": {own("gateway"), *KAFKA, POSTGRES, REDIS, COLLECTOR},
    "exporter": {POSTGRES},
    # Bundles in a bucket; the identity provider of people is where the bank says, as receivers of
    # events are.
    "page": {POSTGRES, HTTPS, own("mlflow"), own("prefect"), ("addresses but a few", 443)},
    "mlflow": {POSTGRES, HTTPS},
    "prefect": {POSTGRES},
    "prefect-worker": {own("prefect"), *API_SERVER},
    # Passes and batches ask the API server too: their runs alone have the label's "true".
    "flow-run": {own("prefect"), own("mlflow"), POSTGRES, REDIS, HTTPS, COLLECTOR, *SPARK},
    "backup": {POSTGRES, HTTPS},
    # Receivers of events are where the bank says, in it or outside.
    "events": {POSTGRES, ("addresses but a few", 443)},
}
"""The home of what each process opens, besides asking for names."""
CALLED = {
    ("namespaces mlplatform/calls-gateway", 8080),
    ("namespaces mlplatform/calls-gateway", 8081),
    ("namespaces mlplatform/scrapes", 8080),
}
LETS_IN: dict[str, set[Path_]] = {
    "gateway": CALLED,
    "gateway-more": CALLED,
    "exporter": {("namespaces mlplatform/scrapes", 9464)},
    "worker-fraud": {("namespaces mlplatform/scrapes", 9465)},
    "page": {("namespaces mlplatform/operators", 8090)},
    "prefect": {("namespaces mlplatform/operators", 4200)},
    "mlflow": {("namespaces mlplatform/operators", 5000)},
    "flow-run": {("namespaces mlplatform/spark", 7078), ("namespaces mlplatform/spark", 7079)},
}
"""What lets namespaces in that an operator marks; a pod that is not here lets none in."""
PREDICTOR_LETS_IN = {
    ("namespaces mlplatform/raw-callers", 8080),
    ("namespaces mlplatform/raw-callers", 8081),
    ("namespaces mlplatform/scrapes", 8080),
    ("namespaces mlplatform/scrapes", 8002),  # of Triton
}
