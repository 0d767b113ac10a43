"""Whether the tensors declared for a graph fit the model's inputs and each other, and whether a row
can hold the texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from mlplatform.model.definition import (
    REMAINDER,
    WORDED,
    InputSpec,
    ModelDefinition,
    row_inputs,
)
from mlplatform.model.tensors.remainders import remainder_of
from mlplatform.model.tensors.signature import InputTensor, OutputTensor, Signature
from mlplatform.model.tensors.tokens import Tokens, text_of
from mlplatform.model.tensors.vectors import spans

MOST_INPUTS: Final = 1024
"""Most inputs of a row, with a vector as one: explaining a score by reference values takes as many
rows."""
MOST_FIELDS: Final = 2000
"""Most fields of a request: a table of them, with columns that nothing reads beside them, is within
the limit of `learning/features/parquet_work.py`."""
MOST_COLUMNS: Final = 1536
"""Most columns of a row: 128 rows of them, 768 KiB, are one call of a predictor, whose body may
have 1 MiB."""

Problem = tuple[str, object, str]
"""A key below the signature, its value, and what is wanted there."""


def signature_problems(
    signature: Signature,
    inputs: Sequence[InputSpec],
    classes: int = 0,
) -> Iterator[Problem]:
    """The problems of a signature with the model's inputs, or within itself.

    Args:
        classes: number of the model's classes; 0 if its outcomes are not classes.
    """
    specs = {spec.name: spec for spec in inputs if spec.kind != REMAINDER}
    used = [name for tensor in signature.inputs for name in tensor.of]
    if unused := [name for name in specs if name not in used]:
        yield "inputs", unused, "a tensor for each input of the model"
    both: tuple[tuple[str, Sequence[InputTensor | OutputTensor]], ...]
    both = ("inputs", signature.inputs), ("outputs", signature.outputs)
    for kind, tensors in both:
        names = [tensor.name for tensor in tensors]
        if len(set(names)) != len(names):
            yield kind, names, "tensors whose names differ"
        for number, shape in enumerate(tensor.shape for tensor in tensors):
            if shape[0] != "n" or "n" in shape[1:]:
                yield f"{kind}.{number}.shape", list(shape), "[n] or [n, columns]"
    for number, taken in enumerate(signature.inputs):
        for key, value, wanted in _of_input(taken, specs):
            yield f"inputs.{number}.{key}", value, wanted
    yield from _of_score(signature, classes)


def text_rules(model: ModelDefinition) -> Iterator[tuple[bool, str, object, str]]:
    """The rules about texts in a model.yaml: whether each holds, the key, its value, and what is
    wanted."""
    for number, spec in enumerate(model.inputs):
        key, tokens = f"inputs.{number}", spec.tokens
        has_tokens, shown = isinstance(tokens, Tokens), tokens or "not there"
        wanted = "{of: words, length: 16}, where kind is text, and nothing elsewhere"
        yield has_tokens == (spec.kind == "text"), f"{key}.tokens", shown, wanted
        wanted = "a name that does not end like `.w1.3`, as the tokens of a text do"
        yield text_of(spec.name) is None, f"{key}.name", spec.name, wanted
        wanted = "a name that does not end like `.r1`, as the remainders of a number do"
        yield remainder_of(spec.name) is None, f"{key}.name", spec.name, wanted
        wanted = "another kind: remainders are written by the platform alone"
        yield spec.kind != REMAINDER, f"{key}.kind", spec.kind, wanted
    fields, wanted = len(model.request), f"{MOST_FIELDS} or fewer: vectors hold more numbers"
    yield fields <= MOST_FIELDS, "request", f"{fields} fields", wanted
    rows = row_inputs(model.inputs, model.request, model.signature)
    columns, explained = len(rows), len(spans([spec.name for spec in rows]))
    wanted = f"{MOST_INPUTS} or fewer: one for each input, and for each token of a text"
    yield explained <= MOST_INPUTS, "inputs", f"{explained} columns", wanted
    wanted = f"{MOST_COLUMNS} or fewer: each number of a vector counts as one"
    yield columns <= MOST_COLUMNS, "inputs", f"{columns} columns", wanted
    texts = {i.name for i in model.inputs if i.kind == "text"}
    for number, name in enumerate(model.drift.inputs):
        wanted = "an input that is a number or a category: tokens of a text are not watched"
        yield name not in texts, f"drift.inputs.{number}", name, wanted


def _of_input(tensor: InputTensor, specs: Mapping[str, InputSpec]) -> Iterator[Problem]:
    if unknown := [name for name in tensor.of if name not in specs]:
        yield "of", unknown, "one of " + ", ".join(specs)
        return
    columns = [len(tensor.of)] if len(tensor.shape) == 2 else []
    if list(tensor.shape[1:]) != columns or len(tensor.of) > 1 > len(columns):
        yield "shape", list(tensor.shape), f"[n, {len(tensor.of)}]: a column for each of `of`"
    kinds = {name: specs[name].kind for name in tensor.of}
    numbers = [name for name, kind in kinds.items() if kind not in WORDED]
    if tensor.dtype == "string" and numbers:
        yield "of", numbers, "categories and texts: words go into it"
    if tensor.dtype == "bool" and len(numbers) < len(kinds):
        yield "dtype", tensor.dtype, "int64 or string, of a category or a text"
    if tensor.dtype in ("int64", "bool") and "vector" in kinds.values():
        yield "dtype", tensor.dtype, "float32 or float64, of a vector"
    is_text = isinstance(tensor.missing, str)
    if tensor.missing is not None and is_text != (tensor.dtype == "string"):
        yield "missing", tensor.missing, f"a value of dtype {tensor.dtype}"


def _of_score(signature: Signature, classes: int) -> Iterator[Problem]:
    score = signature.score
    output = next((o for o in signature.outputs if o.name == score.output), None)
    if output is None:
        yield "score.output", score.output, "one of " + ", ".join(o.name for o in signature.outputs)
    elif output.dtype not in ("float32", "float64"):
        yield "score.output", score.output, "an output of dtype float32 or float64"
    elif classes:
        if score.column is not None or tuple(output.shape[1:]) != (classes,):
            wanted = f"an output of shape [n, {classes}], a column for each class, without a column"
            yield "score", [list(output.shape), score.column], wanted
    elif len(output.shape) == 1 and score.column is not None:
        yield "score.column", score.column, "nothing: the output has no columns"
    elif len(output.shape) == 2 and not _is_below(score.column, output.shape[1]):
        yield "score.column", score.column, f"a column of shape {list(output.shape)}, from 0"


def _is_below(column: int | None, columns: int | str) -> bool:
    return column is not None and isinstance(columns, int) and column < columns
