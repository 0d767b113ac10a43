"""GPUs by bundle version, where NVIDIA's exporter is: its text, through our job of Prometheus.

No GPU is here. What the exporter says of two nodes is served as it writes it, and Prometheus reads
it by the job of observability/prometheus/cluster.yaml; only how targets are found is another.
"""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from tests.observability import queries
from tests.observability.stack import CONFIGS, eventually, started

from mlplatform.runtime.telemetry import signals
from support.ports import free_port
from support.probe import status_of
from support.scoring_world import wait_for

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("MLPLATFORM_TEST_OBSERVABILITY") != "required",
        reason="needs Prometheus: make test-observability",
    ),
    pytest.mark.timeout(120),
]
SERVICE: Final = "fraud-v3-9f9f9f9f"
GPU: Final = (
    'gpu="%d",UUID="GPU-%d",pci_bus_id="00000000:31:00.0",device="nvidia%d",modelName="NVIDIA L4",'
    'Hostname="node-1",DCGM_FI_DRIVER_VERSION="570.1"'
)
HELD: Final = (
    f'container="kserve-container",namespace="models",pod="{SERVICE}-predictor-7c9f8d-x2x4z"'
)
VALUES: Final = {
    "DCGM_FI_DEV_GPU_UTIL": 40, "DCGM_FI_DEV_FB_USED": 2000, "DCGM_FI_DEV_FB_FREE": 20000,
    "DCGM_FI_DEV_POWER_USAGE": 31.5, "DCGM_FI_PROF_GR_ENGINE_ACTIVE": 0.25,
    "DCGM_FI_DEV_SM_CLOCK": 1500,
}  # fmt: skip
ASKED: Final = f'mlplatform_predictor_requests_total{{service="{SERVICE}",protocol="rest"}}'


def exported() -> str:
    """One GPU that a pod of the champion holds, and one that nobody does."""
    lines = []
    for name, value in VALUES.items():
        lines += [f"# HELP {name} of NVIDIA's exporter", f"# TYPE {name} gauge"]
        lines += [f"{name}{{{GPU % (0, 0, 0)},{HELD}}} {value}", f"{name}{{{GPU % (1, 1, 1)}}} 0"]
    return "\n".join([*lines, ""])


class Exporter:
    """Serves it, and a predictor's count of requests, which grows."""

    def __init__(self) -> None:
        told, self.requests = exported(), 0
        exporter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                exporter.requests += 100
                body = f"{told}{ASKED} {exporter.requests}\n".encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def job(address: str) -> dict[str, Any]:
    """Ours, whose targets Kubernetes would name: the meta labels that it gives are given here."""
    jobs = yaml.safe_load((CONFIGS / "prometheus" / "cluster.yaml").read_text())["scrape_configs"]
    (found,) = (each for each in jobs if each["job_name"] == "dcgm")
    del found["kubernetes_sd_configs"]
    meta = {
        "__meta_kubernetes_service_name": "nvidia-dcgm-exporter",
        "__meta_kubernetes_pod_name": "nvidia-dcgm-exporter-abcde",
        "__meta_kubernetes_pod_node_name": "node-1",
    }
    found["static_configs"] = [{"targets": [address], "labels": meta}]
    return dict(found)


@contextmanager
def prometheus(folder: Path, jobs: list[dict[str, Any]]) -> Iterator[str]:
    """One that scrapes them each second; its address."""
    content = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
    (folder / "prometheus.yaml").write_text(json.dumps(content))
    url = f"http://127.0.0.1:{(port := free_port())}"
    process = started(
        folder, "prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=series",
        f"--web.listen-address=127.0.0.1:{port}",
    )  # fmt: skip
    try:
        wait_for(lambda: status_of(f"{url}/-/ready") == 200, 60)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    exporter = Exporter()
    keep = {"source_labels": ["__name__"], "regex": "mlplatform_.*", "action": "keep"}
    predictor = {
        "job_name": "mlplatform-predictor",
        "static_configs": [{"targets": [exporter.address]}],
        "metric_relabel_configs": [keep],
    }
    folder = tmp_path_factory.mktemp("prometheus")
    try:
        with prometheus(folder, [job(exporter.address), predictor]) as made:
            yield made
    finally:
        exporter.close()


def query(url: str, expression: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=20)
    found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["result"]
    return found


def test_a_gpu_is_of_the_version_whose_pod_holds_it(url: str) -> None:
    (held,) = eventually(
        lambda: query(url, f'{signals.GPU_MEMORY.name}{{service="{SERVICE}"}}'), "a version's GPU"
    )
    assert (held["metric"]["instance"], held["metric"]["gpu"]) == ("node-1", "0")
    assert len(query(url, signals.GPU_MEMORY.name)) == 2
    assert not query(url, "DCGM_FI_DEV_SM_CLOCK")


def test_every_panel_on_gpus_shows_that_version(url: str) -> None:
    shown = {p: queries.plain(q) for p, q in queries.panels().items() if p.startswith("gpu: ")}
    assert len(shown) > 5
    for place, asked in shown.items():
        found = eventually(lambda asked=asked: query(url, asked), f"data of {place}", 90)
        assert {one["metric"]["service"] for one in found} == {SERVICE}, place
