"""Customer ids as keyed hashes: the only form in which they are stored anywhere."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from mlplatform.files import create_atomically

KEY_BYTES = 32


def pseudonym(value: object, key: bytes) -> int:
    """A signed 64-bit number that stands for the value; without the key it can't be guessed.

    Source: BLAKE2b keyed mode, RFC 7693.
    """
    mac = hashlib.blake2b(str(value).encode(), key=key, digest_size=8)
    return int.from_bytes(mac.digest(), "little", signed=True)


def load_or_create_key(path: Path) -> bytes:
    """The pseudonym key of this installation, made at first use with mode 0600.

    Losing it unlinks every stored record from its customer; it is never logged or exported.
    """
    if not path.exists():
        # Several processes may start at once: the first one's key is everybody's.
        create_atomically(path, secrets.token_bytes(KEY_BYTES))
    return path.read_bytes()
