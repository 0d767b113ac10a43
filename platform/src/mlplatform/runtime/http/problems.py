"""Errors for callers: problem details that name the field.

Source: RFC 9457.
"""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from mlplatform.runtime.errors import PlatformError

TYPE_PREFIX = "urn:mlplatform:problem:"
MEDIA_TYPE = b"application/problem+json"


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The body of every answer that is not a success."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None


class Problem(PlatformError):
    """A request that gets no result.

    Args:
        status: the HTTP status.
        name: last part of the problem's type, which programs can rely on.
        detail: a sentence for a person.
        field: the field or header that is wrong; None if there is none.
        retry_after_s: seconds after which the request may succeed; None if that is not known.
        allow: the allowed methods, for status 405; otherwise None.
    """

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        field: str | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name
        self.details = ProblemDetails(
            type=TYPE_PREFIX + name,
            title=HTTPStatus(status).phrase,
            status=status,
            detail=detail,
            field=field,
        )
        self.retry_after_s = retry_after_s
        self.allow = allow

    def within(self, path: str) -> Problem:
        """A copy of the problem that names one item of a list."""
        problem = Problem(
            self.status, self.name, f"{path}: {self}", retry_after_s=self.retry_after_s
        )
        field = f"{path}.{self.details.field}" if self.details.field else path
        problem.details = msgspec.structs.replace(problem.details, field=field)
        return problem

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", MEDIA_TYPE)]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", str(self.retry_after_s).encode()))
        if self.allow is not None:
            headers.append((b"allow", self.allow.encode()))
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers

    @property
    def body(self) -> bytes:
        return msgspec.json.encode(self.details)
