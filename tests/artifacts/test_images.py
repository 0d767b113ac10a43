"""The Dockerfiles: what they install, whose base they take, as whom they run."""

from __future__ import annotations

import ast
import fnmatch
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.cluster.predictor_image import OF_THE_PAGE

from support.dockerfiles import stages, violations

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "platform/images"
ROLES = {
    "predictor": "${LOCK}.txt",  # requirements/serve.txt, or serve-gpu.txt
    "gateway": "serve.txt",
    "flows": "flows.txt",
    "train": "${LOCK}.txt",  # one of requirements/train-*.txt, on the image of flows
}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def text(name: str) -> str:
    return (IMAGES / f"{name}.Dockerfile").read_text()


def test_every_image_has_a_role() -> None:
    assert {
        path.name.removesuffix(".Dockerfile") for path in IMAGES.glob("*.Dockerfile")
    } == ROLES.keys()


@pytest.mark.parametrize("name", ROLES)
def test_a_dockerfile_holds_to_the_rules(name: str) -> None:
    assert violations(text(name), ROLES[name]) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ARG BASE_IMAGE\n", "ARG BASE_IMAGE=python:3.11\n", "gives BASE_IMAGE a default"),
        ("FROM ${BASE_IMAGE}\n", "FROM debian:12\n", "takes another base than an argument"),
        ("FROM ${BASE_IMAGE}\n", "FROM quay.io/x/y\n", "names a host: quay.io"),
        ("requirements/${LOCK}.txt", "requirements/flows.txt", "not its role's lock alone"),
        ('"--require-hashes", ', "", "installs without --require-hashes"),
        ('"--no-index", ', "", "installs without --no-index"),
        ("USER 65532:65532\n", "USER root\n", "runs as root, not as a number"),
        ("USER 65532:65532\n", "", "runs as root, not as a number"),
        ("USER 65532:65532\n", "USER 0:0\n", "runs as 0:0, not as a number"),
        ("PYTHONDONTWRITEBYTECODE=1", "X=1", "lets Python write beside the code"),
        ("WORKDIR /\n", "WORKDIR /\nRUN pip install x\n", "runs something in the last stage"),
        ("WORKDIR /\n", "WORKDIR /\nVOLUME /data\n", "declares a volume"),
        ("WORKDIR /\n", "WORKDIR /\nCOPY . /src\n", "copies . /src into the last stage"),
        ('RUN ["python3", "-m", "venv"', 'RUN echo && ["python3", "-m", "venv"', "runs a shell"),
        ("COPY requirements", "ADD requirements", "uses ADD"),
        (
            'ENTRYPOINT ["python", "-m", "mlplatform.process", "predictor"]',
            "ENTRYPOINT python",
            "exec form",
        ),
    ],
)
def test_a_broken_rule_is_named(old: str, new: str, said: str) -> None:
    sound = text("predictor")
    assert old in sound

    assert said in "; ".join(violations(sound.replace(old, new), ROLES["predictor"]))


@pytest.mark.parametrize("name", ROLES)
def test_an_entry_point_is_a_module_that_there_is(name: str) -> None:
    [entry] = [s.words for s in stages(text(name))[-1] if s.instruction == "ENTRYPOINT"]

    assert entry is not None
    assert entry[:2] == ["python", "-m"]
    assert importlib.util.find_spec(entry[2]) is not None


def test_predictor_and_gateway_hold_nothing_that_is_not_on_a_requests_path() -> None:
    lines = (ROOT / "requirements/serve.txt").read_text().splitlines()
    names = {Requirement(line.split(" \\")[0]).name for line in lines if re.match(r"[a-z]", line)}

    assert {"onnxruntime", "msgspec"} <= names
    assert not names & {"prefect", "mlflow", "evidently", "feast", "scikit-learn", "pandas"}


OWN = {"mlplatform", "mlplatform_client"}
GENERATORS = {"feast", "grafana_foundation_sdk", "grpc_tools", "hera"}
"""Of `make generate`, in role dev: nothing that ships imports a module that needs them."""


def imported() -> set[str]:
    """First names of what the code of flows and images imports, wherever in a file."""
    files = [*(ROOT / "platform/src").rglob("*.py"), *(ROOT / "flows").glob("*.py")]
    found: set[str] = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names - OWN


def test_what_code_imports_is_asked_for_by_name() -> None:
    """And not got because something else happens to need it, today."""
    lines = [
        line
        for role in ("serve", "flows", "train-search", "train-spark", "delta")
        for line in (ROOT / "requirements" / f"{role}.in").read_text().splitlines()
        if re.match(r"[a-z]", line)
    ]
    asked = {canonicalize_name(Requirement(line).name) for line in lines}
    owners = importlib.metadata.packages_distributions()
    loose = {
        name
        for name in imported() - GENERATORS
        if not asked & {canonicalize_name(owner) for owner in owners.get(name, [name])}
    }

    assert {"msgspec", "starlette"} <= imported()
    assert loose == set()


