"""Fields of an InferenceService that KServe accepts in Standard mode and ignores."""

from __future__ import annotations

from typing import Any, Final

from mlplatform.rollouts.serving.plane import Manifest
from mlplatform.runtime.errors import Refused

MODE: Final = "serving.kserve.io/deploymentMode"
AUTOSCALER: Final = "serving.kserve.io/autoscalerClass"
STANDARD: Final = "Standard"
KNATIVE: Final = {
    "containerConcurrency": "only Knative limits requests; serving.queue_requests does it here",
    "timeout": "only Knative ends requests; the deadline is the gateway's",
    "batcher": "the agent batches only the v1 protocol; the predictor batches by itself",
    "logger": "the decision log is the gateway's",
}
"""Field of a component → why it is refused, and what to use instead."""
SCALING: Final = ("scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling")


def refuse_ignored(manifest: Manifest) -> None:
    """Raises if a manifest has a field that would be ignored.

    Raises:
        Refused: a field would be accepted and ignored. The error names the field, the reason, and
            what to do instead.
    """
    annotations = manifest["metadata"].get("annotations", {})
    if annotations.get(MODE) != STANDARD:
        raise Refused(f"{MODE} is {annotations.get(MODE)!r}: only {STANDARD!r} is run here")
    for key in annotations:
        if key.startswith("autoscaling.knative.dev/"):
            raise Refused(f"the annotation {key} is Knative's and does nothing in {STANDARD} mode")
    for name, component in manifest["spec"].items():
        if isinstance(component, dict):
            _refuse_in(f"spec.{name}", component, annotations.get(AUTOSCALER, "hpa"))


def _refuse_in(path: str, component: dict[str, Any], autoscaler: str) -> None:
    for field, why in KNATIVE.items():
        if field in component:
            raise Refused(f"{path}.{field} does nothing in {STANDARD} mode: {why}")
    if component.get("minReplicas") == 0:
        raise Refused(f"{path}.minReplicas is 0: nothing starts a pod again when a request comes")
    if autoscaler in ("none", "external"):
        for field in SCALING:
            if field in component:
                raise Refused(f"{path}.{field} does nothing while {AUTOSCALER} is {autoscaler!r}")
