"""The people of an installation: clients whose keys have a person's scopes (`view`, `run`, ...)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from mlplatform.runtime.errors import Refused
from mlplatform.scoring.admission.clients import Client, Key, directory
from mlplatform.scoring.admission.secrets import digest, key_id

MOST_SECRET: int = 512
"""Most bytes of a key's secret; a longer text is not looked up."""


class People:
    """The people of an installation; the secret of a key of their own proves who they are.

    Args:
        client: returns the live client for a secret and its digest, as `Keyring.client` does.
        now_s: returns epoch seconds.
    """

    def __init__(
        self,
        client: Callable[[bytes, bytes], Client | None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._now_s = now_s

    def authenticate(self, name: str, secret: bytes) -> Client | None:
        """The person of that name whose secret this is; None if there is none."""
        found = self._owner(name, secret)
        return found if found is not None and found.is_person else None

    def is_application(self, name: str, secret: bytes) -> bool:
        """Whether this is a live key of that name without any scope of a person."""
        found = self._owner(name, secret)
        return found is not None and not found.is_person

    def _owner(self, name: str, secret: bytes) -> Client | None:
        if not 0 < len(secret) <= MOST_SECRET:
            return None
        found = self._client(secret, digest(secret))
        if found is None or found.until_s <= self._now_s():
            return None
        return found if found.name == name.strip().casefold() else None


def people(keys: Iterable[Key], now_ms: int) -> People:
    """The people with live keys."""
    known = directory(keys, now_ms)
    return People(lambda secret, hashed: known.get(hashed), lambda: now_ms / 1000)


def check_may_approve(keys: Iterable[Key], name: str, key: str, model: str, now_ms: int) -> None:
    """Raises unless this key is live, belongs to this name and may approve rollouts of the model.

    Args:
        key: the key's id.

    Raises:
        Refused: the key lacks something; the message says what, and which command adds it.
    """
    known = {key_id(hashed): client for hashed, client in directory(keys, now_ms).items()}
    client = known.get(key)
    command = f"mlplatform keys create --name {name} --model {model} --scope approve"
    if client is None or client.name != name:
        raise Refused(f"key {key} of {name} is not live any more; another one: `{command}`")
    if not client.may(model, "approve"):
        raise Refused(f"key {key} of {name} may not approve rollouts of {model}: `{command}`")
