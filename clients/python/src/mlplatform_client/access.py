"""Where a gateway is and who asks: what an application gives, checked."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from mlplatform_client.errors import refused, refused_as

_KEY: Final = re.compile(r"[\x21-\x7e]{1,8192}")
SCHEMES: Final = ("https", "http")


def address(base_url: str) -> str:
    """The address without a slash at its end.

    Raises:
        InputRefused: it is none of HTTP, or holds a password, a query or a fragment.
    """
    wanted = "an address like https://scoring.bank.example"
    if not isinstance(base_url, str):
        raise refused_as("client", "base_url", f"of type {type(base_url).__name__}", wanted)
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        described = "an address that can't be read"
        raise refused_as("client", "base_url", described, wanted) from None
    if parts.username is not None or parts.password is not None:
        # what it is stays out of the text: it is a secret
        raise refused_as("client", "base_url", "an address with a password", wanted)
    is_plain = base_url.isascii() and base_url.isprintable() and " " not in base_url
    if parts.scheme not in SCHEMES or not host or not is_plain:
        raise refused("client", "base_url", base_url, wanted)
    if "?" in base_url or "#" in base_url:
        raise refused("client", "base_url", base_url, "an address without query and fragment")
    return base_url.rstrip("/")


def is_loopback(base_url: str) -> bool:
    """Whether an address is of this machine."""
    host = urlsplit(base_url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def bearer(api_key: str) -> str:
    """The header that proves who asks.

    Raises:
        InputRefused: it can be no key; its text is not shown.
    """
    wanted = "1 to 8192 printable ASCII characters without spaces"
    if not isinstance(api_key, str):  # a variable that is not set
        raise refused_as("client", "api_key", f"of type {type(api_key).__name__}", wanted)
    key = api_key.strip()
    if _KEY.fullmatch(key) is None:
        described = f"of {len(api_key)} characters"
        raise refused_as("client", "api_key", described, wanted)
    return f"Bearer {key}"


def positive_s(call: str, name: str, value: float) -> float:
    """A time in seconds.

    Raises:
        InputRefused: it is not more than 0, or has no end.
    """
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise refused(call, name, value, "seconds, more than 0")
    return value
