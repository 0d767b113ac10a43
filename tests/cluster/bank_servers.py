"""The servers that a bank has beside its cluster, under the names by which the manifests know them.

They run on this machine, outside the cluster; Services without a selector name them inside.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from tests.cluster.layout import Layout
from tests.servers import instances
from tests.servers.proxy import Proxy

from mlplatform.rollouts.kubernetes.api import KubernetesApi

NAMESPACE: Final = "mlplatform-state"
PORTS: Final = {"postgres": 5432, "redis": 6379, "s3": 8333}


@dataclass(frozen=True)
class BankServers:
    """PostgreSQL with a database for each that has one, Valkey, and a bucket on S3.

    Args:
        variables: of ConfigMap `platform`, where they differ from the example.
        mlflow: of MLflow's Deployment.
        secrets: what Secrets hold, by their names.
    """

    variables: dict[str, str]
    mlflow: dict[str, str]
    secrets: dict[str, dict[str, str]]
    ends: contextlib.ExitStack = field(repr=False)


def start(api: KubernetesApi, place: Layout) -> BankServers:
    """Started, reachable from pods, and empty."""
    with contextlib.ExitStack() as ends:
        postgres, redis, s3 = instances.postgres(), instances.redis(), instances.s3()
        for one in (postgres, redis, s3):
            if one.server is not None:
                ends.callback(one.server.close)
        redis.empty()
        bucket = s3.bucket()
        endpoint = urlsplit(s3.environment["AWS_ENDPOINT_URL_S3"])
        assert endpoint.port is not None
        ports = {"postgres": postgres.address.port, "redis": redis.address.port}
        for name, port in (ports | {"s3": endpoint.port}).items():
            proxy = ends.enter_context(Proxy(port, host=place.host_ip))
            _name(api, name, place.host_ip, proxy.port)
        user, password = postgres.address.user, postgres.address.password()
        platform, mlflow, prefect = (postgres.database().name for _ in range(3))
        at = f"{user}@postgres.{NAMESPACE}:5432"
        return BankServers(
            variables={
                "MLPLATFORM_POSTGRES": f"postgresql://{at}/{platform}?sslmode=disable",
                "MLPLATFORM_REDIS": f"redis://redis.{NAMESPACE}:6379/0",
                "MLPLATFORM_KAFKA": "",
                "MLPLATFORM_KAFKA_PASSWORD_FILE": "",
                "MLPLATFORM_KSERVE_REPLICAS": "1",  # a node of two cores has room for one
            },
            mlflow={
                "MLPLATFORM_MLFLOW_POSTGRES": f"postgresql://{at}/{mlflow}?sslmode=disable",
                "MLPLATFORM_MLFLOW_ARTIFACTS": f"s3://{bucket}/mlflow",
            },
            secrets={
                "postgres": {"password": password},
                "redis": {"password": redis.address.password()},
                "mlflow": {"token": "a-token-of-the-registry", "postgres-password": password},
                "prefect": {
                    "auth": "platform:a-token-of-the-platform",
                    "database-url": f"postgresql+asyncpg://{user}:{password}"
                    f"@postgres.{NAMESPACE}:5432/{prefect}?ssl=disable",
                },
                "prefect-reader": {"auth": "reader:a-token-of-the-page-for-prefect"},
                "exporter": {"token": "a-token-of-the-exporter"},
                "page": {"token": "a-token-of-the-page"},
                "worker": {"token": "a-token-of-the-worker"},
                "s3": s3.environment | {"AWS_ENDPOINT_URL_S3": f"http://s3.{NAMESPACE}:8333"},
            },
            ends=ends.pop_all(),
        )


def _name(api: KubernetesApi, name: str, address: str, port: int) -> None:
    """A Service that leads out of the cluster."""
    root = f"/api/v1/namespaces/{NAMESPACE}"
    labels = {"mlplatform/state": "true"}
    namespace = {"metadata": {"name": NAMESPACE, "labels": labels}, "kind": "Namespace"}
    api.apply(root, {"apiVersion": "v1", **namespace}, force=True)
    ports: list[dict[str, Any]] = [{"name": name, "port": PORTS[name], "targetPort": port}]
    service = {"kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports}}
    api.apply(f"{root}/services/{name}", {"apiVersion": "v1", **service}, force=True)
    part = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-bank", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": name, "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
    api.apply(f"{slices}/{name}-bank", part, force=True)
