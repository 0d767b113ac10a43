"""Folders of model folders in installed packages."""

from __future__ import annotations

import functools
import re
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable

GROUP: Final = "mlplatform.models"
"""Entry points whose value is a package; its folder holds model folders.

Source: https://packaging.python.org/en/latest/specifications/entry-points/.
"""
_PACKAGE: Final = re.compile(r"(?!__main__\b)\w+(\.\w+)*")


@functools.cache
def installed_models() -> tuple[Path, ...]:
    """The folders of those packages, by the names of their entry points; none of them is imported.

    Raises:
        ConfigInvalid: there is no such entry point, or no such package.
    """
    found = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    if not found:
        wanted = f"a package whose entry points have the group {GROUP}"
        raise ConfigUnusable("installed", "no package that is installed has models", wanted)
    return tuple(map(_folder, found))


def _folder(point: EntryPoint) -> Path:
    package, *below = point.value.split(".")
    spec = find_spec(package) if _PACKAGE.fullmatch(point.value) else None
    if spec is None or not spec.submodule_search_locations:
        wanted = "the name of a package that is installed, such as credit_models"
        raise ConfigInvalid(f"entry point {point.name} of {GROUP}", point.value, wanted)
    parts = [Path(one, *below).absolute() for one in spec.submodule_search_locations]
    return next((part for part in parts if part.is_dir()), parts[0])  # a namespace has several
