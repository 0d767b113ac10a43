"""Customer ids as keyed hashes: the only form in which they are stored anywhere."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import ConfigInvalid, Corrupt
from mlplatform.runtime.storage.files import create_atomically

KEY_BYTES = 32


def pseudonym(value: object, key: bytes) -> int:
    """A signed 64-bit number that stands for the value; it can't be guessed without the key.

    Source: BLAKE2b keyed mode, RFC 7693.
    """
    mac = hashlib.blake2b(str(value).encode(), key=key, digest_size=8)
    return int.from_bytes(mac.digest(), "little", signed=True)


def key_of(home: Home, *, creates: bool = True) -> bytes:
    """The pseudonym key of a home folder's installation.

    Args:
        creates: whether a home may be made for it. If not, and there is no home, the key is a
            random one that is not stored, for a check whose pseudonyms nobody keeps.

    Raises:
        ConfigInvalid: the key is to be shared with other homes, and its file is missing or invalid.
    """
    shared = home.shared_pseudonym_key
    if shared is None:
        if not (creates or home.is_made):
            return secrets.token_bytes(KEY_BYTES)
        return load_or_create_key(home.pseudonym_key)
    # No process creates a shared key: with different keys, a customer would have another pseudonym
    # in each home.
    key = shared.read_bytes() if shared.is_file() else b""
    if len(key) != KEY_BYTES:
        wanted = f"a file that is there and holds the {KEY_BYTES} bytes of the first home's key"
        raise ConfigInvalid(f"{PREFIX}PSEUDONYM_KEY_FILE", str(shared), wanted)
    return key


def load_or_create_key(path: Path) -> bytes:
    """The pseudonym key of this installation; it is made at first use with mode 0600.

    Losing it unlinks every stored record from its customer; it is never logged or exported.

    Raises:
        Corrupt: the file does not hold a key of the right length. With a shorter key, somebody
            could guess whom the pseudonyms stand for.
    """
    if not path.exists():
        # Several processes may start at once: all use the key of the first one.
        create_atomically(path, secrets.token_bytes(KEY_BYTES))
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        problem = f"{path} holds {len(key)} bytes; a pseudonym key has {KEY_BYTES}"
        raise Corrupt(f"{problem}: restore it from a backup (docs/backup.md)")
    return key
