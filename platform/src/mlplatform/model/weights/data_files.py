"""Data files of a bundle: their allowed names, and how they get into a bundle's folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import ConfigUnusable
from mlplatform.runtime.storage.large_files import copy, file_digest
from mlplatform.runtime.units import MIB

MOST_FILES: Final = 64
MOST_NAME_BYTES: Final = 200
NOT_DATA: Final = frozenset(("bundle.json", "model.onnx", "contributions.onnx", "MLmodel"))
"""Names that other files of a bundle, or of its record in MLflow, already have."""
MOST_DESCRIPTION_BYTES: Final = 64 * MIB


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that holds tensors of a graph, which names it by its file name.

    Args:
        sha256: digest of the content; empty if it was not computed.
        is_own: whether it is the platform's own copy, which a bundle may take over.
    """

    path: Path
    size: int
    sha256: str = ""
    is_own: bool = False

    @property
    def name(self) -> str:
        return self.path.name


class _BundleFiles(msgspec.Struct, frozen=True):
    files: dict[str, str]


def name_problem(name: str) -> str:
    """Why a graph's data file may not have that name; empty if it may."""
    if name != os.path.basename(name) or "\\" in name or name in ("", ".", ".."):
        return "which is not the name of a file in the model's own folder"
    if name.startswith(".") or name in NOT_DATA:
        return "a name that is kept for other files"
    if not name.isprintable() or len(name.encode(errors="replace")) > MOST_NAME_BYTES:
        return f"which is not a name of at most {MOST_NAME_BYTES} bytes that can be printed"
    return ""


def data_names(files: Iterable[str]) -> list[str]:
    """Names of data files among those of a bundle's files."""
    return sorted(set(files) - NOT_DATA)


def data_of(folder: Path, files: Mapping[str, str]) -> tuple[DataFile, ...]:
    """The data files in a bundle's folder, with the digests that the bundle names.

    Raises:
        OSError: a file does not exist.
    """
    paths = [folder / name for name in data_names(files)]
    return tuple(DataFile(path, path.stat().st_size, files[path.name]) for path in paths)


def put(file: DataFile, draft: Path, bundles: Path) -> str:
    """Put a data file into a draft of a bundle. Returns the digest of the file there.

    A file that another bundle beside it has already becomes a link to that file, which takes its
    space on the disk, and in memory, only once.
    """
    target = draft / file.name
    if link_file(file.name, file.sha256, draft, bundles):
        return file.sha256
    if file.is_own:
        os.link(file.path, target)
        return file.sha256
    with file.path.open("rb", buffering=0) as source:
        return copy(source.fileno(), target, 0o600)


def link_file(name: str, sha256: str, draft: Path, bundles: Path) -> bool:
    """Link a file from a bundle beside a draft into the draft. Returns whether a bundle has it."""
    for folder in sorted(bundles.iterdir()) if bundles.is_dir() else []:
        if folder.name.startswith(".") or file_digests(folder).get(name) != sha256:
            continue
        try:
            os.link(folder / name, draft / name, follow_symlinks=False)
        except OSError:  # another file system, or one without links; or the bundle has gone
            continue
        if file_digest(draft / name) == sha256:
            return True
        (draft / name).unlink()  # the file was changed: loading that bundle reports it
    return False


def names_of(description: bytes) -> list[str]:
    """The files that a `bundle.json` names, whose digest was compared.

    Raises:
        ConfigUnusable: this release does not understand it.
    """
    try:
        return list(msgspec.json.decode(description, type=_BundleFiles).files)
    except NOT_JSON as error:
        raise ConfigUnusable("bundle.json", str(error), "one of this release") from error


def file_digests(folder: Path) -> dict[str, str]:
    """The digests by file name that a bundle declares; empty if none can be read."""
    try:
        description = folder / "bundle.json"
        if description.stat().st_size > MOST_DESCRIPTION_BYTES:
            return {}
        return msgspec.json.decode(description.read_bytes(), type=_BundleFiles).files
    except (OSError, *NOT_JSON):
        return {}
