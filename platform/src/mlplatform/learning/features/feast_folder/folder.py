"""The folder that `feast -c FOLDER` works in: its settings, registry and link to the store."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from mlplatform.model.windows.declaration import Window
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.files import write_atomically

STORE_FILE: Final = "feature_store.yaml"
REGISTRY_FILE: Final = "registry.db"
ONLINE_LINK: Final = ".online.db"
"""Name of a link to the online store, so that `feast teardown` removes only the link."""
FIRST_LINE: Final = "# Rendered by `mlplatform models feast`, which writes it again: do not edit."
PASSWORD_VARIABLE: Final = "FEAST_REDIS_PASSWORD"  # noqa: S105 (its name)


STORES: Final = "mlplatform.learning.features.feast_folder.online_store"
"""Where the stores are that read windows too; a name, as that module imports Feast."""


@dataclass(frozen=True, slots=True)
class WindowState:
    """The windows of a model, and where their tiles are if they are not on a server.

    Args:
        keys: entity → the request field that holds its key.
    """

    model: str
    windows: Sequence[Window]
    keys: Mapping[str, str]
    decisions: Path


def store_text(project: str, redis: Address | None, windows: WindowState | None = None) -> str:
    """feature_store.yaml over what gateways read; a password is the reader's to put into
    `PASSWORD_VARIABLE`.

    Args:
        windows: None for a model without windows, which Feast's own stores can serve.
    """
    online: dict[str, Any] = {"type": "sqlite", "path": ONLINE_LINK}
    if redis is not None:
        online = _redis(redis)
    if windows is not None:
        online |= _with_windows(windows, redis)
    content = {
        "project": project,
        "provider": "local",
        "registry": {"registry_type": "file", "path": REGISTRY_FILE, "cache_ttl_seconds": 60},
        "online_store": online,
        "offline_store": {"type": "duckdb"},
        "entity_key_serialization_version": 3,
        "data_quality_monitoring": {"auto_baseline": False},
    }
    return f"{FIRST_LINE}\n{yaml.safe_dump(content, sort_keys=False)}"


def write_folder(folder: Path, *, store: str, registry: bytes, online_db: Path | None) -> None:
    """Write or renew a folder, file by file.

    Args:
        online_db: target of the link to the online store's file; None if the store is on a server.

    Raises:
        Refused: one of these files exists, and feature_store.yaml is missing or was not written by
            this function.
    """
    present = folder / STORE_FILE
    own = present.is_file() and present.read_text(errors="replace").startswith(FIRST_LINE)
    names = (STORE_FILE, REGISTRY_FILE, ONLINE_LINK)
    there = [folder / name for name in names if os.path.lexists(folder / name)]
    if there and not own:
        raise Refused(
            f"{there[0]} was not rendered by this command: give another folder by --into, or move"
            " it"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(present, store.encode())  # first: it marks the folder as ours
    write_atomically(folder / REGISTRY_FILE, registry)
    if online_db is not None:
        draft = folder / f"{ONLINE_LINK}.draft"
        draft.unlink(missing_ok=True)
        draft.symlink_to(online_db.absolute())
        os.replace(draft, folder / ONLINE_LINK)


def _with_windows(state: WindowState, redis: Address | None) -> dict[str, Any]:
    kind, place = "Sqlite", {"decisions": str(state.decisions)}
    if redis is not None:
        kind, place = "Redis", {"server": f"redis://{redis.host}:{redis.port}/{redis.name}"}
    return {
        "type": f"{STORES}.Windows{kind}OnlineStore",
        **place,
        "model": state.model,
        "keys": dict(state.keys),
        "windows": [
            {name: value for name, value in msgspec.to_builtins(one).items() if value is not None}
            for one in state.windows
        ],
    }


def _redis(address: Address) -> dict[str, Any]:
    parts = [f"{address.host}:{address.port}", f"db={address.name}"]
    if address.user is not None:
        parts.append(f"username={address.user}")
    if address.password_file is not None:
        parts.append(f"password=${{{PASSWORD_VARIABLE}}}")
    if address.tls:
        parts.append("ssl=true")
    if address.authority is not None:
        parts.append(f"ssl_ca_certs={address.authority}")
    return {"type": "redis", "connection_string": ",".join(parts)}
