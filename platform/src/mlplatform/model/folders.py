"""The model folders of this installation, and the declarations of their model.yaml.

Folders are those below the folders that MLPLATFORM_MODELS names, our examples' among them: all come
through this module. Everything here is data: `model.folder_code` imports Python.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from mlplatform.model import document
from mlplatform.model.consistency import contradictions
from mlplatform.model.definition import (
    BINARY,
    DEFINITIONS,
    ModelDefinition,
    dns_name,
    row_inputs,
    row_signature,
)
from mlplatform.model.features.purposes import DeclaredViews, RefusedView, refused_views
from mlplatform.model.features.views import load_views, read_file
from mlplatform.model.findings import (
    WRONG,
    DocumentFinding,
    DocumentInvalid,
    of_shape,
    readable_part,
    valued,
    while_readable,
)
from mlplatform.model.policies.decision_scale import renewed
from mlplatform.model.policies.refused_keys import REFUSED, refused_keys
from mlplatform.model.policies.values import NAME_PATTERN
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.configuration.kinds import SHIPPED
from mlplatform.runtime.configuration.model_roots import VARIABLE, model_roots
from mlplatform.runtime.configuration.neighbours import has_neighbours
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, NotFound
from mlplatform.runtime.storage import private_folder
from mlplatform.runtime.storage.large_files import file_digest
from mlplatform.runtime.telemetry.redaction import FieldPolicy
from mlplatform.runtime.text import cleaned

FILE: Final = "model.yaml"
READY_FILE: Final = "model.onnx"
TRAINING_FILE: Final = "training.py"
GATES_FILE: Final = "gates.py"
NAMED_ALIKE: Final = "has the same service name, as services have - in place of _"
PACKAGE_PREFIX: Final = "mlplatform_model_"
"""Prefix of the package as which a folder's Python is imported; no installed package begins like
it. Two models never have the same package."""
FileState = tuple[int, int, int, int]
"""A file's times of change of content and of status, its size and its number: another file, and
another content, has another state. What a link leads to counts, so that a link that is swapped is a
change."""
READ_FIELDS: Final = FieldPolicy(())
"""The personal fields of every model.yaml that this process has read."""
_BYTECODE: Final = "__pycache__"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WrittenModel:
    """A model.yaml as it is written.

    Args:
        plain: its plain values.
        definition: its declarations, `WRONG` where a value has another form than its key wants.
        findings: its errors; none of other files.
    """

    plain: Any
    definition: Any
    findings: tuple[DocumentFinding, ...]


def written_model(text: str, source: str) -> WrittenModel:
    """A model.yaml with all of its errors: keys that are unknown, missing or of another type, and
    those that contradict others.

    Raises:
        ConfigInvalid: the text is not a YAML document that the platform reads, or a key stands
            twice; the message names the line.
    """
    wanted = "YAML as docs/adding-a-model.md shows it, every key once"
    written = document.read(text, source, wanted)
    plain = _with_dates_as_text(written)
    if isinstance(plain, dict) and "decision" in plain:
        plain["decision"] = renewed(plain["decision"])
    task = plain.get("task", BINARY) if isinstance(plain, dict) else BINARY
    kind = DEFINITIONS.get(task) if isinstance(task, str) else None
    if kind is None:
        unknown = valued(("task",), task, f"one of {', '.join(DEFINITIONS)}")
        return WrittenModel(plain, WRONG, (unknown,))
    infinite = {tuple(key.split(".")): value for key, value in document.non_finite(written)}
    shaped = of_shape(plain, kind, refused=REFUSED[task])
    wrong = [
        *(finding for finding in shaped if finding.path not in infinite),
        *(valued(*found) for found in refused_keys(plain, task)),
        *(valued(path, value, "a finite number") for path, value in infinite.items()),
    ]
    definition = readable_part(plain, kind, {finding.path for finding in wrong})
    if definition is not WRONG:
        is_whole = not wrong
        unclean = while_readable(_unclean_text(definition), is_whole=is_whole)
        wrong += [*unclean, *contradictions(definition, is_whole=is_whole)]
    return WrittenModel(plain, definition, tuple(wrong))


def parse(text: str, source: str) -> ModelDefinition:
    """The definition in a model.yaml.

    Raises:
        DocumentInvalid: keys are unknown, missing, of a wrong type or contradict each other; the
            message names each with its line, its value and what is wanted. Contradictions to a key
            that has no value of its type are not checked.
        ConfigInvalid: the text is not a YAML document that the platform reads, or a key stands
            twice; the message names the line.
    """
    written = written_model(text, source)
    if written.findings:
        raise DocumentInvalid(source, written.findings, document.lines(text))
    definition: ModelDefinition = written.definition
    declared, signature = definition.inputs, definition.signature
    return msgspec.structs.replace(
        definition,
        inputs=row_inputs(declared, definition.request, signature),
        signature=None
        if signature is None
        else row_signature(signature, declared, definition.request),
        owner=cleaned("owner", definition.owner),
        purpose=cleaned("purpose", definition.purpose, lines=True),
    )


def model_names() -> list[str]:
    """Names of the model folders of this installation. A fault in one folder hides no other: of two
    of one name the first counts, and `check_folders` reports the second."""
    return sorted(_find_folders()[0])


def readable_names() -> list[str]:
    """The names of models whose model.yaml and feature views can be read now. Processes that serve
    use it, so that one team's mistake does not stop the models of others."""
    names = []
    for name in model_names():
        try:
            load_definition(name)
            load_views(model_folder(name))
        except (ConfigInvalid, OSError) as error:
            log.error("model %s is not served: %s", name, error)
        else:
            names.append(name)
    return names


