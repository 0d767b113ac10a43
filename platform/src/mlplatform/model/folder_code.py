"""A model's own Python, imported from its folder, in flow runs, jobs and commands only.

No process that serves imports this module (`[tool.importlinter]`).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from mlplatform.model.folders import PACKAGE_PREFIX, folder_digest, model_folder
from mlplatform.runtime.errors import NotFound

_contents: dict[str, str] = {}
"""Package → digest of the folder from which it was imported."""


class _SourceLoader(SourceFileLoader):
    """Compiles source files. Bytecode, which the folder's digest leaves out, is neither read nor
    written."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_module(model: str, name: str) -> ModuleType:
    """A module of a model's folder, by its name there, such as "training".

    Modules of one folder import each other by `from .other import …`. A folder that has changed
    since this process imported it is imported anew.

    Raises:
        NotFound: there is no such model, or no such module in its folder.
        ConfigInvalid: somebody else may change what is in the folder.
    """
    folder = model_folder(model)
    if not (folder / f"{name}.py").is_file():
        raise NotFound(f"model {model} has no {name}.py in {folder}")
    package, content = PACKAGE_PREFIX + model.replace("-", "_"), folder_digest(folder)
    if _contents.get(package) != content or list(sys.modules[package].__path__) != [str(folder)]:
        for stale in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
            del sys.modules[stale]
        sys.modules[package] = _package(package, folder)
        _contents[package] = content
    return importlib.import_module(f"{package}.{name}")


def _package(name: str, folder: Path) -> ModuleType:
    for path in (folder, *_below(folder)):
        finder = FileFinder(str(path), (_SourceLoader, [".py"]))
        sys.path_importer_cache[str(path)] = finder
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return importlib.util.module_from_spec(spec)


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith((".", "__")):
            yield path
            yield from _below(path)
