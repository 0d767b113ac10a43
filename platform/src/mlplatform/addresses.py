"""Where the servers of the cluster profile are: one URL each, secrets in files beside it.

A URL with a password is refused: it would show in the environment and in every process's listing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

from mlplatform.errors import ConfigInvalid, Unavailable


@dataclass(frozen=True, slots=True)
class Address:
    """A server, and how it is to be spoken to.

    Args:
        url: as it was given, without any secret.
        name: the database within it: a name for PostgreSQL, a number for Redis.
        password_file: read at each connection, so that a new password needs no restart.
        tls: the connection is encrypted, and the certificate is of `host` and trusted.
        authority: PEM file of who is trusted; None: whom this machine trusts.
    """

    url: str
    host: str
    port: int
    name: str
    user: str | None
    password_file: Path | None
    tls: bool
    authority: Path | None

    def password(self) -> str | None:
        """The password of now.

        Raises:
            Unavailable: names the file that cannot be read.
        """
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text().strip()
        except OSError as error:
            raise Unavailable(f"the password file {self.password_file}") from error

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.name}"


def postgres(variable: str, environment: Mapping[str, str]) -> Address | None:
    """From `postgresql://user@host:5432/database?sslmode=verify-full&sslrootcert=FILE`.

    The modes are `verify-full`, which is the default, and `disable`, for a network that encrypts.

    Raises:
        ConfigInvalid: names the variable and what is wanted.
    """
    url = environment.get(variable, "")
    if not url:
        return None
    parts, options = _parts(variable, url, ("postgresql",), ("sslmode", "sslrootcert"))
    mode, database = options.get("sslmode", "verify-full"), parts.path.strip("/")
    if mode not in ("verify-full", "disable"):
        raise ConfigInvalid(variable, url, "sslmode verify-full or disable")
    if not parts.username or not database:
        raise ConfigInvalid(variable, url, "postgresql://user@host:port/database")
    authority = options.get("sslrootcert")
    return _address(variable, environment, parts, 5432, database, mode != "disable", authority)


def redis(variable: str, environment: Mapping[str, str]) -> Address | None:
    """From `rediss://user@host:6379/0?ssl_ca_certs=FILE`; `redis://` is without encryption.

    Raises:
        ConfigInvalid: names the variable and what is wanted.
    """
    url = environment.get(variable, "")
    if not url:
        return None
    parts, options = _parts(variable, url, ("redis", "rediss"), ("ssl_ca_certs",))
    number = parts.path.strip("/") or "0"
    if not (number.isascii() and number.isdigit()):
        raise ConfigInvalid(variable, url, "rediss://host:port/number of the database")
    tls, authority = parts.scheme == "rediss", options.get("ssl_ca_certs")
    return _address(variable, environment, parts, 6379, number, tls, authority)


def variables(name: str, address: Address | None) -> dict[str, str]:
    """What gives a child process this same address."""
    if address is None:
        return {name: ""}
    file = address.password_file
    secret = {f"{name}_PASSWORD_FILE": str(file)} if file is not None else {}
    return {name: address.url, **secret}


def _parts(
    variable: str, url: str, schemes: tuple[str, ...], known: tuple[str, ...]
) -> tuple[SplitResult, dict[str, str]]:
    parts = urlsplit(url)
    if parts.password is not None:
        shown = url.replace(f":{parts.password}@", ":...@")
        wanted = f"no password; {variable}_PASSWORD_FILE names its file"
        raise ConfigInvalid(variable, shown, wanted)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if parts.scheme not in schemes or not parts.hostname or parts.fragment:
        raise ConfigInvalid(variable, url, f"{' or '.join(schemes)}://host:port/…")
    if unknown := set(options) - set(known):
        raise ConfigInvalid(variable, url, f"of the options only {', '.join(known)}: not {unknown}")
    return parts, options


def _address(
    variable: str,
    environment: Mapping[str, str],
    parts: SplitResult,
    port: int,
    name: str,
    tls: bool,
    authority: str | None,
) -> Address:
    try:
        port = parts.port or port
    except ValueError as error:
        raise ConfigInvalid(variable, parts.geturl(), "a port, 1 to 65535") from error
    file = environment.get(f"{variable}_PASSWORD_FILE")
    return Address(
        url=parts.geturl(),
        host=parts.hostname or "",
        port=port,
        name=name,
        user=parts.username,
        password_file=Path(file) if file else None,
        tls=tls,
        authority=Path(authority) if authority else None,
    )
