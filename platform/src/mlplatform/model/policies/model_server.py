"""A model server that is not the platform's: the server of a model, and the artefact that it
loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from mlplatform.model.policies.serving import (
    ADDRESS,
    OWN_RUNTIMES,
    ServingPolicy,
    is_address,
)
from mlplatform.model.policies.values import Rule
from mlplatform.model.tensors.signature import Signature

RESERVED: Final = ("mlplatform-onnx", "mlplatform-onnx-gpu", "mlplatform-triton")
"""Runtimes for which the platform prepares bundles: `mlplatform` and `triton` in model.yaml."""


class ModelServer(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """A server of the Open Inference Protocol that answers for a version, with its own artefact.

    A bundle holds it, because the artefact of a version never changes and model.yaml may change.

    Args:
        runtime: name of the ServingRuntime in the cluster.
        format: format of the artefact, `name` or `name/version`; empty if there is no storage.
        storage: URI of the artefact that KServe loads; empty: the server runs on no cluster.
        address: `http://host:port` of the server for an installation on one machine; empty if there
            is none.
        served_as: the model's name at the server; empty: the name of the service.
        labels: labels of the InferenceService, for a runtime that reads them.
        tolerance: largest difference between its scores and the golden ones.
    """

    runtime: str
    format: str = ""
    storage: str = ""
    address: str = ""
    served_as: str = ""
    labels: Mapping[str, str] = {}
    tolerance: Annotated[float, Meta(gt=0)]

    @property
    def model_format(self) -> dict[str, str]:
        """KServe's `modelFormat`."""
        name, _, version = self.format.partition("/")
        return {"name": name, "version": version} if version else {"name": name}


def model_server(serving: ServingPolicy, tolerance: float) -> ModelServer | None:
    """The server that a model.yaml names; None if versions run on the platform's own, or on Triton.

    Args:
        tolerance: largest difference between scores of the model's two forms
            (`gates.onnx_difference`).
    """
    if serving.runtime in OWN_RUNTIMES:
        return None
    return ModelServer(
        runtime=serving.runtime,
        format=serving.format or "",
        storage=serving.storage or "",
        address=serving.address or "",
        served_as=serving.served_as or "",
        labels=serving.labels or {},
        tolerance=tolerance,
    )


def server_rules(serving: ServingPolicy, signature: Signature | None) -> Iterator[Rule]:
    """Whether each rule about another model server holds: the key, its value, what is wanted."""
    keys = ("format", "storage", "address", "served_as", "labels")
    named = {f"serving.{key}": getattr(serving, key) for key in keys}
    if serving.runtime in OWN_RUNTIMES:
        wanted = f"nothing, where runtime is {serving.runtime}: it is for another server"
        for key, value in named.items():
            yield not value, key, value, wanted
        return
    wanted = "mlplatform, triton, or a ServingRuntime other than those of these two"
    yield serving.runtime not in RESERVED, "serving.runtime", serving.runtime, wanted
    wanted = f"what {serving.runtime} loads on a cluster, or an address for one machine"
    is_there = bool(serving.storage or serving.address)
    yield is_there, "serving.storage", serving.storage, wanted
    is_known = serving.address is None or is_address(serving.address)
    yield is_known, "serving.address", serving.address, ADDRESS
    wanted = "the modelFormat of what serving.storage holds, such as xgboost/2"
    has_format = serving.storage is None or serving.format is not None
    yield has_format, "serving.format", serving.format, wanted
    wanted = f"the tensors that {serving.runtime} takes and gives, where it is another server"
    yield signature is not None, "signature", None, wanted
    for number, tensor in enumerate(signature.inputs if signature is not None else ()):
        declared = tensor.missing is not None or not tensor.dtype.startswith("float")
        wanted = "a number that stands for a missing value: the protocol's JSON has no NaN"
        yield declared, f"signature.inputs.{number}.missing", tensor.missing, wanted
