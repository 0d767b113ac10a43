"""Raw callers of the test cluster's Gateway, and backends that only write down what they get."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from tests.cluster.gateway import url
from tests.cluster.layout import layout

from mlplatform.model.routes import Arm
from mlplatform.rollouts.kubernetes.api import SERVICES, Resource
from support.kserve_world import any_cluster, is_ours, own_or_plain
from support.platform_process import wait

SLICES = Resource("discovery.k8s.io/v1", "endpointslices")
DOMAIN = "models.example.com"
HOST_IP = "MLPLATFORM_TEST_HOST_IP"


def host_ip() -> str:
    """Of this machine, as pods of the cluster reach it."""
    if is_ours():
        return layout().host_ip
    if not (named := os.environ.get(HOST_IP)):
        pytest.skip(f"RAW CALLERS ARE NOT TESTED: {HOST_IP} names no address of this machine")
    return named


class Backend(ThreadingHTTPServer):
    """Answers with its own name, and keeps the headers of every request."""

    daemon_threads = True

    def __init__(self, name: str, host: str) -> None:
        super().__init__((host, 0), _Handler)
        self.name = name
        self.seen: list[Mapping[str, str]] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    """An answer is one packet: head and body apart would wait 40 ms for each other."""
    server: Backend

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        with self.server.lock:
            self.server.seen.append({k.lower(): v for k, v in self.headers.items()})
        body = self.server.name.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what was asked is in `seen`."""


class Backends:
    """Services of a namespace whose endpoints are backends of this process."""

    def __init__(self, namespace: str) -> None:
        self.api, _ = any_cluster()
        self.namespace = own_or_plain(self.api, namespace)
        self.of: dict[str, Backend] = {}
        self._host_ip = host_ip()

    def add(self, arm: Arm, *, ready: bool = True) -> Backend:
        """A Service for an arm, as KServe names it."""
        name = f"{arm.service}-predictor"
        backend = self.of.get(arm.service)
        if backend is None:
            backend = self.of[arm.service] = Backend(arm.service, self._host_ip)
        port = {"name": "http1", "port": 80, "protocol": "TCP"}
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"ports": [port]},
        }
        endpoints = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "http1", "port": backend.server_address[1]}],
            "endpoints": [
                {"addresses": [self._host_ip], "conditions": {"ready": ready}},
            ],
        }
        for kind, made in ((SERVICES, service), (SLICES, endpoints)):
            path = kind.path(self.namespace, name)
            self.api.apply(path, made, force=True, manager="tests")
        return backend

    def remove(self, service: str) -> None:
        for kind in (SERVICES, SLICES):
            self.api.delete(kind.path(self.namespace, f"{service}-predictor"))

    def forget(self) -> None:
        """What they have seen so far."""
        for backend in self.of.values():
            with backend.lock:
                backend.seen.clear()

    def close(self) -> None:
        for service, backend in self.of.items():
            self.remove(service)
            backend.shutdown()
            backend.server_close()


class Caller:
    """A raw caller of one model, at the Gateway that all tests share or at another address."""

    def __init__(self, model: str, at: str | None = None) -> None:
        self.model = model
        host = {"host": f"{model}.{DOMAIN}"}
        self._client = httpx.Client(base_url=at or url(layout()), headers=host)

    def post(self, body: Any = None, **headers: str) -> httpx.Response:
        path = f"/v2/models/{self.model}/infer"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._client.post(path, json=body or {"inputs": []}, headers=named)

    def answers(self, count: int, **headers: str) -> Counter[str]:
        """How often each backend answered; what is no 200 counts under its status."""
        found: Counter[str] = Counter()
        for _ in range(count):
            answer = self.post(**headers)
            found[answer.text if answer.status_code == 200 else str(answer.status_code)] += 1
        return found


class Load:
    """A raw caller that goes on, so many requests a second, until it is told to stop."""

    def __init__(
        self, model: str, body: Any = None, *, per_s: float = 50.0, at: str | None = None
    ) -> None:
        self._caller = Caller(model, at)
        self._body = body
        self._every_s = 1 / per_s
        self._over = threading.Event()
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.by: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def until_more(self, requests: int = 20) -> None:
        """Return when so many more have been answered or have failed."""
        until = self._ended() + requests
        wait(lambda: self._ended() >= until, f"{requests} more requests", within_s=30)

    def _ended(self) -> int:
        return self.answered + self.failed.total()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                answer = self._caller.post(self._body)
            except httpx.HTTPError as error:
                self.failed[type(error).__name__] += 1
                continue
            if answer.status_code == 200:
                self.answered += 1
                self.by[_who(answer)] += 1
            else:
                self.failed[f"{answer.status_code}: {answer.text[:80]}"] += 1


def _who(answer: httpx.Response) -> str:
    """The service that answered: a predictor says so in its answer, a backend says nothing else."""
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return answer.text
    return str(answer.json().get("model_name"))
