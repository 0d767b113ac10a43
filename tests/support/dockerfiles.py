"""What the Dockerfiles of this platform must hold to, and their steps without Docker."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dockerfile_parse import DockerfileParser

BASES = ("${BASE_IMAGE}", "${BUILD_IMAGE}")
HOST = re.compile(r"https?:|\b[a-z0-9-]+(\.[a-z0-9-]+)*\.(io|com|org|net|dev|ai)\b", re.IGNORECASE)
INSTALL = ("--no-index", "--no-deps", "--no-cache-dir", "--find-links")


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction."""

    instruction: str
    value: str

    @property
    def words(self) -> list[str] | None:
        """Its exec form; None where it has none."""
        try:
            words = json.loads(self.value)
        except json.JSONDecodeError:
            return None
        is_list = isinstance(words, list) and all(isinstance(word, str) for word in words)
        return words if is_list else None


def stages(text: str) -> list[list[Step]]:
    """The instructions, by stage; those before the first FROM come first."""
    parsed = DockerfileParser(fileobj=io.BytesIO(text.encode())).structure
    found: list[list[Step]] = [[]]
    for step in parsed:
        if step["instruction"] == "COMMENT":
            continue
        if step["instruction"] == "FROM":
            found.append([])
        found[-1].append(Step(step["instruction"], step["value"]))
    return found


def violations(text: str, lock: str) -> list[str]:
    """Which rule the Dockerfile breaks, in words.

    Args:
        lock: the file of its role below requirements/, the one whose packages it may hold.
    """
    arguments, *built = stages(text)
    if len(built) < 2:
        return ["has no stage of its own for installing"]
    return [
        *_from_where(arguments, built, text),
        *_installed(built[0], lock),
        *_final(built[-1]),
    ]


def _from_where(arguments: list[Step], built: list[list[Step]], text: str) -> Iterator[str]:
    for step in arguments:
        name, _, default = step.value.partition("=")
        if default and default not in BASES:
            yield f"gives {name} a default, {default}"
    for stage in built:
        if stage[0].value.split()[0] not in BASES:
            yield f"takes another base than an argument: {stage[0].value}"
        for step in stage:
            if step.instruction == "ADD":
                yield "uses ADD, which fetches and unpacks"
    if (host := HOST.search(text)) is not None:
        yield f"names a host: {host[0]}"


def _installed(stage: list[Step], lock: str) -> Iterator[str]:
    copied = [s.value.split()[0] for s in stage if s.instruction == "COPY"]
    locks = [name for name in copied if name.startswith("requirements/")]
    if locks != [f"requirements/{lock}"]:
        yield f"copies {locks} and not its role's lock alone"
    for step in stage:
        if step.instruction != "RUN":
            continue
        if step.words is None:
            yield f"runs a shell: {step.value}"
        elif "pip" in step.words:
            missing = [flag for flag in INSTALL if flag not in step.words]
            if "--requirement" in step.words and "--require-hashes" not in step.words:
                missing.append("--require-hashes")
            yield from (f"installs without {flag}" for flag in missing)
    if not any("--require-hashes" in (step.words or ()) for step in stage):
        yield "installs no lock by its hashes"


def _final(stage: list[Step]) -> Iterator[str]:
    by_name: dict[str, list[Step]] = {}
    for step in stage:
        by_name.setdefault(step.instruction, []).append(step)
    if "RUN" in by_name:
        yield "runs something in the last stage"
    if "VOLUME" in by_name:
        yield "declares a volume, which is writable whatever the pod says"
    for step in by_name.get("COPY", ()):
        if step.value.split()[0] not in ("--from=build", "flows"):
            yield f"copies {step.value} into the last stage"
    users = [step.value for step in by_name.get("USER", ())]
    if not users or not re.fullmatch(r"[1-9][0-9]{3,}:[1-9][0-9]{3,}", users[-1]):
        yield f"runs as {users[-1] if users else 'root'}, not as a number above 999"
    environment = " ".join(step.value for step in by_name.get("ENV", ()))
    if "PYTHONDONTWRITEBYTECODE=1" not in environment:
        yield "lets Python write beside the code"
    if [step.words is not None for step in by_name.get("ENTRYPOINT", ())] != [True]:
        yield "has no entry point in exec form, which signals reach"


def build(text: str, context: Path, root: Path) -> None:
    """Do what the first stage does, in a folder: `/build` and `/opt` are taken as below it.

    Args:
        context: the build context.
        root: gets `/build` and `/opt`; made anew.
    """
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for step in stages(text)[1]:
        if step.instruction == "COPY":
            source, target = step.value.split()
            _copy(context / source, root / target.lstrip("/"))
        elif step.instruction == "RUN" and step.words is not None:
            words = [re.sub(r"^/(build|opt)/", rf"{root}/\1/", word) for word in step.words]
            subprocess.run([sys.executable, *words[1:]], check=True, stdout=subprocess.DEVNULL)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)
