"""An incoming form: bounded, of this page, with each field once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import cookies
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

from starlette.requests import ClientDisconnect, Request

from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import KIB

MOST_BYTES: Final = 16 * KIB
"""Most bytes of a form: a reason of 500 characters has up to 6,000 bytes as browsers send it."""
MOST_FIELDS: Final = 16
MOST_TYPED: Final = 500
MOST_ID: Final = 128
KIND: Final = "application/x-www-form-urlencoded"


async def read(request: Request) -> Mapping[str, str]:
    """The fields of a form.

    Raises:
        InputInvalid: the form is too long, has another content type, or has a field twice.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != KIND:
        raise InputInvalid("the form", None, f"wanted: {KIND}")
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > MOST_BYTES:
                raise InputInvalid("the form", None, f"it has more than {MOST_BYTES} bytes")
            parts.append(part)
    except ClientDisconnect as error:
        raise InputInvalid("the form", None, "it arrived incomplete; send it again") from error
    return parsed(b"".join(parts))


def parsed(body: bytes) -> Mapping[str, str]:
    """The fields of a form's body.

    Raises:
        InputInvalid: the body is not a form, has a field twice, or has too many fields.
    """
    try:
        fields = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except ValueError as error:  # UnicodeError among them
        raise InputInvalid("the form", None, "it is not a form of this page") from error
    found = dict(fields)
    if len(found) != len(fields):
        raise InputInvalid("the form", None, "it has a field twice")
    return found


def says_its_origin(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a browser says that a page of this server sent the form.

    Whether the named origin is this server's own is checked earlier
    (`runtime.http.cross_site_guard`).
    """
    pairs = list(headers)
    origins = [value for name, value in pairs if name == b"origin"]
    sites = [value for name, value in pairs if name == b"sec-fetch-site"]
    return len(origins) == 1 and set(sites) <= {b"same-origin"}


def cookie(headers: Iterable[tuple[bytes, bytes]], name: str) -> str:
    """The value of a cookie; empty if it is missing, or there is more than one."""
    found = []
    for key, value in headers:
        if key == b"cookie":
            for part in value.decode("latin-1").split(";"):
                own, _, text = part.strip().partition("=")
                if own == name:
                    found.append(text)
    return found[0] if len(found) == 1 and found[0].isascii() else ""


def set_cookie(
    name: str, value: str, *, secure: bool, lasts_s: float, samesite: str = "Strict"
) -> str:
    """The `Set-Cookie` header of a session; without a value it deletes the cookie.

    Args:
        samesite: `Strict`, or `Lax` so that the browser also sends the cookie after a link from
            another site.
    """
    made: cookies.SimpleCookie = cookies.SimpleCookie()
    made[name] = value
    morsel = made[name]
    morsel["path"] = "/"
    morsel["httponly"] = True
    morsel["samesite"] = samesite
    morsel["max-age"] = int(lasts_s) if value else 0
    if secure:
        morsel["secure"] = True
    return morsel.OutputString()


def again(path: str, fields: Mapping[str, str]) -> tuple[str, str]:
    """The path that shows a sent form again, and the text that a person had typed into it."""
    first, *rest = path.strip("/").split("/")
    is_act = first in ("rollouts", "models") and rest[1:2] == ["act"]
    if is_act:
        return own_path(quote(path)), fields.get("reason", "")[:MOST_TYPED]
    if first == "models" and rest[1:] == ["review"]:
        asked = urlencode({"look": fields["about"][:MOST_ID]}) if fields.get("about") else ""
        return own_path(quote(path) + (f"?{asked}" if asked else "")), fields.get("note", "")[
            :MOST_TYPED
        ]
    return ("/decisions" if first == "decisions" else "/"), ""


def own_path(text: str) -> str:
    """A path of this page to go on to; the overview if the text is no path of it.

    A path that begins with two slashes would lead to another server.
    """
    plain = text.isascii() and text.isprintable() and "\\" not in text and len(text) <= 512
    return text if plain and text.startswith("/") and not text.startswith("//") else "/"
