"""The files with which MLflow loads a bundle as a model: its description, as data.

Source: MLflow 3, model storage format (`MLmodel`) and `mlflow.types.schema`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

from mlplatform.model.bundle import MODEL_FILE, Bundle
from mlplatform.model.definition import WORDED, InputSpec, by_declared
from mlplatform.model.tensors.categories import word_of
from mlplatform.model.tensors.remainders import remainder_places
from mlplatform.model.tensors.vectors import spans

MLMODEL: Final = "MLmodel"
REQUIREMENTS: Final = "requirements.txt"
EXAMPLE: Final = "input_example.json"
FILES: Final = frozenset((MLMODEL, REQUIREMENTS, EXAMPLE))
"""Names of files beside a bundle's in the registry; they are no part of the bundle."""
LOADER: Final = "mlplatform.learning.registry.pyfunc"
"""Module that loads a version. Every registered version names it, so it must never move."""
RAW_SCORE: Final = "raw_score"
SCORE: Final = "score"
DECISION: Final = "decision"
VECTOR: Final = "array"
"""MLflow's type of a column of lists."""
WHOLE: Final = "long"
"""MLflow's type of a column of whole numbers, which takes no float."""
NEEDS: Final = ("numpy", "onnxruntime", "pandas")


def columns(bundle: Bundle) -> dict[str, str]:
    """Input → MLflow's type of its column, in the model's order. A category's column holds its
    word; all tokens of a text share one column, the text; all numbers of a vector one, its list. A
    number of which a row has remainders is a whole one if only integers of the graph read it."""
    whole = _whole_inputs(bundle)
    declared = by_declared(bundle.inputs).items()
    return {name: WHOLE if name in whole else _column_type(i) for name, i in declared}


def _whole_inputs(bundle: Bundle) -> set[str]:
    tensors = () if bundle.signature is None else bundle.signature.inputs
    others = {name for t in tensors if t.dtype != "int64" for name in t.of}
    return {*remainder_places(bundle.input_names)} - others


def schema(columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """Columns and their types as MLflow's schema has them: a list says of what it is. What may be
    missing is not required, where MLflow takes a missing value from no other column."""
    of_lists = {VECTOR: {"items": {"type": "double"}}}
    return [
        {
            "type": kind,
            **of_lists.get(kind, {}),
            "name": name,
            "required": kind not in (VECTOR, WHOLE),
        }
        for name, kind in columns.items()
    ]


def _column_type(spec: InputSpec) -> str:
    if spec.kind == "vector":
        return VECTOR
    return "string" if spec.kind in WORDED else "double"


def model_description(
    bundle: Bundle, *, run_id: str, artifact: str, made_ms: int
) -> dict[str, Any]:
    """The content of `MLmodel`; JSON, which is YAML too.

    Args:
        artifact: folder of the bundle, relative to the run's artifacts.
        made_ms: when the run began, epoch milliseconds.
    """
    taken = schema(columns(bundle))
    outputs = {RAW_SCORE: "double", SCORE: "double", DECISION: "string"}
    returned = schema(outputs)
    made = datetime.fromtimestamp(made_ms / 1000, UTC)
    return {
        "artifact_path": artifact,
        "flavors": {
            "python_function": {
                "loader_module": LOADER,
                "python_version": platform.python_version(),
                "env": {"virtualenv": REQUIREMENTS},
            },
            "onnx": {
                "data": MODEL_FILE,
                "onnx_version": version("onnx"),
                "providers": ["CPUExecutionProvider"],
            },
        },
        "metadata": {"model": bundle.model, "bundle": bundle.digest},
        "mlflow_version": version("mlflow"),
        "run_id": run_id,
        "saved_input_example_info": {
            "artifact_path": EXAMPLE,
            "type": "dataframe",
            "pandas_orient": "split",
        },
        "signature": {
            "inputs": json.dumps(taken),
            "outputs": json.dumps(returned),
            "params": None,
        },
        "utc_time_created": made.strftime("%Y-%m-%d %H:%M:%S.%f"),
    }


def model_files(bundle: Bundle, described: dict[str, Any]) -> dict[str, bytes]:
    """File name → content of `FILES`."""
    needed = [f"mlplatform=={version('mlplatform')}"]
    needed += [f"{name}=={version(name)}" for name in NEEDS]
    return {
        MLMODEL: json.dumps(described, indent=1).encode(),
        REQUIREMENTS: ("\n".join(needed) + "\n").encode(),
        EXAMPLE: json.dumps(_example(bundle)).encode(),
    }


def _example(bundle: Bundle) -> dict[str, Any]:
    """Example with two rows that no customer has: every input at its usual value, and every input
    missing."""
    kinds, reference = columns(bundle), bundle.reference
    names = list(kinds)
    vectors = {
        n: bundle.input_names[at] for n, at in spans(bundle.input_names) if n not in reference
    }

    def usual_value(name: str) -> Any:
        if name in bundle.vocabularies:
            return word_of(reference.get(name), bundle.vocabularies[name])
        if name in vectors:
            return [reference[number] for number in vectors[name]]
        if kinds[name] == WHOLE:
            return int(reference[name] or 0)
        return reference[name]

    usual = [usual_value(name) for name in names]
    nothing = [0 if kinds[name] == WHOLE else None for name in names]
    return {"columns": names, "data": [usual, nothing]}
