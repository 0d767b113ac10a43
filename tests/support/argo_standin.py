"""A small API server with Argo's controller behind it: real HTTP, real objects, real processes.

It takes the templates that are rendered into `argo/` as they are, and runs each item's own command
as a process of this machine, with artifacts copied from and to a folder that stands for a bucket.
What the real controller does with the same objects is shown in tests/cluster/test_argo.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
NAMESPACE = "ml"
PREFIX = f"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/workflows"
TICK_S = 0.02
Object = dict[str, Any]


class ArgoStandIn:
    """Workflows by name, and what is to go wrong next.

    Args:
        bucket: the folder of artifacts.
        work: where pods have their files.
    """

    def __init__(self, bucket: Path, work: Path) -> None:
        self.workflows: dict[str, Object] = {}
        self.requests: list[str] = []
        self.faults: list[int | str] = []
        """Answers to give instead of the next ones: a status, or "cut" to close the connection."""
        self._bucket, self._work = bucket, work
        self.lock = threading.RLock()
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._threads = [threading.Thread(target=self._server.serve_forever, daemon=True)]
        self._threads[0].start()

    def kubeconfig(self, path: Path) -> Path:
        """A file that names this server."""
        url = f"http://127.0.0.1:{self._server.server_port}"
        context = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "x",
            "contexts": [{"name": "x", "context": context}],
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(10)

    def add(self, workflow: Object) -> Object:
        workflow["status"] = {}
        self.workflows[workflow["metadata"]["name"]] = workflow
        thread = threading.Thread(target=self._reconcile, args=(workflow,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return workflow

    def _reconcile(self, workflow: Object) -> None:
        """Run the items of a workflow to its end, as many at a time as its template says."""
        name, spec = workflow["metadata"]["name"], workflow["spec"]
        text = (ROOT / "argo" / f"{spec['workflowTemplateRef']['name']}.yaml").read_text()
        template = yaml.safe_load(text)["spec"]
        waiting: list[str] = json.loads(spec["arguments"]["parameters"][0]["value"])
        total, until_s = len(waiting), time.monotonic() + spec["activeDeadlineSeconds"]
        pods: list[_Pod] = []
        while not self._over.is_set():
            with self.lock:
                running = sum(p.process.poll() is None for p in pods)
                done = sum(p.process.poll() == 0 for p in pods)
                nodes = {p.name: p.node() for p in pods}
                workflow["status"] = {
                    "phase": "Running",
                    "progress": f"{done}/{total}",
                    "nodes": nodes,
                }
                ending = self._ending(spec, until_s, pods, total)
                if ending is not None:
                    return self._end(workflow["status"], pods, *ending)
            if waiting and running < template["parallelism"]:
                pods.append(_Pod(name, waiting.pop(0), template, self._bucket, self._work))
            time.sleep(TICK_S)
        return self._end(workflow["status"], pods, "Error", "the controller is gone")

    @staticmethod
    def _ending(
        spec: Object, until_s: float, pods: list[_Pod], total: int
    ) -> tuple[str, str] | None:
        """Phase and message, where the workflow ends now."""
        if spec.get("shutdown") == "Terminate":
            return "Failed", "Stopped with strategy 'Terminate'"
        if time.monotonic() > until_s:
            return "Failed", "Max duration limit exceeded: step exceeded its deadline"
        if any(pod.process.poll() for pod in pods):
            return "Failed", "child failed"
        if sum(pod.process.poll() == 0 for pod in pods) == total:
            return "Succeeded", ""
        return None

    def _end(self, status: Object, pods: list[_Pod], phase: str, message: str) -> None:
        for pod in pods:
            if phase == "Succeeded":
                pod.store()
            else:
                pod.kill()
        status["phase"], status["message"] = phase, message

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        standin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = self.path.split("?")[0].removeprefix(f"{PREFIX}/")
                self._answer(lambda: (200, standin.workflows[name]))

            def do_POST(self) -> None:
                body = self._body()

                def create() -> tuple[int, Object]:
                    if body["metadata"]["name"] in standin.workflows:
                        return 409, {"reason": "AlreadyExists", "message": "it exists"}
                    return 201, standin.add(body)

                self._answer(create)

            def do_PATCH(self) -> None:
                name = self.path.split("?")[0].removeprefix(f"{PREFIX}/")
                body = self._body()
                assert self.headers["Content-Type"] == "application/merge-patch+json"

                def merge() -> tuple[int, Object]:
                    standin.workflows[name]["spec"].update(body["spec"])
                    return 200, standin.workflows[name]

                self._answer(merge)

            def _body(self) -> Object:
                body: Object = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                return body

            def _answer(self, work: Any) -> None:
                with standin.lock:
                    standin.requests.append(f"{self.command} {self.path.split('?')[0]}")
                    fault = standin.faults.pop(0) if standin.faults else None
                    if fault == "cut":
                        self.close_connection = True
                        return
                    if fault == "lost answer":
                        work()
                        self.close_connection = True
                        return
                    if isinstance(fault, int):
                        status, content = fault, {"message": f"fault {fault}"}
                    else:
                        try:
                            status, content = work()
                        except KeyError:
                            status, content = 404, {"reason": "NotFound", "message": "no such"}
                    data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *given: object) -> None:
                """Nothing: pytest's output is for failures."""

        return Handler


class _Pod:
    """One item's container: a process, with the artifacts that its template names."""

    def __init__(self, job: str, item: str, spec: Object, bucket: Path, work: Path) -> None:
        self.name, self.item = f"{job}-{item}", item
        [template] = [t for t in spec["templates"] if t["name"] == "item"]
        values = {"workflow.name": job, "inputs.parameters.item": item}
        self._template = json.loads(_substituted(json.dumps(template), values))
        self._bucket, self._folder = bucket, work / self.name
        for artifact in self._template["inputs"]["artifacts"]:
            _copy(bucket / artifact["s3"]["key"], self._local(artifact["path"]))
        self._local("/work/out").mkdir(parents=True)
        container = self._template["container"]
        assert container["command"][0] == "python"
        # In a pod all of it lies in /work.
        args = [part.replace("=/work/", f"={self._folder}/") for part in container["args"]]
        command = [sys.executable, *container["command"][1:], *args]
        self._log = self._folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def node(self) -> Object:
        status = self.process.poll()
        phase = "Running" if status is None else "Failed" if status else "Succeeded"
        message = f"Error (exit code {status}): {self._log.read_text().strip()}" if status else ""
        parameters = [{"name": "item", "value": self.item}]
        return {
            "name": self.name,
            "type": "Pod",
            "phase": phase,
            "message": message,
            "inputs": {"parameters": parameters},
        }

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def store(self) -> None:
        for artifact in self._template["outputs"]["artifacts"]:
            _copy(self._local(artifact["path"]), self._bucket / artifact["s3"]["key"])

    def _local(self, path: str) -> Path:
        return self._folder / path.removeprefix("/work/")


def _substituted(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


@contextlib.contextmanager
def standin(folder: Path) -> Iterator[ArgoStandIn]:
    """The stand-in, with its bucket in `folder/bucket`."""
    (folder / "bucket").mkdir()
    made = ArgoStandIn(folder / "bucket", folder / "pods")
    try:
        yield made
    finally:
        made.close()
