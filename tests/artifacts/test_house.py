"""The house keeps its shape: areas, packages, lengths, names and words."""

from __future__ import annotations

import ast
import functools
import graphlib
import io
import itertools
import re
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from mlplatform.commands.documents.placeholders import number_of
from mlplatform.runtime.units import DAY_MS, HOUR_MS

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "platform" / "src" / "mlplatform"
AREAS: Final = (
    *("authoring", "commands", "observing", "operations", "scoring", "rollouts"),
    *("learning", "decisions", "model", "runtime"),
)
OUTSIDE: Final = {
    "client": "the client library, clients/python",
    "demo": "the demo",
    "drills": "drills, benchmarks, CI's legs: the programs of tests/ and .ci/",
    "models": "the example models",
}
"""Folders of tests that no package has, each with what it tests."""
WITHOUT_PACKAGES: Final = frozenset(("authoring",))
"""Areas of modules alone."""
MOST_FILES: Final = 20
MOST_FUNCTION_LINES: Final = 70
MOST_LINES: Final = 500
LONGER: Final = {
    "runtime/telemetry/signals.py": (735, "one declaration for each signal"),
    "runtime/http/connection.py": (660, "one state machine, whose steps share every field"),
}
"""Modules that may be longer, each with how many lines it may have, and the reason."""
SAYS_NOTHING: Final = frozenset(
    (
        *("utils", "util", "helpers", "helper", "common", "base", "misc", "core", "manager"),
        *("handler", "processor", "engine", "factory"),
    )
)
RETIRED: Final = frozenset(
    (
        *("Answers", "Askers", "ByProvider", "Case", "CaughtUp", "Copy", "Course", "Deferral"),
        *("Differs", "Door", "DOOR", "Eye", "GrpcDoor", "HalfTakenIn", "Holds", "LabelCourses"),
        *("LabelsCome", "Lacks", "Limits", "Look", "Looks", "LOOK_EVERY_MS", "MadeOf", "Mates"),
        *("Moment", "MOMENT_MS", "OnRecord", "OwnPages", "OwnPool", "Patience", "Promise", "Room"),
        *("Stand", "_door", "askers", "closely", "courses", "endless", "farewell", "given"),
        *("grpc_door", "half_taken_in", "is_deaf", "is_gathered", "is_let_in", "keep_up", "let_in"),
        *("looks", "mates", "moment_totals", "only_looks", "own_pages", "promise", "promised_to"),
        *("promises", "rulers", "saved_counts", "seen_last", "spoken_for", "stand_at", "step_back"),
        *("to_be_seen", "turn_away", "untaught", "way_out"),
    )
)
"""Names for which the field has better ones: docs/glossary.md. Participles are found by their form:
`tests/artifacts/test_class_names.py`, `tests/artifacts/test_function_names.py`."""
RETIRED_WORDS: Final = frozenset(
    (
        *("lifeline", "teller", "reign", "reigns", "fleet", "upkeep", "gatherer", "gatherers"),
        *("patiently", "chores", "fleets", "tellers", "lifelines", "sparing", "gathering"),
    )
)
"""Words that no name is made of, and no text holds."""
BESIDE: Final = (
    *("flows", "clients", "models", "teams", "notebooks", "observability", "infra"),
    *("platform/manifests", "tests"),
)
CODE_BESIDE: Final = ("demo", "flows", "clients", "models", "teams")
"""Folders beside the package whose names follow the same rules; those of tests hold other words."""
OF_OTHERS: Final = frozenset(("way_out", "_way_out", "Limits"))
"""A fact of the client library's errors, which programs of its users may read, and a class of httpx
that the library imports."""
BESIDE_TEXTS: Final = frozenset((".py", ".md", ".yaml", ".ipynb", ".tf", ".hcl", ".go", ".toml"))
RETIRED_STEMS: Final = frozenset(
    ("one", "gathered", "gathering", "spilled", "spilling", "asked", "given", "told")
)
"""Names of modules that say nothing of what they hold."""
UNNAMED: Final = frozenset(("told", "said"))
"""Words that no name is made of: it says what it holds, not who reported it."""
KEPT_NAMES: Final = re.compile(r"MLPLATFORM_LIFELINE_FD|(?:\.|\")gatherer[\"`]")
"""Interfaces: a supervisor that runs hands the first to children of a newer release; brokers hold
offsets under the second."""
WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
WHOLE: Final = frozenset(("Answers", "Copy", "Limits"))
"""Names that say too little alone; with another word they say which: `BatchLimits`."""
CAP_WORD: Final = re.compile(r"[A-Z][a-z0-9]*")
STRANGE: Final = re.compile(
    r"\b(is heard no more|heard of no more|so is no other|nobody tells|thereof|hitherto)\b"
)


