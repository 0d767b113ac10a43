"""Adapters are made by the wiring of a process; no string is an arrow upwards."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mlplatform.process import ENTRIES

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "platform" / "src" / "mlplatform"
ARCHITECTURE: Final = ROOT / "docs" / "architecture.md"
"""Has the table of ports, and says what each wiring makes."""
CLIENTS: Final = frozenset(
    ("boto3", "confluent_kafka", "http.client", "httpx", "kubernetes", "pg8000", "redis", "urllib3")
)
"""Libraries that speak to what is outside of a process."""
DRIVERS: Final = (
    *("mlplatform.runtime.storage.objects", "mlplatform.runtime.storage.postgres"),
    *("mlplatform.runtime.storage.redis", "mlplatform.runtime.storage.sqlite"),
    *("mlplatform.runtime.http.json_fetch", "mlplatform.rollouts.serving.bounded_reply"),
    "mlplatform.rollouts.kubernetes.api",
)
"""Our modules over such a library, or over SQLite: a class beside an import of one is an adapter as
well."""
PLAIN: Final = re.compile(
    r"confluent_kafka\.(cimpl\.NewTopic|TopicCollection|TopicPartition|admin\.OffsetSpec.*)"
    r"|http\.client\.HTTPResponse|urllib3\.Retry"
)
"""What a client's library has for values: a call of it opens no connection."""
VALUES: Final = re.compile(r"Protocol|Struct|NamedTuple|TypedDict|Enum|Generic|.*(Error|Exception)")
"""Bases of classes that hold no connection."""
BLOCKS: Final = re.compile(r"[a-z_]+")
"""Names of classes that are only the head of a `with`."""
KNOWN: Final = (
    *("decisions.log.sqlite.SqliteDecisionLog", "decisions.topics.kafka.KafkaTopics"),
    *("learning.features.feast_redis.FeastRedis", "learning.registry.mlflow.MlflowRegistry"),
    *("observing.events.sender.HttpSender", "operations.compute.local.LocalJobs"),
    *("rollouts.kubernetes.api.KubernetesApi", "rollouts.serving.local.LocalPlane"),
    *("runtime.storage.objects.Objects", "scoring.admission.postgres.PostgresKeys"),
)
"""Adapters that must be found: over each client, and embedded."""
SHARED: Final = frozenset(("scoring/wiring.py", "decisions/topics/wiring.py"))
"""Wiring that several processes have in common: theirs alone calls it."""
MADE_ELSEWHERE: Final[Mapping[str, tuple[set[str], str]]] = {
    "decisions/log/sqlite.py": (
        {"KeptKeys", "KeyWriter"},
        "parts of the log, in the log's own transactions",
    ),
    "decisions/replication/replicated_records.py": (
        {"SqliteDecisionLog"},
        "for what carries a log elsewhere, which lies below scoring and its wiring",
    ),
    "learning/features/feast_folder/online_store.py": (
        {"WindowReads", "RedisWindows", "RedisWindowReads"},
        "Feast makes it, in its own process, from the folder's configuration",
    ),
    "observing/page/people/provider.py": (
        {"IssuerKeys"},
        "where the keys are, the provider's own document says when somebody signs in",
    ),
    "operations/backup/servers.py": (
        {"Objects", "connect"},
        "a copy of a server is made beside its adapters; of a database, in one transaction",
    ),
    "operations/backup/take.py": ({"Objects"}, "as in servers.py"),
    "operations/prefect_server/prefect_server.py": (
        {"PrefectGate", "WarmRunner"},
        "what the wiring of the processes `flows` and `prefect` has in common",
    ),
    "operations/supervisor/probe.py": (
        {"HTTPConnection"},
        "one question to a child of the supervisor, on this machine",
    ),
    "operations/tables/imported_tables.py": (
        {"BucketFiles", "Objects"},
        "a bucket that a person names",
    ),
    "operations/tables/outputs.py": ({"Objects"}, "a bucket that a person names"),
    "operations/tables/postgres_table.py": ({"connect"}, "a table that a person names"),
}
"""Module → what it makes, and why not the wiring of its process."""

UP: Final = {"runtime/processes/commands.py": {"mlplatform.process"}}
"""A process is started by the command line of the entry, which is above all areas."""


