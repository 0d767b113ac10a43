"""The version of this code: its release, and a digest over all of its files."""

from __future__ import annotations

import functools
import hashlib
from importlib import metadata
from pathlib import Path

DIGEST_CHARACTERS = 12


@functools.cache
def code_version() -> str:
    """The local version of PEP 440, for example 0.3.0+3f2a9c1b7d4e.

    The same files have the same one, in a wheel, in an image and in a clone.
    """
    files = digest_of(Path(__file__).parents[1])
    return f"{metadata.version('mlplatform')}+{files[:DIGEST_CHARACTERS]}"


def digest_of(folder: Path) -> str:
    """SHA-256 (hex) over names and contents of a folder's files, without files that Python
    compiles."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if "__pycache__" not in path.parts:
            name = path.relative_to(folder).as_posix()
            whole.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()