@functools.cache
def modules() -> dict[str, str]:
    """Path below the package → text, of everything that people write."""
    found = (p for p in sorted(PACKAGE.rglob("*.py")) if not p.stem.endswith("_pb2"))
    return {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in found}


def too_long(text: str, most: int) -> list[str]:
    """Functions of more lines than that."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    every = (n for n in ast.walk(ast.parse(text)) if isinstance(n, kinds))
    lengths = ((f, (f.end_lineno or f.lineno) - f.lineno + 1) for f in every)
    return [f"{f.name}, line {f.lineno}: {n} lines" for f, n in lengths if n > most]


def retired(text: str) -> set[str]:
    """Names in code, not in text, that hold a word that is not used any more."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    names = {t.string for t in tokens if t.type == tokenize.NAME}
    unused = RETIRED_WORDS | UNNAMED
    bare = {name: name.lstrip("_") for name in names}
    found = {n for n, stem in bare.items() if {n, stem} & RETIRED or unused & words(n)}
    classes = {n.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ClassDef)}
    made_of = {name: {*CAP_WORD.findall(name)} for name in classes} | {
        name: {word.capitalize() for word in bare[name].split("_")}
        for name in names
        if name.isupper()
    }
    return found | {name for name, parts in made_of.items() if (RETIRED - WHOLE) & parts}


def words(text: str) -> set[str]:
    """The words of a text or a name, split at capitals, in lower case."""
    return {word.lower() for word in WORD.findall(text)}


def people_read() -> dict[str, str]:
    """Everything of today that people read: modules, templates, documents, the demo."""
    documents = (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "demo").glob("*.py"))
    templates = (p for p in PACKAGE.rglob("*") if p.suffix in (".html", ".j2", ".css", ".yaml"))
    texts = {p.relative_to(ROOT).as_posix(): p.read_text() for p in (*documents, *templates)}
    past = ("docs/decisions/", "CHANGELOG.md")
    return modules() | {name: text for name, text in texts.items() if not name.startswith(past)}


def beside_the_package() -> dict[str, str]:
    """What people write beside the package: flows, clients, models, configurations and tests."""
    found = (path for folder in BESIDE for path in sorted((ROOT / folder).rglob("*")))
    own = (p for p in found if p.suffix in BESIDE_TEXTS and p.is_file() and p != Path(__file__))
    written = (p for p in own if not {".terraform", "node_modules", "__pycache__"} & {*p.parts})
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in written}


