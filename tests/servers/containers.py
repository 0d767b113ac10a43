"""Servers in containers, where a Docker daemon answers: the same commands, in an image.

A container has the network of this machine, and its server's folder under the same path, so that
ports, certificates and configurations are those of a process, and each test asks the same of both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import docker
from docker.errors import DockerException, NotFound
from testcontainers.core.container import DockerContainer
from tests.servers.process import (
    HERE,
    Place,
    ServerMissing,
    ServerProcess,
    User,
    said,
    wait_until_it_listens,
)

ASKED: Final = "TEST_CONTAINERS"
"""Variable: 1 asks for containers, 0 for processes; without it they run where a daemon answers."""
IMAGES: Final = {
    "postgres": "postgres:17",
    "redis": "valkey/valkey:8",
    "s3": "chrislusf/seaweedfs:4.48",
}
"""Server → image. `TEST_IMAGE_POSTGRES`, `TEST_IMAGE_REDIS` and `TEST_IMAGE_S3` name others."""
NOBODY: Final = 65_534
"""User of a server that refuses to run as root."""


def place_of(server: str) -> Place:
    """Where a server runs: in a container, or as a process of this machine.

    Args:
        server: one of `IMAGES`.

    Raises:
        ServerMissing: containers are asked for, and there is no daemon or no image.
    """
    asked = os.environ.get(ASKED, "")
    if asked not in ("", "0", "1"):
        raise ServerMissing(f"{ASKED} is {asked!r}; it may be 0 (processes) or 1 (containers)")
    if asked == "0":
        return HERE
    variable = f"TEST_IMAGE_{server.upper()}"
    image = os.environ.get(variable, IMAGES[server])
    try:
        client = docker.from_env(timeout=600)
    except DockerException as error:
        if asked == "1":
            way = f"start one, set DOCKER_HOST, or {ASKED}=0 for processes"
            raise ServerMissing(f"no Docker daemon answers ({error}): {way}") from error
        return HERE
    try:
        _have(client, image)
    except DockerException as error:
        missing = f"image {image} is not to be had ({error}): name another by {variable}"
        if asked == "1":
            raise ServerMissing(missing) from error
        said(f"{missing}; a process of this machine is tested instead")
        return HERE
    finally:
        client.close()
    return Image(image)


def _have(client: docker.DockerClient, image: str) -> None:
    try:
        client.images.get(image)
    except NotFound:
        said(f"pulling {image}")
        client.images.pull(image)


@dataclass(frozen=True)
class Image:
    """A `Place` of which each command is a container."""

    name: str

    def __str__(self) -> str:
        return f"in {self.name}"

    def program(self, name: str, *places: Path) -> Path:
        """The program by its name: an image has it on its PATH."""
        return Path(name)

    def owner(self) -> User:
        """The user of a server that refuses to run as root."""
        return os.getuid() or NOBODY

    def output(
        self, command: Sequence[str | Path], folder: Path | None = None, user: User = None
    ) -> tuple[int, str]:
        container = _container(self.name, command, folder, user)
        try:
            wrapped = container.start().get_wrapped_container()
            code = int(wrapped.wait()["StatusCode"])
            return code, wrapped.logs().decode(errors="replace").strip()
        finally:
            container.stop()

    def process(
        self, command: Sequence[str | Path], folder: Path, port: int, user: User = None
    ) -> ServerProcess:
        return ContainerProcess(self.name, tuple(map(str, command)), folder, port, user)


@dataclass
class ContainerProcess:
    """As `Process`, in a container of its own."""

    image: str
    command: Sequence[str]
    folder: Path
    port: int
    user: User = None
    _running: DockerContainer | None = None

    def start(self) -> None:
        if self._running is None:
            self._running = _container(self.image, self.command, self.folder, self.user).start()
        wrapped = self._running.get_wrapped_container()
        wrapped.reload()
        if wrapped.status != "running":
            wrapped.start()

        def runs() -> bool:
            wrapped.reload()
            return bool(wrapped.status == "running")

        if not wait_until_it_listens(self.port, runs):
            log = wrapped.logs().decode(errors="replace")
            self.close()
            raise RuntimeError(f"{self.command[0]} did not start in {self.image}:\n{log[-2000:]}")

    def signal(self, number: int) -> None:
        if self._running is not None:
            self._running.get_wrapped_container().kill(signal=number)

    def kill(self) -> None:
        """SIGKILL of all that runs in it; its file system stays for the next start."""
        if self._running is not None:
            wrapped = self._running.get_wrapped_container()
            wrapped.kill()
            wrapped.wait()

    def close(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None


def _container(
    image: str, command: Sequence[str | Path], folder: Path | None, user: User
) -> DockerContainer:
    program, *arguments = map(str, command)
    number = os.getuid() if user is None else user
    container = DockerContainer(image).with_command(arguments)
    if folder is not None:
        container.with_volume_mapping(str(folder), str(folder), "rw")
        names = folder / "passwd"  # PostgreSQL asks who it is
        names.write_text(f"server:x:{number}:{number}::/:/bin/false\n")
        names.chmod(0o644)
        container.with_volume_mapping(str(names), "/etc/passwd", "ro")
    return container.with_kwargs(
        network_mode="host",
        entrypoint=[program],
        user=f"{number}:{number}",
        working_dir=str(folder or "/"),
    )
