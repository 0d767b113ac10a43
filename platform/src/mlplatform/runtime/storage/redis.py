"""Redis and Valkey: short waits, and one repeat if a connection broke."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from mlplatform.runtime.errors import ServerUnavailable
from mlplatform.runtime.storage.addresses import Address


class _PasswordFromFile(CredentialProvider):
    """The present password, read at every connection."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._address.password() or ""
        return (password,) if self._address.user is None else (self._address.user, password)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def client(address: Address, *, answer_s: float) -> Redis:
    """A client that connects when it is needed; safe for threads.

    A command whose connection had broken is sent again once. A command that got no answer in time
    is never sent again: it may have been carried out, and the caller has no time left.

    Args:
        answer_s: seconds to wait for a connection, and for each answer.
    """
    retry = Retry(NoBackoff(), 1, supported_errors=(Broken,))
    return Redis(retry=retry, **_arguments(address, answer_s))


def loop_client(address: Address, *, answer_s: float) -> AsyncRedis:
    """A `client` for one event loop."""
    retry = AsyncRetry(NoBackoff(), 1, supported_errors=(Broken,))
    return AsyncRedis(retry=retry, **_arguments(address, answer_s))


def _arguments(address: Address, answer_s: float) -> dict[str, Any]:
    return {
        "host": address.host,
        "port": address.port,
        "db": int(address.name),
        "credential_provider": (
            None if address.password_file is None else _PasswordFromFile(address)
        ),
        "socket_timeout": answer_s,
        "socket_connect_timeout": answer_s,
        "ssl": address.tls,
        "ssl_ca_certs": None if address.authority is None else str(address.authority),
        "ssl_check_hostname": True,
        # Notices of maintenance are of one vendor's cloud.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


@contextmanager
def translated(address: Address) -> Iterator[None]:
    """Errors of the server, or of the way to it, as ServerUnavailable."""
    try:
        yield
    except (RedisError, OSError) as error:
        way = "look at the server, and at the setting that names it"
        raise ServerUnavailable(f"Redis at {address}: {error}", way) from error
