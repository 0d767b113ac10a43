"""A model's folder imports one package of the platform, and that package imports no library of a
team's choice."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlplatform import authoring

ROOT = Path(__file__).parents[2]
SURFACE = "mlplatform.authoring"
TEMPLATES = ROOT / "platform/src/mlplatform/commands/authoring/templates"
MODULES = sorted(path.stem for path in Path(authoring.__path__[0]).glob("[!_]*.py"))
LIBRARIES = ("sklearn", "skl2onnx", "xgboost", "lightgbm", "catboost", "torch", "optuna")
DOCUMENTS = ("adding-a-model.md", "training.md", "model-yaml.md", "history.md", "batch.md")


def python_of_folders() -> Iterator[Path]:
    for folder in ("models", "teams"):
        yield from sorted((ROOT / folder).rglob("*.py"))
    yield from sorted(TEMPLATES.rglob("*.py.txt"))


def blocks_of(page: Path) -> Iterator[str]:
    """The Python of a document that a team's folder would hold."""
    for block in page.read_text().split("```python\n")[1:]:
        yield block.partition("```")[0]


def imported(text: str) -> set[str]:
    """The modules of the platform that a text imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
            if node.module == "mlplatform":
                found |= {f"mlplatform.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "mlplatform"} - {"mlplatform"}


def beside_the_surface(text: str) -> set[str]:
    return {n for n in imported(text) if n != SURFACE and not n.startswith(f"{SURFACE}.")}


@pytest.mark.parametrize(
    "path", [*python_of_folders()], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_a_folder_imports_the_authoring_surface_alone(path: Path) -> None:
    assert beside_the_surface(path.read_text()) == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_a_document_shows_of_a_folder_imports_it_alone(name: str) -> None:
    page = ROOT / "docs" / name
    shown = [text for text in blocks_of(page) if "mlplatform" in text]
    assert {found for text in shown for found in beside_the_surface(text)} == set()


def test_another_import_would_be_found() -> None:
    for line in (
        "import mlplatform.model",
        "from mlplatform import learning",
        "from mlplatform.authorings import x",
        "def f():\n    from mlplatform.learning.onnx.sklearn import fitted",
    ):
        assert beside_the_surface(line), line
    assert beside_the_surface("from mlplatform.authoring.gates import HeldOut") == set()


@pytest.mark.parametrize("name", ["", *MODULES])
def test_the_surface_names_what_it_has_and_imports_no_library_of_a_model(name: str) -> None:
    """A role that serves or validates has none of these libraries."""
    module = f"{SURFACE}.{name}".rstrip(".")
    program = (
        f"import sys, {module} as found\n"
        "assert all(hasattr(found, name) for name in found.__all__)\n"
        "print(sorted(found.__all__) == sorted(set(found.__all__)))\n"
        f"print(sorted({{*{LIBRARIES!r}}} & {{*sys.modules}}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.split("\n")[:2]) == (0, ["True", "[]"]), done.stderr


def test_the_guide_names_every_module_of_the_surface() -> None:
    guide = (ROOT / "docs" / "adding-a-model.md").read_text()
    assert [name for name in MODULES if f"`….{name}`" not in guide] == []