def personal_fields() -> FieldPolicy:
    """The personal fields of requests, whose values no log line may hold, as each model.yaml
    declares them. Those of one that is read later are added when it is read."""
    readable_names()
    return READ_FIELDS


def refused_folders() -> list[str]:
    """Why folders that MLPLATFORM_MODELS leads to are no models: sentences on names and roots."""
    return [str(problem) for problem in _find_folders()[1]]


def check_folders() -> None:
    """Raises unless every folder that MLPLATFORM_MODELS leads to is a model. Used at the start of
    the platform, and by commands.

    Raises:
        ConfigInvalid: a folder in the setting can't be read or is itself a model folder; a model
            has an invalid name, or the name of another model (a difference of only `-` and `_` does
            not count); or there is no model.
    """
    found, problems = _find_folders()
    for problem in problems:
        raise problem
    if not found:
        roots = os.pathsep.join(map(str, model_roots(os.environ)))
        wanted = f"a folder with a model's folder in it, one that holds {FILE}"
        raise ConfigInvalid(VARIABLE, roots, wanted)


def model_folder(name: str) -> Path:
    """The folder of a model.

    Raises:
        NotFound: there is no such model; the message lists the models that exist, and says why
            other folders are not models.
        ConfigInvalid: somebody else may change what is in the folder.
    """
    found, problems = _find_folders()
    if name not in found:
        refused = "".join(f"; {problem}" for problem in problems)
        raise NotFound(f"no model {name!r}; there are: {', '.join(sorted(found))}{refused}")
    folder = found[name]
    # Whoever may write the examples may also write the platform's own code. In a pod, volumes have
    # links and owners of their own, and there are no other users.
    if folder.parent != SHIPPED and has_neighbours(os.environ):
        private_folder.check_content(folder, VARIABLE)
    return folder


def load_definition(name: str) -> ModelDefinition:
    """The definition of a model of this installation, by name, as its file is now.

    Raises:
        NotFound: there is no such model; the message lists the models that exist.
        ConfigInvalid: the model.yaml is wrong, or belongs to another model.
    """
    path = model_folder(name) / FILE
    definition = _definition(path, _state(path.stat()))
    if definition.name != name:
        raise ConfigInvalid(f"{path.name}: name", definition.name, f"the folder's name, {name!r}")
    return definition


def declared_views(
    known: Mapping[str, DeclaredViews] = MappingProxyType({}), beside: Path | None = None
) -> dict[str, DeclaredViews]:
    """Model → what its features.json declares, right or wrong, of all folders that have one.

    Args:
        known: model → what counts of a folder whose file can't be read; without it, nothing does.
        beside: a folder with more model folders.
    """
    folders = [*(_model_folders(beside) if beside else ()), *_find_folders()[0].values()]
    found: dict[str, DeclaredViews] = {}
    for folder in folders:
        try:
            written = read_file(folder)
        except ConfigInvalid:
            if folder.name in known:
                found[folder.name] = known[folder.name]
            continue
        found[folder.name] = DeclaredViews(folder.name, written.purposes, written.views)
    return found


def views_refused(own: DeclaredViews, beside: Path | None = None) -> list[RefusedView]:
    """The views of one folder that the other folders do not let its model use as it would.

    Args:
        beside: a folder with more model folders.
    """
    declared = declared_views(beside=beside) | {own.model: own}
    return [one for one in refused_views([*declared.values()]) if one.model == own.model]


