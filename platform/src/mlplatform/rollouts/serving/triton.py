"""A bundle's model for Triton: the configuration that its model.yaml implies, and its repository.

Triton takes what this platform's own predictor does for CPU bundles: batches across requests,
instances, warm-up. It knows nothing of tokens and golden rows: `rollouts.serving.golden` asks in
its place.
"""

from __future__ import annotations

import enum
import os
import shutil
import tempfile
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, Final

from mlplatform.model.bundle import (
    INPUT_NAME,
    MODEL_FILE,
    OUTPUT_NAME,
    BundleCorrupt,
    load_bundle,
)
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.weights.data_files import data_names
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.rollouts.serving.placement import gpu_of
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.storage.readers import open_as

CONFIG_FILE: Final = "config.pbtxt"
VERSION: Final = 1
"""Version of the model within its repository. It is always the same, because a service is one
version for ever and its name says which."""

Message = Mapping[str, "Value"]
Value = str | bool | int | enum.Enum | Message | list[Any]


class DataType(enum.Enum):
    TYPE_FP32 = enum.auto()


class Kind(enum.Enum):
    KIND_CPU = enum.auto()
    KIND_GPU = enum.auto()


class LatePolicy(enum.Enum):
    """Triton's action on a request that waited too long."""

    REJECT = enum.auto()


def config(definition: ModelDefinition, service: str, width: int) -> str:
    """The model's `config.pbtxt`, protobuf text of `inference.ModelConfig`.

    Args:
        service: name of the service, by which requests name the model.
        width: number of inputs of the bundle; model.yaml may have other inputs by now.

    Source: NVIDIA Triton Inference Server, model_config.proto.
    """
    rows = definition.serving.batch_rows
    return text(
        {
            "name": service,
            "backend": "onnxruntime",
            "default_model_filename": MODEL_FILE,
            "max_batch_size": rows,
            "version_policy": {"specific": {"versions": [VERSION]}},
            "input": [{"name": INPUT_NAME, "data_type": DataType.TYPE_FP32, "dims": [width]}],
            # One number a row: the model's own output has no second dimension, but Triton needs
            # one.
            "output": [
                {
                    "name": OUTPUT_NAME,
                    "data_type": DataType.TYPE_FP32,
                    "dims": [1],
                    "reshape": {"shape": []},
                }
            ],
            "instance_group": [_instances(definition)],
            "dynamic_batching": {
                "max_queue_delay_microseconds": definition.serving.batch_delay_us,
                "default_queue_policy": {
                    "timeout_action": LatePolicy.REJECT,
                    "default_timeout_microseconds": round(definition.deadline_ms * 1000),
                    "max_queue_size": definition.serving.queue_requests,
                },
            },
            "model_warmup": [_warm_up(count, width) for count in sorted({1, rows})],
            **_accelerators(definition),
        }
    )


def _instances(definition: ModelDefinition) -> Message:
    """One instance for each GPU of the pod: on one GPU, batches fill it better than instances."""
    kind = Kind.KIND_CPU if gpu_of(definition) is None else Kind.KIND_GPU
    return {"count": 1, "kind": kind}


def _warm_up(rows: int, width: int) -> Message:
    """Warm-up requests of the smallest and the largest batch: the provider makes no new plan
    between them."""
    row = {"data_type": DataType.TYPE_FP32, "dims": [width], "zero_data": True}
    return {
        "name": f"{rows} rows",
        "batch_size": rows,
        "inputs": [{"key": INPUT_NAME, "value": row}],
    }


def _accelerators(definition: ModelDefinition) -> Message:
    if definition.accelerator != "tensorrt":
        return {}
    # Half precision would move scores across thresholds that were validated in single precision.
    precision = {"key": "precision_mode", "value": "FP32"}
    provider = {"name": "tensorrt", "parameters": [precision]}
    return {
        "optimization": {"execution_accelerators": {"gpu_execution_accelerator": [provider]}},
    }


def text(message: Message, indent: str = "") -> str:
    """Protobuf text: a list is a repeated field, a mapping a message, an enum its name."""
    lines = []
    for name, value in message.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                lines.append(f"{indent}{name} {{\n{text(one, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar(one)}\n")
    return "".join(lines)


def _scalar(value: str | bool | int | enum.Enum) -> str:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def lay_out(definition: ModelDefinition, service: str, bundle: Path, into: Path) -> Path:
    """Write a model repository with this one model, for a runtime that mounts it at /mnt/models.

    A repository that has the same content already is left alone; one with other content, which no
    service runs from, is replaced. Its permissions are those of the folder `into`.

    Args:
        bundle: folder of the bundle, which was checked before.
        into: existing folder of the repositories.

    Returns:
        The repository's folder, `into`/`service`, which has a folder `service` of its own.

    Raises:
        BundleCorrupt: the bundle's model does not match its digest any more.
        Refused: the model has weights in files beside its graph.
    """
    loaded = load_bundle(bundle)
    if beside := data_names(loaded.files):
        wanted = "a model with weights beside its graph needs serving.runtime: mlplatform"
        raise Refused(f"Triton loads one file, and {bundle.name} also has {beside[0]}; {wanted}")
    content = (bundle / MODEL_FILE).read_bytes()
    if digest(content) != loaded.files[MODEL_FILE]:
        raise BundleCorrupt(f"{bundle / MODEL_FILE} was changed while it was read")
    files = {
        Path(service, CONFIG_FILE): config(definition, service, len(loaded.inputs)).encode(),
        Path(service, str(VERSION), MODEL_FILE): content,
    }
    final = into / service
    if final.is_dir() and _holds(final, files):
        return final
    draft = Path(tempfile.mkdtemp(prefix=f".{service}-draft", dir=into))
    try:
        for path, written in files.items():
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            (draft / path).write_bytes(written)
        open_as(into, draft)
        _replace(draft, final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return final


def sweep(model: str, into: Path, kept: Container[str]) -> None:
    """Remove the repositories of a model's services that are not in `kept`, and drafts that a
    killed pass left."""
    for folder in into.iterdir():
        name = ServiceName.parse(folder.name.removeprefix(".").split("-draft")[0])
        if name is not None and name.is_of(model) and folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _holds(folder: Path, files: Mapping[Path, bytes]) -> bool:
    try:
        return all((folder / path).read_bytes() == content for path, content in files.items())
    except OSError:
        return False


def _replace(draft: Path, final: Path) -> None:
    """Replace a repository by a draft. A pass holds its model's lease, so that nobody else does
    this at the same time."""
    if final.exists():
        shutil.rmtree(final)
    os.rename(draft, final)