def dotted(path: str) -> str:
    """The module of a path below the package; a package is its folder."""
    parts = Path("mlplatform", path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def packages() -> set[str]:
    return {dotted(path) for path in modules() if path.endswith("__init__.py")}


def package_of(module: str) -> str:
    return module if module in packages() else module.rpartition(".")[0]


def imported(text: str, known: Iterable[str]) -> set[str]:
    """Our own modules that a text imports anywhere: at its head, in functions, for types."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= {name if name in known else node.module or "" for name in full}
    return names & {*known}


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Module → the modules that it imports."""
    known = {dotted(path): text for path, text in modules().items()}
    return {name: imported(text, known) - {name} for name, text in known.items()}


def cycle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The nodes of one cycle, the first one again at its end; none where arrows only go down."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [*error.args[1]]
    return []


def layers() -> dict[str, list[set[str]]]:
    """Container → its packages by layers of pyproject.toml, from the ground up."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    found = {}
    for contract in tools["importlinter"]["contracts"]:
        for container in contract.get("containers", ()):
            if container.startswith("mlplatform."):
                levels = [
                    {n for n in re.findall(r"\w+", level) if f"{container}.{n}" in packages()}
                    for level in reversed(contract["layers"])
                ]
                found[container] = [level for level in levels if level]
    return found


def said_layers(text: str) -> list[set[str]]:
    """The packages that a docstring names `from the ground up:`, layers being set off by `;`."""
    _, found, rest = text.partition("from the ground up:")
    sentence = rest.partition(".")[0]
    return [set(re.findall(r"`(\w+)`", level)) for level in sentence.split(";")] if found else []


def documented() -> Iterator[Path]:
    yield from PACKAGE.glob("*/__init__.py")
    yield from PACKAGE.glob("*/*/__init__.py")


@functools.cache
def folders_of_tests() -> Counter[str]:
    """Folder, such as `unit/scoring/request` → how many files of tests it holds."""
    tests = ROOT / "tests"
    found = (path for side in ("unit", "contract") for path in (tests / side).rglob("test_*.py"))
    return Counter(path.parent.relative_to(tests).as_posix() for path in found)


def test_tests_lie_where_the_package_has_what_they_test() -> None:
    """A reader who knows where a module lies knows where its tests lie."""
    of_the_package = {name.removeprefix("mlplatform.").replace(".", "/") for name in packages()}
    folders = {folder.partition("/")[2] for folder in folders_of_tests()}
    assert folders - of_the_package == OUTSIDE.keys()
    assert {folder.partition("/")[0] for folder in folders} == {*AREAS, *OUTSIDE}


def test_no_folder_of_tests_holds_more_than_a_reader_takes_in() -> None:
    assert {f: count for f, count in folders_of_tests().items() if count > MOST_FILES} == {}


def test_one_look_shows_the_areas() -> None:
    shown = {Path(name).parts[0] for name in modules()}
    assert shown == {*AREAS, "process.py", "__init__.py"}


@pytest.mark.parametrize(
    "path", tuple(documented()), ids=lambda p: p.parent.relative_to(PACKAGE).as_posix()
)
def test_an_area_and_a_package_say_what_lives_there(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert said.partition("\n")[0].strip(), "a docstring of a sentence"
    if (
        path.parent.name in AREAS
        and path.parent.name != "commands"
        and path.parent.parent == PACKAGE
    ):
        assert "mports" in said, "what it may import"


def test_no_two_modules_need_each_other() -> None:
    """Imports in functions and those for types count: an arrow is none the less one."""
    assert cycle(arrows()) == []


def test_no_two_packages_need_each_other() -> None:
    graph: dict[str, set[str]] = {name: set() for name in packages()}
    for module, targets in arrows().items():
        graph[package_of(module)] |= {package_of(target) for target in targets}
    assert cycle({name: found - {name} for name, found in graph.items()}) == []


def late_imports(node: ast.AST, late: bool = False) -> Iterator[tuple[ast.AST, list[ast.stmt]]]:
    """Imports that the start of a module leaves out, as runs of lines, each with its parent."""
    run: list[ast.stmt] = []
    for child in ast.iter_child_nodes(node):
        if late and isinstance(child, ast.Import | ast.ImportFrom):
            run.append(child)
            continue
        if run:
            yield node, run
            run = []
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from late_imports(child, late or for_types or in_function)
    if run:
        yield node, run


def roots(run: Iterable[ast.stmt]) -> set[str]:
    """Libraries that are imported; of ours, modules."""
    names = set()
    for line in run:
        named = [n.name for n in line.names] if isinstance(line, ast.Import) else []
        named += [line.module or ""] if isinstance(line, ast.ImportFrom) else []
        names |= {n if n.startswith("mlplatform") else n.partition(".")[0] for n in named}
    return names


def unexplained(text: str) -> list[str]:
    """Late imports without a comment, on their lines or the one before, that says why.

    One comment is enough for each library in a module; our own modules have one each time.
    """
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    said = {
        t.start[0]
        for t in tokens
        if t.type == tokenize.COMMENT and not t.string.startswith(("# noqa", "# type:"))
    }
    runs = [(p, run) for p, run in late_imports(ast.parse(text))]
    bare, known = [], set()
    for parent, run in runs:
        lines = {*range(run[0].lineno - 1, (run[-1].end_lineno or 0) + 1)}
        if isinstance(parent, ast.If):
            lines.add(parent.lineno)
        if lines & said:
            known |= {name for name in roots(run) if not name.startswith("mlplatform")}
        else:
            bare.append((run, roots(run)))
    return [f"line {run[0].lineno}: {ast.unparse(run[0])}" for run, names in bare if names - known]


def test_an_import_that_the_start_of_a_module_leaves_out_says_why() -> None:
    """It keeps a library out of processes that do without, or waits for an environment. Any other
    is at the top, where a reader looks for it."""
    found = {name: unexplained(text) for name, text in modules().items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def names_of(line: ast.stmt) -> set[str]:
    """Modules that a line imports; of `from a import b`, both `a` and `a.b`."""
    if isinstance(line, ast.ImportFrom):
        return {line.module or "", *(f"{line.module}.{alias.name}" for alias in line.names)}
    return {alias.name for alias in line.names} if isinstance(line, ast.Import) else set()


@functools.cache
def tree_of(text: str) -> ast.Module:
    return ast.parse(text)


@functools.cache
def head_of(text: str) -> frozenset[str]:
    """Modules that the import of a text imports."""
    return frozenset(name for line in tree_of(text).body for name in names_of(line))


def loaded_by(name: str, texts: Mapping[str, str]) -> set[str]:
    """All that a module's import imports, by what stands at the head of it and of ours below it."""
    found, todo = set[str](), [name]
    while todo:
        new = head_of(texts[todo.pop()]) - found
        found |= new
        todo += new & texts.keys()
    return found


def late_in_vain(texts: Mapping[str, str]) -> set[str]:
    """Modules with an import that their heads leave out, of a library that the heads load."""
    vain = set()
    for name, text in texts.items():
        late = [line for _, run in late_imports(tree_of(text)) for line in run]
        libraries = {(n.module or "") for n in late if isinstance(n, ast.ImportFrom)}
        libraries |= {alias.name for n in late if isinstance(n, ast.Import) for alias in n.names}
        if libraries & loaded_by(name, texts) - texts.keys():
            vain.add(name)
    return vain


def test_an_import_that_the_start_of_a_module_leaves_out_keeps_a_library_out() -> None:
    """By what our heads say: what a library loads of itself is not seen."""
    late = "def f():\n    import httpx\n"
    assert late_in_vain({"a": late, "b": "import a"}) == set()
    assert late_in_vain({"a": f"import b\n{late}", "b": "from c import d", "c.d": ""}) == set()
    assert late_in_vain({"a": f"import b\n{late}", "b": "from c import d", "c.d": late}) == set()
    assert late_in_vain({"a": f"from b import c\n{late}", "b.c": "import httpx"}) == {"a"}
    assert late_in_vain({dotted(path): text for path, text in modules().items()}) == set()


def unexplained_blocks(text: str) -> list[int]:
    """Lines of `if TYPE_CHECKING:` without an import and without a comment that says why."""
    lines = text.splitlines()
    return [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not any(isinstance(line, ast.Import | ast.ImportFrom) for line in node.body)
        if not any("#" in line for line in lines[node.lineno - 1 : node.body[-1].end_lineno])
    ]


def test_a_block_for_types_alone_imports_or_says_why() -> None:
    assert unexplained_blocks("if TYPE_CHECKING:\n    A = B[C]\n") == [1]
    assert unexplained_blocks("if TYPE_CHECKING:  # no class at run time\n    A = B[C]\n") == []
    found = {name: unexplained_blocks(text) for name, text in modules().items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_each_exception_of_an_import_contract_says_why() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    bare = [
        before for before, line in itertools.pairwise(lines) if line.startswith("ignore_imports")
    ]
    assert bare
    assert [before for before in bare if not before.startswith("# ")] == []


def test_random_numbers_are_seeded() -> None:
    """A verdict, a fit and a sample are the same when they are made again."""
    found = {name: text.count("default_rng()") for name, text in modules().items()}
    assert {name: count for name, count in found.items() if count} == {}


def test_every_folder_of_modules_is_a_package() -> None:
    """Import contracts do not see into a folder without `__init__.py`."""
    folders = {Path(path).parent.as_posix() for path in modules()}
    written = {folder for folder in folders if f"{folder}/__init__.py" in modules()}
    assert {folder for folder in folders - written - {"."} if "/templates" not in folder} == set()


def test_docstrings_name_packages_in_the_order_of_the_layers() -> None:
    documented_order = {
        name: said_layers(ast.get_docstring(ast.parse(text)) or "")
        for path, text in modules().items()
        if (name := dotted(path)) in packages() and "from the ground up:" in text
    }
    held = layers()
    assert documented_order == held
    for container, levels in held.items():
        inside = {n for n in packages() if n.rpartition(".")[0] == container}
        assert {f"{container}.{n}" for level in levels for n in level} == inside, container


def test_packages_that_lie_side_by_side_have_layers() -> None:
    """Each area, and each package at any depth that has two packages or more in it."""
    side_by_side = Counter(name.rpartition(".")[0] for name in packages())
    wanted = {name for name, count in side_by_side.items() if name.count(".") and count > 1}
    assert {f"mlplatform.{area}" for area in AREAS if area not in WITHOUT_PACKAGES} <= wanted
    assert wanted == layers().keys()


def test_no_package_holds_more_than_a_reader_takes_in() -> None:
    held = Counter(
        Path(name).parent.as_posix() for name in modules() if not name.endswith("__init__.py")
    )
    assert {package: count for package, count in held.items() if count > MOST_FILES} == {}


def test_no_function_and_no_module_is_longer_than_can_be_read_at_once() -> None:
    lengths = {name: len(text.splitlines()) for name, text in modules().items()}
    most = {name: LONGER[name][0] if name in LONGER else MOST_LINES for name in lengths}
    assert {n: length for n, length in lengths.items() if length > most[n]} == {}
    assert {
        n: found for n, text in modules().items() if (found := too_long(text, MOST_FUNCTION_LINES))
    } == {}


def test_names_say_what_a_thing_is() -> None:
    stems = {part for name in modules() for part in Path(name).with_suffix("").parts}
    assert stems & SAYS_NOTHING == set()
    assert stems & RETIRED_STEMS == set()
    assert {stem for stem in stems if stem in RETIRED or RETIRED_WORDS & words(stem)} == set()
    assert {name: found for name, text in modules().items() if (found := retired(text))} == {}


def test_names_beside_the_package_say_so_too() -> None:
    found = [path for folder in CODE_BESIDE for path in sorted((ROOT / folder).rglob("*.py"))]
    held = {p.relative_to(ROOT).as_posix(): retired(p.read_text()) for p in found}
    assert {name.partition("/")[0] for name in held} == {*CODE_BESIDE}
    assert {name: names for name, names in held.items() if names - OF_OTHERS} == {}
    assert {*OF_OTHERS} == {name for names in held.values() for name in names}


NO_MODULES: Final = {
    "decision.limit": "model.yaml",
    "decision.outcomes": "model.yaml",
    "drift.performance_false_alarm_share": "model.yaml",
    "mlflow.types.schema": "of MLflow",
    "mlflow.utils.mlflow_tags": "of MLflow",
    "mlplatform.scoring.v1.Scoring": "a service of gRPC",
    "prefect.flow_engine.load_flow": "of Prefect",
    "prefect.utilities.schema_tools.hydration": "of Prefect",
    "status.observedGeneration": "a field of Kubernetes",
}
"""Dotted names that begin like a module of ours and lead elsewhere, each with what it is."""
FILE_NAME: Final = re.compile(r".*\.(?:json|onnx|parquet|py|yaml)")
CITED_MODULE: Final = re.compile(r"`([a-z_]\w*(?:\.\w+)+)(?:\(\))?`")


@functools.cache
def by_tail() -> dict[str, list[str]]:
    """Each end of a module's or package's path, with dots → the paths that end so."""
    found: dict[str, list[str]] = {}
    for name in modules():
        parts = name.removesuffix(".py").removesuffix("/__init__").split("/")
        for start in range(len(parts)):
            found.setdefault(".".join(parts[start:]), []).append(name)
    return found


def resolves(name: str) -> bool:
    """Whether a dotted name leads to a module, by the end of its path, and to something in it."""
    parts = name.removeprefix("mlplatform.").split(".")
    for end in range(len(parts), 0, -1):
        if paths := by_tail().get(".".join(parts[:end])):
            return end == len(parts) or any(is_word(parts[end], modules()[p]) for p in paths)
    return False


def is_word(name: str, text: str) -> bool:
    return re.search(rf"\b{name}\b", text) is not None


def strays(text: str) -> set[str]:
    """Dotted names of a text that begin with a module or a package of ours, and lead nowhere."""
    first = {name for name in by_tail() if "." not in name} | {"mlplatform"}
    cited = {d for d in CITED_MODULE.findall(text) if d.partition(".")[0] in first}
    return {d for d in cited if not FILE_NAME.fullmatch(d) and not resolves(d)}


def test_a_docstring_that_names_a_module_names_one_that_is_there() -> None:
    assert strays("see `external.joining`, `scoring.api.nowhere` and `mlplatform.nowhere`") == {
        *("external.joining", "scoring.api.nowhere", "mlplatform.nowhere"),
    }
    assert strays("`external.point_in_time_join`, `rollouts.journal.state`, `model.yaml`") == set()
    assert sum(len(CITED_MODULE.findall(text)) for text in modules().values()) > 50
    found = {n: strays(text) for n, text in modules().items()}
    assert {n: left for n, names in found.items() if (left := names - NO_MODULES.keys())} == {}
    assert NO_MODULES.keys() <= set().union(*found.values()), "an exception that nobody needs"


def test_sentences_are_those_of_today() -> None:
    found = {n: (STRANGE.findall(t), retired_words(t)) for n, t in people_read().items()}
    assert {name: hits for name, hits in found.items() if any(hits)} == {}
    beside = beside_the_package()
    assert {name.partition("/")[0] for name in beside} == {f.partition("/")[0] for f in BESIDE}
    assert {name: hits for name, text in beside.items() if (hits := retired_words(text))} == {}


def retired_words(text: str) -> set[str]:
    """Words of a text, of its names too, that are not used any more; but for interfaces."""
    return RETIRED_WORDS & words(KEPT_NAMES.sub("", text))


UNIT: Final = re.compile(
    r"_?(?:(?:SECOND|MINUTE|HOUR|DAY|WEEK)_(?:NS|US|MS|S|MIN|H)|[KMGT]IB|MICROS|MILLIS)"
)


def units_again(text: str) -> set[str]:
    """Units that a text names or writes out instead of importing them."""
    nodes = [*ast.walk(ast.parse(text))]
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    numbers = {number_of(n) for n in nodes if isinstance(n, ast.expr)}
    return {n for n in stored if UNIT.fullmatch(n)} | {str(n) for n in numbers & {HOUR_MS, DAY_MS}}


def test_a_unit_is_defined_once() -> None:
    """`mlplatform/runtime/units.py` holds the units, and all others import them."""
    home = PACKAGE / "runtime" / "units.py"
    beside = (*(ROOT / "demo").glob("*.py"), *(ROOT / "flows").glob("*.py"))
    paths = {*(PACKAGE / name for name in modules()), *beside} - {home}
    found = {path.relative_to(ROOT).as_posix(): units_again(path.read_text()) for path in paths}
    assert units_again(home.read_text()) >= {"DAY_MS", "HOUR_MS", "MIB"}
    assert {path: again for path, again in found.items() if again} == {}


def test_what_these_tests_look_for_is_found() -> None:
    assert too_long("def f():\n" + "    pass\n" * 3, 3) == ["f, line 1: 4 lines"]
    assert retired("class Reign:\n    pass\n# a Lifeline\n") == {"Reign"}
    assert retired("class FleetGatherer:\n    pass\n") == {"FleetGatherer"}
    assert retired("class LogPromise:\n    pass\nPromised = 1\n") == {"LogPromise"}
    assert retired("_STAND_S = 1  # a STAND\nSTANDARD_S = 2\n") == {"_STAND_S"}
    assert retired("_told_s = 1  # told\n") == {"_told_s"}
    assert retired("class _Copy:\n    held: LogCopy\n") == {"_Copy"}
    assert retired_words("A gatherer of `LogReign`, and its Lifeline") == {
        *("gatherer", "reign", "lifeline"),
    }
    assert retired_words('VARIABLE = "MLPLATFORM_LIFELINE_FD"') == set()
    assert STRANGE.search("a gateway that is heard no more")
    hidden = (
        "if TYPE_CHECKING:\n    from a import b\ndef f():\n    import a.c\n    from a.d import e\n"
    )
    assert imported(hidden, {"a", "a.b", "a.c", "a.d", "a.e"}) == {"a.b", "a.c", "a.d"}
    assert unexplained(hidden) == ["line 2: from a import b", "line 4: import a.c"]
    assert unexplained("def f():\n    import a  # slow\ndef g():\n    import a.b\n") == []
    assert unexplained("def f():\n    from mlplatform import a\n") != []
    assert units_again("_DAY_S, B = 1, 3_600_000\nC = 24 * 3600 * 1000\n") == {
        *("_DAY_S", "3600000", "86400000"),
    }
    assert units_again("from units import DAY_MS\nKEPT_MS = 7 * DAY_MS\n") == set()
    assert cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert len(cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == 3
    assert said_layers("Packages from the ground up: `a`; `b` and `c`. Imports `d`.") == [
        {"a"},
        {"b", "c"},
    ]


IMPURE: Final = frozenset(("asyncio", "glob", "io", "os", "pathlib", "subprocess", "sys", "time"))
"""Modules of a clock, of files and of the environment, beside those that the contract forbids."""
NOW: Final = frozenset(("now", "today", "utcnow"))


def impurities(text: str) -> set[str]:
    """What code takes from a clock, a file or the environment; annotations apart."""
    found = set()
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found |= {n.name.partition(".")[0] for n in names} & IMPURE
            case ast.ImportFrom(module=str(module)):
                found |= {module.partition(".")[0]} & IMPURE
            case ast.Call(func=ast.Name(id="open" | "input" | "print" as name)):
                found.add(name)
            case ast.Call(func=ast.Attribute(attr=name)) if name in NOW:
                found.add(name)
    return found


def test_a_decision_reads_no_clock_no_file_and_no_environment() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (pure,) = (c for c in contracts["contracts"] if c["name"] == "Decisions are pure")
    names = [n.removeprefix("mlplatform.").replace(".", "/") for n in pure["source_modules"]]
    held = {name: [*PACKAGE.glob(f"{name}.py"), *(PACKAGE / name).rglob("*.py")] for name in names}
    assert held
    assert [name for name, paths in held.items() if not paths] == []
    taken = {path: impurities(path.read_text()) for paths in held.values() for path in paths}
    assert {path.as_posix(): found for path, found in taken.items() if found} == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import os.path", {"os"}),
        ("def f():\n    from pathlib import Path", {"pathlib"}),
        ("datetime.now(UTC)", {"now"}),
        ("open('a')", {"open"}),
        ("if TYPE_CHECKING:\n    from pathlib import Path", set()),
    ],
)
def test_what_is_taken_from_outside_is_found(text: str, expected: set[str]) -> None:
    assert impurities(text) == expected


NO_SUBJECT: Final = re.compile(
    r"(?:About|Above|After|Among|As|At(?! (?:most|least))|Before|Below|Beside|Between|By|For|From"
    r"|In|Of|On|Over|Per|Through|To|Under|Until|With|Within|Without|Those|That|Not"
    r"|All of|Again|Also|Both|Each|It|Its|Only|So|Some|Still|The same|Then|These|They|This"
    r"|What|Which|Who|Whom|Whose) "
)


def test_a_docstring_begins_with_its_subject_or_its_verb() -> None:
    """PEP 257: a phrase that is whole; "By writer, the last record" is read from its end, and "What
    labels say of both" as a question."""
    strange = {
        f"{name}: {said.partition(chr(10))[0]}"
        for name, text in modules().items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if NO_SUBJECT.match(said := ast.get_docstring(node) or "")
    }
    assert strange == set()


def test_a_help_text_of_a_process_begins_like_a_sentence() -> None:
    calls = [
        (f"{name}:{node.lineno}", {k.arg: k.value for k in node.keywords})
        for name, text in modules().items()
        for node in ast.walk(tree_of(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "add_argument"
    ]
    assert len(calls) > 30
    said = {place: ast.literal_eval(keys.get("help", ast.Constant(""))) for place, keys in calls}
    assert {place: text for place, text in said.items() if not is_sentence(text)} == {}


def is_sentence(text: str) -> bool:
    return text[:1].isupper() and text.endswith(".") and not NO_SUBJECT.match(text)


def test_a_help_text_without_a_subject_is_found() -> None:
    texts = ("where it listens", "Of the UI and the API.", "", "The port of the API.")
    assert [is_sentence(text) for text in texts] == [False, False, False, True]
