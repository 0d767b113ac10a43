"""The embedded serving plane: manifests in a folder, and predictor processes run by the
supervisor."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import msgspec

from mlplatform.rollouts.serving.manifest import read
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.rollouts.serving.plane import Manifest, ServiceStatus
from mlplatform.runtime.canonical import NOT_JSON, canonical_json
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable, NotFound, Refused
from mlplatform.runtime.storage.files import create_atomically, write_atomically

BUNDLE: Final = "bundle"
"""Scheme of a storage URI that names a bundle of the home instead of a path."""

STALE_MS: Final = 10_000
"""Age in milliseconds from which a status counts for nothing. The supervisor repeats every status
within seconds."""


class ServiceStatusFile(msgspec.Struct, frozen=True):
    """`serving/status/<name>.json`, as the supervisor writes it."""

    name: str
    ready: bool
    reason: str
    restarts: int
    pid: int | None
    port: int | None
    checked_at_ms: int
    host: str = "127.0.0.1"
    failed: bool = False


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class StatusStore:
    """The statuses of services that this machine's supervisor has written: of its processes, or of
    pods.

    Args:
        folder: the folder `<home>/serving`.
        write: replaces the content of a file.
    """

    def __init__(
        self,
        folder: Path,
        now_ms: Callable[[], int] = wall_ms,
        write: Callable[[Path, bytes], None] = write_atomically,
    ) -> None:
        self._folder = folder / "status"
        self._now_ms = now_ms
        self._write = write

    def status(self, name: str) -> ServiceStatus:
        """The last status of a service, if it is not too old."""
        found = self._read(name)
        if found is None:
            return ServiceStatus(name, False, "waits for the supervisor to start it")
        age_ms = self._now_ms() - found.checked_at_ms
        if age_ms > STALE_MS:
            reason = f"the supervisor has not reported on it for {age_ms // 1000} s"
            return ServiceStatus(name, False, reason, found.restarts, None)
        return ServiceStatus(
            name, found.ready, found.reason, found.restarts, found.pid, found.failed
        )

    def endpoint(self, name: str) -> str | None:
        """The base URL where a service listens; None while it is unknown."""
        found = self._read(name)
        if found is None or found.port is None:
            return None
        return f"http://{found.host}:{found.port}"

    def write(self, status: ServiceStatusFile) -> None:
        """Store the present status of a service."""
        self._write(self._path(status.name), msgspec.json.encode(status))

    def names(self) -> set[str]:
        """Names of the services with a stored status."""
        return {path.stem for path in self._folder.glob("[!.]*.json")}

    def forget(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _read(self, name: str) -> ServiceStatusFile | None:
        if ServiceName.parse(name) is None:
            raise NotFound(f"{name!r} is not a service's name")
        try:
            data = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        return msgspec.json.decode(data, type=ServiceStatusFile)


class LocalPlane:
    """A `ServingPlane` whose services are processes of this machine.

    Args:
        folder: the folder `<home>/serving`.
    """

    def __init__(self, folder: Path, now_ms: Callable[[], int] = wall_ms) -> None:
        self._folder = folder
        self._desired = folder / "desired"
        self._statuses = StatusStore(folder, now_ms)

    def apply(self, manifest: Manifest) -> None:
        service = read(manifest)
        if service.is_own:
            bundle_folder(service.storage_uri, self._folder)
        elif service.address is None:
            raise Refused(
                f"{service.name} asks for {service.runtime}, which runs only on Kubernetes; for "
                "one machine model.yaml names a server's address (serving.address)"
            )
        path = self._desired / f"{service.name}.json"
        data = canonical_json(manifest)
        if not create_atomically(path, data) and not _is_same(path, manifest):
            raise Refused(
                f"{service.name} runs from another manifest, and services are immutable; "
                "register a new version"
            )

    def status(self, name: str) -> ServiceStatus:
        if not self._path(name).is_file():
            raise NotFound(f"no service {name!r}; there are: {', '.join(self.names()) or 'none'}")
        return self._statuses.status(name)

    def endpoint(self, name: str) -> str | None:
        return self._statuses.endpoint(name) if self._path(name).is_file() else None

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._desired.glob("[!.]*.json"))

    def _path(self, name: str) -> Path:
        if ServiceName.parse(name) is None:
            raise NotFound(f"{name!r} is not a service's name")
        return self._desired / f"{name}.json"


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in a file of the desired folder.

    Raises:
        ConfigInvalid: the file does not hold a JSON object.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except NOT_JSON as error:
        raise ConfigUnusable(path.name, str(error), "a manifest in JSON") from error


def bundle_uri(folder: Path, bundles: Path) -> str:
    """The URI of a bundle's folder in a manifest: `bundle:<name>`, which does not depend on where
    the home is.

    Raises:
        ConfigInvalid: the folder is not one of the home's bundles; only these are served.
    """
    if folder.absolute().parent != bundles.absolute():
        raise ConfigInvalid("bundle", str(folder), f"a folder in {bundles}")
    return f"{BUNDLE}:{quote(folder.name)}"


def bundle_folder(storage_uri: str, bundles: Path) -> Path:
    """The folder that a manifest names, always one of this home's.

    Manifests of earlier releases hold the path that the home had. A home may have been moved or
    copied, and bundles are named by their digests: the bundle of that name in this home is meant.

    Args:
        bundles: folder of the home's bundles.

    Raises:
        ConfigInvalid: the URI has another scheme or host, or its name leads out of the bundles.
    """
    wanted = f"{BUNDLE}:<name> or file:///... on this machine"
    wrong = ConfigInvalid("spec.predictor.model.storageUri", storage_uri, wanted)
    try:
        parts = urlsplit(storage_uri)
    except ValueError as error:
        raise wrong from error
    path = unquote(parts.path)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        path = path.rpartition("/")[2]
    elif parts.scheme != BUNDLE or parts.netloc:
        raise wrong
    if not re.fullmatch(r"[^/.][^/]*", path):
        raise wrong
    return bundles / path


def _is_same(path: Path, manifest: Manifest) -> bool:
    try:
        return _placeless(read_manifest(path)) == _placeless(manifest)
    except (ConfigInvalid, LookupError, TypeError):
        return False


def _placeless(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as bytes, with its bundle by name instead of by path."""
    placed = msgspec.json.decode(canonical_json(manifest), type=dict[str, Any])
    model = placed["spec"]["predictor"]["model"]
    model["storageUri"] = re.split("[/:]", model["storageUri"])[-1]
    return canonical_json(placed)
