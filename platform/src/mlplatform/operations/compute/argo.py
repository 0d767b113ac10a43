"""Jobs on a cluster: Argo workflows, as plain objects of the Kubernetes API.

No Argo Server is needed. Inputs and outputs are artifacts, below the job's name.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlplatform.model.definition import dns_name
from mlplatform.operations.compute.artifacts import Artifacts
from mlplatform.operations.compute.jobs import Job, JobStatus, State, Work
from mlplatform.rollouts.kubernetes.api import AlreadyThere, KubernetesApi, Object, Resource
from mlplatform.rollouts.serving.manifest import MODEL_LABEL
from mlplatform.runtime.errors import NotFound, Refused

WORKFLOWS: Final = Resource("argoproj.io/v1alpha1", "workflows")
DIGEST: Final = "mlplatform/job-digest"
ITEMS_PARAMETER: Final = "items"
SERVICE_ACCOUNT: Final = "mlplatform-jobs"
POOLS: Final = "mlplatform-pools"
"""The ConfigMap with the number of items that may hold each scarce device at a time."""
SETTINGS: Final = "mlplatform-jobs"
"""The ConfigMap with the settings that items read when they start."""
TEMPLATE_LABELS: Final[Mapping[str, str]] = {"app.kubernetes.io/part-of": "mlplatform"}
ROOT: Final = "jobs"

_PHASES: Final[Mapping[str, State]] = {
    "": "pending",
    "Pending": "pending",
    "Running": "running",
    "Succeeded": "succeeded",
    "Failed": "failed",
    "Error": "failed",
}
_PROGRESS: Final = re.compile(r"([0-9]+)/[0-9]+")


class ArgoJobs:
    """A `Jobs` whose items are pods.

    Args:
        namespace: namespace of the workflows, their templates and their pods.
        artifacts: the store that the namespace's default artifact repository names.
        cache: folder into which outputs are copied.
    """

    def __init__(
        self, api: KubernetesApi, namespace: str, artifacts: Artifacts, cache: Path
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._artifacts = artifacts
        self._cache = cache

    def submit(self, job: Job) -> None:
        found = self._find(job.name)
        if found is None:
            self._artifacts.put(job.inputs, key(job.name, "in"))
            found = self._create(job)
        if found["metadata"].get("annotations", {}).get(DIGEST) != job.digest:
            raise Refused(f"there is another job {job.name!r}; each job needs a name of its own")

    def status(self, name: str) -> JobStatus:
        return _status(name, self._get(name))

    def cancel(self, name: str) -> None:
        if not self.status(name).final:
            self._api.merge(self._path(name), {"spec": {"shutdown": "Terminate"}})

    def log(self, name: str) -> str:
        chosen = f"workflows.argoproj.io/workflow={name}"
        return f"`kubectl logs -n {self._namespace} -l {chosen} --all-containers --tail=-1`"

    def outputs(self, name: str) -> Path:
        status = self.status(name)
        if status.state != "succeeded":
            raise Refused(f"job {name} is {status.state}: it has no outputs to take")
        target = self._cache / name
        if not target.is_dir():
            draft = self._cache / f".{name}"
            shutil.rmtree(draft, ignore_errors=True)
            self._artifacts.take(key(name, "out"), draft)
            draft.rename(target)
        return target

    def _create(self, job: Job) -> Object:
        """The created Workflow, or the existing one if another process created it first."""
        try:
            return self._api.create(WORKFLOWS.path(self._namespace), workflow(job))
        except AlreadyThere:
            return self._get(job.name)

    def _find(self, name: str) -> Object | None:
        return self._api.find(self._path(name))

    def _get(self, name: str) -> Object:
        found = self._find(name)
        if found is None:
            raise NotFound(f"no job {name!r} was submitted in {self._namespace}")
        return found

    def _path(self, name: str) -> str:
        return WORKFLOWS.path(self._namespace, name)


def template_name(model: str, work: Work) -> str:
    """The name of the WorkflowTemplate of a model's jobs of one kind."""
    return f"{dns_name(model)}-{work}"


def key(name: str, *below: str) -> str:
    """The key of a job's artifacts in the repository."""
    return "/".join((ROOT, name, *below))


def workflow(job: Job) -> Object:
    """The Workflow of a job, with its name, template, items and deadline."""
    items = {"name": ITEMS_PARAMETER, "value": json.dumps(list(job.items))}
    return {
        "apiVersion": WORKFLOWS.group_version,
        "kind": "Workflow",
        "metadata": {
            "name": job.name,
            "labels": {**TEMPLATE_LABELS, MODEL_LABEL: job.model},
            "annotations": {DIGEST: job.digest},
        },
        "spec": {
            "workflowTemplateRef": {"name": template_name(job.model, job.work)},
            "arguments": {"parameters": [items]},
            "activeDeadlineSeconds": job.deadline_s,
        },
    }


def _status(name: str, found: Object) -> JobStatus:
    status = found.get("status") or {}
    state = _PHASES[status.get("phase") or ""]
    if state == "failed" and found["spec"].get("shutdown") == "Terminate":
        state = "cancelled"
    progress = _PROGRESS.fullmatch(status.get("progress") or "")
    total = len(json.loads(found["spec"]["arguments"]["parameters"][0]["value"]))
    done = total if state == "succeeded" else int(progress[1]) if progress else 0
    return JobStatus(name, state, min(done, total), total, _reason(state, status))


def _reason(state: State, status: Mapping[str, Any]) -> str:
    """Argo's message on a failed item, or else on a waiting one, or else on the whole Workflow."""
    match state:
        case "succeeded":
            return ""
        case "cancelled":
            return "it was asked to end"
    whole = status.get("message") or ""
    if state == "failed" and "deadline" in whole.lower():
        return whole
    nodes = [n for n in (status.get("nodes") or {}).values() if _says_why(n)]
    nodes.sort(key=lambda n: (n["phase"] not in _BAD, n["type"] != "Pod", n["name"]))
    return f"{_item_of(nodes[0])}: {nodes[0]['message']}" if nodes else whole


_BAD: Final = ("Failed", "Error")


def _says_why(node: Mapping[str, Any]) -> bool:
    """Whether a node has a message on an item that failed, runs or waits: a pod, or with retries
    the node of an item that waits for a place in a pool."""
    bad_or_waiting = node.get("phase") in (*_BAD, "Pending", "Running")
    item = node.get("type") == "Pod" or (node.get("type"), node.get("phase")) == (
        "Retry",
        "Pending",
    )
    return item and bad_or_waiting and bool(node.get("message"))


def _item_of(node: Mapping[str, Any]) -> str:
    parameters = (node.get("inputs") or {}).get("parameters") or []
    names = [p["value"] for p in parameters if p["name"] == "item"]
    return str(names[0] if names else node["name"])
