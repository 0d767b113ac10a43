"""The addresses of the cluster profile's servers: one URL each, with secrets in files beside it.

A URL with a password is refused: it would show in the environment and in every process's listing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from mlplatform.runtime.errors import ConfigInvalid, Unavailable

KAFKA_SSL: Final = "kafka+ssl://user@host:9093,host:9093?ssl.ca.location=FILE"


@dataclass(frozen=True, slots=True)
class Address:
    """A server, and how to connect to it.

    Args:
        url: the address as it was given, without any secret.
        name: the database on the server: a name for PostgreSQL, a number for Redis.
        password_file: file that is read at each connection, so that a new password needs no
            restart; None without a password.
        tls: whether the connection is encrypted, with a trusted certificate of `host`.
        authority: PEM file of the trusted authorities; None: those that this machine trusts.
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
        """The present password; None without one.

        Raises:
            Unavailable: names the file that cannot be read.
        """
        return _secret(self.password_file)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.name}"


@dataclass(frozen=True, slots=True)
class Brokers:
    """A cluster of Kafka, and how to connect to it.

    Args:
        variable: the setting that names the brokers.
        url: the address as it was given, without any secret.
        hosts: `host:port` of one or more brokers, from which a client learns the others.
        user: name for the sign-in with a password (SCRAM-SHA-512); None if the brokers need none.
        password_file: file that is read whenever a client is created; required if there is a user.
        tls: whether connections are encrypted, with trusted certificates of the hosts.
        authority: PEM file of the trusted authorities; None: those that this machine trusts.
    """

    variable: str
    url: str
    hosts: tuple[str, ...]
    user: str | None = None
    password_file: Path | None = None
    tls: bool = False
    authority: Path | None = None

    def password(self) -> str | None:
        """The present password; None without one.

        Raises:
            Unavailable: names the file that cannot be read.
        """
        return _secret(self.password_file)

    def __str__(self) -> str:
        return ",".join(self.hosts)


def postgres(variable: str, environment: Mapping[str, str]) -> Address | None:
    """Parses `postgresql://user@host:5432/database?sslmode=verify-full&sslrootcert=FILE`.

    The modes are `verify-full`, which is the default, and `disable`, for a network that encrypts.

    Raises:
        ConfigInvalid: the value is wrong; the message names the variable and what is wanted.
    """
    url = environment.get(variable, "")
    if not url:
        return None
    parts, options = _parts(variable, url, ("postgresql",), ("sslmode", "sslrootcert"))
    mode, database = options.get("sslmode", "verify-full"), parts.path.strip("/")
    if mode not in ("verify-full", "disable"):
        raise ConfigInvalid(variable, url, "sslmode verify-full or disable")
    if lacking := "a user" if not parts.username else "a database" if not database else "":
        wanted = f"{lacking}, as in postgresql://user@host:port/database"
        raise ConfigInvalid(variable, url, wanted)
    authority = options.get("sslrootcert")
    return _address(variable, environment, parts, 5432, database, mode != "disable", authority)


def redis(variable: str, environment: Mapping[str, str]) -> Address | None:
    """Parses `rediss://user@host:6379/0?ssl_ca_certs=FILE`; `redis://` is without encryption.

    Raises:
        ConfigInvalid: the value is wrong; the message names the variable and what is wanted.
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


def kafka(variable: str, environment: Mapping[str, str]) -> Brokers | None:
    """Parses `kafka+ssl://user@host:9093,host:9093?ssl.ca.location=FILE`; `host:9092,host:9092` is
    without encryption, and so without a user.

    Raises:
        ConfigInvalid: the value is wrong; the message names the variable and what is wanted.
    """
    text = environment.get(variable, "")
    if not text:
        return None
    secret = f"{variable}_PASSWORD_FILE"
    shown, file = without_secrets(text), environment.get(secret, "")
    if shown != text:
        raise ConfigInvalid(variable, shown, f"no password; {secret} names its file")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return _plain_brokers(variable, text, file)
    place, _, query = rest.partition("?")
    user, _, hosts = place.rpartition("@")
    if scheme != "kafka+ssl" or "#" in text:
        raise ConfigInvalid(variable, text, f"host:port, or {KAFKA_SSL}")
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    if unknown := set(options) - {"ssl.ca.location"}:
        wanted = f"no option but ssl.ca.location; it has {unknown}"
        raise ConfigInvalid(variable, f"{scheme}://{place}?…", wanted)
    if user and not file:
        raise ConfigInvalid(secret, file, f"the file of the password of {variable}'s user")
    if file and not user:
        raise ConfigInvalid(secret, file, f"nothing, or a user in {variable}: {KAFKA_SSL}")
    authority = options.get("ssl.ca.location")
    return Brokers(
        variable,
        text,
        _hosts(variable, text, hosts.removesuffix("/")),
        user=unquote(user) or None,
        password_file=Path(file) if file else None,
        tls=True,
        authority=Path(authority) if authority else None,
    )


def variables(name: str, address: Address | Brokers | None) -> dict[str, str]:
    """The variables that give a child process the same address."""
    if address is None:
        return {name: ""}
    file = address.password_file
    secret = {f"{name}_PASSWORD_FILE": str(file)} if file is not None else {}
    return {name: address.url, **secret}


def _plain_brokers(variable: str, text: str, file: str) -> Brokers:
    if "@" in text:
        raise ConfigInvalid(variable, text, f"a user over TLS: {KAFKA_SSL}")
    if file:
        wanted = f"nothing, as brokers without TLS get no password; or {variable} {KAFKA_SSL}"
        raise ConfigInvalid(f"{variable}_PASSWORD_FILE", file, wanted)
    return Brokers(variable, text, _hosts(variable, text, text))


def _hosts(variable: str, url: str, text: str) -> tuple[str, ...]:
    hosts = tuple(text.split(","))
    for host in hosts:
        name, _, port = host.rpartition(":")
        if not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", name) or not (
            re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) <= 65_535
        ):
            raise ConfigInvalid(variable, url, f"brokers as host:port,host:port, or {KAFKA_SSL}")
    return hosts


def without_secrets(text: str) -> str:
    """The text with dots in place of a password before the host."""
    found = re.match(r"[a-z+]+://", text)
    scheme = found[0] if found else ""
    who, _, hosts = text[len(scheme) :].rpartition("@")
    user, colon, _ = who.partition(":")
    return f"{scheme}{user}:...@{hosts}" if colon else text


def _secret(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text().strip()
    except OSError as error:
        raise Unavailable(f"the password file {file} can't be read") from error


def _parts(
    variable: str, url: str, schemes: tuple[str, ...], known: tuple[str, ...]
) -> tuple[SplitResult, dict[str, str]]:
    try:
        parts = urlsplit(url)
    except ValueError as error:  # unpaired brackets, or no address within them
        wanted = f"{' or '.join(schemes)}://host:port/…"
        raise ConfigInvalid(variable, without_secrets(url), wanted) from error
    if parts.password is not None:
        shown = url.replace(f":{parts.password}@", ":...@")
        wanted = f"no password; {variable}_PASSWORD_FILE names its file"
        raise ConfigInvalid(variable, shown, wanted)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if parts.scheme not in schemes or not parts.hostname or parts.fragment:
        raise ConfigInvalid(variable, url, f"{' or '.join(schemes)}://host:port/…")
    if unknown := set(options) - set(known):
        raise ConfigInvalid(variable, url, f"no options but {', '.join(known)}; it has {unknown}")
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