def check_shared_views(own: DeclaredViews) -> None:
    """Raise if another folder of this installation does not let a model use a view as it would.

    Raises:
        ConfigInvalid: the message names both folders, the view, the purposes and the way out.
    """
    for refused in views_refused(own):
        raise refused.error()


def file_states(names: Sequence[str]) -> Mapping[Path, FileState]:
    """The states of the files of these names in all folders that may be models; what can't be seen
    is missing. It reads no content, so that it may be asked often."""
    found: dict[Path, FileState] = {}
    for root in model_roots(os.environ):
        try:
            folders = [one for one in os.listdir(root) if not one.startswith(".")]
        except OSError:
            continue
        for folder, name in itertools.product(folders, names):
            path = root / folder / name
            with contextlib.suppress(OSError):
                found[path] = _state(path.stat())
    return found


def _state(status: os.stat_result) -> FileState:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def is_ready(folder: Path) -> bool:
    """Whether a folder holds a ready ONNX file, and no training code."""
    return (folder / READY_FILE).is_file() and not (folder / TRAINING_FILE).is_file()


def folder_alike(folder: Path) -> Path | None:
    """A model's folder beside this one whose name differs in `-` and `_` alone; None if there is
    none. Only one of the two could be served."""
    others = _model_folders(folder.parent) if folder.parent.is_dir() else []
    alike = (o for o in others if dns_name(o.name) == dns_name(folder.name))
    return next((other for other in alike if other.name != folder.name), None)


def folder_digest(folder: Path) -> str:
    """SHA-256, hexadecimal, of the names and contents of all files in a folder, without hidden ones
    and bytecode: the identity of a model's data and Python."""
    files = {f.relative_to(folder).as_posix(): file_digest(f) for f in _files(folder)}
    return digest(files)


@functools.lru_cache(maxsize=256)
def _definition(path: Path, state: FileState) -> ModelDefinition:
    """The definition in a file, cached by the file's state. A process that has read it may hold
    values of its personal fields, so those are removed from texts from now on."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        where = f"{path.name}: byte {error.start}"
        raise ConfigInvalid(where, f"{error.object[error.start]:#x}", "a text in UTF-8") from error
    definition = parse(text, path.name)
    READ_FIELDS.cover(definition.personal)
    return definition


def _find_folders() -> tuple[dict[str, Path], list[ConfigInvalid]]:
    """Name → folder, and the problems of other folders."""
    found: dict[str, Path] = {}
    problems: list[ConfigInvalid] = []
    for root in model_roots(os.environ):
        try:
            folders = _model_folders(root)
        except ConfigInvalid as error:
            problems.append(error)
            continue
        for folder in folders:
            alike = {dns_name(name): other for name, other in found.items()}
            other = alike.get(dns_name(folder.name))
            if re.search(NAME_PATTERN, folder.name) is None:
                wanted = (
                    "a model folder whose name is a letter a-z and at most 27 of a-z, 0-9, - and _"
                )
                problems.append(ConfigInvalid(VARIABLE, str(folder), wanted))
            elif other is not None:
                wanted = f"one model of that name; there are {other} and {folder}"
                problems.append(ConfigInvalid(VARIABLE, folder.name, wanted))
            else:
                found[folder.name] = folder
    return found, problems


def _model_folders(root: Path) -> list[Path]:
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        wanted = f"folders that hold model folders ({error.strerror})"
        raise ConfigInvalid(VARIABLE, str(root), wanted) from error
    if (root / FILE).is_file():
        wanted = f"the folder above it, {root.parent}: this one is a model's own"
        raise ConfigInvalid(VARIABLE, str(root), wanted)
    return [f for f in entries if not f.name.startswith(".") and (f / FILE).is_file()]


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == _BYTECODE:
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path


def _with_dates_as_text(value: Any) -> Any:
    """A document with dates as the text that was written, because YAML makes other values of
    some."""
    if isinstance(value, dict):
        return {key: _with_dates_as_text(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_with_dates_as_text(held) for held in value]
    return str(value) if isinstance(value, date) else value


def _unclean_text(model: ModelDefinition) -> Iterator[DocumentFinding]:
    """Findings for texts about the model that may not be kept or shown."""
    for name, text, lines in (("owner", model.owner, False), ("purpose", model.purpose, True)):
        try:
            cleaned(name, text, lines=lines)
        except InputInvalid as error:
            yield valued((name,), text, f"a text: {error.problem}")
