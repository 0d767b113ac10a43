"""The error for a package that a folder's Python imports and this installation lacks, with the way
out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from mlplatform.model.folders import FILE, PACKAGE_PREFIX
from mlplatform.runtime.errors import ConfigInvalid

LOCKS: Final = {
    "catboost": "train-catboost",
    "deltalake": "delta",
    "feast": "feast",
    "lightgbm": "train-lightgbm",
    "optuna": "train-search",
    "py4j": "train-spark",
    "pyspark": "train-spark",
    "torch": "train-torch",
    "xgboost": "train-xgboost",
}
"""Package → its lock below requirements/, which is also the target of make."""
OF_TRAINING: Final = "training.py: import"
_LIBRARY: Final = re.compile(r"([\w.+-]+): cannot open shared object file")


def libraries(folder: Path) -> list[str]:
    """The packages with a lock of their own that a model's Python imports, sorted."""
    found = set[str]()
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                found.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
    return sorted(found & LOCKS.keys())


@contextmanager
def import_problems(
    key: str = OF_TRAINING, document: str = "docs/adding-a-model.md"
) -> Iterator[None]:
    """Translates import errors of a folder's Python, or of what a key of model.yaml or a command
    asks for, within the block.

    Args:
        document: where it says what packages there are.

    Raises:
        ConfigInvalid: an import failed; the message names the missing package, or the system
            library that a package needs, and what to do.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package, *modules = (error.name or str(error)).split(".")
        if package.startswith(PACKAGE_PREFIX):
            module = ".".join(modules)
            raise ConfigInvalid(key, f".{module}", "a module of the model's folder") from error
        if _is_beside(package, error.__traceback__):
            wanted = f"from .{package} import …: modules of a folder import each other so"
            raise ConfigInvalid(key, package, f"{wanted} ({document})") from error
        lock = LOCKS.get(package)
        remedy = f"`make {lock}` (requirements/{lock}.txt)" if lock else "give it a lock of its own"
        wanted = f"a package that is installed here: {remedy}"
        raise ConfigInvalid(key, package, f"{wanted} ({document})") from error
    except OSError as error:
        if (missing := _LIBRARY.match(str(error))) is None:
            raise
        wanted = "a library of this system; Debian's package libgomp1 has libgomp.so.1"
        raise ConfigInvalid(key, missing[1], f"{wanted} ({document})") from error


def _is_beside(package: str, place: TracebackType | None) -> bool:
    """Whether a file of a traceback lies in a model's folder that has a module of that name."""
    while place is not None:
        folder = Path(place.tb_frame.f_code.co_filename).parent
        if (folder / FILE).is_file():
            return (folder / f"{package}.py").is_file() or (folder / package).is_dir()
        place = place.tb_next
    return False
