"""Build the platform's images with a Docker daemon, and say what each weighs and holds.

    make images IMAGES_FLAGS="--base bank/python:3.11 --build-base bank/python-build:3.11"

Without `--base` the two bases are made here of Debian 12's packages, security updates included, by
mmdebstrap: no image registry is asked. Each image is then started read-only, without network and
rights, to compare its packages with its role's lock. The report is build/images.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "requirements"))
locked = import_module("sbom").locked

LOCKS = {"predictor": "serve", "gateway": "serve", "flows": "flows", "predictor-gpu": "serve-gpu"}
USUAL = ("predictor", "gateway", "flows")
"""What is built if no image is named; predictor-gpu takes 3 GB."""
DOCKERFILES = {"predictor-gpu": "predictor"}
"""Of images whose Dockerfile has another name; the lock makes them differ."""
MIB = 1024 * 1024
SUITE = "bookworm"
BASE = f"mlplatform/base:{SUITE}"
BUILD_BASE = f"mlplatform/build-base:{SUITE}"
PYTHON = ("ca-certificates", "python3-minimal", "libpython3-stdlib", "libstdc++6")
INSTALLER = ("python3-venv", "python3-pip")
NOT_READ = ("man", "doc", "locale", "info")
"""Folders of /usr/share that no process reads."""
PACKAGES = """
import importlib.metadata as m, platform
print(platform.python_version())
print("\\n".join(f"{d.name}=={d.version}" for d in m.distributions()))
"""
CONFINED = ("--read-only", "--network", "none", "--cap-drop", "ALL")
CONFINED += ("--security-opt", "no-new-privileges", "--memory", "1g", "--pids-limit", "128")


class Refused(SystemExit):
    """What is missing, and the way out; exit code 1 after the message."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    docker("version", said="no Docker daemon answers: start one, or set DOCKER_HOST")
    base, build_base = bases(options)
    report = {}
    for name in options.only or USUAL:
        began_s = time.monotonic()
        print(f"{name}: building", flush=True)
        tag = f"mlplatform/{name}:{version}"
        build(name, tag, base, build_base)
        report[name] = {"image": tag, **figures(tag), "build_s": round(time.monotonic() - began_s)}
        differences = compared(tag, (ROOT / f"requirements/{LOCKS[name]}.txt").read_text())
        if differences:
            raise Refused(f"{tag} does not hold what its lock says: {'; '.join(differences)}")
        print(f"{name}: {json.dumps(report[name])}", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"base": base, "images": report}, indent=1) + "\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make images", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=LOCKS, action="append", help="these images alone")
    parser.add_argument("--base", help="an image with python3 3.11; default: made of Debian's")
    parser.add_argument("--build-base", help="one with venv and pip besides; default: --base")
    parser.add_argument("--fresh", action="store_true", help="make Debian's bases anew")
    parser.add_argument("--out", type=Path, default=ROOT / "build/images.json")
    return parser.parse_args(arguments)


def bases(options: argparse.Namespace) -> tuple[str, str]:
    """The images that the Dockerfiles start from; made here if none is named."""
    if options.base:
        return options.base, options.build_base or options.base
    for name, packages in ((BASE, PYTHON), (BUILD_BASE, (*PYTHON, *INSTALLER))):
        if options.fresh or not is_there(name):
            print(f"{name}: made of Debian's packages (two minutes)", flush=True)
            debian(name, packages)
    return BASE, BUILD_BASE


def debian(name: str, packages: Sequence[str]) -> None:
    """An image of Debian's essential packages and these.

    Raises:
        Refused: mmdebstrap is not here, or ended in an error.
    """
    if shutil.which("mmdebstrap") is None:
        raise Refused("mmdebstrap is not here: apt-get install mmdebstrap, or name --base")
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in NOT_READ]
    left_out.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    chosen = ("--variant=essential", f"--include={','.join(packages)}")
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "base.tar"
        made = subprocess.run(
            ["mmdebstrap", *chosen, *left_out, SUITE, str(archive)],
            check=False,
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise Refused(f"mmdebstrap ended in an error:\n{made.stderr[-2000:]}")
        docker("import", str(archive), name, said=f"{name} was not taken in")


def build(name: str, tag: str, base: str, build_base: str) -> None:
    """Build one Dockerfile without network."""
    given = ("--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"BUILD_IMAGE={build_base}")
    if name in DOCKERFILES:
        given += ("--build-arg", f"LOCK={LOCKS[name]}")
    file = f"platform/images/{DOCKERFILES.get(name, name)}.Dockerfile"
    command = ("build", "--network", "none", *given, "--tag", tag, "--file", file, ".")
    # The older builder: BuildKit asks a registry for a base that is here alone.
    docker(*command, said=f"{file} was not built", env={"DOCKER_BUILDKIT": "0"})


def figures(tag: str) -> dict[str, Any]:
    """Size, user and digest of an image."""
    (said,) = json.loads(docker("image", "inspect", tag, said=f"there is no {tag}"))
    return {
        "id": said["Id"],
        "size_mib": round(said["Size"] / MIB),
        "layers": len(said["RootFS"]["Layers"]),
        "user": said["Config"]["User"],
    }


def compared(tag: str, lock: str) -> list[str]:
    """Where the packages of an image differ from its lock, in words; empty if nowhere."""
    entry = ("--entrypoint", "/opt/venv/bin/python", tag, "-c", PACKAGES)
    text = docker("run", "--rm", *CONFINED, *entry, said=f"{tag} does not start")
    release, *lines = text.split()
    pairs = (line.split("==") for line in lines)
    held = {canonicalize_name(name): version for name, version in pairs}
    for own in ("mlplatform", "mlplatform-client"):
        held.pop(own, None)
    wanted = {}
    python = {"python_full_version": release, "python_version": release.rpartition(".")[0]}
    for requirement, _ in locked(lock):
        if requirement.marker is None or requirement.marker.evaluate(python):
            (pin,) = requirement.specifier
            wanted[canonicalize_name(requirement.name)] = pin.version
    return [
        f"{name} is {held.get(name, 'missing')}, locked {wanted.get(name, 'nowhere')}"
        for name in sorted(held.keys() | wanted.keys())
        if held.get(name) != wanted.get(name)
    ]


def docker(*arguments: str, said: str, env: dict[str, str] | None = None) -> str:
    """What `docker` prints.

    Raises:
        Refused: `said`, and the end of what docker said.
    """
    program = os.environ.get("DOCKER", "docker")
    try:
        done = subprocess.run(
            [program, *arguments],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            check=False,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise Refused(f"{program} is not here: install Docker, or set DOCKER") from None
    if done.returncode:
        raise Refused(f"{said}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def is_there(name: str) -> bool:
    try:
        docker("image", "inspect", name, said="")
    except Refused:
        return False
    return True


if __name__ == "__main__":
    main()
