"""An ONNX file that a person names, with the files beside it that hold its weights."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from mlplatform.learning.onnx.confined_model import data_file_names
from mlplatform.learning.onnx.onnx_limits import ModelRefused
from mlplatform.model.weights.data_files import DataFile
from mlplatform.runtime.errors import NotFound
from mlplatform.runtime.storage.large_files import copy
from mlplatform.runtime.storage.plain_files import Rule, open_plain, read_plain
from mlplatform.runtime.units import MIB


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The content of an ONNX file, and its data files."""

    content: bytes
    data: tuple[DataFile, ...] = ()


def model_files(path: Path, rule: Rule, *, copies: Path | None = None) -> ModelFiles:
    """An ONNX file, and each file beside it that it names.

    A confined process reads the names. A data file must meet the same rules as the model file: it
    is not a link, has one name only, and belongs to this user. Disk and memory limit its size.

    Args:
        rule: which files may be opened.
        copies: a folder into which the data files are copied and digested, so that nobody else can
            change them; None: the result names the original files.

    Raises:
        NotFound, InputInvalid: for the same reasons as in `open_plain`.
        ModelRefused: a data file is missing or lies elsewhere, or the disk has no room for its
            copy.
    """
    content = read_plain(path, rule)
    names = data_file_names(content)
    return ModelFiles(content, tuple(_data_file(path, name, rule, copies) for name in names))


def _data_file(model: Path, name: str, rule: Rule, copies: Path | None) -> DataFile:
    path = model.parent.resolve() / name
    try:
        descriptor = open_plain(path, replace(rule, most_bytes=sys.maxsize))
    except NotFound as error:
        problem = f"its weights lie in {name!a}, and no such plain file is beside it"
        raise ModelRefused(problem) from error
    try:
        size = os.fstat(descriptor).st_size
        if copies is None:
            return DataFile(path, size)
        if size > (free := shutil.disk_usage(copies).free):
            problem = f"{name!a} has {size // MIB:,} MiB; the disk has {free // MIB:,} MiB free"
            raise ModelRefused(problem)
        sha256 = copy(descriptor, copies / name, 0o600)
        return DataFile(copies / name, (copies / name).stat().st_size, sha256, is_own=True)
    finally:
        os.close(descriptor)
