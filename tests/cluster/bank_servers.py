"""The servers that a bank has beside its cluster, under the names by which the manifests know them.

They run on this machine, outside the cluster; Services without a selector name them inside.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from tests.cluster.layout import Layout
from tests.servers import instances
from tests.servers.kafka.broker import ELSEWHERE, USER, Broker
from tests.servers.process import ServerMissing, new_folder
from tests.servers.proxy import Proxy

from mlplatform.rollouts.kubernetes.api import KubernetesApi

NAMESPACE: Final = "mlplatform-state"
PORTS: Final = {"postgres": 5432, "redis": 6379, "s3": 8333, "kafka": 9093}
SECRETS: Final = "/run/secrets/mlplatform"
"""Where pods have the files of their Secrets."""


@dataclass(frozen=True)
class Addresses:
    """What an overlay writes into manifests and Secrets.

    Args:
        variables: of ConfigMap `platform`, where they differ from the example.
        mlflow: of MLflow's Deployment.
        secrets: what Secrets hold, by their names.
    """

    variables: dict[str, str]
    mlflow: dict[str, str]
    secrets: dict[str, dict[str, str]]


class BankServers:
    """PostgreSQL, Valkey, S3 and Kafka, which asks for TLS and a user; reachable from pods.

    Attributes:
        no_kafka: why there is no Kafka, so that topics are on the first gateway's volume; empty
            where there is one.
    """

    def __init__(self, api: KubernetesApi, place: Layout) -> None:
        with contextlib.ExitStack() as ends:
            self._postgres, self._redis = instances.postgres(), instances.redis()
            self._s3 = instances.s3()
            for one in (self._postgres, self._redis, self._s3):
                if one.server is not None:
                    ends.callback(one.server.close)
            self._kafka, self.no_kafka = _kafka()
            if self._kafka is not None:
                ends.callback(self._kafka.close)
            for name, port in self._ports().items():
                proxy = ends.enter_context(Proxy(port, host=place.host_ip))
                _name(api, name, place.host_ip, proxy.port)
            self._ends = ends.pop_all()

    def close(self) -> None:
        self._ends.close()

    def empty(self) -> Addresses:
        """Databases and a bucket that nobody has written to, and an empty Valkey. The topics stay:
        they are the brokers'."""
        self._redis.empty()
        bucket = self._s3.bucket()
        user, password = self._postgres.address.user, self._postgres.address.password()
        platform, mlflow, prefect = (self._postgres.database().name for _ in range(3))
        at = f"{user}@postgres.{NAMESPACE}:5432"
        return Addresses(
            variables={
                "MLPLATFORM_POSTGRES": f"postgresql://{at}/{platform}?sslmode=disable",
                "MLPLATFORM_REDIS": f"redis://redis.{NAMESPACE}:6379/0",
                "MLPLATFORM_KSERVE_REPLICAS": "1",  # a node of two cores has room for one
                **_topics(self._kafka),
            },
            mlflow={
                "MLPLATFORM_MLFLOW_POSTGRES": f"postgresql://{at}/{mlflow}?sslmode=disable",
                "MLPLATFORM_MLFLOW_ARTIFACTS": f"s3://{bucket}/mlflow",
            },
            secrets={
                "postgres": {"password": password or ""},
                "redis": {"password": self._redis.address.password() or ""},
                **_topic_secrets(self._kafka),
                "mlflow": {"token": "a-token-of-the-registry", "postgres-password": password or ""},
                "prefect": {
                    "auth": "platform:a-token-of-the-platform",
                    "database-url": f"postgresql+asyncpg://{user}:{password}"
                    f"@postgres.{NAMESPACE}:5432/{prefect}?ssl=disable",
                },
                "prefect-reader": {"auth": "reader:a-token-of-the-page-for-prefect"},
                "exporter": {"token": "a-token-of-the-exporter"},
                "page": {"token": "a-token-of-the-page"},
                "worker": {"token": "a-token-of-the-worker"},
                "s3": self._s3.environment | {"AWS_ENDPOINT_URL_S3": f"http://s3.{NAMESPACE}:8333"},
            },
        )

    def _ports(self) -> dict[str, int]:
        """Of the servers, on this machine."""
        s3 = urlsplit(self._s3.environment["AWS_ENDPOINT_URL_S3"]).port
        assert s3 is not None
        found = {
            "postgres": self._postgres.address.port,
            "redis": self._redis.address.port,
            "s3": s3,
        }
        return found if self._kafka is None else found | {"kafka": self._kafka.ports[ELSEWHERE]}


def _kafka() -> tuple[Broker | None, str]:
    """A broker, or why there is none."""
    try:
        return Broker(new_folder("kafka"), known_as=f"kafka.{NAMESPACE}:{PORTS['kafka']}"), ""
    except ServerMissing as error:
        return None, str(error)


def _topics(kafka: Broker | None) -> dict[str, str]:
    if kafka is None:
        return {"MLPLATFORM_KAFKA": "", "MLPLATFORM_KAFKA_PASSWORD_FILE": ""}
    place = f"kafka.{NAMESPACE}:{PORTS['kafka']}?ssl.ca.location={SECRETS}/kafka-ca.crt"
    return {"MLPLATFORM_KAFKA": f"kafka+ssl://{USER}@{place}"}


def _topic_secrets(kafka: Broker | None) -> dict[str, dict[str, str]]:
    if kafka is None:
        return {}
    authority = kafka.certificates.authority.read_text()
    return {"kafka": {"password": kafka.password, "ca.crt": authority}}


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