ONLY = """
import importlib, importlib.metadata, re, sys
allowed, modules = (set(text.split(",")) for text in sys.argv[1:])
def known(name):
    return re.sub(r"[-_.]+", "-", name).lower() in allowed
found = importlib.metadata.packages_distributions()
class Nothing:
    def find_spec(self, name, path=None, target=None):
        owners = found.get(name.split(".")[0])
        if owners and not any(map(known, owners)):
            raise ModuleNotFoundError(f"{name} is not in the lock", name=name)
for name in [n for n in sys.modules if "." not in n and n in found]:
    del sys.modules[name]
sys.meta_path.insert(0, Nothing())
for name in sorted(modules):
    importlib.import_module(name)
"""


@pytest.mark.parametrize(
    ("lock", "besides", "modules"),
    [
        ("serve", (), ("mlplatform.observing.exporter.process",)),
        (
            "serve",
            (),
            ("mlplatform.scoring.worker.process", "mlplatform.decisions.topics.kafka_group"),
        ),
        (
            "serve",
            (),
            (
                "mlplatform.decisions.replication.publisher",
                "mlplatform.decisions.replication.replicator",
            ),
        ),
        (
            "serve",
            (),
            ("mlplatform.scoring.gateway.process", "mlplatform.scoring.predictor.process"),
        ),
        (
            "serve",
            OF_THE_PAGE,
            ("mlplatform.observing.page.app", "mlplatform.operations.wiring", "uvicorn"),
        ),
        ("flows", (), ("mlplatform.observing.page.app", "mlplatform.operations.wiring", "uvicorn")),
        ("flows", ("mlplatform-client",), ("mlplatform.commands",)),
    ],
)
def test_what_an_image_starts_imports_what_its_role_has(
    lock: str, besides: tuple[str, ...], modules: tuple[str, ...]
) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    allowed = {*re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE), "mlplatform", *besides}
    stores = ("mlplatform.rollouts.journal.postgres", "mlplatform.rollouts.drift.postgres")
    asked = (",".join(sorted(allowed)), ",".join((*modules, *stores)))

    tried = subprocess.run([sys.executable, "-c", ONLY, *asked], capture_output=True, text=True)

    assert (tried.returncode, tried.stderr) == (0, "")


def test_a_module_that_its_role_lacks_is_found() -> None:
    asked = ("mlplatform,msgspec", "mlplatform.observing.page.app")

    tried = subprocess.run([sys.executable, "-c", ONLY, *asked], capture_output=True, text=True)

    assert "starlette is not in the lock" in tried.stderr


def test_every_file_that_an_image_copies_is_in_the_build_context() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in lines if line.startswith("!")]
    copied = {
        step.value.split()[0]
        for name in ROLES
        for stage in stages(text(name))
        for step in stage
        if step.instruction == "COPY" and not step.value.startswith("--from=")
    }

    def is_kept(path: str) -> bool:
        return any(fnmatch.fnmatch(path, k) or path.startswith(f"{k}/") for k in kept)

    assert lines[1] == "*"
    assert {path for path in copied if not is_kept(path)} == set()


def test_manifests_name_the_images_of_this_release() -> None:
    found = subprocess.run(
        ["git", "grep", "-hoE", "image: mlplatform/[^ ]+", "--", "kserve", "platform"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")[:-1]

    # The last is the flow runner's, built on a base with PostgreSQL's programs (docs/backup.md).
    known = {*ROLES, "predictor-gpu", "backup"}
    assert set(found) <= {f"image: mlplatform/{name}:{VERSION}" for name in known}
    assert found


@pytest.mark.parametrize("lock", ["serve", "flows"])
def test_wheels_are_those_of_every_patch_release_of_python(lock: str) -> None:
    """A base image may have an earlier one than the machine that downloads."""
    [cut] = re.findall(r'sed -E "s/(.+)//"', (ROOT / "Makefile").read_text())
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    lines = [line.split(" \\")[0] for line in re.sub(cut, "", text).splitlines()]
    markers = [Requirement(line).marker for line in lines if re.match(r"[a-z].*;", line)]
    assert markers
    for marker in filter(None, markers):
        earliest, latest = ({"python_full_version": f"3.11.{patch}"} for patch in (0, 99))
        assert marker.evaluate(earliest) == marker.evaluate(latest)
