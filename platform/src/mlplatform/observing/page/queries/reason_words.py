"""The words for codes of reasons, from a model's present folder."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mlplatform.model.bundle import parse_reasons
from mlplatform.model.definition import ModelDefinition, declared_names
from mlplatform.model.folders import model_folder
from mlplatform.model.rules import parse_rules
from mlplatform.runtime.errors import PlatformError

MOST_FILES: Final = 64
"""Most files that stay parsed, because parsing takes ten times as long as the rest of a page."""


def reason_words(definition: ModelDefinition) -> Mapping[str, str]:
    """Code → words for analysts, of reasons and rules; codes of a file that can't be read are
    missing.

    A code of an earlier bundle may no longer be in the folder, and then has no words.
    """
    folder = model_folder(definition.name)
    inputs = declared_names(definition.inputs)
    found: dict[str, str] = {}
    with contextlib.suppress(OSError, PlatformError):
        path = folder / "reasons.yaml"
        found |= _reasons(path, _status(path), inputs)
    with contextlib.suppress(OSError, PlatformError):
        path = folder / "rules.yaml"
        found |= _rules(path, _status(path), inputs, definition.decision.scale.names)
    return found


def _status(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


@functools.lru_cache(maxsize=MOST_FILES)
def _reasons(
    path: Path, status: tuple[int, int, int], inputs: tuple[str, ...]
) -> Mapping[str, str]:
    found = parse_reasons(path.read_text(), source=path.name, inputs=inputs)
    return {reason.code: reason.analyst for reason in found.values()}


@functools.lru_cache(maxsize=MOST_FILES)
def _rules(
    path: Path, status: tuple[int, int, int], inputs: tuple[str, ...], decisions: tuple[str, ...]
) -> Mapping[str, str]:
    found = parse_rules(path.read_text(), source=path.name, inputs=inputs, decisions=decisions)
    return {rule.code: rule.text for rule in found}
