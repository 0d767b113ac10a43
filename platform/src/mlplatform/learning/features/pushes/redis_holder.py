"""The home that holds the tables of external views, recorded on a Redis server that serves their
rows."""

from __future__ import annotations

from typing import Final

import msgspec

from mlplatform.learning.features.pushes.table_holder import Holder
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.redis import client, translated

KEY: Final = "mlplatform:tables"
_decode = msgspec.json.Decoder(Holder).decode


class RedisHolder:
    """`SharedStore` on a Redis or Valkey server."""

    def __init__(self, address: Address, *, answer_s: float) -> None:
        self._address = address
        self._redis = client(address, answer_s=answer_s)

    @property
    def place(self) -> str:
        return f"Redis {self._address.host}:{self._address.port}/{self._address.name}"

    def hold(self, own: Holder, *, over: bool = False) -> Holder:
        with translated(self._address):
            self._redis.set(KEY, msgspec.json.encode(own), nx=not over)
            found = self._redis.get(KEY)
        return own if found is None else _decode(found)

    def close(self) -> None:
        self._redis.close()
