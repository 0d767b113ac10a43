"""Packages that a fit needs beside flows: their locks, and what is said where one is missing."""

from __future__ import annotations

import ctypes
import importlib
import re
import sys
from pathlib import Path

import pytest
from tests.support.train_libraries import needed

from mlplatform.learning.training.packages import LOCKS, import_problems, libraries
from mlplatform.runtime.errors import ConfigInvalid

REQUIREMENTS = Path(__file__).parents[4] / "requirements"


@pytest.mark.parametrize(
    ("package", "remedy"),
    [
        *((package, f"`make {lock}` .requirements/{lock}.txt.") for package, lock in LOCKS.items()),
        ("abacus", "give it a lock of its own"),
    ],
)
def test_a_missing_package_is_named_with_the_remedy(
    package: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = f"training.py: import is '{package}'; wanted: a package that is installed here: "
    with pytest.raises(ConfigInvalid, match=said + remedy), import_problems():
        importlib.import_module(package)


def test_a_missing_library_of_the_system_is_named() -> None:
    said = "import is 'libgomp-none.so.1'; wanted: a library of this system; .* libgomp1"
    with pytest.raises(ConfigInvalid, match=said), import_problems():
        ctypes.CDLL("libgomp-none.so.1")


@pytest.mark.parametrize("error", [FileNotFoundError(2, "no such file"), ImportError("cycle")])
def test_another_error_of_a_fit_stays_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, import_problems():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("lock", LOCKS.values())
def test_a_lock_holds_what_comes_beside_flows_and_nothing_of_a_gpu(lock: str) -> None:
    """But for PyTorch's, of which the index has no other build for Linux."""

    def names(role: str) -> set[str]:
        text = (REQUIREMENTS / f"{role}.txt").read_text()
        return set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))

    assert names(lock)
    assert not names(lock) & names("flows")
    of_gpus = [name for name in names(lock) if name.startswith("nvidia")]
    assert bool(of_gpus) == (lock == "train-torch")


@pytest.mark.parametrize(("package", "lock"), LOCKS.items())
def test_what_is_installed_is_what_the_lock_says(package: str, lock: str) -> None:
    text = (REQUIREMENTS / f"{lock}.txt").read_text()
    pin = re.search(rf"^{package}(?:-cpu)?==(\S+)", text, re.MULTILINE)
    assert pin is not None
    assert needed(package).__version__.split("+")[0] == pin[1]


def test_a_folders_libraries_are_those_that_its_training_imports(tmp_path: Path) -> None:
    assert libraries(tmp_path) == [], "a ready file needs none"
    lines = "import lightgbm.sklearn as trees\nfrom . import torch\nimport numpy, catboost\n"
    inside = "def fit():\n    from xgboost.sklearn import XGBClassifier\n"
    (tmp_path / "training.py").write_text(lines + inside)
    assert libraries(tmp_path) == ["catboost", "lightgbm", "xgboost"]
