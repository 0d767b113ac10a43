"""Images of the servers, made of Debian's packages and of `build/servers`: no registry is asked.

    make server-images
    TEST_CONTAINERS=1 TEST_IMAGE_POSTGRES=mlplatform/test-postgres … make test-servers

`make` prints the second line as it is to be typed. Elsewhere the servers' own images are pulled.
"""

from __future__ import annotations

import shutil
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.servers import seaweed, valkey

sys.path.insert(0, str(Path(__file__).parents[2] / "platform/images"))
build = import_module("build")

PROGRAMS: Final = {"redis": valkey.PROGRAM, "s3": seaweed.PROGRAM}
"""Server → its program, which runs on the base of the platform's own images."""


def main() -> None:
    build.docker("version", said="no Docker daemon answers: start one, or set DOCKER_HOST")
    names = {server: f"mlplatform/test-{server}" for server in ("postgres", *PROGRAMS)}
    for server, name in names.items():
        print(f"{name}: building", flush=True)
        if server == "postgres":
            _postgres(name)
        else:
            _of_program(name, PROGRAMS[server])
    words = [f"TEST_IMAGE_{server.upper()}={name}" for server, name in names.items()]
    print("TEST_CONTAINERS=1", *words, "make test-servers")


def _postgres(name: str) -> None:
    build.debian(f"{name}:packages", ("postgresql", "ca-certificates"))
    (place,) = build.docker(
        *("run", "--rm", "--network", "none", f"{name}:packages"),
        *("sh", "-c", "ls -d /usr/lib/postgresql/*/bin"),
        said=f"{name} has no PostgreSQL",
    ).split()
    _built(name, f"FROM {name}:packages\nENV PATH={place}:/usr/bin:/bin\n", ())


def _of_program(name: str, program: Path) -> None:
    if not program.exists():
        raise build.Refused(f"{program} is not here: make test-servers fetches it")
    if not build.is_there(build.BASE):
        build.debian(build.BASE, build.PYTHON)
    _built(name, f"FROM {build.BASE}\nCOPY {program.name} /usr/bin/\n", (program,))


def _built(name: str, dockerfile: str, files: tuple[Path, ...]) -> None:
    with TemporaryDirectory() as folder:
        for file in files:
            shutil.copy(file, folder)
            (Path(folder) / file.name).chmod(0o755)
        (Path(folder) / "Dockerfile").write_text(dockerfile)
        build.docker(
            *("build", "--network", "none", "--tag", name, folder),
            said=f"{name} was not built",
            env={"DOCKER_BUILDKIT": "0"},
        )


if __name__ == "__main__":
    main()
