"""Locations of a batch's input and output, parsed from text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode

from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.storage import addresses
from mlplatform.runtime.storage.addresses import Address, without_secrets

INPUT: Final = "a file or folder, s3://bucket/prefix or postgresql://user@host/database?table=NAME"
OUTPUT: Final = "a folder or s3://bucket/prefix"
_TABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}(\.[A-Za-z_][A-Za-z0-9_$]{0,62})?")
_BUCKET: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/[^?#]*)?")


@dataclass(frozen=True, slots=True)
class ObjectPrefix:
    """Objects below a prefix; AWS SDK variables name the server and the credentials."""

    uri: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view of a PostgreSQL database.

    Args:
        name: name of the table, as `schema.name` if it is in a schema that is not searched by
            default.
    """

    address: Address
    name: str


Input = Path | ObjectPrefix | Table
Output = Path | ObjectPrefix


def input_of(text: str, key: str = "--input") -> Input:
    """
    Args:
        key: name of the option, for messages.

    Raises:
        ConfigInvalid: the text names no input, or holds a password.
    """
    scheme = text.partition("://")[0] if "://" in text else ""
    match scheme:
        case "":
            return _path(key, text, INPUT)
        case "s3":
            return _bucket(key, text)
        case "postgresql":
            return _table(key, text)
        case _:
            raise ConfigInvalid(key, without_secrets(text), INPUT)


def output_of(text: str) -> Output:
    """
    Raises:
        ConfigInvalid: the text names no place for an output.
    """
    if "://" not in text:
        return _path("--output", text, OUTPUT)
    if not text.startswith("s3://"):
        raise ConfigInvalid("--output", without_secrets(text), OUTPUT)
    return _bucket("--output", text)


def _path(key: str, text: str, wanted: str) -> Path:
    if not text or "\0" in text:
        raise ConfigInvalid(key, text, wanted)
    return Path(text).absolute()


def _bucket(key: str, text: str) -> ObjectPrefix:
    found = _BUCKET.fullmatch(text)
    if found is None:
        wanted = (
            "s3://bucket/prefix, the bucket of 3 to 63 lower-case letters, digits, dots and"
            " hyphens; keys and server by AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL_S3, …"
        )
        raise ConfigInvalid(key, without_secrets(text), wanted)
    bucket, prefix = found[1], (found[2] or "").strip("/")
    if ".." in prefix.split("/"):
        raise ConfigInvalid(key, text, "a prefix without ..")
    return ObjectPrefix(f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}")


def _table(key: str, text: str) -> Table:
    base, _, query = text.partition("?")
    options = dict(parse_qsl(query))
    name = options.pop("table", "")
    url = f"{base}?{urlencode(options)}" if options else base
    address = _address(key, url)
    if not _TABLE.fullmatch(name):
        wanted = "?table=NAME or ?table=SCHEMA.NAME, of letters, digits, _ and $"
        raise ConfigInvalid(key, without_secrets(text), wanted)
    return Table(address, name)


def _address(key: str, url: str) -> Address:
    environment: Mapping[str, str] = {key: url}
    try:
        found = addresses.postgres(key, environment)
    except ConfigInvalid:
        if without_secrets(url) != url:
            wanted = "no password; PGPASSFILE names a file of them, as for PostgreSQL's programs"
            raise ConfigInvalid(key, without_secrets(url), wanted) from None
        raise
    if found is None:
        raise ConfigInvalid(key, url, INPUT)
    return found
