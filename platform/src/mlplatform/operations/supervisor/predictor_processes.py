"""Predictor processes: one for each manifest in the local serving plane's desired folder, or a
watch on the server if the manifest has an address."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mlplatform.model.weights.load_time import folder_bytes, load_deadline_s
from mlplatform.operations.supervisor.addressed_servers import AddressedServer
from mlplatform.operations.supervisor.child import Child
from mlplatform.operations.supervisor.listeners import reserve_port
from mlplatform.operations.supervisor.retried_writes import RetriedWrites
from mlplatform.operations.supervisor.spec import ChildSpec, HttpCheck
from mlplatform.rollouts.bundles.background import BackgroundFetches
from mlplatform.rollouts.serving.local import (
    ServiceStatusFile,
    StatusStore,
    bundle_folder,
    read_manifest,
    wall_ms,
)
from mlplatform.rollouts.serving.manifest import ADDRESS_ANNOTATION, Service, read
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import ConfigInvalid, NotFound, PlatformError
from mlplatform.runtime.processes.commands import command
from mlplatform.runtime.processes.parent_death import ParentDeathPipe

RECONCILE_S: Final = 0.25
REPEAT_STATUS_S: Final = 2.0
STOP_ORDER: Final = 10
STOP_GRACE_S: Final = 12.0
"""More than a predictor's drain and its limit for requests in flight together."""
START_S: Final = 60
"""Least time that a predictor may take to start; a manifest of an earlier release has its own, and
none for the size of its bundle."""