@functools.cache
def trees() -> dict[str, ast.Module]:
    found = PACKAGE.rglob("*.py")
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in found}


def module_of(name: str) -> str:
    return "mlplatform." + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@dataclass
class Names:
    """What a module's imports call, anywhere in it.

    Args:
        modules: names of modules, whole.
        of: local name → the dotted name that it stands for.
    """

    modules: set[str] = field(default_factory=set)
    of: dict[str, str] = field(default_factory=dict)


def imports(tree: ast.Module) -> Names:
    found = Names()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.modules |= {one.name for one in node.names}
            for one in node.names:
                head = one.name.partition(".")[0]
                found.of |= {one.asname: one.name} if one.asname else {head: head}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            whole = {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
            found.modules |= {node.module, *whole.values()}
            found.of |= whole
    return found


@functools.cache
def errors() -> frozenset[str]:
    tree = trees()["runtime/errors.py"]
    return frozenset(one.name for one in tree.body if isinstance(one, ast.ClassDef))


def is_value(node: ast.ClassDef) -> bool:
    """Whether a class is data, an error or a form: none of them can hold a connection."""
    bases = (ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases)
    return (
        node.name.startswith("_")
        or BLOCKS.fullmatch(node.name) is not None
        or any(VALUES.fullmatch(base) or base in errors() for base in bases)
        or any("dataclass" in ast.unparse(one) for one in node.decorator_list)
    )


def on_clients(parsed: Mapping[str, ast.Module]) -> set[str]:
    """Dotted names of classes in modules that import a client's library, or a driver."""
    found = set()
    for name, tree in parsed.items():
        modules = imports(tree).modules
        if any(m in DRIVERS or m in CLIENTS or m.partition(".")[0] in CLIENTS for m in modules):
            classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
            found |= {f"{module_of(name)}.{node.name}" for node in classes if not is_value(node)}
    return found


def openers(parsed: Mapping[str, ast.Module]) -> set[str]:
    """Dotted names of the drivers' functions that call a client's library, such as `connect`."""
    drivers = {name: tree for name, tree in parsed.items() if module_of(name) in DRIVERS}
    return {
        f"{module_of(name)}.{function}"
        for name, tree in drivers.items()
        for function, inside in _functions(tree).items()
        if client_calls(name, inside, set())
    }


def client_calls(name: str, tree: ast.Module, classes: set[str]) -> set[str]:
    """What of a client's library a module calls outside of its adapters, values and errors apart.

    Args:
        classes: dotted names of adapters.
    """
    names = imports(tree).of
    own = (c for c in tree.body if isinstance(c, ast.ClassDef))
    of_adapters = [c for c in own if f"{module_of(name)}.{c.name}" in classes]
    inside = {id(node) for one in of_adapters for node in ast.walk(one)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and id(node) not in inside:
            head, _, rest = ast.unparse(node.func).partition(".")
            found.add(f"{names.get(head, '')}.{rest}".removesuffix("."))
    return {
        whole
        for whole in found
        if any(whole.startswith(f"{one}.") for one in CLIENTS)
        if not PLAIN.fullmatch(whole) and not whole.endswith(("Error", "Exception"))
    }


Signatures = dict[str, tuple[str, ...]]


def signatures(name: str, classes: Mapping[str, ast.ClassDef]) -> Signatures:
    """The public methods of a class, with those of its bases, and names of their parameters."""
    if name not in classes:
        return {}
    found: Signatures = {}
    for base in classes[name].bases:
        of = ast.unparse(base).partition("[")[0]
        found |= signatures(of, classes) if of != name else {}
    for one in classes[name].body:
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and not one.name.startswith("_"):
            found[one.name] = tuple(a.arg for a in (*one.args.posonlyargs, *one.args.args))
    return found


def ports() -> dict[str, str]:
    """Port → its module, of the document's table. A clock holds no connection."""
    rows = re.findall(
        r"^\| ((?:`\w+`(?:, )?)+) \| `([\w/]+\.py)` \|", ARCHITECTURE.read_text(), re.M
    )
    found = {port: module for names, module in rows for port in re.findall(r"\w+", names)}
    return {port: module for port, module in found.items() if port != "Clock"}


def behind_ports(parsed: Mapping[str, ast.Module]) -> set[str]:
    """Dotted names of classes with all methods of a port, by whatever means they do it."""
    everywhere: dict[str, ast.ClassDef] = {}
    at: dict[str, dict[str, ast.ClassDef]] = {}
    for name, tree in parsed.items():
        at[name] = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        everywhere |= at[name]
    wanted = [signatures(port, everywhere | at[module]) for port, module in ports().items()]
    assert wanted
    assert all(wanted), "every port of the table is a class with methods"
    return {
        f"{module_of(name)}.{node.name}"
        for name, inside in at.items()
        for node in inside.values()
        if not is_value(node)
        if (has := signatures(node.name, everywhere | inside))
        if any(is_port(has, one) for one in wanted)
    }


def is_port(has: Signatures, port: Signatures) -> bool:
    """A port of one method is told by its parameters too: many classes have a method `take`."""
    return port.keys() <= has.keys() and (len(port) > 1 or port.items() <= has.items())


def uses(tree: ast.Module, wanted: set[str]) -> set[str]:
    """Which of these dotted names a module calls, or hands to who does; types and bases apart."""
    names = imports(tree).of
    reach = [
        n for n, whole in names.items() if any(f"{w}.".startswith(f"{whole}.") for w in wanted)
    ]
    if not reach:
        return set()
    types = {id(inner) for node in ast.walk(tree) for inner in _annotations(node)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in types:
            head, _, rest = ast.unparse(node).partition(".")
            if head in reach:
                found |= {f"{names[head]}.{rest}".removesuffix(".")} & wanted
    return found


def _annotations(node: ast.AST) -> Iterator[ast.AST]:
    types = (getattr(node, "annotation", None), getattr(node, "returns", None))
    for part in (*types, *(node.bases if isinstance(node, ast.ClassDef) else ())):
        if part is not None:
            yield from ast.walk(part)


def makers(parsed: Mapping[str, ast.Module], classes: set[str]) -> set[str]:
    """Functions of the shared wiring that make an adapter, also by another of them."""
    found: set[str] = set()
    for name in SHARED:
        module, functions = module_of(name), _functions(parsed[name])
        making = {one for one, tree in functions.items() if uses(tree, classes)}
        while more := {
            one
            for one, tree in functions.items()
            if one not in making
            if any(isinstance(n, ast.Name) and n.id in making for n in ast.walk(tree))
        }:
            making |= more
        found |= {f"{module}.{one}" for one in making}
    return found


def _functions(tree: ast.Module) -> dict[str, ast.Module]:
    """Each function of a module, with the module's imports."""
    head = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return {node.name: ast.Module([*head, node], []) for node in found}


def roots(parsed: Mapping[str, ast.Module]) -> set[str]:
    """Modules of wiring, and those that the entry of processes names."""
    starts = {entry.module for entry in ENTRIES.values()}
    return {n for n in parsed if Path(n).name == "wiring.py" or module_of(n) in starts}


def test_adapters_are_made_by_the_wiring_of_a_process() -> None:
    parsed = trees()
    classes = on_clients(parsed) | behind_ports(parsed)
    assert {f"mlplatform.{name}" for name in KNOWN} <= classes
    assert made_elsewhere(parsed, classes) == {n: what for n, (what, _) in MADE_ELSEWHERE.items()}


def made_elsewhere(parsed: Mapping[str, ast.Module], classes: set[str]) -> dict[str, set[str]]:
    """Module → adapters that it makes, and clients and connections that it opens by itself.

    Wiring and drivers are left out, and parts of an adapter of the module's own.
    """
    opened = openers(parsed)
    asked = classes | makers(parsed, classes) | opened
    adapters = {one.rpartition(".")[0] for one in classes}
    made = {}
    for name in parsed.keys() - roots(parsed):
        module = module_of(name)
        own = parts(module, classes | opened) if module in adapters else set()
        called = set() if module in DRIVERS else client_calls(name, parsed[name], classes)
        if found := uses(parsed[name], asked - own) | called:
            made[name] = {one.rpartition(".")[2] for one in found}
    return made


def parts(module: str, classes: set[str]) -> set[str]:
    """What the adapters of a module are made of: drivers, and classes of the same package."""
    package = module.rpartition(".")[0]
    homes = {one: one.rpartition(".")[0] for one in classes}
    return {one for one, at in homes.items() if at in DRIVERS or at.rpartition(".")[0] == package}


def test_the_document_names_each_wiring() -> None:
    text = ARCHITECTURE.read_text()
    wirings = {name for name in trees() if Path(name).name == "wiring.py"}
    assert len(wirings) > 4
    named = text.partition("A module named `wiring.py`")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([\w/]+/wiring\.py)`", named)) == wirings


def test_one_place_chooses_between_the_clocks() -> None:
    clock = {"mlplatform.runtime.clock.ReplayClock"}
    assert {n for n, tree in trees().items() if uses(tree, clock)} == {"scoring/wiring.py"}


def test_what_makes_one_is_found() -> None:
    wanted = {"a.b.Log", "a.wiring.log"}
    head = "from a import wiring as w\nfrom a import b\nfrom a.b import Log\n"

    def found(text: str) -> set[str]:
        return uses(ast.parse(head + text), wanted)

    assert found("def f(x: Log) -> Log:\n    return x\nclass C(Log):\n    pass") == set()
    assert found("partial(Log, 1)") == found("b.Log(1)") == found("Log.at('')") == {"a.b.Log"}
    assert found("def f():\n    return w.log()") == {"a.wiring.log"}
    assert found("Other(log)") == found("w.logs()") == set()
    late = "def f():\n    from a.b import Log as L\n    return L()"
    assert uses(ast.parse(late), wanted) == {"a.b.Log"}


def test_a_command_that_makes_an_adapter_or_opens_a_connection_is_found() -> None:
    makes = {
        "commands/one.py": "from mlplatform.rollouts.kubernetes.api import KubernetesApi as K\nK()",
        "commands/two.py": "from mlplatform.scoring import wiring\nwiring.keys(1)",
        "commands/three.py": "from mlplatform.operations import wiring\nwiring.kubernetes_api()",
        "commands/four.py": "import httpx as h\ndef f() -> h.Client:\n    return h.Client()",
        "commands/five.py": "import redis\nclass _R:\n    def f(self):\n        redis.Redis()",
        "commands/six.py": "from mlplatform.runtime.storage import postgres as p\np.connect(1)",
        "commands/seven.py": "import httpx\ndef f(x: httpx.Client):\n    raise httpx.HTTPError('')",
    }
    parsed = trees() | {name: ast.parse(text) for name, text in makes.items()}
    found = made_elsewhere(parsed, on_clients(parsed) | behind_ports(parsed))
    assert {name: found.get(name) for name in makes} == {
        "commands/one.py": {"KubernetesApi"},
        "commands/two.py": {"keys"},
        "commands/three.py": None,
        "commands/four.py": {"Client"},
        "commands/five.py": {"Redis"},
        "commands/six.py": {"connect"},
        "commands/seven.py": None,
    }


def ranks() -> dict[str, int]:
    """Area → its layer, from the ground up."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (areas,) = (c for c in contracts["contracts"] if c.get("containers") == ["mlplatform"])
    return {area: rank for rank, area in enumerate(reversed(areas["layers"]))}


def named_modules(tree: ast.Module, known: set[str]) -> set[str]:
    """Modules that strings begin with: `a.b`, `a.b:name`, `a.b --option`."""
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    return {
        re.split(r"[:\s]", text, maxsplit=1)[0] for text in texts if isinstance(text, str)
    } & known


def test_a_string_that_begins_with_a_module_is_found() -> None:
    tree = ast.parse("f('a.b', 'a.c:name', 'a.d --option', 'see a.e', 'a.f.name', 1)")
    known = {f"a.{letter}" for letter in "bcdef"}
    assert named_modules(tree, known) == {"a.b", "a.c", "a.d"}


def test_no_string_names_a_module_above() -> None:
    parsed, areas = trees(), ranks()
    known = {
        "mlplatform." + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in parsed
    }
    above = {
        name: found
        for name, tree in parsed.items()
        if (area := name.partition("/")[0]) in areas
        if (found := {m for m in named_modules(tree, known) if _rank(m, areas) > areas[area]})
    }
    assert above == UP


def _rank(module: str, areas: dict[str, int]) -> int:
    return areas.get(module.split(".")[1], len(areas))
