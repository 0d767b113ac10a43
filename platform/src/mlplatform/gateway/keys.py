"""Who calls: API keys, of which only digests are stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

import msgspec

from mlplatform.errors import ConfigInvalid
from mlplatform.files import create_atomically

FIRST_CLIENT = "default"
_SCHEME = b"bearer "


class ApiKeys:
    """The clients of this installation, told apart by their keys."""

    def __init__(self, digests: dict[str, str]) -> None:
        """Args: digests: client name → SHA-256 of its key, hexadecimal."""
        self._digests = [(name, digest.encode()) for name, digest in sorted(digests.items())]

    def client(self, authorization: bytes | None) -> str | None:
        """The client whose key an Authorization header carries; every key is compared, always."""
        if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
            return None
        digest = _digest(authorization[len(_SCHEME) :].strip()).encode()
        found = None
        for name, stored in self._digests:
            if hmac.compare_digest(digest, stored):
                found = name
        return found


def load_or_create(digests_path: Path, first_key_path: Path) -> ApiKeys:
    """The keys in a file; at first start one key is made and its clear text left for its owner.

    Raises:
        ConfigInvalid: the file does not map names to SHA-256 digests.
    """
    if not digests_path.exists():
        # Several gateways may start at once: the first one's key is everybody's.
        create_atomically(first_key_path, secrets.token_urlsafe(32).encode())
        digest = _digest(first_key_path.read_bytes())
        create_atomically(digests_path, msgspec.json.encode({FIRST_CLIENT: digest}))
    try:
        return ApiKeys(msgspec.json.decode(digests_path.read_bytes(), type=dict[str, str]))
    except msgspec.DecodeError as error:
        raise ConfigInvalid(str(digests_path), str(error), "client name → SHA-256") from error


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()