class PredictorProcesses:
    """Starts and stops predictors so that they match the manifests, and writes their statuses.

    A predictor is started once its bundle is here.

    Args:
        fetches: fetches bundles that are missing; None: nothing is fetched.
    """

    def __init__(
        self,
        home: Home,
        parent_pipe: ParentDeathPipe,
        changed: Callable[[Child], None],
        files: RetriedWrites,
        fetches: BackgroundFetches | None = None,
    ) -> None:
        self._home, self._fetches = home, fetches
        self._statuses = StatusStore(home.serving, write=files.put)
        self._parent_pipe = parent_pipe
        self._changed = changed
        self._kept: dict[str, tuple[Child, asyncio.Task[None]]] = {}
        self._servers: dict[str, AddressedServer] = {}
        self._ports: dict[str, tuple[socket.socket, ...]] = {}
        self._refused: dict[str, str] = {}
        self._closed = False

    @property
    def children(self) -> list[Child]:
        return [child for child, _ in self._kept.values()]

    async def reconcile(self) -> None:
        """Start and stop predictors as the folder says, until cancelled."""
        written_s = 0.0
        while not self._closed:
            desired = {path.stem: path for path in self._desired.glob("[!.]*.json")}
            for name in self._kept.keys() - desired.keys():
                self._kept[name][0].stop()
            for name in [n for n, (_, task) in self._kept.items() if task.done()]:
                child = self._kept.pop(name)
                self._release(name)
                child[1].result()
                if self._fetches is not None:
                    self._fetches.trim()
            for name in self._servers.keys() - desired.keys():
                self._servers.pop(name).stop()
            for name in desired.keys() - self._kept.keys() - self._servers.keys():
                self._start(desired[name])
            self._clean(desired.keys() | self._kept.keys())
            if time.monotonic() - written_s > REPEAT_STATUS_S:
                written_s = time.monotonic()
                self._write_all()
            await asyncio.sleep(RECONCILE_S)

    def close(self) -> list[asyncio.Task[None]]:
        """Start nothing any more; returns the tasks to wait for after the children have been told
        to stop."""
        self._closed = True
        for server in self._servers.values():
            server.stop()
        return [task for _, task in self._kept.values()]

    @property
    def _desired(self) -> Path:
        return self._home.serving / "desired"

    def _start(self, path: Path) -> None:
        name = path.stem
        try:
            service = read(read_manifest(path))
            if service.name != name:
                raise ConfigInvalid(f"{path.name}: metadata.name", service.name, name)
            if not service.is_own:
                self._follow(service)
                return
            self._check_bundle(bundle_folder(service.storage_uri, self._home.bundles))
            held = reserve_port(), reserve_port()
            spec = predictor_spec(self._home, service, *(s.getsockname()[1] for s in held))
        except FileNotFoundError:
            return
        except PlatformError as error:
            self._refused[name] = str(error)
            return
        self._refused.pop(name, None)
        self._ports[name] = held
        child = Child(spec, self._home, self._parent_pipe, self._publish)
        self._kept[name] = (child, asyncio.create_task(child.keep()))

    def _follow(self, service: Service) -> None:
        if service.address is None:
            key = f"metadata.annotations.{ADDRESS_ANNOTATION}"
            raise ConfigInvalid(key, None, f"where {service.runtime} listens")
        folder = self._home.bundles / service.digest
        self._check_bundle(folder)
        self._refused.pop(service.name, None)
        self._servers[service.name] = AddressedServer(service, folder, self._statuses.write)

    def _check_bundle(self, folder: Path) -> None:
        """Raises unless the bundle is here; a copy of a home may lack it, and then it is fetched if
        there is a store."""
        if self._fetches is not None:
            self._fetches.need(folder.name)
        if not folder.is_dir():
            remedy = "copy it from a backup, or from the home that this one was copied from"
            raise NotFound(f"no bundle {folder}: {remedy}")

    def _release(self, name: str) -> None:
        for held in self._ports.pop(name, ()):
            held.close()

    def _clean(self, known: set[str]) -> None:
        for name in self._statuses.names() - known:
            self._statuses.forget(name)
            address_file(self._home, name).unlink(missing_ok=True)
        for name in self._refused.keys() - known:
            del self._refused[name]

    def _write_all(self) -> None:
        for child in self.children:
            self._write(child)
        for server in self._servers.values():
            server.write()
        for name, reason in self._refused.items():
            self._statuses.write(ServiceStatusFile(name, False, reason, 0, None, None, wall_ms()))

    def _publish(self, child: Child) -> None:
        self._write(child)
        self._changed(child)

    def _write(self, child: Child) -> None:
        pid = None if child.process is None else child.process.pid
        reason = child.reason or ("" if child.ready else child.state)
        self._statuses.write(
            ServiceStatusFile(
                child.spec.name, child.ready, reason, child.restarts, pid, child.port, wall_ms()
            )
        )


def predictor_spec(home: Home, service: Service, port: int = 0, grpc_port: int = 0) -> ChildSpec:
    """The predictor process of a service.

    Args:
        port, grpc_port: ports that are reserved for it; 0: any free port.

    Raises:
        ConfigInvalid: the service's storage URI is not a folder of this machine.
    """
    address = address_file(home, service.name)
    folder = bundle_folder(service.storage_uri, home.bundles)
    return ChildSpec(
        name=service.name,
        argv=command(
            "predictor",
            f"--model-dir={folder}",
            f"--model-name={service.name}",
            f"--digest={service.digest}",
            *service.args,
            f"--port={port}",
            f"--grpc-port={grpc_port}",
            f"--address-file={address}",
            f"--token-file={home.predictor_token}",
        ),
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
        check=HttpCheck(
            ready=f"/v2/models/{service.name}/ready",
            live="/v2/health/live",
            address_file=address,
            token_file=home.predictor_token,
        ),
        stop_order=STOP_ORDER,
        stop_grace_s=STOP_GRACE_S,
        start_deadline_s=max(
            service.load_deadline_s, load_deadline_s(START_S, folder_bytes(folder))
        ),
        memory_bytes=service.memory_bytes,
        memory_setting="serving.memory_mib of model.yaml",
    )


def address_file(home: Home, name: str) -> Path:
    """The file in which a predictor writes the port on which it listens."""
    return home.run / "predictors" / f"{name}.json"
